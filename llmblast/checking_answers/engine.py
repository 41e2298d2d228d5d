"""jsonschema-rs, the package of the extra `schema`, loaded where a check needs it."""

from types import ModuleType

from llmblast.errors import UsageError


def load_engine(flag: str) -> ModuleType:
    """Return the package. Raises UsageError, which names the setting that needs it, where it is not installed."""
    try:
        import jsonschema_rs  # noqa: PLC0415 -- of an extra
    except ImportError:
        raise UsageError(
            f"{flag}: needs the package jsonschema-rs: install it with pip install 'llmblast[schema]'"
        ) from None
    return jsonschema_rs

"""llmblast sends prompts to LLM endpoints as fast as their limits allow: `stream`, `run_async` and `run`.

The names are loaded when they are first used, so that `import llmblast` costs next to nothing.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost more than all else here

if TYPE_CHECKING:
    from llmblast.api import run, run_async, stream
    from llmblast.api import run_async as arun
    from llmblast.errors import (
        DefectError,
        ExitCode,
        GaveUpError,
        InputDamagedError,
        InputMissingError,
        LlmblastError,
        OutputBlockedError,
        OutputFailedError,
        RefusedError,
        StoppedError,
        UsageError,
    )
    from llmblast.results import EndpointSummary, Result, RunSummary
    from llmblast.settings import EndpointSettings

__all__ = [
    "DefectError",
    "EndpointSettings",
    "EndpointSummary",
    "ExitCode",
    "GaveUpError",
    "InputDamagedError",
    "InputMissingError",
    "LlmblastError",
    "OutputBlockedError",
    "OutputFailedError",
    "RefusedError",
    "Result",
    "RunSummary",
    "StoppedError",
    "UsageError",
    "arun",
    "run",
    "run_async",
    "stream",
]

_MODULES = {
    "EndpointSettings": "settings",
    "EndpointSummary": "results",
    "Result": "results",
    "RunSummary": "results",
    "arun": "api",
    "run": "api",
    "run_async": "api",
    "stream": "api",
}
"""Where the names are that are not in `errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value: object = getattr(module, "run_async" if name == "arun" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

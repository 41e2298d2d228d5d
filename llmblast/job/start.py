"""Start: what can be told of a run by its settings and its files' names, before anything else is loaded or created."""

from os.path import isdir, realpath, samefile

from llmblast.errors import UsageError
from llmblast.locks import check_unlocked
from llmblast.settings import Settings

STDOUT = "-"
NO_ENDPOINT = (
    "no endpoint: name one with --url, such as --url http://127.0.0.1:8000/v1, or try the built-in one: --url mock:."
)


def check_start(settings: Settings) -> None:
    """Raises UsageError, or OutputBlockedError where another run writes to an output."""
    if settings.json and settings.save == STDOUT:
        raise UsageError("--json and --save - both want standard output. Name a file with --save.")
    if not settings.endpoints:
        raise UsageError(NO_ENDPOINT)
    if settings.processes > 1:
        raise UsageError(
            f"--processes {settings.processes}: is not available in this version; it returns with quotas shared "
            "between processes. Leave it out: one process uses one core fully."
        )
    outputs = {"--save": settings.save, "--errors": settings.errors_path}
    for flag, path in outputs.items():
        if _is_same(path, settings.input):
            raise UsageError(f"{path}: is the input too. Name another file with {flag}.")
    if settings.save == settings.errors_path or _is_same(settings.save, settings.errors_path):
        raise UsageError(f"{settings.save}: is named by --save and by --errors. Name two files.")
    if settings.timeline is not None and any(_is_same(settings.timeline, path) for path in outputs.values()):
        raise UsageError(f"--timeline {settings.timeline}: is an output of answers or errors, too. Name another file.")
    if settings.spool is not None and not isdir(settings.spool):
        raise UsageError(f"--spool {settings.spool}: is no directory. Create it, or name another.")
    for flag, path in outputs.items():
        if path != STDOUT:
            check_unlocked(path, flag)


def _is_same(path: str, other: str) -> bool:
    """Whether it is one file, which need not exist yet; standard output and input are two."""
    try:
        return (realpath(path) == realpath(other) and STDOUT not in (path, other)) or samefile(path, other)
    except (OSError, ValueError):
        return False

"""Preflight checks: find what a run cannot do by its settings and file names, before it loads or creates anything."""

import os
import stat
from collections.abc import Iterable
from dataclasses import replace
from os.path import isdir, realpath

from llmblast.errors import OutputBlockedError, ReaderGoneError, UsageError
from llmblast.input_paths import STDIN, expand_inputs, matches, scheme_of
from llmblast.job.batch_folders import SUFFIX, check_batch_settings
from llmblast.locks import check_unlocked
from llmblast.pipes import STDOUT, check_place, descriptor_of, is_pipe, is_reader_gone, status_of
from llmblast.settings import Settings

NO_ENDPOINT = (
    "no endpoint: name one with --url, such as --url http://127.0.0.1:8000/v1, or try the built-in mock: --url mock:"
)
KEPT_BESIDE = (
    *(".settings", ".limits", ".spool", ".torn", ".waiting", ".quarantine", ".defect.txt", ".llmblast-rewrite"),
    SUFFIX,
)
"""Endings of the side files that llmblast keeps beside an output."""


def run_preflight_checks(settings: Settings) -> Settings:
    """Return the settings with resolved outputs: one name for standard output, and a file of errors for a pipe.

    Raise UsageError, or OutputBlockedError if another run writes to an output.
    """
    settings = _resolve_outputs(settings)
    for flag, path in (("--save", settings.save), ("--errors", settings.errors)):
        if settings.json and path == STDOUT:
            raise UsageError(f"--json and {flag} - both write to standard output: name a file with {flag}")
    if settings.force and not settings.overwrite:
        raise UsageError("--force: has no effect without --overwrite: add --overwrite, or leave --force out")
    if settings.sample is not None and settings.follow:
        raise UsageError("--sample: needs the end of the input, which never comes with --follow: leave one of them out")
    check_deferred(settings)
    check_endpoints(settings)
    check_batch_settings(settings)
    outputs = {"--save": settings.save, "--errors": settings.errors_path}
    for flag, path in outputs.items():
        check_no_input(settings, flag, path)
    if _is_same(settings.save, settings.errors_path):
        raise UsageError(f"{_shown(settings.save)}: is named by --save and by --errors: name two files")
    if not is_pipe(settings.save) and settings.errors_path in {settings.save + suffix for suffix in KEPT_BESIDE}:
        raise UsageError(f"{settings.errors_path}: llmblast itself uses this file: name another with --errors")
    if settings.timeline is not None:
        _check_timeline(settings.timeline, outputs.values())
    if settings.cache is not None:
        _check_cache(settings.cache, (*outputs.values(), *_local_inputs(settings)))
    if settings.spool is not None and not isdir(settings.spool):
        raise UsageError(f"--spool {settings.spool}: is not a directory: create it, or name another")
    _check_outputs(outputs)
    return check_answers(settings)


def check_answers(settings: Settings) -> Settings:
    """Return the settings with the schema in the place of its file. Raise UsageError for what answers cannot be
    checked with.
    """
    if not settings.judges_answers:
        return settings
    from llmblast.job.answer_rules import check_answer_settings  # noqa: PLC0415 -- most runs judge no answers

    return check_answer_settings(settings)


def check_no_input(settings: Settings, flag: str, path: str) -> None:
    """Raise UsageError for an output that is an input, or that would be one in the next run."""
    paths = _local_inputs(settings)
    if any(_is_same(path, name, reads=True) for name in paths):
        what = "the input" if len(paths) == 1 else "an input"
        raise UsageError(f"{_shown(path)}: is also {what}: name another file with {flag}")
    if path != STDOUT and (pattern := next((name for name in settings.all_inputs if matches(name, path)), None)):
        raise UsageError(
            f"{path}: {pattern!r} would find it as an input of the next run: name another file with {flag}"
        )


def check_deferred(settings: Settings) -> None:
    """Raise UsageError for what does not go together with `--deferred`."""
    if not settings.deferred:
        return
    if settings.ordered:
        raise UsageError("--ordered: two inputs that are read at the same time have no order: leave one of them out")
    if STDIN in settings.input and STDIN in settings.deferred:
        raise UsageError("standard input is named twice: it can be read only once: name INPUT, or another --deferred")
    immediate = {realpath(path) for path in expand_inputs(settings.input, follow=settings.follow)}
    for path in expand_inputs(settings.deferred):
        if realpath(path) in immediate:
            raise UsageError(
                f"{path}: is an input and also named by --deferred, so its lines would be sent twice: leave it out of "
                "one of both"
            )


def check_endpoints(settings: Settings) -> None:
    """Raise UsageError if there is no endpoint. A run without output files needs no other check."""
    if not settings.endpoints:
        raise UsageError(NO_ENDPOINT)
    if settings.processes > 1:
        raise UsageError(
            f"--processes {settings.processes}: is not available in this version and returns with quotas that "
            "processes share: leave it out (one process uses one core)"
        )
    _check_reserve(settings)


def _check_reserve(settings: Settings) -> None:
    """Raise UsageError for a reserve that would leave no slot to deferred lines."""
    limits = [endpoint.concurrency for endpoint in settings.endpoints]
    of_endpoints = None if None in limits else sum(filter(None, limits))
    if of_endpoints is None or settings.concurrency <= of_endpoints:
        slots, whose, fix = settings.concurrency, "--concurrency", "raise --concurrency"
    else:
        slots, whose, fix = of_endpoints, "the endpoints' concurrency", "raise their concurrency"
    if settings.reserve is not None and settings.reserve >= slots:
        raise UsageError(
            f"--reserve {settings.reserve:g}: must be less than the {slots:,} of {whose}, or deferred lines get no "
            f"slot: write a smaller number or a share such as 10%, or {fix}"
        )


def _local_inputs(settings: Settings) -> list[str]:
    """Return the paths of the inputs on this machine. Raises InputMissingError and UsageError."""
    paths = expand_inputs(settings.input, follow=settings.follow) + expand_inputs(settings.deferred)
    return [path for path in paths if not scheme_of(path)]


def _check_timeline(path: str, outputs: Iterable[str]) -> None:
    if path == STDOUT:
        raise UsageError("--timeline -: is not a file: name one, or /dev/stdout for standard output")
    if any(_is_same(path, output) for output in outputs):
        raise UsageError(f"--timeline {path}: is also the output of answers or errors: name another file")
    if not is_pipe(path):
        check_place(path, "--timeline")


def _check_cache(path: str, others: Iterable[str]) -> None:
    if path == STDOUT:
        raise UsageError("--cache -: is not a file: name one, which is created if it does not exist")
    if any(_is_same(path, other) for other in others):
        raise UsageError(f"--cache {path}: is also the input or an output: name another file")


def _resolve_outputs(settings: Settings) -> Settings:
    save = STDOUT if descriptor_of(settings.save) == 1 else settings.save
    errors = STDOUT if descriptor_of(settings.errors) == 1 else settings.errors
    return replace(settings, save=save, errors=errors or ("errors.jsonl" if is_pipe(save) else ""))


def _check_outputs(outputs: dict[str, str]) -> None:
    """Check descriptors, readers and locks without opening an output. Skip the lock of an errors file that several
    runs into pipes share: each holds it for moments only.
    """
    for flag, path in outputs.items():
        descriptor = descriptor_of(path)
        if descriptor is not None and not _is_open(descriptor):
            raise OutputBlockedError(
                f"{path}: is not an open descriptor: open it, such as {descriptor}>FILE, or name a file with {flag}"
            )
        if descriptor is not None and is_reader_gone(descriptor):
            raise ReaderGoneError(f"{_shown(path)}: its reader has closed it; nothing was sent")
        if not is_pipe(path) and not is_pipe(outputs["--save"]):
            check_unlocked(path, flag)


def _is_open(descriptor: int) -> bool:
    """Return whether the descriptor is open. Ask before the run opens a file that might get its number."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _is_same(path: str, other: str, *, reads: bool = False) -> bool:
    """Return whether both name one file, which need not exist yet, or one pipe. With `reads`, `other` is an input.

    A device such as /dev/null or a terminal may be named twice, as long as it is no descriptor's name.
    """
    if path == other == STDOUT:
        return not reads
    try:
        if STDOUT not in (path, other) and realpath(path) == realpath(other):
            return not _is_device(path)
        status = os.fstat(0) if reads and other == STDOUT else status_of(other)
        mine = status_of(path)
        is_shareable = stat.S_ISCHR(mine.st_mode) or (reads and not stat.S_ISREG(mine.st_mode))
        return os.path.samestat(mine, status) and not is_shareable
    except (OSError, ValueError):
        return False


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def _shown(path: str) -> str:
    return "standard output" if path == STDOUT else path

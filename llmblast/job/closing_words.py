"""Closing words: the verdict of a run, hints on its input and files, and the command to type next."""

import shlex
from collections.abc import Sequence

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode
from llmblast.hiding import may_hold_key
from llmblast.input_paths import STDIN, is_pattern, shown_input
from llmblast.pipes import is_pipe
from llmblast.providers import provider_of_key
from llmblast.sending import goes_unprotected
from llmblast.settings import Settings
from llmblast.watching import Counters, OutputFiles
from llmblast.writing import FORMATS, RecordFormat

_HEAD_BYTES = 4096
_ERROR_FILTER = '"line \\(.line): \\(.error.message? // .error)"'
"""The error of a batch line is an object."""
_ERROR_FILTER_WITH_FILE = _ERROR_FILTER.replace('"line', '"\\(.file // "") line', 1)


def say_finished(settings: Settings, counters: Counters, failed_elsewhere: int) -> tuple[ExitCode, str]:
    """Return the exit code and the verdict of a run that read its whole input.

    `failed_elsewhere` is the number of records in the errors file whose lines are not in this input: they do not count.
    """
    what, others = _lines_meant(settings, counters), _other_records(settings, failed_elsewhere)
    if counters.malformed and counters.malformed == counters.lines_read:
        return (
            ExitCode.SOME_FAILED,
            f"finished: no line of {_input(settings)} could be used, see {settings.errors_path}{others}",
        )
    if counters.failed or counters.skipped_failed:
        some = f"some of {what}" if what else "some lines"
        return ExitCode.SOME_FAILED, f"finished: {some} have no answer, see {settings.errors_path}{others}"
    if not counters.lines_read and not counters.batched:
        return ExitCode.OK, f"finished: there are no lines in {_input(settings)}{others}"
    if not what:
        return ExitCode.OK, f"finished: every line has its answer{others}"
    return ExitCode.OK, f"finished: {what} {'is' if counters.lines_read == 1 else 'are'} answered{others}"


def say_all_taken(counters: Counters) -> tuple[ExitCode, str]:
    """Return the exit code and the verdict of a run without files that read all prompts."""
    if counters.failed:
        return ExitCode.SOME_FAILED, f"finished: {counters.failed:,} of {counters.records_due:,} prompts have no answer"
    return ExitCode.OK, "finished: every prompt has its answer"


def next_command(
    settings: Settings, counters: Counters, exit_code: ExitCode, command: str, *, can_resume: bool
) -> str | None:
    """Return the command to type next; `command` started this run, `can_resume` tells whether it can continue."""
    if exit_code is ExitCode.OK:
        if not can_resume or not counters.done:
            return None
        return f"jq -r {_format_of(settings.save).answers} {shlex.quote(settings.save)}"
    if exit_code is ExitCode.INPUT_DAMAGED and not counters.lines_read:
        return None  # the verdict says what to do with an input of another kind
    if exit_code is not ExitCode.SOME_FAILED:
        return command if can_resume and STDIN not in settings.all_inputs else None
    errors = settings.errors_path
    has_files = len(settings.all_inputs) > 1 or is_pattern(settings.all_inputs[0])
    text = _ERROR_FILTER_WITH_FILE if has_files else _ERROR_FILTER
    return None if is_pipe(errors) else f"jq -r '{text}' {shlex.quote(errors)}"


def next_when(counters: Counters, exit_code: ExitCode, *, has_endpoints: bool) -> str:
    """Return the condition for running the same command again; empty if there is none."""
    if exit_code is not ExitCode.REFUSED:
        return ""
    names = [endpoint.name for endpoint in counters.endpoints]
    who = names[0] if len(names) == 1 else "one of the endpoints"
    return f"once {who} {'is reachable' if has_endpoints else 'accepts requests'}, run again"


def say_missing_keys(settings: Settings, keys: Sequence[str | None], counters: Counters) -> str:
    """Return, for the verdict, the endpoints that answered 401 to requests without a key, and how to send a key."""
    hints = []
    for endpoint, key, seen in zip(settings.endpoints, keys, counters.endpoints, strict=True):
        if key is None and "HTTP 401" in seen.state and not any(map(may_hold_key, endpoint.headers)):
            hints.append(f"; {endpoint.name}: no API key was sent: {how_to_name_key(endpoint)}")
    return "".join(hints)


def output_files(settings: Settings, answers_before: int, errors_before: int) -> OutputFiles:
    """Return the paths of answers and errors, and the command that shows the incomplete answers."""
    is_file = not is_pipe(settings.save)
    return OutputFiles(
        answers=settings.save if is_file else None,
        errors=None if is_pipe(settings.errors_path) else settings.errors_path,
        answers_before=answers_before,
        errors_before=errors_before,
        flagged_command=f"jq -c '{_format_of(settings.save).flagged}' {shlex.quote(settings.save)}"
        if is_file
        else None,
    )


def _format_of(path: str) -> RecordFormat:
    """Return the format of the first records in a file."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        head = b""
    found = (record_format for record_format in FORMATS.values() if record_format.mark and record_format.mark in head)
    return next(found, FORMATS["llmblast"])


def _lines_meant(settings: Settings, counters: Counters) -> str:
    """Return which lines the run was about, if --limit excluded some of the input."""
    is_rest_unread = counters.input_bytes is None or counters.bytes_read < counters.input_bytes
    if settings.limit is None or counters.lines_read < settings.limit or not is_rest_unread:
        return ""
    if settings.deferred:
        return f"the first {settings.limit:,} of both inputs"
    return "the first line" if counters.lines_read == 1 else f"the first {counters.lines_read:,} lines"


def _input(settings: Settings) -> str:
    first, *others = settings.all_inputs
    return " and ".join([shown_input(first), *([f"{len(others):,} more"] if others else [])])


def _other_records(settings: Settings, count: int) -> str:
    if not count:
        return ""
    lines = "this input" if settings.limit is None else f"the first {settings.limit:,} lines of this input"
    records = "1 record of a line that is" if count == 1 else f"{count:,} records of lines that are"
    return f"; {settings.errors_path} also has {records} not in {lines}"


def how_to_name_key(endpoint: EndpointSettings) -> str:
    """Return how to send a key to an endpoint without one."""
    variable = provider_of_key(endpoint).key_env
    return f"name it with key_env={variable}" if goes_unprotected(endpoint) else f"export {variable}=..."

"""Closing words: what the end of a run says of its input, its files, and of what to type next."""

import os
import shlex

from llmblast.errors import ExitCode
from llmblast.job.start import STDOUT
from llmblast.settings import Settings
from llmblast.watching import Counters, OutputFiles

_IS_CUT_OFF = 'IN("stop","tool_calls",null)|not'
"""Providers have many words for a limit or a filter."""
_FLAGGED = f"jq -c 'select(.finish_reason|{_IS_CUT_OFF})'"
_FLAGGED_IN_BATCH = f"jq -c 'select(.response.body.choices[]?.finish_reason|{_IS_CUT_OFF})'"
_BATCH_RECORD = b'"response":{"status_code":'
_HEAD_BYTES = 4096


def say_finished(settings: Settings, counters: Counters) -> tuple[ExitCode, str]:
    """Return the exit code and the verdict of a run that came to its end."""
    what = _lines_meant(settings, counters)
    if counters.malformed and counters.malformed == counters.lines_read:
        return ExitCode.SOME_FAILED, f"finished: no line could be used: is {_input(settings)} JSONL?"
    if counters.failed or _size_of(settings.errors_path):
        some = f"some of {what}" if what else "some lines"
        return ExitCode.SOME_FAILED, f"finished: {some} have no answer, see {settings.errors_path}"
    if not counters.lines_read:
        return ExitCode.OK, f"finished: there are no lines in {_input(settings)}"
    if not what:
        return ExitCode.OK, "finished: every line has its answer"
    return ExitCode.OK, f"finished: {what} {'is' if counters.lines_read == 1 else 'are'} answered"


def next_command(settings: Settings, counters: Counters, exit_code: ExitCode, command: str) -> str | None:
    """Return what to type next; `command` is what started this run."""
    if exit_code is ExitCode.OK:
        is_there = settings.save != STDOUT and counters.done
        return f"jq -r .response {shlex.quote(settings.save)}" if is_there else None
    if exit_code is ExitCode.INPUT_DAMAGED and not counters.lines_read:
        return None  # the verdict says what to do with an input of another kind
    if exit_code is not ExitCode.SOME_FAILED:
        can_go_on = STDOUT not in (settings.save, settings.input)
        return command if can_go_on else None
    return f"jq -r '\"line \\(.line): \\(.error)\"' {shlex.quote(settings.errors_path)}"


def next_when(counters: Counters, exit_code: ExitCode, *, has_endpoints: bool) -> str:
    """Return what has to be so before the same command is worth typing again; empty where it is at any time."""
    if exit_code is not ExitCode.REFUSED:
        return ""
    names = [endpoint.name for endpoint in counters.endpoints]
    who = names[0] if len(names) == 1 else "one of the endpoints"
    return f"once {who} {'is reachable' if has_endpoints else 'accepts requests'}, run again"


def output_files(settings: Settings, answers_before: int, errors_before: int) -> OutputFiles:
    """Return where the answers and the errors are, and the command that shows the answers that are not whole."""
    is_file = settings.save != STDOUT
    return OutputFiles(
        answers=settings.save if is_file else None,
        errors=settings.errors_path if settings.errors_path != STDOUT else None,
        answers_before=answers_before,
        errors_before=errors_before,
        flagged_command=f"{_flagged_in(settings.save)} {shlex.quote(settings.save)}" if is_file else None,
    )


def _flagged_in(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return _FLAGGED_IN_BATCH if _BATCH_RECORD in file.read(_HEAD_BYTES) else _FLAGGED
    except OSError:
        return _FLAGGED


def _lines_meant(settings: Settings, counters: Counters) -> str:
    """Return which lines the run was about, where --limit left some of the input out."""
    is_rest_unread = counters.input_bytes is None or counters.bytes_read < counters.input_bytes
    if settings.limit is None or counters.lines_read < settings.limit or not is_rest_unread:
        return ""
    return "the first line" if counters.lines_read == 1 else f"the first {counters.lines_read:,} lines"


def _input(settings: Settings) -> str:
    return "standard input" if settings.input == "-" else settings.input


def _size_of(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0

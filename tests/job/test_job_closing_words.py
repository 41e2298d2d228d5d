"""What the end of a run says, by its counters and the files that it finds."""

from pathlib import Path
from typing import Any

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode
from llmblast.job.closing_words import next_command, next_when, output_files, say_finished, say_missing_keys
from llmblast.settings import Settings
from llmblast.watching import Counters
from tests.watching.watching_helpers import endpoint


@pytest.mark.parametrize(
    ("counters", "limit", "said"),
    [
        (Counters(lines_read=40, input_ended=True), None, "every line has its answer"),
        (Counters(), None, "there are no lines in prompts.jsonl"),
        (Counters(lines_read=10, bytes_read=100, input_bytes=900), 10, "the first 10 lines are answered"),
        (Counters(lines_read=1, bytes_read=10, input_bytes=900), 1, "the first line is answered"),
        (Counters(lines_read=10_000, bytes_read=100), 10_000, "the first 10,000 lines are answered"),
        (Counters(lines_read=10, bytes_read=900, input_bytes=900), 10, "every line has its answer"),
        (Counters(lines_read=9, bytes_read=900, input_bytes=900), 10, "every line has its answer"),
    ],
)
def test_a_run_says_which_lines_are_answered(tmp_path: Path, counters: Counters, limit: int | None, said: str) -> None:
    """With --limit it is not every line, unless there are no more."""
    settings = Settings(input=("prompts.jsonl",), save=str(tmp_path / "save.jsonl"), limit=limit)

    assert say_finished(settings, counters, 0) == (ExitCode.OK, f"finished: {said}")


@pytest.mark.parametrize(
    ("counters", "limit", "said"),
    [
        (Counters(lines_read=40, failed=2), None, "some lines have no answer, see e.jsonl"),
        (Counters(lines_read=10, failed=2), 10, "some of the first 10 lines have no answer, see e.jsonl"),
        (Counters(lines_read=494, failed=494, malformed=494), None, "no line of bin.dat could be used, see e.jsonl"),
        (Counters(lines_read=494, failed=494, malformed=493), None, "some lines have no answer, see e.jsonl"),
    ],
)
def test_a_run_says_which_lines_have_no_answer(counters: Counters, limit: int | None, said: str) -> None:
    """Where not one line could be read, the file is to be looked at, not the lines."""
    settings = Settings(input=("bin.dat",), errors="e.jsonl", limit=limit)

    assert say_finished(settings, counters, 0) == (ExitCode.SOME_FAILED, f"finished: {said}")


def test_errors_of_earlier_runs_are_lines_without_an_answer() -> None:
    """They were skipped in this one."""
    exit_code, _ = say_finished(Settings(), Counters(lines_read=3, skipped=3, skipped_failed=1), 0)

    assert exit_code is ExitCode.SOME_FAILED


def test_errors_of_other_lines_do_not_count_and_are_told() -> None:
    """The bad line was mended since, and has another key."""
    exit_code, verdict = say_finished(Settings(), Counters(lines_read=3), 2)

    assert exit_code is ExitCode.OK
    assert verdict.endswith("; errors.jsonl also has 2 records of lines that are not in this input")


@pytest.mark.parametrize(
    ("names", "has_endpoints", "expected"),
    [
        (["gpu1"], True, "once gpu1 is reachable, run again"),
        (["gpu1"], False, "once gpu1 accepts requests, run again"),
        (["gpu1", "gpu2"], True, "once one of the endpoints is reachable, run again"),
    ],
)
def test_the_same_command_is_worth_typing_once_its_endpoint_is_there(
    names: list[str], has_endpoints: bool, expected: str
) -> None:
    """At once it would only fail again."""
    counters = Counters(endpoints=[endpoint(name) for name in names])

    assert next_when(counters, ExitCode.REFUSED, has_endpoints=has_endpoints) == expected
    assert next_when(counters, ExitCode.STOPPED, has_endpoints=has_endpoints) == ""


@pytest.mark.parametrize(
    ("exit_code", "save", "expected"),
    [
        (ExitCode.OK, "my save.jsonl", "jq -r .response 'my save.jsonl'"),
        (ExitCode.OK, "-", None),
        (ExitCode.STOPPED, "save.jsonl", "llmblast run prompts.jsonl"),
        (ExitCode.STOPPED, "-", None),
        (ExitCode.SOME_FAILED, "s.jsonl", "jq -r '\"line \\(.line): \\(.error.message? // .error)\"' s.errors.jsonl"),
    ],
)
def test_the_next_command_follows_from_the_end(exit_code: ExitCode, save: str, expected: str | None) -> None:
    """Ready to be copied."""
    settings = Settings(input=("prompts.jsonl",), save=save)

    told = next_command(
        settings, Counters(succeeded=1), exit_code, "llmblast run prompts.jsonl", can_resume=save != "-"
    )

    assert told == expected


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ('{"key":"0123456789abcdef","response":"x","finish_reason":"length"}', ".finish_reason"),
        (
            '{"key":"0123456789abcdef","response":{"status_code":200,"body":{}}}',
            ".response.body.choices[]?.finish_reason",
        ),
    ],
)
def test_the_command_that_shows_cut_off_answers_fits_their_format(tmp_path: Path, record: str, field: str) -> None:
    """A batch output keeps its finish_reason within the reply."""
    save = tmp_path / "save.jsonl"
    save.write_text(record + "\n")

    files = output_files(Settings(save=str(save)), 3, 4)
    shows = next_command(Settings(save=str(save)), Counters(succeeded=1), ExitCode.OK, "", can_resume=True)

    assert files.flagged_command == f'jq -c \'select({field}|IN("stop","tool_calls",null)|not)\' {save}'
    assert (files.answers, files.answers_before, files.errors_before) == (str(save), 3, 4)
    assert shows is not None
    assert ("choices[0]" in shows) == ("choices" in field)


def test_answers_on_standard_output_have_no_file() -> None:
    """Nor a command that shows some of them."""
    files = output_files(Settings(save="-"), 0, 0)

    assert (files.answers, files.flagged_command) == (None, None)


@pytest.mark.parametrize(
    ("settings", "key", "state", "said"),
    [
        ({"url": "http://127.0.0.1/v1"}, None, "off: HTTP 401", "; a: no API key was sent: export OPENAI_API_KEY=..."),
        (
            {"url": "http://gpu1/v1"},
            None,
            "off: HTTP 401",
            "; a: no API key was sent: name it with key_env=OPENAI_API_KEY",
        ),
        ({"url": "https://gpu1/v1"}, "sk-1", "off: HTTP 401", ""),
        ({"url": "https://gpu1/v1", "headers": {"x-api-key": "sk-1"}}, None, "off: HTTP 401", ""),
        ({"url": "https://gpu1/v1"}, None, "off: HTTP 404", ""),
    ],
)
def test_a_401_without_a_key_says_how_to_send_one(
    settings: dict[str, Any], key: str | None, state: str, said: str
) -> None:
    """A wrong key and a missing one get the same reply from most servers."""
    counters = Counters(endpoints=[endpoint("a", state=state)])
    endpoints = (EndpointSettings(name="a", **settings),)

    assert say_missing_keys(Settings(endpoints=endpoints), [key], counters) == said

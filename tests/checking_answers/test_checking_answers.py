"""Checks of answers: what fits, and what is said of an answer that does not."""

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.checking_answers import AnswerChecks, AnswerText, open_checks
from llmblast.checking_answers import command as command_module
from llmblast.checking_answers.command import AnswerCommand, CommandBrokenError
from llmblast.errors import UsageError
from llmblast.settings import Settings

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
TREE = {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}


def checks(**settings: Any) -> AnswerChecks:
    made = open_checks(Settings(**settings))
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"a": 1}', '{"a": 1}'),
        (" \ufeff\n[1]\r\n", "[1]"),
        ("null", "null"),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```', '{"a": 1}'),
        ('```JSON\r\n{"a": 1}\r\n```\r\n', '{"a": 1}'),
        ('```json {"a": 1} ```', '{"a": 1}'),
        ('Sure, here it is:\n\n```json\n{"a": 1}\n```\nAnything else?', '{"a": 1}'),
        ('```json\n{"a": 1}', '{"a": 1}'),
        ('{"code": "```py\\nx\\n```"}', '{"code": "```py\\nx\\n```"}'),
        ('```json\n{"code": "```py\\nx\\n```"}\n```', '{"code": "```py\\nx\\n```"}'),
        ('{"n": 12345678901234567890123}', '{"n": 12345678901234567890123}'),
    ],
)
def test_json_is_found_with_and_without_a_block_of_code_around_it(text: str, parsed: str) -> None:
    """Byte for byte, so that the record has the digits of the answer."""
    finding = checks(expect="json").find(text)

    assert (finding.problem, finding.parsed) == (None, parsed.encode())


@pytest.mark.parametrize(
    "text",
    ["", " \n", "yes", '{"a": 1', "{'a': 1}", "NaN", "```json\n```", '```\n{"a":1}\n```\nor\n```\n{"a":2}\n```', "```"],
)
def test_what_is_not_json_is_said(text: str) -> None:
    """With two blocks it is open which one is meant."""
    finding = checks(expect="json").find(text)

    assert finding.parsed is None
    assert finding.problem is not None
    assert "JSON" in finding.problem


@pytest.mark.parametrize("text", [None, [[0.1, 0.2]]])
def test_an_answer_without_a_text_does_not_fit(text: object) -> None:
    """A call of a tool, or embeddings."""
    assert checks(expect="json").find(text).problem == "the answer has no text"


def test_the_problems_name_the_place_in_the_answer() -> None:
    """So that a model can correct them, and a person see them."""
    check = checks(schema=PERSON)

    assert check.find('{"name": "A", "age": 3}').problem is None
    assert check.find('{"name": 5, "age": -1}').problem == (
        'the JSON does not fit the schema: at name: 5 is not of type "string"; at age: -1 is less than the minimum of 0'
    )
    assert check.find("{}").problem == (
        'the JSON does not fit the schema: "name" is a required property; "age" is a required property'
    )


def test_the_problem_of_a_large_answer_is_short() -> None:
    """The value itself is part of the validator's message."""
    problem = checks(schema=PERSON).find(orjson.dumps(["x" * 100_000] * 10).decode()).problem

    assert problem is not None
    assert len(problem) < 400


@pytest.mark.parametrize("depth", [300, 900, 5000])
def test_deep_nesting_ends_no_run(depth: int) -> None:
    """A recursive schema follows the answer as deep as it goes."""
    problem = checks(schema=TREE).find("[" * depth + '"x"' + "]" * depth).problem

    assert problem


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"minLength": -1},
        {"pattern": "("},
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/hostname"},
        {"$schema": "https://example.com/unknown"},
    ],
)
def test_an_invalid_schema_is_a_usage_error(schema: dict[str, object]) -> None:
    """Nothing is loaded from another place, either."""
    with pytest.raises(UsageError, match="--schema: is not a valid JSON Schema: "):
        open_checks(Settings(schema=schema))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("", "is not JSON"),
    ],
)
def test_a_file_without_a_schema_is_a_usage_error(tmp_path: Path, content: str | None, message: str) -> None:
    """The message names the file."""
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(UsageError, match=f"--schema {path}: {message}"):
        open_checks(Settings(schema=str(path)))


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("[A-D]", "The answer is B.", True),
        ("^[A-D]$", "The answer is B.", False),
        ("^[A-D]$", "B", True),
        ("^(?i)yes", "YES, it is", True),
        ("(?m)^Answer: [A-D]$", "Let me think.\nAnswer: C\nDone.", True),
        ("é", "café", True),
    ],
)
def test_a_regular_expression_is_searched_in_the_whole_answer(pattern: str, text: str, fits: bool) -> None:
    """Anchors tie it to start and end."""
    problem = checks(expect_regex=pattern).find(text).problem

    assert problem is None if fits else problem == f"the answer does not match the regular expression {pattern}"


def test_a_regular_expression_takes_linear_time() -> None:
    """A backtracking engine would take longer than the universe lasts."""
    assert checks(expect_regex="^(a+)+$").find("a" * 100_000 + "b").problem is not None


@pytest.mark.parametrize("pattern", ["(", "(?=x)y", r"(a)\1", "a{1000}{1000}{1000}"])
def test_a_regular_expression_that_cannot_be_run_in_linear_time_is_a_usage_error(pattern: str) -> None:
    """The message says which ones those are."""
    with pytest.raises(UsageError, match="is not a regular expression that takes linear time"):
        open_checks(Settings(expect_regex=pattern))


@pytest.mark.parametrize("settings", [{"schema": {"type": "object"}}, {"expect_regex": "x"}])
def test_a_missing_package_is_named(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(__import__("sys").modules, "jsonschema_rs", None)

    with pytest.raises(
        UsageError, match=r"needs the package jsonschema-rs: install it with pip install 'llmblast\[schema\]'"
    ):
        open_checks(Settings(**settings))


def test_the_first_check_that_an_answer_does_not_pass_gives_the_reason() -> None:
    """JSON comes before the schema, that before the pattern."""
    check = checks(expect="json", schema=PERSON, expect_regex="Ada")

    assert "not JSON" in (check.find("Ada").problem or "")
    assert "schema" in (check.find('{"name": "Ada"}').problem or "")
    assert "regular" in (check.find('{"name": "Bob", "age": 1}').problem or "")
    assert check.find('{"name": "Ada", "age": 1}').problem is None


def test_the_value_is_parsed_once_for_all_checks() -> None:
    """Also where there is none."""
    answer = AnswerText("{")

    assert answer.read_json() is not None
    assert answer.read_json()[1] == AnswerText("{").read_json()[1]


def test_without_settings_there_is_no_check() -> None:
    """A run without them does nothing for each answer."""
    assert open_checks(Settings()) is None


async def problem_of(command: str, text: str = "hello") -> str | None:
    return await AnswerCommand(command).find_problem(text)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("grep -q hello", None),
        ("exit 0", None),
        ("cat >/dev/null; echo ' too  short' >&2; exit 1", "too short"),
        ("exit 3", "the command did not accept the answer: it ended with exit code 3"),
        ("kill -9 $$", "the command did not accept the answer: it was ended by signal 9"),
        ("echo noise; exit 0", None),
        ("yes x | head -c 3000000 >&2; exit 1", " ".join(["x"] * 1000)),
    ],
)
async def test_a_command_accepts_or_gives_the_reason(
    command: str, problem: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it prints on standard output does not get among the answers."""
    assert await problem_of(command) == problem
    assert capfd.readouterr() == ("", "")


async def test_a_command_need_not_read_a_long_answer() -> None:
    """Its pipe is smaller than the answer."""
    assert await problem_of("exit 0", "x" * 3_000_000) is None
    assert await problem_of("test $(wc -c) -eq 3000000", "x" * 3_000_000) is None


async def test_a_command_that_hangs_is_killed_with_its_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is not accepted then."""
    monkeypatch.setattr(command_module, "TIMEOUT_S", 0.2)
    pid_file = tmp_path / "pid"

    problem = await problem_of(f"sleep 600 & echo $! >{pid_file}; wait")

    assert problem == "the command did not end within 0.2 s"
    pid = pid_file.read_text().strip()
    until_s = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < until_s
        await asyncio.sleep(0.01)


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_bounded_number_of_commands_runs_at_once(tmp_path: Path) -> None:
    """Each adds a line at its start and one at its end."""
    log = tmp_path / "log"
    command = AnswerCommand(f"echo 1 >>{log}; sleep 0.02; echo -1 >>{log}")

    await asyncio.gather(*(command.find_problem("x") for _ in range(12)))

    running = most = 0
    for step in log.read_text().split():
        running += int(step)
        most = max(most, running)
    assert (running, command.waiting) == (0, 0)
    assert 1 <= most <= command_module.MAX_RUNNING


@pytest.mark.parametrize("command", ["/no/such/program --flag | cat >&2; exit 127", "/dev/null/x 'y'"])
async def test_a_command_that_cannot_run_blames_no_answer(command: str) -> None:
    """A repair would cost money and change nothing."""
    with pytest.raises(CommandBrokenError, match="--expect-command: cannot be run"):
        await problem_of(command)


def test_a_command_that_no_program_has_is_a_usage_error() -> None:
    """Before anything is sent."""
    with pytest.raises(UsageError, match="there is no program 'no-such-program' that can be run"):
        open_checks(Settings(expect_command="no-such-program --strict"))
    assert open_checks(Settings(expect_command="exit 0")) is not None

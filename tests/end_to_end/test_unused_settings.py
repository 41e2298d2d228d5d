"""What only simple lines get, such as the system message, is told where lines are whole requests; fields and tenants
that an option names are told where no line has them.
"""

from pathlib import Path

import pytest

from tests.conftest import RunLlmblast

SIMPLE = '{"input": "a", "text": "b"}\n'
WHOLE = [
    '{"messages": [{"role": "user", "content": "Hi"}]}\n',
    '{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions",'
    ' "body": {"messages": [{"role": "user", "content": "Hi"}]}}\n',
]


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--system", "Be brief."], "--system is not used"),
        (["--params", '{"temperature": 0}'], "--params is not used"),
        (["--prompt", "Sum up: {text}", "--system", "Be brief."], "--prompt and --system are not used"),
    ],
)
@pytest.mark.parametrize("command", [["run", "-u", "mock:"], ["check"]])
def test_settings_that_a_whole_request_does_not_get_are_told_once(
    command: list[str], options: list[str], told: str, whole: str, tmp_path: Path, llmblast: RunLlmblast
) -> None:
    (tmp_path / "in.jsonl").write_text(SIMPLE + whole + whole.replace('"Hi"', '"Ho"'))
    done = llmblast(*command, "in.jsonl", *options)
    shown = done.stdout + done.stderr
    assert f"line 2: is a whole request, as others may be: {told} for such lines: " in shown
    assert shown.count("not used") == 1


@pytest.mark.parametrize("options", [[], ["--system", "Be brief.", "--params", '{"temperature": 0}']])
def test_nothing_is_told_where_all_lines_get_the_settings(
    options: list[str], tmp_path: Path, llmblast: RunLlmblast
) -> None:
    (tmp_path / "in.jsonl").write_text(SIMPLE + (SIMPLE if options else WHOLE[0]))
    assert "not used" not in llmblast("run", "in.jsonl", "-u", "mock:", *options).stderr


@pytest.mark.parametrize(
    ("count", "told"),
    [(3, "--warm-prefix sytem: no line has a field of this name"), (1001, "sytem: none of the first 1,000 lines has")],
)
def test_a_field_for_warm_prefixes_that_no_line_has_is_told_once(
    count: int, told: str, tmp_path: Path, llmblast: RunLlmblast
) -> None:
    (tmp_path / "in.jsonl").write_text(SIMPLE * count)
    (tmp_path / "later.jsonl").write_text(SIMPLE)
    done = llmblast("run", "in.jsonl", "--deferred", "later.jsonl", "-u", "mock:?latency=0", "--warm-prefix", "sytem")
    assert done.returncode == 0
    assert told in done.stderr
    assert done.stderr.count("sytem") == 1


def test_tenants_with_weights_that_no_line_names_are_told(tmp_path: Path, llmblast: RunLlmblast) -> None:
    (tmp_path / "in.jsonl").write_text('{"input": "a", "tenant": "x"}\n')
    done = llmblast("run", "in.jsonl", "-u", "mock:", "--share", "y=2,z=1")
    assert done.returncode == 0
    assert "--share: no line has the tenant y, z: " in done.stderr


@pytest.mark.parametrize("options", [["--warm-prefix", "text"], ["--share", "x=2,other=1"]])
def test_nothing_is_told_where_a_line_of_any_input_has_the_field_or_the_tenant(
    options: list[str], tmp_path: Path, llmblast: RunLlmblast
) -> None:
    (tmp_path / "in.jsonl").write_text('{"input": "a"}\n')
    (tmp_path / "later.jsonl").write_text('{"input": "b", "text": "t", "tenant": "x"}\n')
    done = llmblast("run", "in.jsonl", "--deferred", "later.jsonl", "-u", "mock:", *options)
    assert done.returncode == 0
    assert options[0] not in done.stderr
    again = llmblast("run", "in.jsonl", "--deferred", "later.jsonl", "-u", "mock:", *options)
    assert options[0] not in again.stderr

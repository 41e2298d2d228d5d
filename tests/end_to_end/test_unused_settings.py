"""What only simple lines get, such as the system message, is told where lines are whole requests."""

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

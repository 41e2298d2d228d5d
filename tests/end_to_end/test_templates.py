"""Templates, files of prompts, other names of fields and media, from the command line to the server and the records."""

from pathlib import Path
from typing import Any

import orjson

from llmblast.errors import ExitCode
from llmblast.mocking.server import MockServer
from tests.conftest import RunLlmblast, StartMock, records

WAV = b"RIFF\0\0\0\0WAVEfmt "
PDF = b"%PDF-1.7\n"


def write_lines(path: Path, *lines: object) -> None:
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def bodies(server: MockServer) -> list[dict[str, Any]]:
    return [orjson.loads(arrival.body) for arrival in server.ledger]


def test_files_of_templates_and_other_names_make_the_requests(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """A line without a field is found by `check` before anything is sent; in a run it is one error record."""
    write_lines(
        tmp_path / "in.jsonl",
        {"row": "r1", "question": "why?", "meta": {"tags": ["sky", "blue"]}, "topic": "air"},
        {"row": "r2", "question": "how?", "meta": {"tags": []}, "topic": "sea"},
        {"row": "r3", "query": "who?", "meta": {"tags": ["a"]}},
    )
    (tmp_path / "prompt.txt").write_text("{meta.tags[0]}: {text}\n")
    (tmp_path / "system.txt").write_text("{% if topic == 'air' %}Fly.{% else %}Swim.{% endif %}\n")
    server = start_mock()
    options = ("--map", "text=question,id=row", "--prompt-file", "prompt.txt", "--system-file", "system.txt")

    check = llmblast("check", "in.jsonl", "-u", server.url, *options)
    assert not server.ledger
    done = llmblast("run", "in.jsonl", "-u", server.url, *options)

    missing = '"meta.tags" has no [0]: it is a list of 0, which --prompt-file prompt.txt names as meta.tags[0]'
    unmapped = 'it has no field "question", which --map names: it has: row, query, meta'
    assert check.returncode == done.returncode == ExitCode.SOME_FAILED, done.stderr
    assert f":2:1: {missing}\n" in check.stdout
    assert f":3:1: {unmapped}\n" in check.stdout
    assert [body["messages"] for body in bodies(server)] == [
        [{"role": "system", "content": "Fly."}, {"role": "user", "content": "sky: why?"}]
    ]
    (saved,) = records(tmp_path / "save.jsonl")
    assert (saved["id"], saved["input"], saved["topic"], saved["text"]) == ("r1", "sky: why?", "air", "why?")
    assert {record["line"]: record["request"] for record in records(tmp_path / "errors.jsonl")} == {
        2: {"row": "r2", "question": "how?", "meta": {"tags": []}, "topic": "sea"},
        3: {"row": "r3", "query": "who?", "meta": {"tags": ["a"]}},
    }


def test_a_changed_file_is_noticed_when_a_run_goes_on(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """The content counts, not the path."""
    write_lines(tmp_path / "in.jsonl", {"a": "1"}, {"a": "2"})
    options = ("run", "in.jsonl", "-u", "mock:", "--map", "b=a")
    for name in ("one.txt", "same.txt"):
        (tmp_path / name).write_text("Say {b}")

    first = llmblast(*options, "--prompt-file", "one.txt", "--limit", "1")
    again = llmblast(*options, "--prompt-file", "same.txt")
    (tmp_path / "same.txt").write_text("Sing {b}")
    changed = llmblast(*options, "--prompt-file", "same.txt")
    renamed = llmblast("run", "in.jsonl", "-u", "mock:", "--map", "b=a,c=a", "--prompt", "Say {b}")

    assert (first.returncode, again.returncode) == (ExitCode.OK, ExitCode.OK)
    assert changed.returncode == renamed.returncode == ExitCode.USAGE
    assert "prompt was 'Say {b}', is 'Sing {b}'" in changed.stderr
    assert "map.c was not set, is 'a'" in renamed.stderr


def test_the_settings_shown_can_be_read_again(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """A file is named, not repeated."""
    (tmp_path / "p.txt").write_text("Say {b}")
    shown = llmblast("config", "show", "--prompt-file", "p.txt", "--map", "b=a,id=my row")
    (tmp_path / "shown.toml").write_text(shown.stdout)

    again = llmblast("config", "show", "--config", "shown.toml")

    assert 'prompt_file = "p.txt"' in shown.stdout
    assert "Say" not in shown.stdout
    assert again.stdout == shown.stdout


def test_media_go_to_the_endpoints_that_take_them(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """A sound to one kind, a PDF to both, and a video to none: that line is bad before anything is sent."""
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.wav").write_bytes(WAV)
    (tmp_path / "media" / "a.pdf").write_bytes(PDF)
    (tmp_path / "media" / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    write_lines(
        tmp_path / "in.jsonl",
        {"input": "Hear", "audio": "a.wav"},
        *({"input": "Read", "files": ["a.pdf"]} for _ in range(6)),
        {"input": "See", "video": ["a.mp4"]},
        {"input": "Steal", "files": ["../in.jsonl"]},
    )
    one, other = start_mock(), start_mock()

    urls = ("-u", f"{other.url},kind=anthropic", "-u", one.url)
    done = llmblast("run", "in.jsonl", *urls, "--media-root", "media")

    assert done.returncode == ExitCode.SOME_FAILED, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 7
    errors = {record["line"]: record["error"] for record in records(tmp_path / "errors.jsonl")}
    assert "the Messages API takes no video; the Chat Completions API takes no video" in errors[8]
    assert "outside --media-root" in errors[9]
    content = [body["messages"][0]["content"] for body in bodies(one)]
    assert [part["type"] for part in content[0]] == ["text", "input_audio"]
    assert {part["type"] for body in bodies(other) for part in body["messages"][0]["content"]} == {"document", "text"}

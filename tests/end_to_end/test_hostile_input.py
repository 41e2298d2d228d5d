"""Inputs that nobody would write on purpose, and some that somebody would: every line one record, bounded memory."""

import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import orjson
import pytest

from llmblast.mocking.server import ScriptedReply
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records
from tests.processes import run_measured, start_run, wait_for_requests

MIB = 1024 * 1024
PNG = b"\x89PNG\r\n\x1a\n"
GOOD = b'{"input":"good %d"}'
MALFORMED = (
    b"no JSON %d",
    b'{"input":"cut off %d',
    b'{"input":"x"}{"input":"%d"}',
    b'{"input":NaN,"n":%d}',
    b'{"input":"\\ud800 %d"}',
    b'{"input":"\xff\xfe %d"}',
    b'{"input":"zero \0 %d"}',
    b'{"input":%d}',
    b'["%d"]',
    b'{"n":%d}',
    b'{"input":"x","params":%d}',
    b'{"input":"x","images":["../%d.png"]}',
    b'{"custom_id":"%d","url":"http://evil/admin","body":{}}',
    b'{"model":"m","n":%d}',
    b'{"input":"x","n":01%d}',
    b"\x1f\x8b\x08 %d",
    b"[" * 2000 + b"%d",
    b'{"input":"x","deep":' + b"[" * 500 + b"%d" + b"]" * 500 + b"}",
    b"\xe2\x80\xa8 %d",
)


def both(tmp_path: Path, name: str = "save") -> list[dict[str, object]]:
    """The records of both files."""
    errors = "errors.jsonl" if name == "save" else f"{name}.errors.jsonl"
    return records(tmp_path / f"{name}.jsonl") + records(tmp_path / errors)


@contextmanager
def mock_process(tmp_path: Path, environment: dict[str, str], *arguments: str) -> Iterator[str]:
    """A provider that keeps no ledger, in memory of its own: its URL."""
    process = subprocess.Popen(
        [*LLMBLAST, "mock", "--port", "0", *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().split()[-1]
        finally:
            process.terminate()


def test_ten_thousand_malformed_among_ten_thousand_good_lines(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """20,000 records, the good ones answered and sent once."""
    server = start_mock()
    lines = [GOOD % n for n in range(10_000)]
    lines += [MALFORMED[n % len(MALFORMED)] % (10_000 + n) for n in range(10_000)]
    Random(1).shuffle(lines)
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(lines))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-q")

    answered, failed = records(tmp_path / "save.jsonl"), records(tmp_path / "errors.jsonl")
    assert done.returncode == 3
    assert (len(answered), len(failed), server.received) == (10_000, 10_000, 10_000)
    assert sorted(int(str(record["line"])) for record in answered + failed) == list(range(1, 20_001))
    assert {record["code"] for record in failed} == {"bad_line"}


def test_long_lines_cost_bounded_memory(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """16 MiB are sent; 200 MiB are one record that holds their start, and never in memory as a whole."""
    server = start_mock()
    with (tmp_path / "prompts.jsonl").open("wb") as file:
        for _ in range(4):
            file.write(b'{"input":"' + b"x" * 16 * MIB + b'"}\n')
        file.write(b'{"input":"')
        for _ in range(200):
            file.write(b"y" * MIB)
        file.write(b'"}\n{"input":"z"}\n')

    exit_code, peak_bytes = run_measured(tmp_path, environment, "-u", server.url, "-j", "1", "--no-echo")

    (oversized,) = records(tmp_path / "errors.jsonl")
    assert exit_code == 3
    assert len(records(tmp_path / "save.jsonl")) == 5
    assert len(str(oversized["request"])) == 1024
    assert f"the line has {200 * MIB + 12} bytes" in str(oversized["error"])
    assert peak_bytes < 300 * MIB  # eight times 16 MiB, the cap of 64 MiB, and what any run takes


def test_lines_that_name_large_images_cost_bounded_memory(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock
) -> None:
    """They are short, and what they become is not: one after the other is made, as there is room for it."""
    server = start_mock()
    (tmp_path / "a.png").write_bytes(PNG + bytes(4 * MIB))
    (tmp_path / "prompts.jsonl").write_bytes(b'{"input":"What is it?","images":["a.png"]}\n' * 60)

    arguments = ("-j", "1", "--media-root", ".")
    exit_code, peak_bytes = run_measured(tmp_path, environment, "-u", server.url, *arguments)

    assert exit_code == 0
    assert len(records(tmp_path / "save.jsonl")) == 60
    assert peak_bytes < 300 * MIB  # all at once they are 320 MiB, and any run takes 60


def test_large_requests_in_flight_cost_bounded_memory(tmp_path: Path, environment: dict[str, str]) -> None:
    """However many may be in flight: lines are read as others come to their end."""
    (tmp_path / "a.png").write_bytes(PNG + bytes(4 * MIB))
    (tmp_path / "prompts.jsonl").write_bytes(b'{"input":"What is it?","images":["a.png"]}\n' * 200)
    arguments = ("-j", "256", "--media-root", ".", "-m", "m")

    with mock_process(tmp_path, environment, "--latency", "2") as url:
        exit_code, peak_bytes = run_measured(tmp_path, environment, "-u", url, *arguments)

    assert exit_code == 0
    assert len(records(tmp_path / "save.jsonl")) == 200
    assert peak_bytes < 800 * MIB  # twice the bound, since each gets a model in front; all at once they are 2.1 GiB


def test_what_json_allows_and_few_expect(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """BOM, CRLF, U+2028, escapes, huge and tiny numbers, nesting up to the limit: all good lines."""
    server = start_mock()
    lines = [
        b'\xef\xbb\xbf{"input":"bom"}\r',
        '{"input":"a\u2028b\u2029c\u0085d"}\r'.encode(),
        b'  {"input" : "\\u0000\\ud83d\\ude00\\u202e"}\t\r',
        b'{"input":"n","big":123456789012345678901234567890,"tiny":1e-400,"minus":-0}\r',
        b'{"input":"deep","deep":' + b"[" * 200 + b"]" * 200 + b"}\r",
        b'{"input":"twice","input":"the last one counts"}\r',
        b"\r",
        b'{"input":"no line end"}',
    ]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(lines))

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    inputs = {record["line"]: record["input"] for record in records(tmp_path / "save.jsonl")}
    assert done.returncode == 0, done.stderr
    assert sorted(inputs) == [1, 2, 3, 4, 5, 6, 8]
    assert inputs[2] == "a\u2028b\u2029c\u0085d"
    assert inputs[3] == "\0\U0001f600\u202e"


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/v1/chat/completions",
        "https://user:password@evil.example:99999/v1/chat/completions?x=/admin#/admin",
        "http://evil.example\r\nX-Admin: 1/v1/chat/completions",
        "/v1/chat/completions?/../../admin",
        "v1/chat/completions/",
    ],
)
def test_a_batch_line_cannot_choose_where_it_goes(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, url: str
) -> None:
    """Whatever stands around an allowed path, the request goes to the endpoint and to that path."""
    server = start_mock()
    line = {"custom_id": "a", "url": url, "body": {"messages": [{"role": "user", "content": "x"}]}}
    (tmp_path / "prompts.jsonl").write_bytes(orjson.dumps(line))

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert done.returncode == 0, done.stderr
    assert [arrival.path for arrival in server.ledger] == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    "url",
    [
        "/v1/../../admin",
        "/v1/chat/completions/../../admin",
        "/v1/chat/%2e%2e/admin",
        "//evil.example/v1/chat/completions",
        "http:///v1/chat/completions",
        "file:///v1/chat/completions",
        "\\\\evil\\v1\\chat\\completions",
        "/v1/chat/completions\0",
        "/v1/chat/completions /admin",
        "/V1/Chat/Completions",
        "/v1/models",
    ],
)
def test_a_batch_line_with_another_path_is_not_sent(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, url: str
) -> None:
    """It is a bad line."""
    server = start_mock()
    line = {"custom_id": "a", "url": url, "body": {"messages": [{"role": "user", "content": "x"}]}}
    (tmp_path / "prompts.jsonl").write_bytes(orjson.dumps(line))

    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert (done.returncode, server.received) == (3, 0)
    assert '"url" must be one of' in str(records(tmp_path / "errors.jsonl")[0]["error"])


def test_images_out_of_bounds_are_not_sent(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> None:
    """By way of `..`, an absolute path or links, with one that is allowed between them."""
    server = start_mock()
    root = tmp_path / "images"
    root.mkdir()
    (root / "good.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG + b"secret")
    (root / "link.png").symlink_to("../secret.png")
    (root / "folder").symlink_to(tmp_path)
    images = [
        "../secret.png",
        "good.png",
        f"{tmp_path}/secret.png",
        "link.png",
        "folder/secret.png",
        "./x/../../secret.png",
    ]
    (tmp_path / "prompts.jsonl").write_bytes(
        b"\n".join(orjson.dumps({"input": "What is it?", "images": [image]}) for image in images)
    )

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "--media-root", "images")

    assert done.returncode == 3
    assert [record["line"] for record in records(tmp_path / "save.jsonl")] == [2]
    assert all("outside --media-root" in str(record["error"]) for record in records(tmp_path / "errors.jsonl"))
    assert b64encode(PNG + b"secret") not in b"".join(arrival.body for arrival in server.ledger)


@pytest.mark.parametrize("way", ["file", "pipe"])
@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("lz4", "is lz4-compressed: decompress it: lz4cat FILE | llmblast run -"),
        ("UTF-16", "is UTF-16, not UTF-8: convert it: iconv -f UTF-16 -t UTF-8 FILE | llmblast run -"),
        ("UTF-32", "is UTF-32, not UTF-8: convert it: iconv -f UTF-32 -t UTF-8 FILE | llmblast run -"),
    ],
)
def test_an_input_of_another_kind_is_refused_as_a_whole(
    tmp_path: Path, environment: dict[str, str], command: str, way: str, kind: str, sentence: str
) -> None:
    """One sentence and exit code 65 instead of a bad line for each newline among its bytes; here it is cut off, too."""
    lines = '{"input":"x"}\n' * 50_000
    data = b"\x04\x22\x4d\x18" + os.urandom(500_000) if kind == "lz4" else lines.encode(kind)
    (tmp_path / "prompts").write_bytes(data[:400_001])
    arguments = [*LLMBLAST, command, "-" if way == "pipe" else "prompts", "-u", "mock:"]

    done = subprocess.run(
        ["bash", "-c", f"cat prompts | {' '.join(arguments)}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 65
    assert sentence in done.stderr
    assert done.stdout == ""
    assert command == "check" or both(tmp_path) == []


@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-32"])
def test_the_advice_for_another_encoding_works(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, encoding: str
) -> None:
    """Typed as it is told."""
    server = start_mock()
    (tmp_path / "FILE").write_text('{"input":"wäre"}\n{"input":"中文"}\n', encoding)
    advice = f"iconv -f {encoding} -t UTF-8 FILE | llmblast run -".replace("llmblast", " ".join(LLMBLAST))

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{advice} -u {server.url}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert {record["input"] for record in records(tmp_path / "save.jsonl")} == {"wäre", "中文"}


def test_a_line_that_is_still_being_written_is_left_for_later(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, llmblast: RunLlmblast
) -> None:
    """Half a line at the end of an input that grows is no bad line; the next run takes it when it is whole."""
    server = start_mock("latency=0.02&jitter=0")
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"".join(b'{"input":"%d","padding":"%b"}\n' % (n, b"x" * 10_000) for n in range(300)))
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "10")
    wait_for_requests(server, 10, process)
    with path.open("ab") as file:
        file.write(b'{"input":"new"}\n{"input":"half')
    _, stderr = process.communicate(timeout=60)
    with path.open("ab") as file:
        file.write(b' a line"}\n')
    done = llmblast("run", "prompts.jsonl", "-u", server.url)

    assert process.returncode == 65, stderr
    assert ":302: is still being written" in stderr
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "save.jsonl")) == 302


def test_an_input_that_shrinks_is_damaged(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """What was read is finished, no record is made from the line that the end cuts."""
    server = start_mock("latency=0.02&jitter=0")
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"".join(b'{"input":"%d","padding":"%b"}\n' % (n, b"x" * 10_000) for n in range(300)))
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "-j", "10")
    wait_for_requests(server, 10, process)
    os.truncate(path, path.stat().st_size - 15_000)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 65, stderr
    assert "prompts.jsonl: shrank while it was read" in stderr
    assert len(records(tmp_path / "save.jsonl")) == 298
    assert records(tmp_path / "errors.jsonl") == []


def test_a_name_that_is_no_text_is_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    """Bytes that are no UTF-8 in a command line, where a record or a message would have to repeat them."""
    done = subprocess.run(
        [*LLMBLAST, "run", os.fsdecode(b"\xff.jsonl"), "-u", "mock:"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
    )

    assert done.returncode in (2, 66)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("flags", [[], ["-q"], ["-v"], ["--progress", "plain"]])
def test_a_terminal_obeys_nobody_from_outside(
    tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast, flags: list[str]
) -> None:
    """Escape codes and bidi controls in replies and in lines; the records have them, as JSON spells them."""
    evil = "\x1b]0;title\x07\x1b[2Jgone\x9b31m\u202etxt.exe\u2066\r\n\0<script>"
    error = orjson.dumps({"error": {"message": evil, "code": evil}})
    server = start_mock(script=lambda index, body: ScriptedReply((400, 401)[index % 2], error))
    lines = [{"id": evil, "input": evil}, {"id": evil, "custom_id": [evil], "input": evil}, {"input": evil}]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))

    done = llmblast("run", "prompts.jsonl", "-u", server.url, "-j", "1", *flags)

    assert done.returncode == 77, done.stderr
    assert "gone" in done.stderr
    assert done.stderr.replace("\n", "").isprintable()
    assert records(tmp_path / "errors.jsonl")[-1]["id"] == evil


def test_a_files_name_does_not_reach_the_terminal_as_it_is(llmblast: RunLlmblast) -> None:
    """Escape codes are shown instead of obeyed."""
    done = llmblast("run", "\x1b[31mred\u202e.jsonl", "-u", "mock:")

    assert done.returncode == 66
    assert done.stderr.startswith("llmblast: \\x1b[31mred\\u202e.jsonl: no such file")


@pytest.mark.parametrize("command", ["run", "check"])
def test_files_that_are_there_may_have_any_name(tmp_path: Path, llmblast: RunLlmblast, command: str) -> None:
    """Of the input in `check`, of the outputs in `run`: escape codes and bytes that are no text are left out."""
    name = "\x1b]0;title\x07\x1b[31mred\u202e\udcff.jsonl"
    (tmp_path / name).write_bytes(b"no JSON\n")
    outputs = ["-o", f"save {name}"] if command == "run" else []

    done = llmblast(command, name, "-u", "mock:", *outputs)

    told = done.stdout + done.stderr
    assert done.returncode == 3, told
    assert ("red.jsonl:1:1: not JSON" if command == "check" else "red.errors.jsonl") in told
    assert told.replace("\n", "").isprintable()

"""Where lines come from: compressed files, several files, patterns, slow pipes, files that grow."""

import bz2
import gzip
import lzma
import os
import signal
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from llmblast.mocking.server import MockServer
from tests.conftest import LLMBLAST, RunLlmblast, StartMock, records, unmeasured, write_prompts
from tests.processes import let_run, run_measured, start_run, wait_for_requests

MIB = 1024 * 1024


def lines(start: int, count: int) -> bytes:
    return b"".join(b'{"id":%d,"input":"Question %d?"}\n' % (n, n) for n in range(start, start + count))


def saved(tmp_path: Path) -> Counter[object]:
    return Counter(record["id"] for record in records(tmp_path / "save.jsonl"))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_is_run_resumed_and_checked(
    tmp_path: Path, llmblast: RunLlmblast, compress: Callable[[bytes], bytes]
) -> None:
    """Keys are those of the lines, so the plain file goes on where the compressed one stopped."""
    (tmp_path / "prompts.dat").write_bytes(compress(lines(0, 300)) + compress(lines(300, 300)))

    first = llmblast("run", "prompts.dat", "-u", "mock:?latency=0", "--limit", "200")
    checked = llmblast("check", "prompts.dat")
    (tmp_path / "prompts.jsonl").write_bytes(lines(0, 600))
    second = llmblast("run", "prompts.jsonl", "-u", "mock:?latency=0")

    assert (first.returncode, checked.returncode, second.returncode) == (0, 0, 0)
    assert "the first 200 lines are answered" in first.stderr
    assert "600 read, 600 good, 0 bad" in checked.stdout
    assert "400; 200 already answered" in checked.stdout
    assert saved(tmp_path) == Counter(range(600))


def test_a_damaged_file_ends_the_run_where_it_is_damaged(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """What came before is answered; repaired, the same command goes on. No half line is sent or recorded."""
    data = gzip.compress(lines(0, 3000))
    (tmp_path / "prompts.jsonl.gz").write_bytes(data[: len(data) // 2])
    command = ["run", "prompts.jsonl.gz", "-u", "mock:?latency=0"]

    broken = llmblast(*command)
    answered = len(saved(tmp_path))
    (tmp_path / "prompts.jsonl.gz").write_bytes(data)
    repaired = llmblast(*command)

    assert broken.returncode == 65
    assert f"prompts.jsonl.gz: its gzip data is cut off, at about byte {len(data) // 2}" in broken.stderr
    assert 1000 < answered < 3000
    assert records(tmp_path / "errors.jsonl") == []
    assert repaired.returncode == 0
    assert saved(tmp_path) == Counter(range(3000))


def test_garbage_behind_gzip_is_told(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """The run goes on without it, as zcat does."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(lines(0, 3)) + b"\0\0garbage")

    done = llmblast("run", "a.gz", "-u", "mock:?latency=0")
    checked = llmblast("check", "a.gz")

    assert (done.returncode, checked.returncode) == (0, 0)
    assert "a.gz: something else follows its gzip data: it is ignored" in done.stderr
    assert "a.gz: something else follows its gzip data: it is ignored" in checked.stdout


def test_a_bomb_does_not_fill_the_memory(tmp_path: Path, environment: dict[str, str], start_mock: StartMock) -> None:
    """A gigabyte of blanks in one megabyte, and one line in the end."""
    packer = zlib.compressobj(9, wbits=31)
    with (tmp_path / "prompts.jsonl").open("wb") as file:
        for _ in range(1000):
            file.write(packer.compress(b" " * MIB))
        file.write(packer.compress(b"\n" + lines(0, 1)) + packer.flush())

    exit_code, peak_bytes = run_measured(tmp_path, environment, "-u", start_mock().url)

    assert exit_code == 0
    assert peak_bytes < 150 * MIB
    assert len(saved(tmp_path)) == 1


def test_several_files_and_patterns_are_one_input(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """Records and messages name the file, and number its lines; the lines of all have one multiset of keys."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/b.jsonl").write_bytes(lines(0, 2) + b"{broken\n" + lines(0, 1))
    (tmp_path / "data/a.jsonl.gz").write_bytes(gzip.compress(lines(10, 2)))
    (tmp_path / "last.jsonl").write_bytes(b'{"id":20,"input":"x","file":"mine"}\n')
    inputs = ["data/*.jsonl*", "last.jsonl"]

    done = llmblast("run", *inputs, "-u", "mock:?latency=0")
    again = llmblast("run", *inputs, "-u", "mock:?latency=0")
    checked = llmblast("check", *inputs)

    assert (done.returncode, again.returncode, checked.returncode) == (3, 3, 3)
    places = {(record["file"], record["line"], record["id"]) for record in records(tmp_path / "save.jsonl")}
    assert places == {
        *(("data/a.jsonl.gz", line, id) for line, id in ((1, 10), (2, 11))),
        *(("data/b.jsonl", line, id) for line, id in ((1, 0), (2, 1), (4, 0))),
        ("last.jsonl", 1, 20),
    }
    assert len(records(tmp_path / "save.jsonl")) == 6
    (mine,) = (record for record in records(tmp_path / "save.jsonl") if record["id"] == 20)
    assert list(mine)[:4] == ["key", "line", "file", "id"]
    assert mine["fields"] == {"file": "mine"}
    (bad,) = records(tmp_path / "errors.jsonl")
    assert (bad["file"], bad["line"]) == ("data/b.jsonl", 3)
    assert "first at data/b.jsonl:3:" in done.stderr
    assert checked.stdout.startswith("data/b.jsonl:3:")
    assert "7 read, 6 good, 1 bad" in checked.stdout


def test_one_file_is_not_named_in_records(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """So an own field called `file` stays where it was."""
    (tmp_path / "a.jsonl").write_bytes(b'{"input":"x","file":"mine"}\n')

    assert llmblast("run", "a.jsonl", "-u", "mock:?latency=0").returncode == 0

    (record,) = records(tmp_path / "save.jsonl")
    assert record["file"] == "mine"
    assert "fields" not in record


def test_a_limit_holds_over_all_files(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """The files behind it are not read."""
    for number, name in enumerate("abc"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(number * 10, 10))

    done = llmblast("run", "a.jsonl", "b.jsonl", "c.jsonl", "-u", "mock:?latency=0", "--limit", "10")

    assert done.returncode == 0
    assert saved(tmp_path) == Counter(range(10))
    assert "the first 10 lines are answered" in done.stderr


def test_inputs_in_other_places(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """A list in the file of settings, the option several times, one name in the variable."""
    for number, name in enumerate(("a", "b", "with space")):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(number, 1))
    (tmp_path / "list.toml").write_text('input = ["a.jsonl", "b.jsonl"]\n')
    (tmp_path / "one.toml").write_text('input = "a.jsonl"\n')

    found = [
        llmblast("check", *arguments, **variables).stdout.split(" read")[0]
        for arguments, variables in (
            (["-c", "list.toml"], {}),
            (["-c", "one.toml"], {}),
            (["-i", "a.jsonl", "-i", "b.jsonl"], {}),
            (["a.jsonl", "b.jsonl", "with space.jsonl"], {}),
            ([], {"LLMBLAST_INPUT": "with space.jsonl"}),
            (["-c", "list.toml"], {"LLMBLAST_INPUT": "a.jsonl"}),
        )
    ]

    assert [text.split()[-1] for text in found] == ["2", "1", "2", "3", "1", "1"]


@pytest.mark.parametrize(
    ("inputs", "save", "message"),
    [
        (["a.jsonl", "b.jsonl"], "b.jsonl", "b.jsonl: is also an input: name another file with --save"),
        (["*.jsonl"], "new.jsonl", "new.jsonl: '*.jsonl' would find it as an input of the next run"),
    ],
)
def test_an_output_among_the_inputs_is_refused(
    tmp_path: Path, llmblast: RunLlmblast, inputs: list[str], save: str, message: str
) -> None:
    """Also one that only the next run would read."""
    write_prompts(tmp_path / "a.jsonl", 1)
    write_prompts(tmp_path / "b.jsonl", 1)

    done = llmblast("run", *inputs, "-u", "mock:", "-o", save)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_a_custom_id_in_two_files_is_found(tmp_path: Path, llmblast: RunLlmblast) -> None:
    """With the place of the first one."""
    batch = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [], "model": "m"}}
    (tmp_path / "a.jsonl").write_bytes(b"\n\n" + orjson.dumps(batch) + b"\n" + orjson.dumps(batch))
    (tmp_path / "b.jsonl").write_bytes(orjson.dumps(batch))

    findings = llmblast("check", "a.jsonl", "b.jsonl").stdout.splitlines()

    assert findings[0].startswith('a.jsonl:4: custom_id "x" is also at a.jsonl:3: ')
    assert findings[1].startswith('b.jsonl:1: custom_id "x" is also at a.jsonl:3: ')


def feed(stdin: int, data: bytes, server: MockServer, expected: int, process: "subprocess.Popen[str]") -> None:
    os.write(stdin, data)
    wait_for_requests(server, expected, process)


@pytest.mark.parametrize("is_packed", [False, True])
def test_lines_of_a_slow_pipe_are_sent_as_they_come(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, is_packed: bool
) -> None:
    """Also behind gzip, where the producer flushes."""
    server, packer = start_mock(), zlib.compressobj(wbits=31)
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        process = start_run(tmp_path, environment, "-", "-u", server.url, "-q", stdin=stdin)
    for number in range(3):
        data = lines(number, 1)
        packed = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
        feed(writing, packed if is_packed else data, server, number + 1, process)
    os.write(writing, packer.flush() if is_packed else b"")
    os.close(writing)

    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
    assert saved(tmp_path) == Counter(range(3))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_file_that_grows_is_followed_until_a_signal(
    tmp_path: Path, environment: dict[str, str], start_mock: StartMock, number: signal.Signals
) -> None:
    """A line without its end waits; the same command goes on with it."""
    server = start_mock()
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(lines(0, 2))
    process = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "--follow")
    wait_for_requests(server, 2, process)
    with path.open("ab") as file:
        file.write(lines(2, 1) + lines(3, 1)[:-5])
    wait_for_requests(server, 3, process)
    let_run(process, 0.5)
    assert server.received == 3

    process.send_signal(number)
    _, told = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert "interrupted" in told
    assert saved(tmp_path) == Counter(range(3))
    assert records(tmp_path / "errors.jsonl") == []

    path.write_bytes(lines(0, 4))
    done = start_run(tmp_path, environment, "prompts.jsonl", "-u", server.url, "--follow", "--limit", "4")
    done.communicate(timeout=60)
    assert done.returncode == 0
    assert saved(tmp_path) == Counter(range(4))


def test_a_producer_that_dies_behind_gzip_damages_the_input(tmp_path: Path, environment: dict[str, str]) -> None:
    """Exit code 65, and what was flushed is answered."""
    packer = zlib.compressobj(wbits=31)
    data = packer.compress(lines(0, 5)) + packer.flush(zlib.Z_SYNC_FLUSH)

    done = subprocess.run(
        [*LLMBLAST, "run", "-", "-u", "mock:?latency=0"],
        cwd=tmp_path,
        env=unmeasured(environment),
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 65
    assert b"standard input: its gzip data is cut off" in done.stderr
    assert saved(tmp_path) == Counter(range(5))


def test_a_url_is_an_input(tmp_path: Path, llmblast: RunLlmblast, start_mock: StartMock) -> None:
    """One that answers 404 names no secret, and says how endpoints are named."""
    url = start_mock().url.removesuffix("/v1").replace("http://", "http://user:hidden@")

    done = llmblast("run", f"{url}/nothing.jsonl?sig=hidden", "-u", "mock:")

    assert done.returncode == 66
    assert "/nothing.jsonl: cannot be read: HTTP 404" in done.stderr
    assert "hidden" not in done.stderr

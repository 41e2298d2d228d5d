"""Files, FIFOs and standard input as blocks, on both event loops; standard input in real processes."""

import asyncio
import os
import pty
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from llmblast.errors import InputDamagedError, InputMissingError
from llmblast.reading import open_source

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
LIMIT_S = 10
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

READER = """
import asyncio, os, sys, uvloop
from llmblast.errors import LlmblastError
from llmblast.reading import open_source

async def main():
    source = await open_source("-")
    print("open", source.size_bytes, flush=True)
    try:
        async for block in source.blocks():
            print(block, flush=True)
            if b"stop" in block:
                return
    finally:
        await source.close()
    print("end", source.bytes_read, os.get_blocking(0), flush=True)

try:
    factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[sys.argv[1]]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
except LlmblastError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(params=list(LOOPS))
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(loop_name: str) -> Run[Any]:
    def on_loop(main: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            return runner.run(asyncio.wait_for(main, LIMIT_S))

    return on_loop


def start(loop_name: str, stdin: Any, script: str = READER) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, loop_name], stdin=stdin, stdout=subprocess.PIPE, text=True)


def next_line(reader: subprocess.Popen[str]) -> str:
    assert reader.stdout is not None
    return reader.stdout.readline().strip()


def rest_of(reader: subprocess.Popen[str]) -> list[str]:
    """What it still prints until it exits."""
    stdout, _ = reader.communicate(timeout=LIMIT_S)
    return stdout.splitlines()


async def read_all(path: str) -> tuple[int | None, list[bytes], int]:
    source = await open_source(path)
    try:
        blocks = [block async for block in source.blocks()]
    finally:
        await source.close()
        await source.close()
    return source.size_bytes, blocks, source.bytes_read


async def write_slowly(writer: int, data: bytes) -> None:
    """Writes byte by byte, and closes the pipe."""
    for value in data:
        os.write(writer, bytes([value]))
        await asyncio.sleep(0)
    os.close(writer)


def test_a_file_is_read_in_blocks(tmp_path: Path, run: Run[tuple[int | None, list[bytes], int]]) -> None:
    """Its size is known from the start."""
    data = os.urandom(600_000)
    (tmp_path / "prompts.jsonl").write_bytes(data)

    size_bytes, blocks, bytes_read = run(read_all(str(tmp_path / "prompts.jsonl")))

    assert b"".join(blocks) == data
    assert [len(block) for block in blocks] == [262_144, 262_144, 75_712]
    assert size_bytes == bytes_read == 600_000


def test_a_device_without_end_of_its_own_is_read_as_a_file(run: Run[tuple[int | None, list[bytes], int]]) -> None:
    """/dev/null is an empty input."""
    assert run(read_all("/dev/null")) == (None, [], 0)


def test_a_fifo_delivers_what_is_there_and_neither_open_nor_read_blocks_the_loop(
    tmp_path: Path, run: Run[list[bytes]]
) -> None:
    """The writer may come after the reader, and pause."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> list[bytes]:
        source = await open_source(str(fifo))
        blocks = source.blocks()
        first = asyncio.ensure_future(anext(blocks))
        await asyncio.sleep(0)
        writer = os.open(fifo, os.O_WRONLY)
        os.write(writer, b"one\n")
        received = [await first]
        os.write(writer, b"two\n")
        received.append(await anext(blocks))
        os.close(writer)
        received += [block async for block in blocks]
        await source.close()
        return received

    assert run(main()) == [b"one\n", b"two\n"]


def test_a_fifo_that_nobody_reads_from_holds_back_its_writer(tmp_path: Path, run: Run[int]) -> None:
    """What is in memory is bounded, however much the writer has."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> int:
        source = await open_source(str(fifo))
        writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        written, idle = 0, 0
        while idle < 20:
            try:
                written += os.write(writer, bytes(65536))
                idle = 0
            except BlockingIOError:
                idle += 1
            await asyncio.sleep(0)
        await source.close()
        os.close(writer)
        return written

    assert run(main()) < 2_000_000


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jsonl", "no such file: name an existing"),
        ("", "is a directory: name a file"),
        ("file/child", "cannot be opened: Not a directory: name a file"),
        ("socket", "cannot be opened: No such device or address: name a file"),
        ("nul\0", "cannot be opened: embedded null byte: name a file"),
    ],
)
def test_an_input_that_cannot_be_opened_is_named(tmp_path: Path, run: Run[object], name: str, reason: str) -> None:
    """In one sentence with the fix."""
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        path = f"{tmp_path}/{name}"

        with pytest.raises(InputMissingError) as raised:
            run(read_all(path))

    assert str(raised.value).startswith(f"{path}: {reason}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_input_without_permission_is_named(tmp_path: Path, run: Run[object]) -> None:
    """A person sees what the system said."""
    (tmp_path / "a").touch(mode=0)

    with pytest.raises(InputMissingError, match="cannot be opened: Permission denied"):
        run(read_all(str(tmp_path / "a")))


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file whose first byte cannot be read")
def test_a_read_error_names_the_byte(run: Run[object]) -> None:
    """The input is damaged, not missing."""
    with pytest.raises(InputDamagedError, match="/proc/self/mem: reading failed at byte 0: Input/output error"):
        run(read_all("/proc/self/mem"))


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (b"\x04\x22\x4d\x18 and so on", "lz4-compressed: decompress it: lz4cat FILE | llmblast run -"),
        (b"PK\x03\x04 and so on", "unzip -p"),
        (
            '\ufeff{"input": "x"}\n'.encode("utf-16-le"),
            "prompts.jsonl: is UTF-16, not UTF-8: convert it: iconv -f UTF-16 -t UTF-8 FILE | llmblast run -",
        ),
        ("\ufeff中文".encode("utf-16-be"), "iconv -f UTF-16 -t UTF-8"),
        (
            '\ufeff{"input": "x"}\n'.encode("utf-32-le"),
            "prompts.jsonl: is UTF-32, not UTF-8: convert it: iconv -f UTF-32 -t UTF-8 FILE | llmblast run -",
        ),
        ("\ufeff中文".encode("utf-32-be"), "iconv -f UTF-32 -t UTF-8"),
        ("\ufeff".encode("utf-16-le"), "iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_refused_as_a_whole(
    tmp_path: Path, run: Run[object], data: bytes, command: str
) -> None:
    """Instead of a bad line for each newline in it; with the command that makes JSON of it, cut off or not."""
    (tmp_path / "prompts.jsonl").write_bytes(data)

    with pytest.raises(InputDamagedError, match=re.escape(command)):
        run(read_all(str(tmp_path / "prompts.jsonl")))


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (b"PK\3\4 ", "unzip"),
        ("\ufeffx".encode("utf-16-be"), "iconv -f UTF-16"),
    ],
)
def test_a_pipe_of_another_kind_is_refused_however_slowly_it_begins(
    tmp_path: Path, run: Run[list[bytes]], data: bytes, command: str
) -> None:
    """Its first bytes may come one by one."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main() -> list[bytes]:
        source = await open_source(str(fifo))
        writing = asyncio.create_task(write_slowly(os.open(fifo, os.O_WRONLY), data))
        try:
            return [block async for block in source.blocks()]
        finally:
            await writing
            await source.close()

    with pytest.raises(InputDamagedError, match=command):
        run(main())


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbf{}", b"\xff", b"\xfe{}", b"\0\0", b"\x1f{}", bytes(100), b"BZh"],
    ids=["utf-8 bom", "half a bom", "no bom", "two zeros", "half of gzip's", "zeros", "half of bzip2's"],
)
def test_a_start_that_resembles_another_kind_is_read(
    tmp_path: Path, run: Run[tuple[int | None, list[bytes], int]], data: bytes
) -> None:
    """One bad line does not refuse the file."""
    (tmp_path / "prompts.jsonl").write_bytes(data)

    assert run(read_all(str(tmp_path / "prompts.jsonl"))) == (len(data), [data], len(data))


@pytest.mark.parametrize("change_bytes", [-300_000, -1, 1, 300_000])
def test_a_file_that_changes_its_size_while_it_is_read(
    tmp_path: Path, run: Run[tuple[int, bool]], change_bytes: int
) -> None:
    """What is new is read; what is gone damages the input, since nobody knows what else has changed."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(bytes(600_000))

    async def main() -> tuple[int, bool]:
        source = await open_source(str(path))
        try:
            async for _ in source.blocks():
                os.truncate(path, 600_000 + change_bytes)
        finally:
            await source.close()
        return source.bytes_read, source.has_grown

    if change_bytes > 0:
        assert run(main()) == (600_000 + change_bytes, True)
        return
    ends_at = 600_000 + change_bytes
    with pytest.raises(InputDamagedError, match=f"shrank while it was read: it ended at byte {ends_at} of 600000"):
        run(main())


def test_a_pipe_is_read_as_it_is_written(loop_name: str) -> None:
    """A line that is there goes on its way before the next one comes."""
    reader = start(loop_name, subprocess.PIPE)
    assert reader.stdin is not None
    assert next_line(reader) == "open None"

    reader.stdin.write("one\n")
    reader.stdin.flush()

    assert next_line(reader) == r"b'one\n'"
    reader.stdin.write("two\n")
    assert rest_of(reader) == [r"b'two\n'", "end 8 True"]


def test_a_pipe_that_stays_open_does_not_keep_the_process(loop_name: str) -> None:
    """Whoever stops reading can exit at once."""
    read_end, write_end = os.pipe()
    reader = start(loop_name, read_end)
    os.write(write_end, b"stop")

    assert rest_of(reader) == ["open None", "b'stop'"]
    assert os.get_blocking(read_end)

    os.close(read_end)
    os.close(write_end)


def test_standard_input_from_a_file_has_a_size(tmp_path: Path, loop_name: str) -> None:
    """What others have read of it before does not count."""
    (tmp_path / "a").write_bytes(b"head\none\n")
    with open(tmp_path / "a", "rb", buffering=0) as file:
        file.read(5)
        reader = start(loop_name, file)

    assert rest_of(reader) == ["open 4", r"b'one\n'", "end 4 True"]


def test_a_terminal_is_read_without_touching_its_mode(loop_name: str) -> None:
    """Its description is shared with stdout and stderr, which must stay blocking."""
    ours, theirs = pty.openpty()
    reader = start(loop_name, theirs)
    assert next_line(reader) == "open None"

    os.write(ours, b"one\n")

    assert next_line(reader) == r"b'one\n'"
    assert os.get_blocking(theirs)
    os.write(ours, b"\x04")
    assert rest_of(reader) == ["end 4 True"]
    os.close(ours)
    os.close(theirs)


def test_a_fifo_as_standard_input_ends_when_its_writers_have_gone(tmp_path: Path, loop_name: str) -> None:
    """Even when they went before it was read."""
    os.mkfifo(tmp_path / "fifo")
    both = os.open(tmp_path / "fifo", os.O_RDWR)
    read_end = os.open(tmp_path / "fifo", os.O_RDONLY)
    os.write(both, b"one\n")
    os.close(both)

    reader = start(loop_name, read_end)

    assert rest_of(reader) == ["open None", r"b'one\n'", "end 4 True"]
    os.close(read_end)


def test_a_socket_as_standard_input_is_read_and_left_blocking(loop_name: str) -> None:
    """As some process managers pass it."""
    ours, theirs = socket.socketpair()
    reader = start(loop_name, theirs)
    assert next_line(reader) == "open None"

    ours.sendall(b"one\n")

    assert next_line(reader) == r"b'one\n'"
    ours.close()
    assert rest_of(reader) == ["end 4 True"]
    theirs.close()


def test_a_connection_that_is_reset_damages_the_input_at_its_byte(loop_name: str) -> None:
    """What came before is used; the person learns how far it went."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    reader = start(loop_name, theirs)
    ours.sendall(b"one\n")
    assert [next_line(reader), next_line(reader)] == ["open None", r"b'one\n'"]

    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ours.close()

    (message,) = rest_of(reader)
    assert message.startswith("InputDamagedError standard input: reading failed at byte 4: Connection reset")
    theirs.close()


def test_a_pipe_that_may_not_be_opened_again_is_shared(loop_name: str) -> None:
    """As after a change of user: the pipe still belongs to the old one. Its mode is put back."""
    refusing = (
        "import os\n"
        "really_open = os.open\n"
        "def refuse(path, *rest, **options):\n"
        "    if path == '/dev/stdin': raise PermissionError(13, 'Permission denied')\n"
        "    return really_open(path, *rest, **options)\n"
        "os.open = refuse\n"
    )
    reader = start(loop_name, subprocess.PIPE, refusing + READER)
    assert reader.stdin is not None
    reader.stdin.write("one\n")

    assert rest_of(reader) == ["open None", r"b'one\n'", "end 4 True"]


def test_a_system_without_proc_reads_a_shared_pipe(loop_name: str) -> None:
    """Not every system tells what a descriptor is."""
    hiding = "import os\ndef hide(path): raise FileNotFoundError(2, 'No such file or directory')\nos.readlink = hide\n"
    reader = start(loop_name, subprocess.PIPE, hiding + READER)
    assert reader.stdin is not None
    reader.stdin.write("one\n")

    assert rest_of(reader) == ["open None", r"b'one\n'", "end 4 True"]


def test_a_closed_standard_input_is_missing() -> None:
    """Descriptor 0 is then the first thing that the process opens, and not read. (libuv gives up on such a process.)"""
    command = f'exec "{sys.executable}" -c "$0" asyncio <&-'
    done = subprocess.run(["sh", "-c", command, READER], capture_output=True, text=True, timeout=LIMIT_S, check=True)

    assert done.stdout == "InputMissingError standard input: is closed: name a JSONL file, or pipe one in\n"

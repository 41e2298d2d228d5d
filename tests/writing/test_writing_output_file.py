"""An output file is ours alone, is put right after a crash, and says in one sentence when it cannot be used."""

import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.errors import ExitCode, OutputBlockedError, OutputFailedError
from llmblast.locks import lock
from llmblast.writing import OutputFile, output_file, should_retry

RECORD = '{"key":"00000000000000ff","line":2,"response":"wäre {\\"x\\": 1}"}'.encode()
FIRST = b'{"key":"00000000000000aa","line":1}\n'

SHARE = """
import sys
from llmblast.writing import OutputFile
record = b'{"key":"%016x","text":"%s"}\\n' % (int(sys.argv[1]), sys.argv[1].encode() * 5000)
sys.stderr.write("r")
sys.stderr.flush()
OutputFile("-").append(record * 200)
"""

HOLD = """
import sys
from llmblast.writing import OutputFile
file = OutputFile(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""

DIE_WHILE_REWRITING = """
import os, signal, sys
from llmblast.writing import OutputFile
seen = []
def keep(record):
    seen.append(record)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(seen) != 1
OutputFile(sys.argv[1]).keep_only(keep)
"""


def records(*numbers: int) -> bytes:
    """A file's content with these records."""
    return b"".join(b'{"key":"%016x","line":%d}\n' % (number, number) for number in numbers)


def line_of(record: bytes) -> int:
    """The line number in a record."""
    number: int = orjson.loads(record)["line"]
    return number


@contextmanager
def size_limit(limit_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond the limit: a real full disk in small."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root passes all permissions, so become nobody for a moment."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "save.jsonl"


def test_a_new_file_is_for_its_owner_only(save: Path) -> None:
    """Prompts and answers are nobody else's business."""
    OutputFile(str(save)).close()

    assert stat.S_IMODE(save.stat().st_mode) == 0o600


def test_an_existing_file_keeps_its_mode(save: Path) -> None:
    """Its owner has chosen it."""
    save.write_bytes(FIRST)
    save.chmod(0o664)

    OutputFile(str(save)).close()

    assert stat.S_IMODE(save.stat().st_mode) == 0o664


def test_records_are_appended_to_those_of_an_earlier_run(save: Path) -> None:
    """And the file survives a power cut from `sync` on, which must not fail."""
    save.write_bytes(FIRST)
    file = OutputFile(str(save))

    assert file.append(RECORD + b"\n") == (len(RECORD) + 1, None)
    file.sync()
    file.close()

    assert save.read_bytes() == FIRST + RECORD + b"\n"
    assert file.repaired == []
    assert file.is_resumable


def test_a_second_process_is_turned_away(save: Path) -> None:
    """Two runs on one file would pay for every line twice."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(save)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"

        with pytest.raises(OutputBlockedError, match=r"save\.jsonl: another run is writing to it: .* --save") as caught:
            OutputFile(str(save))
        other.kill()

    assert caught.value.exit_code == ExitCode.OUTPUT_BLOCKED
    OutputFile(str(save)).close()


def test_a_file_that_was_replaced_while_it_was_locked_is_opened_again(
    save: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else we would append to a file that no longer has a name."""
    other = save.with_name("other.jsonl")
    other.write_bytes(records(1))
    save.write_bytes(records(2))

    def overtaken(fd: int, name: str, flag: str) -> None:
        if other.exists():
            other.rename(save)
        lock(fd, name, flag)

    monkeypatch.setattr(output_file, "lock", overtaken)
    file = OutputFile(str(save))
    file.append(records(3))
    file.close()

    assert save.read_bytes() == records(1, 3)


def test_a_file_that_was_removed_while_it_was_locked_is_created_again(
    save: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, without a successor."""
    removals = [save]

    def overtaken(fd: int, name: str, flag: str) -> None:
        while removals:
            removals.pop().unlink()
        lock(fd, name, flag)

    monkeypatch.setattr(output_file, "lock", overtaken)
    file = OutputFile(str(save))
    file.append(records(3))
    file.close()

    assert save.read_bytes() == records(3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing/save.jsonl", r"its directory does not exist: create it, or choose another file with --errors"),
        ("file/save.jsonl", r"its directory does not exist: create it, or choose another file with --errors"),
        ("", r"is a directory: name a file in it with --errors"),
        ("x" * 300, r"cannot be opened for writing: File name too long: choose another file with --errors"),
        ("a\0b", r"is not a file name: .*: choose another file with --errors"),
    ],
)
def test_a_file_that_cannot_be_created_names_the_fix(tmp_path: Path, name: str, sentence: str) -> None:
    """One sentence for each reason."""
    (tmp_path / "file").touch()

    with pytest.raises(OutputBlockedError, match=sentence):
        OutputFile(f"{tmp_path}/{name}", flag="--errors")


def test_a_file_that_may_not_be_written_names_the_fix(save: Path) -> None:
    """Permissions are somebody's decision."""
    save.touch(0o400)

    with somebody_else(), pytest.raises(OutputBlockedError, match=r"permission denied: allow it, or choose"):
        OutputFile(str(save))


@pytest.mark.parametrize("content", [b'{"input":"2+2?"}\n', b"\n", b"id,prompt\n", b'{"key":1}\n', b'{"kex'])
def test_a_file_that_is_not_ours_is_left_alone(save: Path, content: bytes) -> None:
    """The prompt file named by mistake must not get answers appended."""
    save.write_bytes(content)

    with pytest.raises(OutputBlockedError, match=r"is not an output of llmblast, .* --save, or empty .* --overwrite"):
        OutputFile(str(save))

    assert save.read_bytes() == content


@pytest.mark.parametrize("content", [b"id,prompt\n", b'{"input":"2+2?"}\n', b"\n", b'{"key":"value","n":1}\n'])
def test_overwrite_leaves_alone_what_is_not_ours(save: Path, content: bytes) -> None:
    """A slip in a file's name must not cost the file."""
    save.write_bytes(content)

    with pytest.raises(OutputBlockedError, match=r"is not an output of llmblast, .* --save, or .* --overwrite --force"):
        OutputFile(str(save), overwrite=True)

    assert save.read_bytes() == content


@pytest.mark.parametrize("content", [b"", FIRST, b"a note\n" + FIRST, FIRST[:15], b"\0" * 9 + b"\n" + FIRST])
def test_overwrite_takes_what_llmblast_has_written(save: Path, content: bytes) -> None:
    """Even where it was edited, torn or hit by a power cut."""
    save.write_bytes(content)

    OutputFile(str(save), overwrite=True).close()

    assert save.read_bytes() == content


def test_overwrite_by_force_empties_whatever_was_there(save: Path) -> None:
    """It was asked for."""
    save.write_bytes(b"id,prompt\n")

    output = OutputFile(str(save), overwrite=True, force=True)
    before = save.read_bytes()
    output.empty()
    output.close()

    assert before == b"id,prompt\n"
    assert save.read_bytes() == b""


def test_overwrite_does_not_empty_a_locked_file(save: Path) -> None:
    """The lock comes first."""
    file = OutputFile(str(save))
    file.append(FIRST)

    with pytest.raises(OutputBlockedError):
        OutputFile(str(save), overwrite=True)

    assert save.read_bytes() == FIRST
    file.close()
    file.close()


@pytest.mark.parametrize("before", [b"", FIRST], ids=["alone", "after another"])
@pytest.mark.parametrize("size", range(1, len(RECORD)))
def test_a_torn_tail_is_moved_aside_wherever_it_was_torn(save: Path, before: bytes, size: int) -> None:
    """Half a record may still be worth reading, but not in this file."""
    save.write_bytes(before + RECORD[:size])

    file = OutputFile(str(save))
    file.append(FIRST)
    file.close()

    assert save.read_bytes() == before + FIRST
    assert Path(f"{save}.torn").read_bytes() == RECORD[:size] + b"\n"
    assert f"its {size} bytes were moved to {save}.torn" in str(file.repaired)


@pytest.mark.parametrize("before", [b"", FIRST], ids=["alone", "after another"])
def test_a_torn_tail_is_completed_when_it_is_whole(save: Path, before: bytes) -> None:
    """Only its newline is missing: the answer is there and need not be paid for again."""
    save.write_bytes(before + RECORD)

    file = OutputFile(str(save))
    file.close()

    assert save.read_bytes() == before + RECORD + b"\n"
    assert not Path(f"{save}.torn").exists()
    assert "had no newline" in str(file.repaired)


@given(tail=st.binary(min_size=1).map(lambda tail: tail.replace(b"\n", b"\0")))
def test_whatever_a_crash_left_behind_is_kept_and_the_file_is_whole(tail: bytes) -> None:
    """Power cuts leave zeros and rubbish as well; only the zeros go."""
    with tempfile.TemporaryDirectory() as directory:
        save = Path(directory) / "save.jsonl"
        save.write_bytes(FIRST + tail)

        OutputFile(str(save)).close()

        aside = [path.read_bytes() for path in Path(directory).iterdir() if path != save]
        assert save.read_bytes() == FIRST
        assert b"".join(aside).replace(b"\n", b"") == tail.replace(b"\0", b"")


def test_a_long_torn_tail_is_moved_whole(save: Path) -> None:
    """It may be longer than what is read at once, and another one may lie there already."""
    tail = RECORD[:-2] + b"x" * 300_000
    save.write_bytes(FIRST + tail)
    Path(f"{save}.torn").write_bytes(b"older\n")

    OutputFile(str(save)).close()

    assert save.read_bytes() == FIRST
    assert Path(f"{save}.torn").read_bytes() == b"older\n" + tail + b"\n"


def test_a_torn_tail_that_cannot_be_moved_stays(save: Path) -> None:
    """Rather no run than a lost half."""
    Path(f"{save}.torn").mkdir()
    save.write_bytes(FIRST + RECORD[:20])

    with pytest.raises(OutputBlockedError, match=r"cannot be moved to .*save\.jsonl\.torn: Is a directory"):
        OutputFile(str(save))

    assert save.read_bytes() == FIRST + RECORD[:20]


def test_a_full_disk_stops_a_write_where_it_is(save: Path) -> None:
    """How far it came is what a second try goes on from."""
    file = OutputFile(str(save))

    with size_limit(20):
        written, error = file.append(FIRST)

    assert written == 20
    assert isinstance(error, OSError)
    assert save.read_bytes() == FIRST[:20]
    file.close()


def test_dropped_records_leave_the_file(save: Path) -> None:
    """The others keep their order, the file its mode, and records go behind them."""
    save.write_bytes(records(1, 2) + b"\n" + records(3, 4))
    save.chmod(0o640)
    file = OutputFile(str(save))

    assert file.keep_only(lambda record: line_of(record) not in (2, 4)) == 2
    file.append(records(5))
    file.close()

    assert save.read_bytes() == records(1) + b"\n" + records(3, 5)
    assert stat.S_IMODE(save.stat().st_mode) == 0o640
    assert list(save.parent.iterdir()) == [save]


def test_nothing_is_rewritten_when_every_record_stays(save: Path) -> None:
    """A large file costs one reading, no writing."""
    save.write_bytes(records(1, 2))
    inode = save.stat().st_ino
    file = OutputFile(str(save))

    assert file.keep_only(lambda record: True) == 0
    file.close()

    assert save.stat().st_ino == inode


def test_a_rewritten_file_is_still_locked(save: Path) -> None:
    """The lock moves to the new file before the path does."""
    save.write_bytes(records(1, 2))
    file = OutputFile(str(save))
    file.keep_only(lambda record: False)

    with pytest.raises(OutputBlockedError, match="another run"):
        OutputFile(str(save))

    file.close()
    OutputFile(str(save)).close()


def test_a_link_still_points_to_the_rewritten_file(save: Path) -> None:
    """The file is replaced, not the link to it."""
    target = save.with_name("real.jsonl")
    target.write_bytes(records(1, 2))
    save.symlink_to(target)
    file = OutputFile(str(save))

    file.keep_only(lambda record: line_of(record) == 2)
    file.close()

    assert save.is_symlink()
    assert target.read_bytes() == records(2)


@given(lines=st.lists(st.integers(0, 9)), kept=st.sets(st.integers(0, 9)))
def test_exactly_the_kept_records_stay(lines: list[int], kept: set[int]) -> None:
    """In their order, however many there are of each."""
    with tempfile.TemporaryDirectory() as directory:
        save = Path(directory) / "save.jsonl"
        save.write_bytes(records(*lines))
        file = OutputFile(str(save))

        dropped = file.keep_only(lambda record: line_of(record) in kept)
        file.close()

        assert save.read_bytes() == records(*(line for line in lines if line in kept))
        assert dropped == sum(line not in kept for line in lines)


def test_rewriting_needs_little_memory(save: Path) -> None:
    """However large the file is."""
    filler = b"x" * 10_000
    save.write_bytes(b"".join(b'{"key":"%016x","x":"%s"}\n' % (number, filler) for number in range(2000)))
    file = OutputFile(str(save))
    tracemalloc.start()

    assert file.keep_only(lambda record: not record.startswith(b'{"key":"00000000000007cf')) == 1

    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    file.close()
    assert peak_bytes < 5_000_000


def test_a_rewrite_that_fails_changes_nothing(save: Path) -> None:
    """A full disk, and no half-written file stays behind."""
    save.write_bytes(records(*range(100)))
    file = OutputFile(str(save))

    with (
        size_limit(1000),
        pytest.raises(OutputFailedError, match="cannot be rewritten: File too large; it is unchanged"),
    ):
        file.keep_only(lambda record: line_of(record) != 1)

    file.close()
    assert save.read_bytes() == records(*range(100))
    assert list(save.parent.iterdir()) == [save]


def test_a_crash_while_rewriting_changes_nothing(save: Path) -> None:
    """The next run finds the old file, and clears up what the crash left."""
    save.write_bytes(records(1, 2, 3, 4))

    crash = subprocess.run([sys.executable, "-c", DIE_WHILE_REWRITING, str(save)], check=False)

    assert crash.returncode == -signal.SIGKILL
    assert save.read_bytes() == records(1, 2, 3, 4)
    assert len(list(save.parent.iterdir())) == 2
    file = OutputFile(str(save))
    assert file.keep_only(lambda record: line_of(record) != 1) == 1
    file.close()
    assert list(save.parent.iterdir()) == [save]


def test_a_device_is_neither_locked_nor_rewritten() -> None:
    """Many runs may throw their errors away at once."""
    first, second = OutputFile("/dev/null"), OutputFile("/dev/null")

    assert first.append(FIRST) == (len(FIRST), None)
    first.sync()

    assert not first.is_resumable
    assert first.keep_only(lambda record: False) == 0
    first.close()
    second.close()


def test_standard_output_is_left_open(capfd: pytest.CaptureFixture[str]) -> None:
    """It is not ours to close."""
    file = OutputFile("-")
    file.append(FIRST)
    file.close()

    os.write(1, RECORD)

    assert not file.is_resumable
    assert file.name == "standard output"
    assert capfd.readouterr().out.encode() == FIRST + RECORD


def test_a_closed_standard_output_is_an_error() -> None:
    """As a shell leaves it after `>&-`."""
    code = "import os; os.close(1); from llmblast.writing import OutputFile; OutputFile('-')"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "OutputBlockedError: standard output: cannot be opened for writing: Bad file descriptor" in ended.stderr


def test_a_pipe_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    """Whoever shares the pipe may have made it non-blocking; that must not lose records."""
    reading, writing = os.pipe()
    data = b"x" * 1_000_000
    with subprocess.Popen(["wc", "-c"], stdin=reading, stdout=subprocess.PIPE) as reader:
        os.close(reading)
        os.set_blocking(writing, False)
        standard_output = os.dup(1)
        os.dup2(writing, 1)
        file = OutputFile("-")
        os.dup2(standard_output, 1)
        os.close(standard_output)
        os.close(writing)

        assert file.append(data) == (len(data), None)
        file.close()

        assert reader.stdout is not None
        assert int(reader.stdout.read()) == len(data)


def test_processes_that_share_a_pipe_tear_no_record_of_each_other() -> None:
    """As with `xargs -P`: the system keeps in one piece only what is shorter than a page."""
    reading, writing = os.pipe()
    told, telling = os.pipe()
    command = [sys.executable, "-c", SHARE]
    writers = [subprocess.Popen([*command, str(n)], stdout=writing, stderr=telling) for n in range(1, 4)]
    os.close(writing)
    os.close(telling)
    with open(told) as ready:
        assert ready.read(3) == "rrr"

    with open(reading, "rb") as pipe:
        lines = pipe.read().splitlines()

    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert sorted(set(lines)) == [b'{"key":"%016x","text":"%s"}' % (n, b"%d" % n * 5000) for n in range(1, 4)]
    assert len(lines) == 600


@pytest.mark.parametrize(
    ("record", "transient", "every", "none"),
    [
        (b'{"key":"1","transient":true}', True, True, False),
        (b'{"key":"1","transient":false}', False, True, False),
        (b'{"key":"1","transient":false,"request":{"transient":true}}', False, True, False),
        (b'{"key":"1","error":"\\"transient\\":true","transient":false}', False, True, False),
        (b'{"key":"1","transient":true', False, True, False),
        (b'["transient",{"transient":true}]', False, True, False),
    ],
)
def test_the_retry_mode_chooses_the_records(record: bytes, transient: bool, every: bool, none: bool) -> None:
    """Only the record's own member counts."""
    assert should_retry(record, "transient") is transient
    assert should_retry(record, "all") is every
    assert should_retry(record, "none") is none

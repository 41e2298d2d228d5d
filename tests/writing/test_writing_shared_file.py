"""Several runs append to one file of errors, whole batches at a time, and none of them holds it."""

import errno
import fcntl
import resource
import signal
from pathlib import Path

import pytest

from llmblast.errors import OutputBlockedError
from llmblast.writing import OutputFile, SharedFile, Spool, shared_file

FIRST = b'{"key":"00000000000000aa","line":1}\n'
SECOND = b'{"key":"00000000000000bb","line":2}\n'


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    return tmp_path / "errors.jsonl"


def test_two_share_a_file(errors: Path) -> None:
    """Neither waits for the end of the other."""
    one, other = SharedFile(str(errors)), SharedFile(str(errors))

    assert one.append(FIRST) == (len(FIRST), None)
    assert other.append(SECOND) == (len(SECOND), None)
    assert one.append(SECOND) == (len(SECOND), None)

    assert errors.read_bytes() == FIRST + SECOND + SECOND
    assert not one.is_resumable
    assert errors.stat().st_mode & 0o777 == 0o600


def test_nothing_in_it_is_read_or_dropped(errors: Path, tmp_path: Path) -> None:
    """It belongs to other inputs, too: neither retries nor `--overwrite` nor spools concern it."""
    errors.write_bytes(FIRST)
    file = SharedFile(str(errors))

    file.empty()
    assert file.keep_only(lambda record: False) == 0
    assert Spool(file, str(tmp_path)).find() == []
    file.close()

    assert errors.read_bytes() == FIRST


def test_a_run_that_goes_on_with_the_file_may_come_in_between(errors: Path) -> None:
    """It replaces the file: an open descriptor would lead to the old one."""
    shared = SharedFile(str(errors))
    shared.append(FIRST)
    run = OutputFile(str(errors))
    run.keep_only(lambda record: b'"line":1' not in record)
    run.close()

    shared.append(SECOND)

    assert errors.read_bytes() == SECOND


def test_a_run_that_holds_the_file_goes_before(errors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at the start, and where it begins later, after a while."""
    monkeypatch.setattr(shared_file, "MAX_START_WAIT_S", 0.0)
    monkeypatch.setattr(shared_file, "MAX_APPEND_WAIT_S", 0.0)
    shared = SharedFile(str(errors))
    run = OutputFile(str(errors))

    with pytest.raises(OutputBlockedError, match=r"errors\.jsonl: another run is writing to it: .* --errors"):
        SharedFile(str(errors))
    written, error = shared.append(FIRST)

    run.close()
    assert written == 0
    assert error is not None
    assert error.strerror == "another run uses it"
    assert errors.read_bytes() == b""


def test_a_look_at_the_lock_is_waited_for(errors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over in moments."""
    shared = SharedFile(str(errors))
    with errors.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr("llmblast.locks.time.sleep", lambda seconds: fcntl.flock(other, fcntl.LOCK_UN))

        assert shared.append(FIRST) == (len(FIRST), None)


def test_a_batch_is_appended_whole_or_not_at_all(errors: Path) -> None:
    """Others go on behind it: half a record would spoil theirs."""
    shared = SharedFile(str(errors))
    shared.append(FIRST)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(FIRST) + 10, hard))
    try:
        written, error = shared.append(SECOND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)

    assert written == 0
    assert error is not None
    assert error.errno == errno.EFBIG
    assert errors.read_bytes() == FIRST


def test_a_torn_end_spoils_no_later_record(errors: Path) -> None:
    """Whoever goes on with the file moves it aside."""
    errors.write_bytes(FIRST + SECOND[:12])

    SharedFile(str(errors)).append(SECOND)

    assert errors.read_bytes() == FIRST + SECOND[:12] + b"\n" + SECOND


def test_a_file_that_is_not_ours_gets_nothing(errors: Path) -> None:
    """A name mistyped is as likely here as for answers."""
    errors.write_bytes(b"id,prompt\n")

    with pytest.raises(OutputBlockedError, match=r"is not an output of llmblast, .* --errors"):
        SharedFile(str(errors))

    assert errors.read_bytes() == b"id,prompt\n"

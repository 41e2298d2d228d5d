"""The file of answers: what it keeps, who may use it, and what is no such file."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmblast.caching import StoreError, answer_store
from llmblast.caching.answer_store import APPLICATION_ID, AnswerStore
from llmblast.errors import UsageError


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_replies_are_found_again_in_a_later_run(tmp_path: Path) -> None:
    """The last reply under a key counts, as an earlier one may not fit any more; unknown keys are left out."""
    path = str(tmp_path / "c.db")
    first = AnswerStore(path)
    first.add({key_of(1): b"one", key_of(2): b"two"})
    first.add({key_of(1): b"another"})
    first.close()

    second = AnswerStore(path)

    assert second.find([key_of(number) for number in range(1000)]) == {key_of(1): b"another", key_of(2): b"two"}
    second.close()


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    """Like all outputs; the files beside it, too."""
    store = AnswerStore(str(tmp_path / "c.db"))
    store.add({key_of(1): b"one"})

    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    store.close()


def test_a_store_without_a_file_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of `--dedupe` alone."""
    monkeypatch.chdir(tmp_path)
    store = AnswerStore(None)
    store.add({key_of(number): b"x" * 100_000 for number in range(300)})

    assert len(store.find([key_of(number) for number in range(300)])) == 300
    store.close()
    assert list(tmp_path.iterdir()) == []


def another_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE answers (id, key, body, saved_s)")
    connection.close()


def another_version(path: Path) -> None:
    AnswerStore(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def filled(path: Path) -> bytes:
    store = AnswerStore(str(path))
    store.add({key_of(number): b"x" * 500 for number in range(1000)})
    store.close()
    return path.read_bytes()


def torn(path: Path) -> None:
    path.write_bytes(filled(path)[:-20_000])


def overwritten(path: Path) -> None:
    data = filled(path)
    path.write_bytes(data[:200_000] + b"\xff" * 200_000 + data[400_000:])


def wiped(path: Path) -> None:
    path.write_bytes(b"\0" * len(filled(path)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text('{"key":"0"}\n' * 100), "is not a cache of llmblast, or is damaged: remove it"),
        (another_database, "is a database of another program: name another file"),
        (another_version, "was made by another version of llmblast"),
        (torn, "is damaged: remove it or name another file"),
        (overwritten, "is damaged: remove it or name another file"),
        (wiped, "is not a cache of llmblast, or is damaged: remove it"),
        (lambda path: path.mkdir(), "is not a file"),
        (os.mkfifo, "is not a file"),
    ],
)
def test_a_file_that_is_no_cache_is_named(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """Nothing in it is changed."""
    path = tmp_path / "c.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""

    with pytest.raises(UsageError, match=words) as caught:
        AnswerStore(str(path))

    assert str(caught.value).startswith(f"--cache {path}: ")
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_file_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(UsageError, match="cannot be opened: No such file or directory"):
        AnswerStore(str(tmp_path / "missing" / "c.db"))


def test_damage_that_is_found_later_is_an_error_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file that is too large to be checked when it is opened."""
    monkeypatch.setattr(answer_store, "MAX_CHECKED_BYTES", 0)
    overwritten(tmp_path / "c.db")
    store = AnswerStore(str(tmp_path / "c.db"))

    with pytest.raises(StoreError, match="is damaged: remove it or name another file"):
        store.find([key_of(number) for number in range(1000)])
    store.close()


def test_several_processes_make_and_fill_one_file(tmp_path: Path) -> None:
    """At the same time, from an empty folder on."""
    path = tmp_path / "c.db"
    script = (
        "import sys\n"
        "from llmblast.caching.answer_store import AnswerStore\n"
        f"store = AnswerStore({str(path)!r})\n"
        "first = int(sys.argv[1])\n"
        "for start in range(first, first + 1000, 10):\n"
        "    store.add({n.to_bytes(16, 'big'): b'%d' % n for n in range(start, start + 10)})\n"
        "    assert len(store.find([n.to_bytes(16, 'big') for n in range(first, start + 10)])) == start + 10 - first\n"
        "store.close()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(first)], stderr=subprocess.PIPE, text=True)
        for first in (0, 500, 1000, 1500)
    ]

    ends = [(process.communicate()[1], process.returncode) for process in processes]

    assert ends == [("", 0)] * 4
    store = AnswerStore(str(path))
    assert store.find([key_of(n) for n in range(3000)]) == {key_of(n): b"%d" % n for n in range(2500)}
    store.close()


def test_files_are_marked_as_ours(tmp_path: Path) -> None:
    """`file` and other programs may show it."""
    AnswerStore(str(tmp_path / "c.db")).close()

    assert int.from_bytes((tmp_path / "c.db").read_bytes()[68:72]) == APPLICATION_ID

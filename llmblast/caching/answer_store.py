"""Answer store: replies by the keys of their requests, in an SQLite file that outlives runs.

Replies are appended, and only the small index of their keys changes all over, so that a write changes few pages. The
file is in WAL mode: several processes read and write it at once, and `kill -9` or a power cut leaves it sound, at most
without the latest replies. Source: https://sqlite.org/wal.html and https://sqlite.org/pragma.html.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from llmblast.caching.store_thread import StoreError
from llmblast.errors import UsageError

APPLICATION_ID = 0x6C6C6D62
"""`llmb`, which tells our files from those of other programs."""
VERSION = 1
BUSY_TIMEOUT_S = 30.0
"""How long to wait for another process that writes."""
MAX_KEYS_IN_QUERY = 256
MAX_CHECKED_BYTES = 64 * 1024 * 1024
"""A file up to this size is checked whole when it is opened, in some 0.1 s; of a larger one, damage is found later."""
_CACHE_KIB = 16 * 1024
_TABLE = "CREATE TABLE answers (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, body BLOB NOT NULL, saved_s INTEGER)"
_UPSERT = (
    "INSERT INTO answers (key, body, saved_s) VALUES (?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET body = excluded.body, saved_s = excluded.saved_s"
)
_TEMPORARY = ""
"""SQLite's name for a database without a name: in memory, then in a file that ends with this process."""


class AnswerStore:
    """Open the store at `path`, which is created if it does not exist; without a path, one for this process only.

    Raises UsageError for a file that cannot be used. All methods block; one thread at a time may call them.
    """

    def __init__(self, path: str | None) -> None:
        self.name = path or "the temporary file of --dedupe"
        self._path = path
        if path is not None:
            _create(path)
        self._connection = self._connect()

    def add(self, replies: Mapping[bytes, bytes]) -> None:
        """Keep the replies under their keys; of several under one key the last counts: an earlier one did
        not fit any more, or came to another process. Raises StoreError.
        """
        now_s = int(time.time())
        rows = [(key, body, now_s) for key, body in replies.items()]
        try:
            with self._connection:  # commits, or rolls back
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(_UPSERT, rows)
        except sqlite3.Error as error:
            raise StoreError(f"{self.name}: cannot be written: {error}") from None

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the replies that are known, by their keys. Raises StoreError."""
        found: dict[bytes, bytes] = {}
        try:
            for some in _batches(keys):
                query = f"SELECT key, body FROM answers WHERE key IN ({','.join('?' * len(some))})"
                found.update(self._connection.execute(query, some))
        except sqlite3.Error as error:
            raise StoreError(f"{self.name}: {_reason_of(error)}") from None
        return found

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        place = _TEMPORARY if self._path is None else self._path
        connection = sqlite3.connect(place, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if self._path is None:
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute(_TABLE)
            else:
                _prepare(connection, self._path)
        except sqlite3.Error as error:
            connection.close()
            raise UsageError(f"--cache {self._path}: {_reason_of(error)}") from None
        except UsageError:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    """Make the tables of a new file, or check those of an old one; other processes may do so at the same time."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        identity, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")]
        if not tables and not identity:
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif identity != APPLICATION_ID or "answers" not in tables:
            raise UsageError(f"--cache {path}: is a database of another program: name another file")
        elif version != VERSION:
            raise UsageError(
                f"--cache {path}: was made by another version of llmblast: name another file, or use that version"
            )
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("SELECT id, key, body, saved_s FROM answers LIMIT 1").fetchone()
    if os.path.getsize(path) <= MAX_CHECKED_BYTES:
        (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if finding != "ok":
            raise UsageError(f"--cache {path}: is damaged: remove it or name another file")
    with suppress(sqlite3.OperationalError):  # where another process changes the mode at this moment
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _create(path: str) -> None:
    """Create the file for its owner only, as other outputs. Raises UsageError where it cannot be opened."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"--cache {path}: is not a file: name a file, which is created if it does not exist")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not a file name"
        raise UsageError(
            f"--cache {path}: cannot be opened: {reason}: name another file, or make it writable"
        ) from None


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _batches(keys: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (keys[start : start + MAX_KEYS_IN_QUERY] for start in range(0, len(keys), MAX_KEYS_IN_QUERY))


def _reason_of(error: sqlite3.Error) -> str:
    """Return what is wrong with the file, and what to do."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        what = "is damaged" if primary == sqlite3.SQLITE_CORRUPT else "is not a cache of llmblast, or is damaged"
        return f"{what}: remove it or name another file"
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"another process has kept it locked for {BUSY_TIMEOUT_S:g} s: end that process, or name another file"
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return "cannot be written: make the file and its folder writable, or name another file"
    return f"cannot be used: {error}: name another file"

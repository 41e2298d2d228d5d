"""Batch journal: which batches a run has packed, uploaded, started and collected, written before each step.

The folder `save.jsonl.batches` has the journal, one JSON line for each step, and two files for each batch: its lines,
from which a later run parses them again, and the requests that are uploaded. Each step is durable before it is done, so
that after a crash at any moment the last step in the journal is the one that may or may not have happened:

    packed -> uploading -> uploaded -> starting -> started -> [cancelling] -> ended -> collected -> done

Only `starting` is dangerous: whoever finds it last looks for the batch by its mark before it is started again. After
`collected`, every line that the batch has answered has a record on disk; the others are sent directly. After `done` all
of them have a record, and the files of the batch are gone. `uploaded` after `starting` says that nothing was started.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from os.path import isdir, isfile, join
from typing import Final

import orjson

from llmblast.errors import OutputBlockedError
from llmblast.job.batch_folders import JOURNAL, LINES, folder_of
from llmblast.writing.rewriting import sync_directory_of
from llmblast.writing.side_file import open_side_file

REQUESTS: Final = ".requests"
_MARK_PREFIX: Final = "lb"
_MARK_BYTES: Final = 8


class Step(StrEnum):
    """The last step of a batch in the journal."""

    PACKED = "packed"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    STARTING = "starting"
    STARTED = "started"
    CANCELLING = "cancelling"
    ENDED = "ended"
    """At the provider, or before it was started; `end` says how."""
    COLLECTED = "collected"
    DONE = "done"


IN_PROGRESS: Final = frozenset({Step.STARTING, Step.STARTED, Step.CANCELLING})
"""The provider may be working on it."""

BEFORE_START: Final = frozenset({Step.PACKED, Step.UPLOADING, Step.UPLOADED})
"""Nothing was started, so nothing is paid for."""


@dataclass(slots=True, eq=False)
class BatchEntry:
    """One batch as the journal knows it."""

    mark: str
    """Its name: unique, and in each custom id that the provider gets."""
    endpoint: str
    path: str
    model: str | None
    lines: int
    size_bytes: int
    """Size of the file of requests."""
    deadline_s: float = inf
    """The earliest deadline of its lines, in seconds of wall clock."""
    step: Step = Step.PACKED
    packed_s: float = 0.0
    upload_id: str | None = None
    first_start_s: float = 0.0
    last_start_s: float = 0.0
    """Wall times of the first and the last attempt to start it."""
    started_s: float = 0.0
    batch_id: str | None = None
    earlier_ids: list[str] = field(default_factory=list)
    """Batches of it that failed as a whole before this one."""
    excluded: set[int] = field(default_factory=set)
    """Indexes of lines that made such a batch fail."""
    ended_s: float = 0.0
    end: str = ""
    """The value of a `BatchEnd`, or for a person the reason why the batch was given up."""
    finished_lines: int = 0
    """Lines that the provider has finished, as its last status in this run says."""

    @property
    def id(self) -> str:
        """Return the name that records have for the batch: the provider's, or ours where it was never started."""
        return self.batch_id or self.mark

    @property
    def duration_s(self) -> float:
        """Return the seconds from its start to the moment when its end was noticed."""
        return max(self.ended_s - self.started_s, 0.0)

    @property
    def is_done(self) -> bool:
        """Return whether all lines have a record."""
        return self.step is Step.DONE

    @property
    def is_in_progress(self) -> bool:
        """Return whether the provider may be working on it."""
        return self.step in IN_PROGRESS


def new_mark() -> str:
    """Return the name of a new batch."""
    return f"{_MARK_PREFIX}{os.urandom(_MARK_BYTES).hex()}"


class BatchJournal:
    """The journal in the folder of an output, whose lock covers it. Methods block and may be called in a thread."""

    def __init__(self, folder: str, wall_clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.entries: dict[str, BatchEntry] = {}
        """By their marks, oldest first."""
        self._wall_clock = wall_clock
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """Return the file."""
        return join(self.folder, JOURNAL)

    @property
    def open_entries(self) -> list[BatchEntry]:
        """Return the batches with lines that have no record yet."""
        return [entry for entry in self.entries.values() if not entry.is_done]

    def load(self, *, repairs: bool = True) -> None:
        """Read the journal. A torn last line was a step that has not begun: it is removed if this process has the lock.

        Raises OutputBlockedError where the journal or the lines of a batch cannot be read.
        """
        if not isfile(self.path):
            return
        try:
            with open_side_file(self.path, "r+b" if repairs else "rb") as file:
                data = file.read()
                whole = data.rfind(b"\n") + 1
                if repairs and whole < len(data):
                    file.truncate(whole)
        except OSError as error:
            raise OutputBlockedError(f"{self.path}: cannot be read: {error.strerror}: make it readable") from None
        for number, line in enumerate(data[:whole].splitlines(), 1):
            self._apply(self._parse(number, line))
        for entry in self.open_entries:
            if not isfile(self.lines_path(entry)):
                raise OutputBlockedError(
                    f"{self.lines_path(entry)}: is missing, but {entry.lines:,} lines of it have no answer yet: copy "
                    f"the whole folder {self.folder}, or remove it to give these batches up"
                )

    def create_folder(self) -> None:
        """Make the folder, for its owner only, where there is none. Raises OSError."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        sync_directory_of(self.folder)

    def add(self, entry: BatchEntry) -> None:
        """Record a batch whose files are complete and durable. Raises OSError."""
        entry.packed_s = self._wall_clock()
        self.entries[entry.mark] = entry
        self._append(_facts_of(entry))

    def split(self, entry: BatchEntry, lines: int, rest: BatchEntry, earlier_id: str | None) -> None:
        """Record that a batch keeps so many lines, and that `rest`, whose files are durable, has the others: in one
        note, so that no line is in both, or in none.
        """
        self.entries[rest.mark] = rest
        note: dict[str, object] = {"mark": entry.mark, "step": Step.PACKED.value, "lines": lines, "bytes": 0}
        if earlier_id is not None:
            note["earlier_id"] = earlier_id
        self._append({**note, "rest": _facts_of(rest)})

    def record(self, entry: BatchEntry, step: Step, **facts: object) -> None:
        """Record a step before it is done, durably. Raises OSError."""
        self._append({"mark": entry.mark, "step": step.value, **facts})

    def remove_files(self, entry: BatchEntry) -> None:
        """Remove the files of a batch that is done."""
        for path in (self.lines_path(entry), self.requests_path(entry)):
            if isfile(path):
                os.unlink(path)

    def remove_strays(self) -> None:
        """Remove the files of batches that were not complete when a run was killed: their lines are read again."""
        if not isdir(self.folder):
            return
        known = {entry.mark for entry in self.open_entries}
        for name in os.listdir(self.folder):
            mark, dot, kind = name.partition(".")
            if f"{dot}{kind}" in (LINES, REQUESTS) and mark.startswith(_MARK_PREFIX) and mark not in known:
                os.unlink(join(self.folder, name))

    def lines_path(self, entry: BatchEntry) -> str:
        """Return the file with the lines of a batch."""
        return join(self.folder, entry.mark + LINES)

    def requests_path(self, entry: BatchEntry) -> str:
        """Return the file of requests that is uploaded."""
        return join(self.folder, entry.mark + REQUESTS)

    def _append(self, note: Mapping[str, object]) -> None:
        note = {**note, "at": round(self._wall_clock(), 3)}
        line = orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE)
        with self._lock:
            is_new = not isfile(self.path)
            with open_side_file(self.path, "ab") as file:
                _append_line(file.fileno(), line)
            if is_new:
                sync_directory_of(self.path)
            self._apply(note)

    def _parse(self, number: int, line: bytes) -> Mapping[str, object]:
        try:
            note = orjson.loads(line)
            Step(note["step"]), note["mark"]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise OutputBlockedError(
                f"{self.path}:{number}: is damaged: restore the folder from a copy, or remove it to give its batches up"
            ) from None
        assert isinstance(note, dict)
        return note

    def _apply(self, note: Mapping[str, object]) -> None:
        mark, step, at_s = str(note["mark"]), Step(str(note["step"])), _number(note.get("at"))
        entry = self.entries.get(mark)
        if entry is None:
            if "endpoint" not in note:
                return
            deadline = note.get("deadline")
            entry = self.entries[mark] = BatchEntry(
                mark,
                str(note["endpoint"]),
                str(note.get("path")),
                _text(note.get("model")),
                int(_number(note.get("lines"))),
                int(_number(note.get("bytes"))),
                inf if deadline is None else _number(deadline),
            )
            entry.packed_s = at_s
        entry.step = step
        if "rest" in note:
            entry.lines, entry.size_bytes = int(_number(note.get("lines"))), 0
            rest = note["rest"]
            assert isinstance(rest, Mapping)
            self._apply({**rest, "at": at_s})
        if "upload_id" in note:
            entry.upload_id = _text(note["upload_id"])
        if "batch_id" in note:
            entry.batch_id, entry.started_s = _text(note["batch_id"]), at_s
        if (earlier_id := _text(note.get("earlier_id"))) is not None:
            entry.earlier_ids.append(earlier_id)
            entry.batch_id = None
        excluded = note.get("excluded")
        entry.excluded.update(excluded if isinstance(excluded, list) else ())
        if step is Step.STARTING:
            entry.first_start_s, entry.last_start_s = entry.first_start_s or at_s, at_s
        if step is Step.ENDED:
            entry.ended_s = at_s
        if "end" in note:
            entry.end = str(note["end"])


def discard_batches(save: str) -> None:
    """Remove the folder of an output that starts over.

    Raises OutputBlockedError while a provider may work on one of its batches.
    """
    journal = BatchJournal(folder_of(save))
    journal.load()
    under_way = [entry for entry in journal.open_entries if entry.is_in_progress]
    if under_way:
        count = "1 batch is" if len(under_way) == 1 else f"{len(under_way):,} batches are"
        raise OutputBlockedError(
            f"{save}: {count} under way for it: collect the answers without --overwrite, or end them first with "
            f"llmblast batches cancel {save}"
        )
    for name in os.listdir(journal.folder):
        os.unlink(join(journal.folder, name))
    os.rmdir(journal.folder)


def _append_line(descriptor: int, line: bytes) -> None:
    """Append a line durably, or nothing: a note behind half a line would damage the journal. Raises OSError."""
    size_bytes, written = os.fstat(descriptor).st_size, 0
    try:
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size_bytes)
        raise


def _facts_of(entry: BatchEntry) -> dict[str, object]:
    return {
        "mark": entry.mark,
        "step": Step.PACKED.value,
        "endpoint": entry.endpoint,
        "path": entry.path,
        "model": entry.model,
        "lines": entry.lines,
        "bytes": entry.size_bytes,
        "deadline": None if entry.deadline_s == inf else entry.deadline_s,
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _text(value: object) -> str | None:
    return None if value is None else str(value)

"""Waiting file: keep records on disk that wait for those of earlier lines, so that no crash loses a paid answer.

It is a row of segments beside the output, `OUTPUT.waiting.1` and so on, only for its owner. The lock of the output
guards them, too. A segment is removed once all its records are in the output and synced there. The next run
adds what a killed run has left (`left_waiting`). Records for a pipe wait in a temporary file without a name.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Sequence

from llmblast.writing.left_waiting import SUFFIX
from llmblast.writing.output_file import OutputFile
from llmblast.writing.reorder_window import Place
from llmblast.writing.rewriting import sync_directory_of

SEGMENT_BYTES = 64 * 1024 * 1024
_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1


class _Segment:
    """One file of records; `live` counts those that are not in the output yet."""

    def __init__(self, path: str | None, directory: str | None) -> None:
        self.path = path
        self.size_bytes = 0
        self.live = 0
        if path is None:
            with tempfile.TemporaryFile(dir=directory) as file:
                self.fd = os.dup(file.fileno())
            return
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        sync_directory_of(path)

    def append(self, data: bytes) -> None:
        """Append all of `data` or nothing. Raises OSError."""
        rest, offset = memoryview(data), self.size_bytes
        try:
            while rest:
                written = os.pwrite(self.fd, rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self.size_bytes)
            raise
        self.size_bytes = offset

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def close(self) -> None:
        """Close the file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class WaitingFile:
    """Store records of `output` until they are released. All methods but `release` block and raise OSError.

    Those of a pipe go to `directory`, or to the system's temporary one.
    """

    def __init__(self, output: OutputFile, directory: str | None = None) -> None:
        self._path = output.path if output.is_resumable else None
        self._directory = directory
        self._segments: dict[int, _Segment] = {}
        self._last = 0
        self._has_unsynced = False

    @property
    def name(self) -> str:
        """Return the place of the records, for messages."""
        paths = [segment.path for segment in self._segments.values() if segment.path is not None]
        return " and ".join(paths) or f"{self._path or 'standard output'}{SUFFIX}"

    @property
    def count(self) -> int:
        """Return how many records wait."""
        return sum(segment.live for segment in self._segments.values())

    def append(self, records: Sequence[bytes]) -> list[Place]:
        """Store records, all or none. Return their places."""
        segment = self._segment_to_fill()
        offset = segment.size_bytes
        segment.append(b"".join(records))
        self._has_unsynced = True
        segment.live += len(records)
        places: list[Place] = []
        for record in records:
            places.append(Place(self._last << _OFFSET_BITS | offset, len(record)))
            offset += len(record)
        return places

    def read(self, places: Iterable[Place]) -> list[bytes]:
        """Return the records at these places."""
        records: list[bytes] = []
        for place in places:
            segment = self._segments[place.position >> _OFFSET_BITS]
            record = os.pread(segment.fd, place.size_bytes, place.position & _OFFSET_MASK)
            if len(record) != place.size_bytes:
                raise OSError(errno.EIO, "another process changed it during the run")
            records.append(record)
        return records

    def sync(self) -> None:
        """Make the records survive a power cut."""
        if self._path is not None and self._has_unsynced and self._last:
            self._has_unsynced = False
            os.fsync(self._segments[self._last].fd)

    def release(self, place: Place) -> None:
        """Note that a record needs no place here any more; it is removed with the others of its segment."""
        self._segments[place.position >> _OFFSET_BITS].live -= 1

    @property
    def emptied(self) -> list[int]:
        """Return the full segments whose records are all released."""
        return [number for number, segment in self._segments.items() if number != self._last and segment.live == 0]

    def remove(self, numbers: Iterable[int] | None = None) -> None:
        """Remove these segments, or all."""
        for number in list(self._segments if numbers is None else numbers):
            self._segments.pop(number).remove()
        if numbers is None:
            self._last = 0

    def close(self) -> None:
        """Close the files, and leave them for the next run."""
        for segment in self._segments.values():
            segment.close()

    def _segment_to_fill(self) -> _Segment:
        last = self._segments.get(self._last)
        if last is not None and last.size_bytes < SEGMENT_BYTES:
            return last
        if last is not None and self._path is not None:
            os.fsync(last.fd)
        number = self._last + 1
        path = None if self._path is None else f"{self._path}{SUFFIX}.{number}"
        segment = self._segments[number] = _Segment(path, self._directory)
        self._last = number
        return segment

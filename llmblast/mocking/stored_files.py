"""Files of the mock provider: uploads and results of batches, on disk, without a name that could be left behind.

A file takes space for as long as anything refers to it: the list of files, a batch, a download.
"""

import tempfile
from array import array
from collections.abc import Iterator

_IN_MEMORY_BYTES = 16 * 1024
"""Up to this size a file costs no file descriptor."""
_BLOCK_BYTES = 64 * 1024


class StoredFile:
    """A file by its `identity`. `created_s` is wall time; `ready_s` is when it can be used, on the same clock."""

    __slots__ = ("_file", "created_s", "identity", "name", "purpose", "ready_s", "size_bytes")

    def __init__(self, identity: str, name: str, purpose: str, created_s: float) -> None:
        self.identity = identity
        self.name = name
        self.purpose = purpose
        self.created_s = self.ready_s = created_s
        self.size_bytes = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 -- closed by `__del__`

    def append(self, data: bytes) -> None:
        """Write at the end."""
        self._file.seek(self.size_bytes)
        self._file.write(data)
        self.size_bytes += len(data)

    def blocks(self) -> Iterator[bytes]:
        """Yield the content in blocks."""
        at = 0
        while at < self.size_bytes:
            self._file.seek(at)
            block = self._file.read(_BLOCK_BYTES)
            at += len(block)
            yield block

    def line_starts(self) -> Iterator[int]:
        """Yield where each line that is not blank begins."""
        at = 0
        while at < self.size_bytes:
            line = self._line_at(at)
            if not line.isspace():
                yield at
            at += len(line)

    def line_at(self, start: int) -> bytes:
        """Return the line that begins there, without its end."""
        return self._line_at(start).strip()

    def lines(self) -> Iterator[bytes]:
        """Yield all lines that are not blank."""
        return map(self.line_at, array("Q", self.line_starts()))

    def __del__(self) -> None:
        self._file.close()

    def _line_at(self, start: int) -> bytes:
        self._file.seek(start)
        return self._file.readline()

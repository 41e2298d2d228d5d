"""Record buffer: the records of one output that are not durable yet, by how far they have come.

| records | until |
|---|---|
| gathered | the next write takes them |
| unwritten | a write that took only a part of its batch is tried again |
| unsynced | the next sync begins |
| syncing | the sync that runs ends |

Written records stay here until they are synced, so that they can go to a second place when the sync fails.
"""


class RecordBuffer:
    """Keep rendered records in their order. `gathered_bytes` and `unsynced_bytes` are the sizes of those two."""

    def __init__(self) -> None:
        self.gathered_bytes = 0
        self.unsynced_bytes = 0
        self._gathered: list[bytes] = []
        self._unwritten = b""
        self._unsynced: list[bytes] = []
        self._syncing: list[bytes] = []

    @property
    def has_gathered(self) -> bool:
        """Some records wait for the next write."""
        return bool(self._gathered)

    @property
    def unwritten(self) -> bytes:
        """The rest of the last batch, which its file did not take."""
        return self._unwritten

    @property
    def written(self) -> bytes:
        """All records that are written and not known to be synced."""
        return b"".join((*self._syncing, *self._unsynced))

    def add(self, record: bytes) -> None:
        """Gather a record."""
        self._gathered.append(record)
        self.gathered_bytes += len(record)

    def next_batch(self) -> bytes:
        """Return all that is to be written: the rest of the last batch, then the gathered records."""
        self._unwritten = b"".join((self._unwritten, *self._gathered))
        self._gathered = []
        self.gathered_bytes = 0
        return self._unwritten

    def record_write(self, size_bytes: int) -> bytes:
        """Record that the first `size_bytes` of the batch were written, and return them."""
        written, rest = self._unwritten, b""
        if size_bytes < len(written):
            written, rest = written[:size_bytes], written[size_bytes:]
        self._unwritten = rest
        self._unsynced.append(written)
        self.unsynced_bytes += size_bytes
        return written

    def begin_sync(self) -> bool:
        """Record that a sync begins, and return whether anything was written since the last one."""
        has_new_bytes = self.unsynced_bytes > 0
        self._syncing = self._take_whole_records()
        return has_new_bytes

    def end_sync(self) -> None:
        """Forget the records that were synced."""
        self._syncing = []

    def forget_read_records(self, unread_bytes: int, *, is_exact: bool = False) -> None:
        """Forget the written records of a pipe, where nothing can be synced, but for the last `unread_bytes` of them:
        its reader may not have read these. They are cut `is_exact`-ly only at the end, since that copies them.
        """
        if not unread_bytes:
            self._take_whole_records()
            return
        pieces = self._unsynced
        while len(pieces) > 1 and self.unsynced_bytes - len(pieces[0]) >= unread_bytes and pieces[0].endswith(b"\n"):
            self.unsynced_bytes -= len(pieces.pop(0))
        if is_exact:
            data = b"".join(pieces)
            start = data.rfind(b"\n", 0, max(0, len(data) - unread_bytes)) + 1
            self._unsynced, self.unsynced_bytes = [data[start:]], len(data) - start

    def forget_moved(self) -> None:
        """Forget all records but the gathered ones: another place has them."""
        self._unwritten, self._syncing, self._unsynced, self.unsynced_bytes = b"", [], [], 0

    def count_unsaved(self, *, has_lost_file: bool) -> int:
        """Return how many records no file holds; with `has_lost_file`, those that are only written count, too."""
        written = (*self._syncing, *self._unsynced) if has_lost_file else ()
        return sum(piece.count(b"\n") for piece in (*written, self._unwritten, *self._gathered))

    def _take_whole_records(self) -> list[bytes]:
        """Take out the unsynced records, except the start of one whose end is not written: no place gets a half."""
        taken, self._unsynced, self.unsynced_bytes = self._unsynced, [], 0
        if self._unwritten:
            data = b"".join(taken)
            end = data.rfind(b"\n") + 1
            taken, self._unsynced = [data[:end]], [data[end:]]
        return taken

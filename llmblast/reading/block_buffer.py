"""Block buffer: join blocks for parsers that start a row again when more of it arrives."""

_MIN_PENDING_BYTES = 1024 * 1024


class BlockBuffer:
    """Join blocks. While a large row is pending, wait until it has doubled, so that its total cost stays linear."""

    def __init__(self) -> None:
        self._pending = b""
        self._parts: list[bytes] = []
        self._parts_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Return the bytes that are held."""
        return len(self._pending) + self._parts_bytes

    def add(self, block: bytes) -> bytes | None:
        """Return all bytes that are held, and hold none; None while more should be collected."""
        self._parts.append(block)
        self._parts_bytes += len(block)
        if len(self._pending) >= _MIN_PENDING_BYTES and self._parts_bytes < len(self._pending):
            return None
        return self.take()

    def take(self) -> bytes:
        """Return all bytes that are held, and hold none."""
        data = b"".join((self._pending, *self._parts))
        self._pending, self._parts, self._parts_bytes = b"", [], 0
        return data

    def hold(self, rest: bytes) -> None:
        """Hold the start of a row that is not complete."""
        self._pending = rest

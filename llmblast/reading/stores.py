"""Stores: how an object at a URL is read, whatever the protocol: from any offset on, as long as it is the same."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


class BrokenError(OSError):
    """The connection broke, or the server has a passing problem: another try may succeed."""


class RemovedError(OSError):
    """The object cannot be read: it does not exist, is not allowed, or has changed since it was opened."""


@dataclass(frozen=True, slots=True)
class Part:
    """An object from some offset to its end. `tag` changes with its content; None where the server names none."""

    size_bytes: int | None
    """Of the whole object."""
    tag: str | None
    chunks: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]


class Store(Protocol):
    """Where an object is. Both methods raise BrokenError or RemovedError, whose texts hold no secret."""

    async def open_at(self, offset: int, tag: str | None) -> Part:
        """Open the object at an offset; with a tag, only if it is still the one with that tag."""

    async def close(self) -> None:
        """Close all connections."""

"""Faults of bodies in a streamed answer: the same as in one that is read whole, in its events."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from llmblast.mocking.streaming import DONE, event


def with_event_text(events: Sequence[bytes], text: str) -> bytes:
    """Return a stream with another text, which comes all at once instead of the first token."""
    is_told = False
    kept = []
    for chunk in _chunks(events):
        spoken = [choice for choice in chunk["choices"] if _text(choice)]
        if spoken and is_told:
            continue
        for choice in spoken:
            is_told = True
            choice.get("delta", choice)["content" if "delta" in choice else "text"] = text
        kept.append(event(chunk))
    return b"".join([*kept, DONE])


def without_choices(events: Sequence[bytes]) -> bytes:
    """Return a stream whose events say nothing."""
    return b"".join([*(event({**chunk, "choices": []}) for chunk in _chunks(events)), DONE])


def with_usage(events: Sequence[bytes], usage: bytes) -> bytes:
    """Return a stream whose last event tells `usage`, which need not be JSON."""
    kept = [event(chunk) for chunk in _chunks(events) if not chunk.get("usage")]
    return b"".join([*kept, b'data: {"choices":[],' + usage + b"\n\n", DONE])


def _chunks(events: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    return (orjson.loads(data.removeprefix(b"data: ")) for data in events if data != DONE)


def _text(choice: dict[str, Any]) -> object:
    return choice["delta"].get("content") if "delta" in choice else choice["text"]

"""The ledger: two JSON lines for each request, what was received and what was answered, for whoever has to judge a run.

Every line is one write to the file, so that it survives the end of the server and of the client by kill -9. Texts and
bodies stand there as keys, their BLAKE2b-64 in 16 hex digits. Moments are those of the machine's monotonic clock, which
goes on from one server to the next and makes durations that no clock step spoils.

    {"event":"received","number":1,"at":81.5,"path":"/v1/chat/completions","key":"9f86d081884c7d65","fault":null}
    {"event":"answered","number":1,"at":81.7,"status":200,"complete":true,"text":"5a0cdb2c98d6ee7f"}

`number` counts from 1 in the order of arrival; where several servers wrote one after the other it begins anew. A
request is `answered` too when its connection broke, with `complete` false; one without such a line was under way when
the server ended. `text` is the key of the answer that a client can read in the reply, null where there is none.

Batches have lines of their own: one when a batch is started, before its client can know, one for each line of it that
is answered, and one at its end. `key` is that of the line's body as compact JSON; a line with `billed` was paid for.

    {"event":"batch_started","batch":"batch_1f","api":"openai","metadata":{"mark":"a1"},"name":"","at":82.0}
    {"event":"batch_line","batch":"batch_1f","api":"openai","custom_id":"a1-0","key":"9f86d081884c7d65",
     "status":200,"billed":true,"at":82.4}
    {"event":"batch_ended","batch":"batch_1f","api":"openai","state":"completed","unfinished":0,"at":83.0}
"""

import os
from collections.abc import Mapping
from hashlib import blake2b

import orjson

from llmblast.errors import UsageError


class LedgerFile:
    """Appends to a file, which is made where there is none. Raises UsageError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}: name another file with --ledger") from None

    def received(self, number: int, at_s: float, path: str, body: bytes, fault: str | None) -> None:
        self._write(
            {"event": "received", "number": number, "at": at_s, "path": path, "key": key_of(body), "fault": fault}
        )

    def answered(self, number: int, at_s: float, status: int, complete: bool, text: str | None) -> None:
        """`status` is 0 where the connection was broken instead."""
        key = None if text is None else key_of(text.encode())
        self._write(
            {"event": "answered", "number": number, "at": at_s, "status": status, "complete": complete, "text": key}
        )

    def batch_event(self, event: Mapping[str, object]) -> None:
        self._write(event)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, entry: Mapping[str, object]) -> None:
        os.write(self._file, orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))


def key_of(data: bytes) -> str:
    """Return the key of a text or a body."""
    return blake2b(data, digest_size=8).hexdigest()

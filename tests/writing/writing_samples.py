"""Outcomes and small helpers that the tests of the writing room share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from llmblast.models import Answer, Failure, Line, Reply, Request, Success

BODY = b'{"id":"c1","choices":[{"message":{"content":"4"}}]}'


def a_success(
    number: int = 1,
    text: object = "4",
    *,
    body: bytes = BODY,
    extra: Mapping[str, object] | None = None,
    output_format: str = "llmblast",
    says_more: bool = False,
) -> Success:
    """A success whose answer is `text`."""
    request = Request(
        number,
        f"{number:016x}",
        b'{"input":"2+2?"}',
        f"row-{number}",
        "2+2?",
        extra,
        output_format=output_format,
    )
    answer = Answer(text, "stop", {"prompt_tokens": 3, "completion_tokens": 1}, 3, 1, "m", says_more)
    headers = {b"content-type": b"application/json", b"X-Request-Id": b"req-7"}
    return Success(request, answer, Reply(200, headers, body, latency_s=0.0004), "gpu1")


def a_failure(number: int = 1, text: bytes = b'{"input":"2+2?"}', *, body: bytes = b"") -> Failure:
    """A failure of the line `text`."""
    line = Line(number, f"{number:016x}", text, f"row-{number}", "2+2?")
    return Failure(line, "the server is busy", "server_error", 503, True, "gpu1", 5, body=body)


def parsed(path: Path) -> list[dict[str, Any]]:
    """The records of a file; raises where one is torn."""
    content = path.read_bytes()
    assert content == b"" or content.endswith(b"\n")
    return [orjson.loads(line) for line in content.splitlines()]

"""Read lines of results in the form of OpenAI, which Azure and Mistral have, too: each becomes a Reply."""

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from llmblast.batching.api import BatchResult, Unfinished
from llmblast.batching.http import BatchHttp, HttpRequest, TooLong
from llmblast.models import Cause, Reply

_CUSTOM_ID = re.compile(rb'"(?:custom_id|key)"\s*:\s*"([A-Za-z0-9_-]+)"')
_UNFINISHED = re.compile(r"batch_(?:expired|cancelled|canceled)|(?:request_)?(?:expired|cancelled|canceled)")


async def each_once(
    http: BatchHttp, requests: Iterable[HttpRequest], read: Callable[[bytes | TooLong], BatchResult | None]
) -> AsyncGenerator[BatchResult, None]:
    """Yield the first result of each custom id in some files of results: a download that broke begins anew."""
    seen: set[str] = set()
    for request in requests:
        async with aclosing(http.lines(request)) as lines:
            async for line in lines:
                result = read(line)
                if result is not None and result.custom_id not in seen:
                    seen.add(result.custom_id)
                    yield result


def read_result(line: bytes | TooLong) -> BatchResult | None:
    """Return the result in a line of an output or error file; None where it names no line of the batch."""
    row = row_in(line)
    if isinstance(row, BatchResult) or row is None:
        return row
    custom_id, response, error = row.get("custom_id"), row.get("response"), row.get("error")
    if not isinstance(custom_id, str):
        return None
    if isinstance(response, dict) and response.get("status_code"):
        return BatchResult(custom_id, _reply_of(response))
    if isinstance(error, dict) and _UNFINISHED.fullmatch(str(error.get("code") or "")):
        return BatchResult(custom_id, Unfinished(str(error.get("message") or error["code"])))
    return BatchResult(custom_id, Reply(500, body=orjson.dumps({"error": error})))


def row_in(line: bytes | TooLong) -> dict[str, Any] | BatchResult | None:
    """Return the JSON object in a line; the result of a line that cannot be read, if that shows a custom id.

    Such an answer has been paid for: the Reply has the text as it came.
    """
    if isinstance(line, TooLong):
        reply = Reply(cause=Cause.TOO_LARGE, detail="the line of results is too long")
        return _unreadable(line.start, reply)
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _unreadable(line, Reply(200, body=line))
    return row if isinstance(row, dict) else None


def _unreadable(line: bytes, reply: Reply) -> BatchResult | None:
    found = _CUSTOM_ID.search(line)
    return None if found is None else BatchResult(found[1].decode(), reply)


def _reply_of(response: Mapping[str, Any]) -> Reply:
    body = response.get("body")
    request_id = response.get("request_id")
    head = {b"x-request-id": str(request_id).encode()} if request_id else {}
    content = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return Reply(int(response["status_code"]), head, content)

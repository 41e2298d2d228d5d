"""Anthropic's Message Batches API: the requests go in the body that starts the batch, and there is no place for a mark.

The custom ids carry the mark, and only the results show them: a batch that has not ended yet may be ours or not. Among
those of the right time with the right number of requests, an ended one is recognized by its first result.
Sources: https://docs.claude.com/en/docs/build-with-claude/batch-processing,
https://docs.claude.com/en/api/creating-message-batches, https://docs.claude.com/en/api/errors
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import orjson

from llmblast.batching.api import (
    Access,
    BatchCounts,
    BatchEnd,
    BatchFile,
    BatchGone,
    BatchLimits,
    BatchResult,
    BatchState,
    BatchStatus,
    Finding,
    Found,
    LineError,
    Maybe,
    NotFound,
    Rejected,
    Unfinished,
)
from llmblast.batching.cleanup import cancel
from llmblast.batching.http import BatchHttp, HttpRequest, Sleep, TooLong
from llmblast.batching.listing import SEARCH_BACK_S, is_within
from llmblast.batching.members import Json, count_in, object_in, objects_in, text_in, time_in
from llmblast.batching.rendering import one_line, without_stream
from llmblast.batching.results import each_once, row_in
from llmblast.models import Reply

_PATH = "v1/messages"
_VERSION = r"/v1/?(?=\?|$)"
_HEAD, _TAIL = b'{"requests":[', b"]}"
_PIECE_BYTES = 256 * 1024
_PAGE = 100
_CLOCK_MARGIN_S = 600.0
"""A batch of somebody else may have as many requests: one that is older than our start by this is not ours, after the
difference of the clocks.
"""
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_PLACE_IN_ERROR = re.compile(r"\brequests\.(\d+)\b")


class AnthropicBatches:
    """Client of Anthropic's Message Batches API."""

    limits = BatchLimits(max_lines=100_000, max_bytes=256_000_000)
    price_factor = 0.5
    max_wait_s = 24 * 3600.0

    def __init__(self, access: Access, sleep: Sleep = asyncio.sleep) -> None:
        base_url = re.sub(_VERSION, "", access.base_url, count=1)
        self._http = BatchHttp(replace(access, base_url=base_url), sleep=sleep)

    def group_of(self, path: str, model: str | None) -> str | None:
        """See `BatchApi`. A batch may have several models."""
        return _PATH if path == _PATH else None

    def render_line(self, custom_id: str, path: str, body: bytes, model: str | None) -> bytes:
        return b'{"custom_id":"%b","params":%b}\n' % (custom_id.encode(), one_line(without_stream(body)))

    async def upload(self, batch: BatchFile) -> str | None:
        return None

    async def start(self, batch: BatchFile) -> BatchStatus:
        size = batch.file.stat().st_size
        request = HttpRequest(
            "POST",
            self._url(),
            "start a batch",
            lambda: _body_of(batch.file),
            "application/json",
            {"Content-Length": str(len(_HEAD) + max(size - 1, 0) + len(_TAIL))},
            size,
            needs="id",
        )
        try:
            status = self._read(await self._http.json_once(request))
        except Rejected as error:
            raise Rejected(str(error), _line_errors_in(str(error))) from error
        return replace(status, mark=batch.mark)

    async def find(self, batch: BatchFile, since_wall_s: float, known_ids: Collection[str] = ()) -> Finding:
        undecided = []
        async with aclosing(self.list(since_wall_s - SEARCH_BACK_S)) as batches:
            async for status in batches:
                since_s = since_wall_s + self._http.clock_ahead_s - _CLOCK_MARGIN_S
                if status.id in known_ids or status.counts.total != batch.lines or not is_within(status, since_s):
                    continue
                if status.state is not BatchState.ENDED:
                    undecided.append(status.id)
                elif await self._mark_in(status) == batch.mark:
                    return Found(replace(status, mark=batch.mark))
        return Maybe(tuple(undecided)) if undecided else NotFound()

    async def status(self, batch_id: str) -> BatchStatus:
        request = HttpRequest("GET", self._url(batch_id), f"ask for batch {batch_id}", if_missing=BatchGone, needs="id")
        return self._read(await self._http.json(request))

    def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        url = self._url(status.id, "results")
        request = HttpRequest("GET", url, f"read the results of batch {status.id}", if_missing=BatchGone)
        return each_once(self._http, [request], read_result)

    async def cancel(self, batch_id: str) -> None:
        url = self._url(batch_id, "cancel")
        request = HttpRequest("POST", url, f"cancel batch {batch_id}", if_missing=BatchGone)
        await cancel(self._http, request, self.status, batch_id)

    async def list(self, since_wall_s: float) -> AsyncGenerator[BatchStatus, None]:
        params: dict[str, str | int] = {"limit": _PAGE}
        while True:
            url = self._http.url("v1", "messages", "batches", **params)
            page = await self._http.json(HttpRequest("GET", url, "list the batches"))
            batches = [self._read(batch) for batch in objects_in(page, "data")]
            for batch in batches:
                if is_within(batch, since_wall_s):
                    yield batch
            if not page.get("has_more") or not any(is_within(batch, since_wall_s) for batch in batches):
                return
            if batches[-1].id == params.get("after_id"):
                return
            params["after_id"] = batches[-1].id

    async def delete_upload(self, upload_id: str) -> None:
        """See `BatchApi`. There are no uploaded files."""

    async def close(self) -> None:
        await self._http.close()

    def _url(self, *path: str) -> str:
        return self._http.url("v1", "messages", "batches", *path)

    async def _mark_in(self, status: BatchStatus) -> str | None:
        """Return the mark in the first custom id of an ended batch; None where its results are gone."""
        try:
            async with aclosing(self.results(status)) as results:
                async for result in results:
                    return result.custom_id.rpartition("-")[0]
        except BatchGone:
            return None
        return None

    def _read(self, batch: Json) -> BatchStatus:
        name = text_in(batch, "processing_status")
        has_ended = name == "ended"
        counts = {kind: count_in(object_in(batch, "request_counts"), kind) or 0 for kind in _COUNTS}
        unfinished = counts["errored"] + counts["canceled"] + counts["expired"]
        return BatchStatus(
            id=text_in(batch, "id"),
            state=BatchState.ENDED if has_ended else BatchState.RUNNING,
            end=_end_of(counts) if has_ended else None,
            created_at_s=time_in(batch, "created_at"),
            expires_at_s=time_in(batch, "expires_at"),
            counts=BatchCounts(sum(counts.values()), counts["succeeded"], unfinished),
        )


def read_result(line: bytes | TooLong) -> BatchResult | None:
    """Return the result in a line; None where it names no line of the batch."""
    row = row_in(line)
    if isinstance(row, BatchResult) or row is None:
        return row
    custom_id, result = text_in(row, "custom_id"), object_in(row, "result")
    kind = text_in(result, "type")
    if not custom_id or not kind:
        return None
    if kind == "succeeded":
        return BatchResult(custom_id, Reply(200, body=orjson.dumps(result.get("message"))))
    if kind in ("canceled", "expired"):
        return BatchResult(custom_id, Unfinished(f"the request was {kind} in its batch"))
    error = object_in(result, "error")
    inner = object_in(error, "error") or error
    body = error if "error" in error else {"type": "error", "error": inner}
    return BatchResult(custom_id, Reply(_STATUSES.get(text_in(inner, "type"), 500), body=orjson.dumps(body)))


async def _body_of(file: Path) -> AsyncIterator[bytes]:
    """Yield the lines of a file as the members of a JSON list."""
    yield _HEAD
    left = (await asyncio.to_thread(file.stat)).st_size - 1
    with await asyncio.to_thread(file.open, "rb") as lines:
        while left > 0:
            piece = await asyncio.to_thread(lines.read, min(_PIECE_BYTES, left))
            left -= len(piece)
            yield piece.replace(b"\n", b",")
    yield _TAIL


def _end_of(counts: dict[str, int]) -> BatchEnd:
    if counts["expired"]:
        return BatchEnd.EXPIRED
    return BatchEnd.CANCELLED if counts["canceled"] else BatchEnd.COMPLETED


def _line_errors_in(message: str) -> tuple[LineError, ...]:
    """Return the request that a refusal names, as in `requests.3.custom_id: ...`, which counts from 0."""
    found = _PLACE_IN_ERROR.search(message)
    return () if found is None else (LineError(int(found[1]) + 1, "invalid_request_error", message),)

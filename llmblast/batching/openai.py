"""OpenAI's Batch API, which many servers with OpenAI's API have, too.

A file of requests is uploaded, a batch is started on it; results and errors come in two files. The mark is in the
batch's `metadata`.
Sources: https://platform.openai.com/docs/guides/batch, https://platform.openai.com/docs/api-reference/batch
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import replace

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
    LineError,
)
from llmblast.batching.cleanup import cancel, delete_file
from llmblast.batching.http import QUEUE_IS_FULL, BatchHttp, HttpRequest, Sleep, form_payload, json_payload
from llmblast.batching.listing import SEARCH_BACK_S, find_mark, is_within
from llmblast.batching.members import Json, count_in, object_in, objects_in, text_in, time_in
from llmblast.batching.rendering import one_line, without_stream
from llmblast.batching.results import each_once, read_result

PATHS = frozenset({"chat/completions", "completions", "embeddings", "responses", "moderations"})
MARK = "llmblast"
"""The key of the mark in `metadata`."""
_PAGE = 100
_FILES_FOLLOW_S = 600.0
"""A completed batch may name its files a little later."""
_STATES = {"validating": BatchState.WAITING, "queued": BatchState.WAITING}
_ENDS = {
    "completed": BatchEnd.COMPLETED,
    "expired": BatchEnd.EXPIRED,
    "cancelled": BatchEnd.CANCELLED,
    "failed": BatchEnd.FAILED,
}


class OpenAIBatches:
    """Client of OpenAI's Batch API."""

    limits = BatchLimits(max_lines=50_000, max_bytes=200_000_000)
    price_factor = 0.5
    max_wait_s = 24 * 3600.0
    _batches = "batches"
    """Path of the collection of batches."""

    def __init__(
        self, access: Access, sleep: Sleep = asyncio.sleep, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._http = BatchHttp(access, sleep=sleep)
        self._wall_clock = wall_clock

    def group_of(self, path: str, model: str | None) -> str | None:
        """See `BatchApi`. A batch has one path and may have several models; limits of the queue are by model."""
        return f"{path} {model or ''}" if path in PATHS else None

    def render_line(self, custom_id: str, path: str, body: bytes, model: str | None) -> bytes:
        head = f'{{"custom_id":"{custom_id}","method":"POST","url":"{self._endpoint(path)}","body":'
        return b"%b%b}\n" % (head.encode(), one_line(without_stream(body)))

    async def upload(self, batch: BatchFile) -> str | None:
        request = HttpRequest(
            "POST",
            self._http.url("files"),
            "upload a batch file",
            form_payload(batch.file, {"purpose": "batch"}),
            size_bytes=batch.file.stat().st_size,
            needs="id",
        )
        return text_in(await self._http.json(request), "id")

    async def start(self, batch: BatchFile) -> BatchStatus:
        url, payload = self._http.url(self._batches), json_payload(self._order(batch))
        request = HttpRequest("POST", url, "start a batch", payload, "application/json", needs="id")
        status = self._read(await self._http.json_once(request))
        return status if status.mark else replace(status, mark=batch.mark)

    async def find(self, batch: BatchFile, since_wall_s: float, known_ids: Collection[str] = ()) -> Finding:
        return await find_mark(self.list(since_wall_s - SEARCH_BACK_S), batch, known_ids)

    async def status(self, batch_id: str) -> BatchStatus:
        url = self._http.url(self._batches, batch_id)
        request = HttpRequest("GET", url, f"ask for batch {batch_id}", if_missing=BatchGone, needs="id")
        return self._read(await self._http.json(request))

    def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        purpose = f"read the results of batch {status.id}"
        urls = (self._http.url("files", file, "content") for file in status.result_files)
        requests = (HttpRequest("GET", url, purpose, if_missing=BatchGone) for url in urls)
        return each_once(self._http, requests, read_result)

    async def cancel(self, batch_id: str) -> None:
        url = self._http.url(self._batches, batch_id, "cancel")
        request = HttpRequest("POST", url, f"cancel batch {batch_id}", if_missing=BatchGone)
        await cancel(self._http, request, self.status, batch_id)

    async def list(self, since_wall_s: float) -> AsyncGenerator[BatchStatus, None]:
        after: str | None = None
        while True:
            params = {"limit": _PAGE} if after is None else {"limit": _PAGE, "after": after}
            page = await self._http.json(HttpRequest("GET", self._http.url("batches", **params), "list the batches"))
            batches = [self._read(batch) for batch in objects_in(page, "data")]
            for batch in batches:
                if is_within(batch, since_wall_s):
                    yield batch
            if not page.get("has_more") or not any(is_within(batch, since_wall_s) for batch in batches):
                return
            if batches[-1].id == after:
                return
            after = batches[-1].id

    async def delete_upload(self, upload_id: str) -> None:
        await delete_file(self._http, self._http.url("files", upload_id))

    async def close(self) -> None:
        await self._http.close()

    def _order(self, batch: BatchFile) -> Json:
        """Return the body that starts a batch."""
        return {
            "input_file_id": batch.upload_id,
            "endpoint": self._endpoint(batch.path),
            "completion_window": "24h",
            "metadata": {MARK: batch.mark},
        }

    def _endpoint(self, path: str) -> str:
        """Return the path as batches name it, whatever the base URL is."""
        return f"/v1/{path}"

    def _read(self, batch: Json) -> BatchStatus:
        name = text_in(batch, "status").lower()
        end = _ENDS.get(name)
        errors = tuple(self._read_error(error) for error in objects_in(object_in(batch, "errors"), "data"))
        counts = object_in(batch, "request_counts")
        files = tuple(file for file in (text_in(batch, name) for name in ("output_file_id", "error_file_id")) if file)
        if end is BatchEnd.COMPLETED and not files and counts.get("completed") and self._is_fresh(batch):
            end = None
        return BatchStatus(
            id=text_in(batch, "id"),
            state=BatchState.ENDED if end is not None else _STATES.get(name, BatchState.RUNNING),
            end=end,
            mark=text_in(object_in(batch, "metadata"), MARK),
            created_at_s=time_in(batch, "created_at"),
            expires_at_s=time_in(batch, "expires_at"),
            counts=BatchCounts(*(count_in(counts, name) for name in ("total", "completed", "failed"))),
            message="; ".join(dict.fromkeys(error.message for error in errors[:3])),
            line_errors=errors,
            is_not_now=end is BatchEnd.FAILED and any(error.code in QUEUE_IS_FULL for error in errors),
            upload_id=text_in(batch, "input_file_id") or None,
            result_files=files,
        )

    def _read_error(self, error: Json) -> LineError:
        return LineError(count_in(error, "line"), text_in(error, "code"), self._http.shown(text_in(error, "message")))

    def _is_fresh(self, batch: Json) -> bool:
        return self._wall_clock() - (time_in(batch, "completed_at") or 0.0) < _FILES_FOLLOW_S

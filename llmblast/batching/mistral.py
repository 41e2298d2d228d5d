"""Mistral's Batch API: jobs on uploaded files, one model and one path each. The mark is in the job's `metadata`.

Sources: https://docs.mistral.ai/capabilities/batch, https://docs.mistral.ai/api/endpoint/batch,
https://docs.mistral.ai/resources/known-limitations
"""

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import replace

from llmblast.batching.api import (
    Access,
    BatchApiError,
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
    Rejected,
)
from llmblast.batching.http import QUEUE_IS_FULL, BatchHttp, HttpRequest, Sleep, form_payload, json_payload
from llmblast.batching.listing import find_mark, is_within
from llmblast.batching.members import Json, count_in, object_in, objects_in, text_in, time_in
from llmblast.batching.openai import MARK
from llmblast.batching.rendering import one_line, without_stream
from llmblast.batching.results import each_once, read_result

PATHS = frozenset(
    {"chat/completions", "embeddings", "fim/completions", "moderations", "chat/moderations", "classifications"}
)
_JOBS = "batch/jobs"
_PAGE = 100
_HOURS = 24
_ENDS = {
    "SUCCESS": BatchEnd.COMPLETED,
    "FAILED": BatchEnd.FAILED,
    "TIMEOUT_EXCEEDED": BatchEnd.EXPIRED,
    "CANCELLED": BatchEnd.CANCELLED,
}


class MistralBatches:
    """Client of Mistral's Batch API."""

    limits = BatchLimits(max_lines=100_000, max_bytes=512_000_000)
    price_factor = 0.5
    max_wait_s = _HOURS * 3600.0

    def __init__(self, access: Access, sleep: Sleep = asyncio.sleep) -> None:
        self._http = BatchHttp(access, sleep=sleep)

    def group_of(self, path: str, model: str | None) -> str | None:
        """See `BatchApi`. A job has one path and one model."""
        return f"{path} {model}" if path in PATHS and model else None

    def render_line(self, custom_id: str, path: str, body: bytes, model: str | None) -> bytes:
        return b'{"custom_id":"%b","body":%b}\n' % (custom_id.encode(), one_line(without_stream(body)))

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
        order = {
            "input_files": [batch.upload_id],
            "model": batch.model,
            "endpoint": f"/v1/{batch.path}",
            "metadata": {MARK: batch.mark},
            "timeout_hours": _HOURS,
        }
        url = self._http.url(_JOBS)
        request = HttpRequest("POST", url, "start a batch", json_payload(order), "application/json", needs="id")
        status = self._read(await self._http.json_once(request))
        return status if status.mark else replace(status, mark=batch.mark)

    async def find(self, batch: BatchFile, since_wall_s: float, known_ids: Collection[str] = ()) -> Finding:
        return await find_mark(self.list(since_wall_s), batch)

    async def status(self, batch_id: str) -> BatchStatus:
        url = self._http.url(_JOBS, batch_id)
        request = HttpRequest("GET", url, f"ask for batch {batch_id}", if_missing=BatchGone, needs="id")
        return self._read(await self._http.json(request))

    def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        purpose = f"read the results of batch {status.id}"
        urls = (self._http.url("files", file, "content") for file in status.result_files)
        requests = (HttpRequest("GET", url, purpose, if_missing=BatchGone) for url in urls)
        return each_once(self._http, requests, read_result)

    async def cancel(self, batch_id: str) -> None:
        """See `BatchApi`. A job that has ended cannot be cancelled: nothing is left to do."""
        url = self._http.url(_JOBS, batch_id, "cancel")
        try:
            await self._http.repeat(HttpRequest("POST", url, f"cancel batch {batch_id}", if_missing=BatchGone))
        except Rejected:
            if (await self.status(batch_id)).state is not BatchState.ENDED:
                raise

    async def list(self, since_wall_s: float) -> AsyncGenerator[BatchStatus, None]:
        page = 0
        while True:
            url = self._http.url(_JOBS, page=page, page_size=_PAGE, order_by="-created")
            answer = await self._http.json(HttpRequest("GET", url, "list the batches"))
            batches = [self._read(job) for job in objects_in(answer, "data")]
            for batch in batches:
                if is_within(batch, since_wall_s):
                    yield batch
            page += 1
            is_last = page * _PAGE >= (count_in(answer, "total") or 0)
            if is_last or not any(is_within(batch, since_wall_s) for batch in batches):
                return

    async def delete_upload(self, upload_id: str) -> None:
        try:
            await self._http.repeat(HttpRequest("DELETE", self._http.url("files", upload_id), "delete a batch file"))
        except BatchApiError:
            return

    async def close(self) -> None:
        await self._http.close()

    def _read(self, job: Json) -> BatchStatus:
        name = text_in(job, "status").upper()
        end = _ENDS.get(name)
        errors = tuple(self._read_error(error) for error in objects_in(job, "errors"))
        input_files = job.get("input_files")
        counts = (count_in(job, f"{kind}_requests") for kind in ("total", "succeeded", "failed"))
        return BatchStatus(
            id=text_in(job, "id"),
            state=BatchState.ENDED if end else BatchState.WAITING if name == "QUEUED" else BatchState.RUNNING,
            end=end,
            mark=text_in(object_in(job, "metadata"), MARK),
            created_at_s=time_in(job, "created_at"),
            counts=BatchCounts(*counts),
            message="; ".join(dict.fromkeys(error.message for error in errors[:3])),
            line_errors=errors,
            is_not_now=end is BatchEnd.FAILED and any(error.code in QUEUE_IS_FULL for error in errors),
            upload_id=str(input_files[0]) if isinstance(input_files, list) and input_files else None,
            result_files=tuple(filter(None, (text_in(job, "output_file"), text_in(job, "error_file")))),
        )

    def _read_error(self, error: Json) -> LineError:
        return LineError(count_in(error, "line"), text_in(error, "code"), self._http.shown(text_in(error, "message")))

"""Mistral's Batch API: jobs on uploaded files, one model and one path each. The mark is in the job's `metadata`.

Sources: https://docs.mistral.ai/capabilities/batch, https://docs.mistral.ai/api/endpoint/batch,
https://docs.mistral.ai/resources/known-limitations
"""

from collections.abc import AsyncGenerator

from llmblast.batching.api import BatchCounts, BatchEnd, BatchFile, BatchLimits, BatchState, BatchStatus
from llmblast.batching.http import QUEUE_IS_FULL, HttpRequest
from llmblast.batching.listing import is_within
from llmblast.batching.members import Json, count_in, object_in, objects_in, text_in, time_in
from llmblast.batching.openai import MARK, OpenAIBatches
from llmblast.batching.rendering import one_line, without_stream

PATHS = frozenset(
    {"chat/completions", "embeddings", "fim/completions", "moderations", "chat/moderations", "classifications"}
)
_PAGE = 100
_HOURS = 24
_ENDS = {
    "SUCCESS": BatchEnd.COMPLETED,
    "FAILED": BatchEnd.FAILED,
    "TIMEOUT_EXCEEDED": BatchEnd.EXPIRED,
    "CANCELLED": BatchEnd.CANCELLED,
}


class MistralBatches(OpenAIBatches):
    """Client of Mistral's Batch API. Its files and its results are those of OpenAI."""

    limits = BatchLimits(max_lines=100_000, max_bytes=512_000_000)
    max_wait_s = _HOURS * 3600.0
    _batches = "batch/jobs"

    def group_of(self, path: str, model: str | None) -> str | None:
        """See `BatchApi`. A job has one path and one model."""
        return f"{path} {model}" if path in PATHS and model else None

    def render_line(self, custom_id: str, path: str, body: bytes, model: str | None) -> bytes:
        return b'{"custom_id":"%b","body":%b}\n' % (custom_id.encode(), one_line(without_stream(body)))

    async def list(self, since_wall_s: float) -> AsyncGenerator[BatchStatus, None]:
        page = 0
        while True:
            url = self._http.url(self._batches, page=page, page_size=_PAGE, order_by="-created")
            answer = await self._http.json(HttpRequest("GET", url, "list the batches"))
            batches = [self._read(job) for job in objects_in(answer, "data")]
            for batch in batches:
                if is_within(batch, since_wall_s):
                    yield batch
            page += 1
            is_last = page * _PAGE >= (count_in(answer, "total") or 0)
            if is_last or not any(is_within(batch, since_wall_s) for batch in batches):
                return

    def _order(self, batch: BatchFile) -> Json:
        return {
            "input_files": [batch.upload_id],
            "model": batch.model,
            "endpoint": self._endpoint(batch.path),
            "metadata": {MARK: batch.mark},
            "timeout_hours": _HOURS,
        }

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

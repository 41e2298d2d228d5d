"""Gemini's Batch API: a file of requests for one model is uploaded, and a long-running operation works on it.

The mark is the batch's `displayName`. The listing's order is not documented: all pages are read.
Sources: https://ai.google.dev/gemini-api/docs/batch-api, https://ai.google.dev/api/batch-api,
https://ai.google.dev/api/files; codes of errors: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from functools import partial
from urllib.parse import unquote, urlsplit

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
    LineError,
    Unfinished,
    Unreachable,
)
from llmblast.batching.cleanup import cancel, delete_file
from llmblast.batching.http import BatchHttp, HttpRequest, Sleep, TooLong, file_payload, json_payload, url_below
from llmblast.batching.listing import SEARCH_BACK_S, find_mark, is_within
from llmblast.batching.members import Json, count_in, object_in, objects_in, text_in, time_in
from llmblast.batching.rendering import one_line
from llmblast.batching.results import each_once, row_in
from llmblast.models import Reply
from llmblast.provider_contract import MODEL_PLACE

_PATH = r"(?P<name>(?:models|tunedModels)/(?P<model>[^/:]+)):generateContent"
_PAGE = 100
_STATES = {"PENDING": BatchState.WAITING, "UNSPECIFIED": BatchState.WAITING, "QUEUED": BatchState.WAITING}
_ENDS = {
    "SUCCEEDED": BatchEnd.COMPLETED,
    "PARTIALLY_SUCCEEDED": BatchEnd.COMPLETED,
    "FAILED": BatchEnd.FAILED,
    "CANCELLED": BatchEnd.CANCELLED,
    "EXPIRED": BatchEnd.EXPIRED,
}
_CANCELLED, _DEADLINE_EXCEEDED, _RESOURCE_EXHAUSTED = 1, 4, 8
_STATUSES = {
    1: (499, "CANCELLED"),
    2: (500, "UNKNOWN"),
    3: (400, "INVALID_ARGUMENT"),
    4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"),
    6: (409, "ALREADY_EXISTS"),
    7: (403, "PERMISSION_DENIED"),
    8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"),
    10: (409, "ABORTED"),
    11: (400, "OUT_OF_RANGE"),
    12: (501, "UNIMPLEMENTED"),
    13: (500, "INTERNAL"),
    14: (503, "UNAVAILABLE"),
    15: (500, "DATA_LOSS"),
    16: (401, "UNAUTHENTICATED"),
}


class GeminiBatches:
    """Client of Gemini's Batch API."""

    limits = BatchLimits(max_lines=200_000, max_bytes=2_000_000_000)
    price_factor = 0.5
    max_wait_s = 48 * 3600.0

    def __init__(self, access: Access, sleep: Sleep = asyncio.sleep) -> None:
        self._http = BatchHttp(access, sleep=sleep)
        self._base = access.base_url

    def group_of(self, path: str, model: str | None) -> str | None:
        """See `BatchApi`. A batch has one model."""
        return _model_name(path, model)

    def render_line(self, custom_id: str, path: str, body: bytes, model: str | None) -> bytes:
        return b'{"key":"%b","request":%b}\n' % (custom_id.encode(), one_line(body))

    async def upload(self, batch: BatchFile) -> str | None:
        """See `BatchApi`. The first request of a resumable upload returns the URL for the second one."""
        size = batch.file.stat().st_size
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size),
            "X-Goog-Upload-Header-Content-Type": "application/jsonl",
        }
        payload = json_payload({"file": {"displayName": batch.mark}})
        url = self._beside("upload", "files")
        begin = HttpRequest("POST", url, "upload a batch file", payload, "application/json", headers)
        upload_url = (await self._http.repeat(begin)).headers.get("X-Goog-Upload-URL")
        if not upload_url:
            raise Unreachable("cannot upload a batch file: the answer has no X-Goog-Upload-URL")
        headers = {
            "X-Goog-Upload-Command": "upload, finalize",
            "X-Goog-Upload-Offset": "0",
            "Content-Length": str(size),
        }
        send = HttpRequest(
            "POST",
            upload_url,
            begin.purpose,
            file_payload(batch.file),
            "application/jsonl",
            headers,
            size,
            needs="file",
        )
        return text_in(object_in(await self._http.json(send), "file"), "name")

    async def start(self, batch: BatchFile) -> BatchStatus:
        name = _model_name(batch.path, batch.model)
        order = {"batch": {"displayName": batch.mark, "inputConfig": {"fileName": batch.upload_id}}}
        url = self._http.url(f"{name}:batchGenerateContent")
        request = HttpRequest("POST", url, "start a batch", json_payload(order), "application/json", needs="name")
        status = self._read(await self._http.json_once(request))
        return replace(status, mark=batch.mark, upload_id=batch.upload_id)

    async def find(self, batch: BatchFile, since_wall_s: float, known_ids: Collection[str] = ()) -> Finding:
        return await find_mark(self.list(since_wall_s - SEARCH_BACK_S), batch, known_ids)

    async def status(self, batch_id: str) -> BatchStatus:
        request = HttpRequest(
            "GET", self._http.url(batch_id), f"ask for batch {batch_id}", if_missing=BatchGone, needs="name"
        )
        return self._read(await self._http.json(request))

    def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        purpose = f"read the results of batch {status.id}"
        urls = (self._beside("download", f"{file}:download", alt="media") for file in status.result_files)
        requests = (HttpRequest("GET", url, purpose, if_missing=BatchGone) for url in urls)
        return each_once(self._http, requests, partial(read_result, has_expired=status.end is BatchEnd.EXPIRED))

    async def cancel(self, batch_id: str) -> None:
        url, purpose = self._http.url(f"{batch_id}:cancel"), f"cancel batch {batch_id}"
        request = HttpRequest("POST", url, purpose, json_payload({}), "application/json", if_missing=BatchGone)
        await cancel(self._http, request, self.status, batch_id)

    async def list(self, since_wall_s: float) -> AsyncGenerator[BatchStatus, None]:
        params: dict[str, str | int] = {"pageSize": _PAGE}
        while True:
            page = await self._http.json(HttpRequest("GET", self._http.url("batches", **params), "list the batches"))
            for batch in map(self._read, objects_in(page, "operations") or objects_in(page, "batches")):
                if is_within(batch, since_wall_s):
                    yield batch
            token = text_in(page, "nextPageToken")
            if not token or token == params.get("pageToken"):
                return
            params["pageToken"] = token

    async def delete_upload(self, upload_id: str) -> None:
        await delete_file(self._http, self._http.url(upload_id))

    async def close(self) -> None:
        await self._http.close()

    def _beside(self, place: str, *path: str, **params: str) -> str:
        """Return a URL in front of the version of the base URL, as in `/upload/v1beta/files`."""
        parts = urlsplit(self._base)
        above, _, version = parts.path.rstrip("/").rpartition("/")
        return url_below(parts._replace(path=above).geturl(), place, version, *path, **params)

    def _read(self, operation: Json) -> BatchStatus:
        batch = object_in(operation, "metadata") or operation
        name = re.sub(r"^(?:BATCH|JOB)_STATE_", "", text_in(batch, "state"))
        error = object_in(operation, "error")
        end = _ENDS.get(name)
        if end is None and operation.get("done"):
            end = BatchEnd.FAILED if error else BatchEnd.COMPLETED
        output = object_in(operation, "response") or object_in(batch, "output")
        message = self._http.shown(text_in(error, "message"))
        return BatchStatus(
            id=text_in(operation, "name") or text_in(batch, "name"),
            state=BatchState.ENDED if end is not None else _STATES.get(name, BatchState.RUNNING),
            end=end,
            mark=text_in(batch, "displayName"),
            created_at_s=time_in(batch, "createTime"),
            counts=_counts_in(object_in(batch, "batchStats")),
            message=message,
            line_errors=(LineError(None, text_in(error, "code"), message),) if error else (),
            is_not_now=end is BatchEnd.FAILED and error.get("code") in (_RESOURCE_EXHAUSTED, 429),
            upload_id=text_in(object_in(batch, "inputConfig"), "fileName") or None,
            result_files=tuple(filter(None, (text_in(output, "responsesFile"),))),
        )


def read_result(line: bytes | TooLong, *, has_expired: bool = False) -> BatchResult | None:
    """Return the result in a line of a batch that `has_expired` or not; None where it names no line of the batch."""
    row = row_in(line)
    if isinstance(row, BatchResult) or row is None:
        return row
    key, error = text_in(row, "key"), object_in(row, "error")
    if not key:
        return None
    if "response" in row and not error:
        return BatchResult(key, Reply(200, body=orjson.dumps(row["response"])))
    code = count_in(error, "code") or 2
    message = text_in(error, "message")
    if code == _CANCELLED or (has_expired and code == _DEADLINE_EXCEEDED):
        return BatchResult(key, Unfinished(message or "the batch ended before the request was processed"))
    status, name = _STATUSES.get(code, (code if code >= 400 else 500, text_in(error, "status") or "UNKNOWN"))
    body = {"error": {**error, "code": status, "message": message, "status": name}}
    return BatchResult(key, Reply(status, body=orjson.dumps(body)))


def _counts_in(stats: Json) -> BatchCounts:
    """Return the counts. Google leaves out those that are 0."""
    names = ("requestCount", "successfulRequestCount", "failedRequestCount")
    return BatchCounts(*(count_in(stats, name) or 0 for name in names)) if stats else BatchCounts()


def _model_name(path: str, model: str | None) -> str | None:
    """Return the model as the API names it, `models/NAME`; None where the path is not one of a batch."""
    if path == f"models/{MODEL_PLACE}:generateContent":
        return None if model is None else model if "/" in model else f"models/{model}"
    found = re.fullmatch(_PATH, path)
    return None if found is None else unquote(found["name"])

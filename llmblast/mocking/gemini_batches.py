"""Gemini's batches of generateContent as the mock provider has them.

Sources: https://ai.google.dev/gemini-api/docs/batch-api, https://ai.google.dev/api/batch-api. A batch is an operation,
whose results stand in `metadata.output`, as Google's own client reads them, and in `response`, as the guide says. Those
of requests that came in the body are in their order; those of a file are not, but have their keys.
"""

from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import orjson

from llmblast.mocking.answers import Answer
from llmblast.mocking.batch_calls import BatchCall, Reading, Route, json_reply, moment, page_of
from llmblast.mocking.batch_store import Batch, BatchLine, Phase
from llmblast.mocking.cloud_calls import GEMINI, GENERATE
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.gemini_files import VERSION
from llmblast.mocking.replies import ScriptedReply
from llmblast.mocking.stored_files import StoredFile

MAX_INLINE_BYTES = 20 * 1024 * 1024
_MAX_LINES = 1_000_000
_TYPES = "type.googleapis.com/google.ai.generativelanguage.v1main"
_STATES = {
    Phase.VALIDATING: "PENDING",
    Phase.RUNNING: "RUNNING",
    Phase.FINALIZING: "RUNNING",
    Phase.CANCELLING: "RUNNING",
    Phase.COMPLETED: "SUCCEEDED",
    Phase.FAILED: "FAILED",
    Phase.CANCELLED: "CANCELLED",
    Phase.EXPIRED: "EXPIRED",
}
_CANCELLED, _INVALID, _EXPIRED, _INTERNAL = 1, 3, 4, 13
_CODES = {400: _INVALID, 401: 16, 403: 7, 404: 5, 429: 8, 500: _INTERNAL, 503: 14, 504: _EXPIRED}
"""Codes of google.rpc.Status by HTTP status. Source: google/rpc/code.proto"""
_NOTHING: Mapping[str, object] = MappingProxyType({})
_PLACE = "line"
"""Member of a result that is only there until results are put in order."""


class GeminiLines:
    """Lines `{"key", "request"}`, and results with the key and a `response` or an `error`."""

    api = GEMINI
    max_lines = _MAX_LINES
    file_prefix = "files/batch-"
    has_error_file = False
    rejects_at_start = has_unique_ids = False

    def read(self, batch: Batch, line: Mapping[str, Any], number: int) -> BatchLine:
        """Find the request; a key is free to be missing."""
        request, key = line.get("request"), line.get("key")
        if not isinstance(request, dict):
            raise BadRequestError(f"Line {number}: Unable to parse the request: expected an object in 'request'.")
        return BatchLine(f"line {number}" if key is None else str(key), request, batch.model)

    def answered(self, batch: Batch, line: BatchLine, answer: Answer) -> bytes:
        """Return a response, or its error as a status."""
        if answer.status == 200:
            return self._result(line, {"response": orjson.Fragment(answer.body)})
        message = str(orjson.loads(answer.body)["error"]["message"])
        return self._result(line, {"error": {"code": _CODES.get(answer.status, _INTERNAL), "message": message}})

    def unfinished(self, batch: Batch, line: BatchLine) -> bytes:
        """Return the status that says why there is no response."""
        is_cancelled = batch.cancel_requested.is_set()
        code = _CANCELLED if is_cancelled else _EXPIRED
        message = f"The batch {'was cancelled' if is_cancelled else 'has expired'} before this request was processed."
        return self._result(line, {"error": {"code": code, "message": message}})

    def _result(self, line: BatchLine, result: Mapping[str, object]) -> bytes:
        return orjson.dumps({"key": line.custom_id, **result})


class InlineLines(GeminiLines):
    """Requests of a body, `{"request", "metadata"}`; each result repeats the metadata."""

    def read(self, batch: Batch, line: Mapping[str, Any], number: int) -> BatchLine:
        """Return the request under its `metadata.key`, where there is one."""
        metadata = line.get("metadata")
        key = metadata.get("key") if isinstance(metadata, dict) else None
        read = super().read(batch, {"request": line.get("request"), "key": key}, number)
        return replace(read, place=number, metadata=metadata)

    def _result(self, line: BatchLine, result: Mapping[str, object]) -> bytes:
        told = {} if line.metadata is None else {"metadata": line.metadata}
        return orjson.dumps({_PLACE: line.place, **told, **result})


_FILE_FORM, _INLINE_FORM = GeminiLines(), InlineLines()


def create(call: BatchCall) -> ScriptedReply:
    """`POST /v1beta/models/{model}:batchGenerateContent`: start a batch."""
    store = call.store
    if call.upload is not None and call.upload.size_bytes > MAX_INLINE_BYTES:
        raise BadRequestError(f"Request payload size exceeds the limit: {MAX_INLINE_BYTES} bytes.")
    asked = _member(call.json(), "batch")
    config = _member(asked, "inputConfig", "input_config")
    name = config.get("fileName") or config.get("file_name")
    form, source = (_FILE_FORM, call.file(str(name))) if name else (_INLINE_FORM, _inline(call, config))
    batch = Batch(
        store.make_id(""),
        form,
        GENERATE,
        source,
        store.now(),
        model=unquote(call.names[0]),
        name=str(asked.get("displayName") or asked.get("display_name") or ""),
    )
    if store.exceeds_queue(sum(1 for _ in source.line_starts()), GEMINI):
        raise BadRequestError("You exceeded your current quota of enqueued requests. Try again later.", status=429)
    store.start(batch)
    return json_reply(_described(batch))


def show_all(call: BatchCall) -> ScriptedReply:
    """`GET /v1beta/batches`: list them, newest first, without results."""
    limit = call.number("pageSize", 50, 1, 100)
    page, has_more = page_of(call.store.listed(GEMINI), limit, call.query.get("pageToken"))
    more: Mapping[str, object] = {"nextPageToken": page[-1].identity} if has_more else {}
    return json_reply({"operations": [_described(batch) for batch in page], **more})


def show(call: BatchCall) -> ScriptedReply:
    """`GET /v1beta/batches/{id}`, with results that came by the body."""
    batch = call.batch(GEMINI)
    return json_reply(_described(batch, _inline_results(batch)))


def cancel(call: BatchCall) -> ScriptedReply:
    """`POST /v1beta/batches/{id}:cancel`; nothing happens to one that has ended."""
    call.store.cancel(call.batch(GEMINI))
    return json_reply({})


def delete(call: BatchCall) -> ScriptedReply:
    """`DELETE /v1beta/batches/{id}`: forget a batch, whose work is stopped."""
    batch = call.batch(GEMINI)
    call.store.cancel(batch)
    call.store.delete(batch)
    return json_reply({})


def _member(asked: Mapping[str, Any], *names: str) -> dict[str, Any]:
    found = next((asked[name] for name in names if name in asked), None)
    if not isinstance(found, dict):
        raise BadRequestError(f"Invalid value at '{names[-1]}': expected an object")
    return found


def _inline(call: BatchCall, config: Mapping[str, Any]) -> StoredFile:
    requests = _member(config, "requests").get("requests")
    if not isinstance(requests, list) or not requests:
        raise BadRequestError("batch.input_config.requests: contents are required")
    source = call.store.new_file("requests.jsonl", "batch")
    for request in requests:
        source.append(orjson.dumps(request) + b"\n")
    return source


def _inline_results(batch: Batch) -> Mapping[str, object]:
    """Return the results in the order of the requests."""
    if batch.form is not _INLINE_FORM or batch.output is None or not batch.is_ended:
        return {}
    results = sorted(map(orjson.loads, batch.output.lines()), key=itemgetter(_PLACE))
    for result in results:
        del result[_PLACE]
    return {"inlinedResponses": {"inlinedResponses": results}}


def _described(batch: Batch, output: Mapping[str, object] = _NOTHING) -> dict[str, object]:
    name = f"batches/{batch.identity}"
    if batch.form is _FILE_FORM and batch.output is not None and batch.is_ended:
        output = {"responsesFile": batch.output.identity}
    updated_s = max(batch.entered_s.values())
    described: dict[str, object] = {
        "@type": f"{_TYPES}.GenerateContentBatch",
        "model": f"models/{batch.model}",
        "displayName": batch.name,
        "state": f"BATCH_STATE_{_STATES[batch.phase]}",
        "createTime": moment(batch.created_s),
        "updateTime": moment(updated_s),
        "batchStats": _stats(batch),
        "name": name,
    }
    if batch.form is _FILE_FORM:
        described["inputConfig"] = {"fileName": batch.source.identity}
    if batch.is_ended:
        described["endTime"] = moment(updated_s)
    operation: dict[str, object] = {"name": name, "metadata": described}
    if output:
        described["output"] = output
        operation["response"] = {"@type": f"{_TYPES}.GenerateContentBatchOutput", **output}
    if batch.is_ended:
        operation["done"] = True
    if batch.problems:
        operation["error"] = {"code": _INVALID, "message": batch.problems[0].message}
    return operation


def _stats(batch: Batch) -> dict[str, str]:
    counts = {
        "requestCount": batch.total,
        "successfulRequestCount": batch.succeeded,
        "failedRequestCount": batch.failed,
        "pendingRequestCount": batch.unfinished,
    }
    return {name: str(count) for name, count in counts.items() if count}


_BATCH = f"{VERSION}/batches/([^/:]+)"
ROUTES = (
    Route(GEMINI, "POST", f"{VERSION}/models/([^/:]+):batchGenerateContent", create, Reading.CONTENT),
    Route(GEMINI, "GET", f"{VERSION}/batches", show_all),
    Route(GEMINI, "GET", _BATCH, show),
    Route(GEMINI, "DELETE", _BATCH, delete),
    Route(GEMINI, "POST", f"{_BATCH}:cancel", cancel),
)

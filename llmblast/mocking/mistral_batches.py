"""Mistral's batch jobs as the mock provider has them; their files are those of `openai_files`.

Source: https://docs.mistral.ai/api/endpoint/batch. A line that the end of its job has left is in no file.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from llmblast.mocking.answers import Answer
from llmblast.mocking.batch_calls import BatchCall, Route, json_reply, moment
from llmblast.mocking.batch_store import Batch, BatchLine, Phase
from llmblast.mocking.checks import metadata
from llmblast.mocking.error_replies import BadRequestError, invalid_choice, invalid_type, missing
from llmblast.mocking.replies import ScriptedReply
from llmblast.mocking.stored_files import StoredFile

API = "mistral"
MAX_LINES = 1_000_000
MAX_INLINE_LINES = 10_000
MAX_TIMEOUT_HOURS = 7 * 24
_OPERATIONS = {
    "/v1/chat/completions": "chat/completions",
    "/v1/fim/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/agents/completions": "chat/completions",
}
_STATES = {
    Phase.VALIDATING: "QUEUED",
    Phase.RUNNING: "RUNNING",
    Phase.FINALIZING: "RUNNING",
    Phase.CANCELLING: "CANCELLATION_REQUESTED",
    Phase.COMPLETED: "SUCCESS",
    Phase.FAILED: "FAILED",
    Phase.CANCELLED: "CANCELLED",
    Phase.EXPIRED: "TIMEOUT_EXCEEDED",
}


class MistralLines:
    """Lines `{"custom_id", "body"}`, and the same with a `response`; the job names the model."""

    api = API
    max_lines = MAX_LINES
    file_prefix = "file-"
    has_error_file = has_unique_ids = True
    rejects_at_start = False

    def read(self, batch: Batch, line: Mapping[str, Any], number: int) -> BatchLine:
        """Check the members; a missing custom id is the number of the line."""
        body = line.get("body")
        if not isinstance(body, dict):
            raise missing("body") if body is None else invalid_type("body", "an object", body)
        custom_id = line.get("custom_id")
        return BatchLine(str(number if custom_id is None else custom_id), body, batch.model)

    def answered(self, batch: Batch, line: BatchLine, answer: Answer) -> bytes:
        """Return the line with a reply as a client would have got it directly."""
        head = {
            "id": f"{batch.identity}-{batch.succeeded + batch.failed}",
            "custom_id": line.custom_id,
            "response": {"status_code": answer.status, "body": orjson.Fragment(answer.body)},
        }
        error = None if answer.status == 200 else orjson.loads(answer.body)["error"]
        return orjson.dumps({**head, "error": error})

    def unfinished(self, batch: Batch, line: BatchLine) -> None:
        """Leave the line out."""


_FORM = MistralLines()


def create(call: BatchCall) -> ScriptedReply:
    """`POST /v1/batch/jobs`: start a job with files or with requests of the body."""
    asked, store = call.json(), call.store
    endpoint = asked.get("endpoint")
    if endpoint is None:
        raise missing("endpoint")
    if endpoint not in _OPERATIONS:
        raise invalid_choice("endpoint", endpoint, _OPERATIONS)
    if not (asked.get("model") or asked.get("agent_id")):
        raise missing("model")
    if asked.get("metadata") is not None:
        metadata(asked["metadata"], "metadata")
    hours = asked.get("timeout_hours", 24)
    if not isinstance(hours, int) or not 1 <= hours <= MAX_TIMEOUT_HOURS:
        message = f"timeout_hours: Input should be from 1 to {MAX_TIMEOUT_HOURS}"
        raise BadRequestError(message, "timeout_hours", "invalid_value", status=422)
    files = asked.get("input_files") or []
    source = _joined(call, [call.file(str(identity)) for identity in files]) if files else _inline(call, asked)
    if store.exceeds_queue(sum(1 for _ in source.line_starts()), API):
        raise BadRequestError("Too many pending requests in your batch jobs.", code="pending_limit", status=429)
    batch = Batch(
        store.make_id("job-"),
        _FORM,
        _OPERATIONS[endpoint],
        source,
        store.now(),
        endpoint,
        str(asked.get("model") or ""),
        metadata=asked.get("metadata"),
        settings={"input_files": files, "agent_id": asked.get("agent_id")},
    )
    store.start(batch)
    return json_reply(_described(batch))


def show_all(call: BatchCall) -> ScriptedReply:
    """`GET /v1/batch/jobs`: list them by pages from 0, newest first."""
    wanted = _metadata_of(call.query)
    jobs = [batch for batch in call.store.listed(API) if _is_asked_for(call.query, wanted, batch)]
    page = [_described(batch) for batch in call.numbered_page(jobs, 1000)]
    return json_reply({"object": "list", "data": page, "total": len(jobs)})


def show(call: BatchCall) -> ScriptedReply:
    """`GET /v1/batch/jobs/{id}`."""
    return json_reply(_described(call.batch(API)))


def cancel(call: BatchCall) -> ScriptedReply:
    """`POST /v1/batch/jobs/{id}/cancel`."""
    batch = call.batch(API)
    call.store.cancel(batch)
    return json_reply(_described(batch))


def _joined(call: BatchCall, files: list[StoredFile]) -> StoredFile:
    if len(files) == 1:
        return files[0]
    source = call.store.new_file("requests.jsonl", "batch")
    for file in files:
        for line in file.lines():
            source.append(line + b"\n")
    return source


def _inline(call: BatchCall, asked: Mapping[str, Any]) -> StoredFile:
    requests = asked.get("requests")
    if not isinstance(requests, list) or not requests:
        raise missing("input_files")
    if len(requests) > MAX_INLINE_LINES:
        raise BadRequestError(f"requests: at most {MAX_INLINE_LINES} are allowed", "requests", status=422)
    source = call.store.new_file("requests.jsonl", "batch")
    for request in requests:
        source.append(orjson.dumps(request) + b"\n")
    return source


def _metadata_of(query: Mapping[str, str]) -> Mapping[str, object]:
    """Return the object that the filter `metadata` has in JSON."""
    try:
        wanted = orjson.loads(query.get("metadata", "{}"))
    except orjson.JSONDecodeError:
        wanted = None
    if not isinstance(wanted, dict):
        raise BadRequestError("metadata: Input should be an object in JSON", "metadata", "invalid_value", status=422)
    return wanted


def _is_asked_for(query: Mapping[str, str], wanted: Mapping[str, object], batch: Batch) -> bool:
    """Return whether a job passes the filters, and has all of the wanted metadata."""
    told = batch.metadata or {}
    return (
        query.get("model") in (None, batch.model)
        and query.get("status") in (None, _STATES[batch.phase])
        and query.get("created_after", "") <= moment(batch.created_s)
        and all(told.get(name) == value for name, value in wanted.items())
    )


def _described(batch: Batch) -> dict[str, object]:
    is_shown = batch.is_ended
    started_s, ended_s = batch.entered_s.get(Phase.RUNNING), max(batch.entered_s.values())
    return {
        "id": batch.identity,
        "object": "batch",
        "input_files": batch.settings["input_files"],
        "metadata": batch.metadata,
        "endpoint": batch.endpoint,
        "model": batch.model or None,
        "agent_id": batch.settings["agent_id"],
        "output_file": batch.output.identity if batch.output and is_shown else None,
        "error_file": batch.errors.identity if batch.errors and is_shown else None,
        "errors": [{"message": problem.message, "count": 1} for problem in batch.problems],
        "status": _STATES[batch.phase],
        "created_at": int(batch.created_s),
        "started_at": None if started_s is None else int(started_s),
        "completed_at": int(ended_s) if is_shown else None,
        "total_requests": batch.total,
        "completed_requests": batch.succeeded + batch.failed,
        "succeeded_requests": batch.succeeded,
        "failed_requests": batch.failed,
    }


_PATH = "(?:/v1)?/batch/jobs"
ROUTES = (
    Route(API, "POST", _PATH, create),
    Route(API, "GET", _PATH, show_all),
    Route(API, "GET", f"{_PATH}/([^/]+)", show),
    Route(API, "POST", f"{_PATH}/([^/]+)/cancel", cancel),
)

"""OpenAI's batches as the mock provider has them, and those of Azure OpenAI.

Sources: https://platform.openai.com/docs/api-reference/batch, https://platform.openai.com/docs/guides/batch,
https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from llmblast.mocking.answers import Answer
from llmblast.mocking.batch_calls import BatchCall, Route, conflict, json_reply, page_of
from llmblast.mocking.batch_store import Batch, BatchLine, Phase
from llmblast.mocking.checks import metadata
from llmblast.mocking.cloud_calls import AZURE
from llmblast.mocking.error_replies import BadRequestError, invalid_choice, invalid_type, missing
from llmblast.mocking.openai_files import OPENAI, PREFIXES
from llmblast.mocking.replies import ScriptedReply

MAX_LINES = {OPENAI: 50_000, AZURE: 100_000}
_WINDOW_S = 86_400
_OPERATIONS = {
    "/v1/chat/completions": "chat/completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}
_AZURE_OPERATIONS = {
    **_OPERATIONS,
    "/chat/completions": "chat/completions",
    "/completions": "completions",
    "/embeddings": "embeddings",
    "/responses": "responses",
}
_UNFINISHED = {
    True: ("batch_cancelled", "This request was not executed: the batch was cancelled before."),
    False: ("batch_expired", "This request could not be executed before the completion window expired."),
}
"""Code and message by whether the batch was cancelled."""
_MOMENTS = {
    "in_progress_at": Phase.RUNNING,
    "finalizing_at": Phase.FINALIZING,
    "completed_at": Phase.COMPLETED,
    "failed_at": Phase.FAILED,
    "expired_at": Phase.EXPIRED,
    "cancelling_at": Phase.CANCELLING,
    "cancelled_at": Phase.CANCELLED,
}


class OpenAILines:
    """Lines `{"custom_id", "method", "url", "body"}`, and the same with a `response`."""

    file_prefix = "file-"
    has_error_file = has_unique_ids = True
    rejects_at_start = False

    def __init__(self, api: str, operations: Mapping[str, str]) -> None:
        self.api = api
        self.max_lines = MAX_LINES[api]
        self.operations = operations

    def read(self, batch: Batch, line: Mapping[str, Any], number: int) -> BatchLine:
        """Check the members; a batch has one URL and one model."""
        for name in ("custom_id", "method", "url", "body"):
            if line.get(name) is None:
                raise missing(name)
        custom_id, body = line["custom_id"], line["body"]
        if not isinstance(custom_id, str):
            raise invalid_type("custom_id", "a string", custom_id)
        if not isinstance(body, dict):
            raise invalid_type("body", "an object", body)
        if line["method"] != "POST":
            raise BadRequestError("The method of a request must be POST.", "method", "invalid_method")
        if self.operations.get(str(line["url"])) != batch.operation:
            message = f"The URL '{line['url']}' does not match the batch's endpoint '{batch.endpoint}'."
            raise BadRequestError(message, "url", "url_mismatch")
        model = str(body.get("model") or "")
        batch.model = batch.model or model
        if model not in ("", batch.model):
            message = f"The model '{model}' is not the one of the first request, '{batch.model}'."
            raise BadRequestError(message, "body.model", "model_mismatch")
        return BatchLine(custom_id, body)

    def answered(self, batch: Batch, line: BatchLine, answer: Answer) -> bytes:
        """Return the line with a reply as a client would have got it directly."""
        number = f"{batch.succeeded + batch.failed:08x}"
        response = {
            "status_code": answer.status,
            "request_id": f"req_{batch.identity[-8:]}{number}",
            "body": orjson.Fragment(answer.body),
        }
        head = {"id": f"batch_req_{batch.identity[-8:]}{number}", "custom_id": line.custom_id}
        return orjson.dumps({**head, "response": response, "error": None})

    def unfinished(self, batch: Batch, line: BatchLine) -> bytes:
        """Return the line with a code that says why there is no reply."""
        code, message = _UNFINISHED[batch.cancel_requested.is_set()]
        head = {"id": f"batch_req_{batch.identity[-8:]}", "custom_id": line.custom_id, "response": None}
        return orjson.dumps({**head, "error": {"code": code, "message": message}})


def create(form: OpenAILines, call: BatchCall) -> ScriptedReply:
    """`POST /batches`: start a batch."""
    asked = call.json()
    for name in ("input_file_id", "endpoint", "completion_window"):
        if asked.get(name) is None:
            raise missing(name)
    if asked["endpoint"] not in form.operations:
        raise invalid_choice("endpoint", asked["endpoint"], form.operations)
    if asked["completion_window"] != "24h":
        raise invalid_choice("completion_window", asked["completion_window"], ("24h",))
    if asked.get("metadata") is not None:
        metadata(asked["metadata"], "metadata")
    source = call.file(str(asked["input_file_id"]))
    if source.purpose != "batch":
        message = f"The purpose of the file is '{source.purpose}'; it must be 'batch'."
        raise BadRequestError(message, "input_file_id", "invalid_file_purpose")
    if call.store.now() < source.ready_s:
        message = f"The file {source.identity} is not processed yet: wait until its status is 'processed'."
        raise BadRequestError(message, "input_file_id", "invalid_file_status")
    batch = Batch(
        call.store.make_id("batch_"),
        form,
        form.operations[asked["endpoint"]],
        source,
        call.store.now(),
        asked["endpoint"],
        metadata=asked.get("metadata"),
    )
    call.store.start(batch)
    return json_reply(_described(batch))


def show_all(form: OpenAILines, call: BatchCall) -> ScriptedReply:
    """`GET /batches`: list them, newest first."""
    limit = call.number("limit", 20, 1, 100)
    page, has_more = page_of(call.store.listed(form.api), limit, call.query.get("after"))
    return json_reply(
        {
            "object": "list",
            "data": [_described(batch) for batch in page],
            "first_id": page[0].identity if page else None,
            "last_id": page[-1].identity if page else None,
            "has_more": has_more,
        }
    )


def show(form: OpenAILines, call: BatchCall) -> ScriptedReply:
    """`GET /batches/{id}`."""
    return json_reply(_described(call.batch(form.api)))


def cancel(form: OpenAILines, call: BatchCall) -> ScriptedReply:
    """`POST /batches/{id}/cancel`."""
    batch = call.batch(form.api)
    if batch.is_ended:
        return conflict(f"Cannot cancel a batch with status '{batch.phase.value}'.")
    call.store.cancel(batch)
    return json_reply(_described(batch))


def _described(batch: Batch) -> dict[str, object]:
    moments = {
        name: int(batch.entered_s[phase]) if phase in batch.entered_s else None for name, phase in _MOMENTS.items()
    }
    problems = [
        {"code": problem.code, "line": problem.line, "message": problem.message, "param": problem.param}
        for problem in batch.problems
    ]
    has_failed = batch.phase is Phase.FAILED
    return {
        "id": batch.identity,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": problems} if has_failed else None,
        "input_file_id": batch.source.identity,
        "completion_window": "24h",
        "status": batch.phase.value,
        "output_file_id": batch.output.identity if batch.output and batch.is_ended else None,
        "error_file_id": batch.errors.identity if batch.errors and batch.is_ended else None,
        "created_at": int(batch.created_s),
        "expires_at": int(batch.created_s) + _WINDOW_S,
        **moments,
        "request_counts": {
            "total": 0 if has_failed or batch.phase is Phase.VALIDATING else batch.total,
            "completed": batch.succeeded,
            "failed": batch.failed,
        },
        "usage": {
            "input_tokens": batch.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": batch.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.input_tokens + batch.output_tokens,
        },
        "metadata": batch.metadata,
    }


def _routes(form: OpenAILines) -> Iterator[Route]:
    prefix = PREFIXES[form.api]
    calls: tuple[tuple[str, str, Callable[[OpenAILines, BatchCall], ScriptedReply]], ...] = (
        ("POST", "/batches", create),
        ("GET", "/batches", show_all),
        ("GET", "/batches/([^/]+)", show),
        ("POST", "/batches/([^/]+)/cancel", cancel),
    )
    for method, path, handle in calls:
        yield Route(form.api, method, prefix + path, partial(handle, form))


_FORMS = (OpenAILines(OPENAI, _OPERATIONS), OpenAILines(AZURE, _AZURE_OPERATIONS))
ROUTES = tuple(route for form in _FORMS for route in _routes(form))

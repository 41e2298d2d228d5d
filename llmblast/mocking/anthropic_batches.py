"""Anthropic's message batches as the mock provider has them.

Sources: https://platform.claude.com/docs/en/api/creating-message-batches,
https://platform.claude.com/docs/en/build-with-claude/batch-processing. Requests are checked one by one when they are
answered; only custom ids and sizes are checked at the start.
"""

import re
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llmblast.mocking.answers import Answer
from llmblast.mocking.anthropic_messages import OPERATION, PATH, error_in_its_form
from llmblast.mocking.batch_calls import BatchCall, Reading, Route, content_reply, json_reply, moment, page_of
from llmblast.mocking.batch_store import Batch, BatchLine, Phase
from llmblast.mocking.error_replies import BadRequestError
from llmblast.mocking.json_items import read_items
from llmblast.mocking.replies import ScriptedReply

API = "anthropic"
MAX_LINES = 100_000
MAX_BODY_BYTES = 256 * 1024 * 1024
_WINDOW_S = 86_400
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PATH = f"{PATH}/batches"


class AnthropicLines:
    """Lines `{"custom_id", "params"}`, and results with a type."""

    api = API
    max_lines = MAX_LINES
    file_prefix = "results-"
    has_error_file = False
    rejects_at_start = has_unique_ids = True

    def read(self, batch: Batch, line: Mapping[str, Any], number: int) -> BatchLine:
        """Check the custom id."""
        custom_id = line.get("custom_id")
        if not isinstance(custom_id, str) or _CUSTOM_ID.fullmatch(custom_id) is None:
            place = f"requests.{number - 1}.custom_id"
            raise BadRequestError(f"{place}: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'", place)
        params = line.get("params")
        if not isinstance(params, dict):
            raise BadRequestError(f"requests.{number - 1}.params: Field required", "params")
        return BatchLine(custom_id, params)

    def answered(self, batch: Batch, line: BatchLine, answer: Answer) -> bytes:
        """Return a message, or an error in the form of the API."""
        if answer.status == 200:
            return _result(line, {"type": "succeeded", "message": orjson.Fragment(answer.body)})
        number = f"{batch.succeeded + batch.failed:08x}"
        error = error_in_its_form(answer.status, answer.body, f"req_{batch.identity[-8:]}{number}")
        return _result(line, {"type": "errored", "error": orjson.Fragment(error)})

    def unfinished(self, batch: Batch, line: BatchLine) -> bytes:
        """Return why the line has no answer."""
        return _result(line, {"type": "canceled" if batch.cancel_requested.is_set() else "expired"})


_FORM = AnthropicLines()


def _result(line: BatchLine, result: Mapping[str, object]) -> bytes:
    return orjson.dumps({"custom_id": line.custom_id, "result": result})


def create(call: BatchCall) -> ScriptedReply:
    """`POST /v1/messages/batches`: start a batch."""
    store = call.store
    source = store.new_file("requests.jsonl", "batch")
    batch = Batch(store.make_id("msgbatch_"), _FORM, OPERATION, source, store.now())
    for line in _lines(call, batch):
        source.append(line + b"\n")
    batch.starts = array("Q", source.line_starts())
    _check(call, batch)
    store.start(batch)
    return json_reply(_described(call, batch))


def show_all(call: BatchCall) -> ScriptedReply:
    """`GET /v1/messages/batches`: list them, newest first."""
    batches = call.store.listed(API)
    before = call.query.get("before_id")
    limit = call.number("limit", 20, 1, 1000)
    page, has_more = page_of(batches, limit, call.query.get("after_id"), before)
    return json_reply(
        {
            "data": [_described(call, batch) for batch in page],
            "has_more": has_more,
            "first_id": page[0].identity if page else None,
            "last_id": page[-1].identity if page else None,
        }
    )


def show(call: BatchCall) -> ScriptedReply:
    """`GET /v1/messages/batches/{id}`."""
    return json_reply(_described(call, call.batch(API)))


def cancel(call: BatchCall) -> ScriptedReply:
    """`POST /v1/messages/batches/{id}/cancel`."""
    batch = call.batch(API)
    if batch.is_ended:
        raise BadRequestError(f"Batch {batch.identity} cannot be canceled because it has ended.")
    call.store.cancel(batch)
    return json_reply(_described(call, batch))


def delete(call: BatchCall) -> ScriptedReply:
    """`DELETE /v1/messages/batches/{id}`."""
    batch = call.batch(API)
    if not batch.is_ended:
        raise BadRequestError(f"Batch {batch.identity} cannot be deleted while it is in progress: cancel it first.")
    call.store.delete(batch)
    return json_reply({"id": batch.identity, "type": "message_batch_deleted"})


def results(call: BatchCall) -> ScriptedReply:
    """`GET /v1/messages/batches/{id}/results`."""
    batch = call.batch(API)
    if not batch.is_ended:
        raise BadRequestError(f"Batch {batch.identity} has no results yet: it is still in progress.")
    return content_reply(batch.output.blocks() if batch.output else (), "application/x-jsonl")


def _lines(call: BatchCall, batch: Batch) -> Iterator[bytes]:
    blocks = [call.body] if call.upload is None else call.upload.blocks()
    if call.upload is not None and call.upload.size_bytes > MAX_BODY_BYTES:
        raise BadRequestError(f"The body exceeds {MAX_BODY_BYTES} bytes.", status=413)
    seen: set[str] = set()
    try:
        for number, item in enumerate(read_items(blocks, "requests"), 1):
            line = _FORM.read(batch, item if isinstance(item, dict) else {}, number)
            if line.custom_id in seen:
                raise BadRequestError(f"requests.{number - 1}.custom_id: '{line.custom_id}' is not unique")
            seen.add(line.custom_id)
            yield orjson.dumps(item)
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: half a pair of surrogates
        raise BadRequestError(f"We could not parse the JSON body of your request: {error}.") from None


def _check(call: BatchCall, batch: Batch) -> None:
    if not batch.total:
        raise BadRequestError("requests: List should have at least 1 item", "requests")
    if batch.total > MAX_LINES:
        raise BadRequestError(f"requests: List should have at most {MAX_LINES} items, not {batch.total}", "requests")
    if call.store.is_rejected(batch.identity):
        raise BadRequestError("requests: The mock provider rejects this batch, as its setting batch_reject says.")
    if call.store.exceeds_queue(batch.total, API):
        raise BadRequestError("Too many requests are in the queue of your batches. Try again later.", status=429)


def _described(call: BatchCall, batch: Batch) -> dict[str, object]:
    ended_s = batch.entered_s[batch.phase] if batch.is_ended else None
    cancelled_s = batch.entered_s.get(Phase.CANCELLING)
    place = f"http://{call.headers.get('Host', 'localhost')}{_PATH}/{batch.identity}/results"
    return {
        "id": batch.identity,
        "type": "message_batch",
        "processing_status": _status(batch),
        "request_counts": _counts(batch),
        "created_at": moment(batch.created_s),
        "expires_at": moment(batch.created_s + _WINDOW_S),
        "cancel_initiated_at": None if cancelled_s is None else moment(cancelled_s),
        "ended_at": None if ended_s is None else moment(ended_s),
        "archived_at": None,
        "results_url": place if batch.is_ended else None,
    }


def _status(batch: Batch) -> str:
    if batch.is_ended:
        return "ended"
    return "canceling" if batch.phase is Phase.CANCELLING else "in_progress"


def _counts(batch: Batch) -> dict[str, int]:
    """Count all as processing until the end, as the API does."""
    if not batch.is_ended:
        return {"processing": batch.total, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    is_canceled = batch.phase is Phase.CANCELLED
    return {
        "processing": 0,
        "succeeded": batch.succeeded,
        "errored": batch.failed,
        "canceled": batch.unfinished if is_canceled else 0,
        "expired": 0 if is_canceled else batch.unfinished,
    }


ROUTES = (
    Route(API, "POST", _PATH, create, Reading.CONTENT),
    Route(API, "GET", _PATH, show_all),
    Route(API, "GET", f"{_PATH}/([^/]+)", show),
    Route(API, "DELETE", f"{_PATH}/([^/]+)", delete),
    Route(API, "POST", f"{_PATH}/([^/]+)/cancel", cancel),
    Route(API, "GET", f"{_PATH}/([^/]+)/results", results),
)

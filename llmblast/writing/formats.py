"""Outcomes to records: one line of JSON each, `key` always its first member, so that recovery need not parse answers.

A record format is one function and one line in `FORMATS`. The user's own fields follow ours; those whose names we use
ourselves, whether in this record or not, stand together under `fields`. Nothing here raises, whatever an answer holds.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Final

import orjson

from llmblast.models import Failure, Line, Outcome, Reply, Request, Success
from llmblast.writing.safe_json import dump_line, embed

_REQUEST_ID_HEADERS: Final = (
    b"x-request-id",
    b"request-id",
    b"apim-request-id",
    b"x-amzn-requestid",
    b"x-goog-request-id",
)
"""OpenAI and most servers, Anthropic, Azure, Amazon, Google; the first that is there counts."""
_CUSTOM_ID: Final = b'"custom_id"'
_OUR_NAMES: Final = frozenset(
    {
        "key",
        "line",
        "id",
        "custom_id",
        "input",
        "response",
        "finish_reason",
        "usage",
        "model",
        "endpoint",
        "attempts",
        "latency",
        "maybe_billed",
        "error",
        "body",
        "fields",
    }
)


def render(outcome: Outcome, echo: bool = True, body: str = "auto") -> bytes:
    """One line, its newline included. `echo` keeps the input, `body` (always, auto, never) the raw reply."""
    if isinstance(outcome, Success):
        return FORMATS.get(outcome.request.output_format, llmblast_record)(outcome, echo, body)
    return error_record(outcome, echo)


def llmblast_record(success: Success, echo: bool, body: str) -> bytes:
    """The default format of save.jsonl. `latency` is in seconds, to the microsecond."""
    request, answer, reply = success.request, success.answer, success.reply
    record: dict[str, object] = {
        "key": request.key,
        "line": request.number,
        "id": request.id,
        "input": request.input,
        "response": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "model": answer.model,
        "endpoint": success.endpoint,
        "attempts": success.attempts,
        "latency": (reply.latency_s * 1e6 + 0.5) // 1 / 1e6,  # `round` takes four times as long
    }
    if not echo:
        del record["input"]
    if success.maybe_billed:
        record["maybe_billed"] = success.maybe_billed
    if request.extra:
        _add_fields(record, request.extra)
    if body == "always" or (body == "auto" and answer.says_more):
        record["body"] = embed(reply.body)
    return dump_line(record)


def openai_batch_record(success: Success, echo: bool, body: str) -> bytes:
    """A line of an OpenAI batch output file, which fixes what is in it: always the whole reply, never the input.

    `id` is the record's own, as it is there. Source: platform.openai.com/docs/api-reference/batch/request-output.
    """
    request = success.request
    record = _batch_members(request, success.reply)
    record["error"] = None
    if success.maybe_billed:
        record["maybe_billed"] = success.maybe_billed
    if request.extra:
        _add_fields(record, request.extra)
    return dump_line(record)


def error_record(failure: Failure, echo: bool = True) -> bytes:
    """A line of errors.jsonl. Its `request` is the original line: JSON where it is JSON, else text.

    Where the line is no UTF-8, `request_base64` has its very bytes. A raw reply is always kept: it may have been paid
    for.
    """
    line = failure.line
    if isinstance(line, Request) and line.output_format in _ERROR_FORMATS:
        return _ERROR_FORMATS[line.output_format](failure)
    record: dict[str, object] = {"key": line.key, "line": line.number, "id": line.id}
    if not isinstance(line, Request) and (custom_id := _custom_id_in(line.text)) is not None:
        record["custom_id"] = custom_id
        record["response"] = None
    if echo:
        record["input"] = line.input
    record["error"] = failure.error
    _add_circumstances(record, failure)
    if failure.body:
        record["body"] = embed(failure.body)
    _add_request(record, line)
    return dump_line(record)


def _openai_batch_error(failure: Failure) -> bytes:
    """A line of an OpenAI batch error file, with the members that other error records have behind its own.

    `error` is always an object with code and message, as with vLLM's run-batch; OpenAI leaves it out where `response`
    has the error of an HTTP reply. Sources: platform.openai.com/docs/api-reference/batch/request-output,
    docs.vllm.ai, "Offline inference with the OpenAI batch file format".
    """
    record = _batch_members(failure.line, failure.reply)
    record["error"] = {"code": failure.code, "message": failure.error}
    _add_circumstances(record, failure)
    if failure.body and record["response"] is None:
        record["body"] = embed(failure.body)
    _add_request(record, failure.line)
    return dump_line(record)


def anthropic_batch_record(success: Success, echo: bool, body: str) -> bytes:
    """A line of the results of an Anthropic batch: always the whole message, never the input.

    Source: docs.anthropic.com/en/api/retrieving-message-batch-results.
    """
    request = success.request
    record: dict[str, object] = {"key": request.key, "line": request.number, "custom_id": request.id}
    record["result"] = {"type": "succeeded", "message": embed(success.reply.body)}
    if success.maybe_billed:
        record["maybe_billed"] = success.maybe_billed
    if request.extra:
        _add_fields(record, request.extra)
    return dump_line(record)


def _anthropic_batch_error(failure: Failure) -> bytes:
    """A line of the results of an Anthropic batch, with the members that other error records have behind its own."""
    line, reply = failure.line, failure.reply
    error: object = {"type": "error", "error": {"type": failure.code, "message": failure.error}}
    has_error = reply is not None and _is_error(reply.body)
    if reply is not None and has_error:
        error = embed(reply.body)
    record: dict[str, object] = {"key": line.key, "line": line.number, "custom_id": line.id}
    record["result"] = {"type": "errored", "error": error}
    record["error"] = {"code": failure.code, "message": failure.error}
    _add_circumstances(record, failure)
    if failure.body and not has_error:
        record["body"] = embed(failure.body)
    _add_request(record, line)
    return dump_line(record)


FORMATS: Final[Mapping[str, Callable[[Success, bool, str], bytes]]] = {
    "llmblast": llmblast_record,
    "openai-batch": openai_batch_record,
    "anthropic-batch": anthropic_batch_record,
}
_ERROR_FORMATS: Final[Mapping[str, Callable[[Failure], bytes]]] = {
    "openai-batch": _openai_batch_error,
    "anthropic-batch": _anthropic_batch_error,
}


def _is_error(body: bytes) -> bool:
    """Return whether a reply is an error in Anthropic's form."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(data, dict) and data.get("type") == "error"


def _batch_members(line: Line, reply: Reply | None) -> dict[str, object]:
    """Return what batch records begin with. Without an HTTP reply there is no `response`."""
    response = None
    if reply is not None and reply.status:
        response = {"status_code": reply.status, "request_id": _request_id_of(reply), "body": embed(reply.body)}
    return {
        "key": line.key,
        "line": line.number,
        "id": f"batch_req_{line.key}_{line.number}",
        "custom_id": line.id,
        "response": response,
    }


def _request_id_of(reply: Reply) -> str | None:
    """Return the name by which the provider, or a gateway before it, knows the request."""
    for name in _REQUEST_ID_HEADERS:
        if value := reply.header(name):
            return value.decode("utf-8", "replace")
    return None


def _custom_id_in(text: bytes) -> str | None:
    """Return the `custom_id` of a batch line that no request could be made of; None for other lines."""
    if _CUSTOM_ID not in text:
        return None
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    custom_id = fields.get("custom_id") if isinstance(fields, dict) else None
    return custom_id if isinstance(custom_id, str) else None


def _add_circumstances(record: dict[str, object], failure: Failure) -> None:
    record["status"] = failure.status
    record["code"] = failure.code
    record["transient"] = failure.transient
    record["attempts"] = failure.attempts
    record["endpoint"] = failure.endpoint
    if failure.maybe_billed:
        record["maybe_billed"] = failure.maybe_billed


def _add_request(record: dict[str, object], line: Line) -> None:
    record["request"] = embed(line.text)
    if not _is_utf8(line.text):
        record["request_base64"] = base64.b64encode(line.text).decode()


def _add_fields(record: dict[str, object], extra: Mapping[str, object]) -> None:
    if _OUR_NAMES.isdisjoint(extra):
        record.update(extra)
        return
    record.update({name: value for name, value in extra.items() if name not in _OUR_NAMES})
    record["fields"] = {name: value for name, value in extra.items() if name in _OUR_NAMES}


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

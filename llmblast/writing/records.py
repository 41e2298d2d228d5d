"""Outcomes to records: one line of JSON each, `key` always its first member, so that recovery need not parse answers.

A record format is one function and one line in `FORMATS`. The user's own fields follow ours; those whose names we use
ourselves, whether in this record or not, stand together under `fields`. Nothing here raises, whatever an answer holds.
"""

import base64
from collections.abc import Callable, Mapping

from llmblast.records import Failure, Outcome, Success
from llmblast.writing.safe_json import dump_line, embed

_OUR_NAMES = frozenset(
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
        "attempts": request.attempts,
        "latency": (reply.latency_s * 1e6 + 0.5) // 1 / 1e6,  # `round` takes four times as long
    }
    if not echo:
        del record["input"]
    if request.ambiguous_sends:
        record["maybe_billed"] = request.ambiguous_sends
    if request.extra:
        _add_fields(record, request.extra)
    if body == "always" or (body == "auto" and answer.says_more):
        record["body"] = embed(reply.body)
    return dump_line(record)


def openai_batch_record(success: Success, echo: bool, body: str) -> bytes:
    """A line of an OpenAI batch output file, which fixes what is in it: always the whole reply, never the input.

    Source: platform.openai.com/docs/api-reference/batch/request-output.
    """
    request, reply = success.request, success.reply
    request_id = reply.header(b"x-request-id")
    record: dict[str, object] = {
        "key": request.key,
        "line": request.number,
        "id": request.id,
        "custom_id": request.id,
        "response": {
            "status_code": reply.status,
            "request_id": None if request_id is None else request_id.decode("utf-8", "replace"),
            "body": embed(reply.body),
        },
        "error": None,
    }
    if request.ambiguous_sends:
        record["maybe_billed"] = request.ambiguous_sends
    if request.extra:
        _add_fields(record, request.extra)
    return dump_line(record)


def error_record(failure: Failure, echo: bool = True) -> bytes:
    """A line of errors.jsonl. Its `request` is the original line: JSON where it is JSON, else text.

    Where the line is no UTF-8, `request_base64` has its very bytes. A raw reply is always kept: it may have been paid
    for.
    """
    line = failure.line
    record: dict[str, object] = {"key": line.key, "line": line.number, "id": line.id}
    if echo:
        record["input"] = line.input
    record["error"] = failure.error
    record["status"] = failure.status
    record["code"] = failure.code
    record["transient"] = failure.transient
    record["attempts"] = failure.attempts
    record["endpoint"] = failure.endpoint
    if failure.maybe_billed:
        record["maybe_billed"] = failure.maybe_billed
    if failure.body:
        record["body"] = embed(failure.body)
    record["request"] = embed(line.text)
    if not _is_utf8(line.text):
        record["request_base64"] = base64.b64encode(line.text).decode()
    return dump_line(record)


FORMATS: Mapping[str, Callable[[Success, bool, str], bytes]] = {
    "llmblast": llmblast_record,
    "openai-batch": openai_batch_record,
}


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

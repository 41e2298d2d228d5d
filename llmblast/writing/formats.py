"""Formats: render outcomes as records, one line of JSON each. `key` is the first member, so recovery need not parse.

A record format is one line in `FORMATS`, with a function for answers and one for errors. The user's own fields follow
ours; those with names that any of our records uses are members of `fields`. Where a run has several inputs, `file`
behind `line` names that of the line; in other runs, `file` may be the name of an own field. No function raises an
error, whatever an answer contains.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from llmblast.models import Failure, InvalidAnswers, Line, Outcome, Reply, Request, Success
from llmblast.writing.safe_json import dump_line, embed, load_object

AUTO: Final = "auto"
"""The format of a record is that of its line."""
_REQUEST_ID_HEADERS: Final = (
    b"x-request-id",
    b"request-id",
    b"apim-request-id",
    b"x-amzn-requestid",
    b"x-goog-request-id",
)
"""Of OpenAI and most servers, Anthropic, Azure, Amazon, Google; the first in a reply counts."""
ANTHROPIC_ERRORS: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The types of errors that its clients know. Source: docs.anthropic.com/en/api/errors."""
_CUSTOM_ID: Final = b'"custom_id"'
_IS_CUT_OFF: Final = 'IN("stop","tool_calls",null)|not'
OUR_NAMES: Final = frozenset(
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
        "parsed",
        "repairs",
        "invalid_usage",
        "cached",
        "repeat",
        "error",
        "body",
        "fields",
    }
)
_OUR_NAMES_WITH_FILE: Final = OUR_NAMES | {"file"}
_NAMES_OF_BATCHES: Final = frozenset({"via", "batch"})


def render(outcome: Outcome, echo: bool = True, body: str = "auto", output_format: str | None = None) -> bytes:
    """Return the record with its newline. `echo` keeps the input, `body` (always, auto, never) the raw reply.

    `output_format` is a name in `FORMATS`; None stands for that of the line.
    """
    if isinstance(outcome, Success):
        return FORMATS.get(output_format or outcome.request.output_format, _DEFAULT).render(outcome, echo, body)
    return error_record(outcome, echo, output_format)


def llmblast_record(success: Success, echo: bool, body: str) -> bytes:
    """Return a record of the default format. `latency` is in seconds, to the microsecond."""
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
        "endpoint": success.endpoint or None,
        "attempts": success.attempts,
        "latency": (reply.latency_s * 1e6 + 0.5) // 1 / 1e6,  # `round` takes four times as long
    }
    if request.repeat or request.file is not None:
        record = _with_origin(record, request)
    if not echo:
        del record["input"]
    _add_billing_and_fields(record, success)
    if body == "always" or (body == "auto" and answer.says_more):
        record["body"] = embed(reply.body)
    return dump_line(record)


def openai_batch_record(success: Success, echo: bool, body: str) -> bytes:
    """Return a line of an OpenAI batch output file: always with the whole reply, never with the input.

    `id` is that of the record. Source: platform.openai.com/docs/api-reference/batch/request-output.
    """
    record = _batch_members(success.request, success.reply)
    record["error"] = None
    _add_billing_and_fields(record, success)
    return dump_line(record)


def error_record(failure: Failure, echo: bool = True, output_format: str | None = None) -> bytes:
    """Return a record of errors.jsonl. `request` is the original line: JSON if it is JSON, else text.

    If the line is not UTF-8, `request_base64` has its exact bytes. A raw reply is always kept: it may have been billed.
    """
    line = failure.line
    wanted = output_format or (line.output_format if isinstance(line, Request) else "")
    if (render_error := FORMATS.get(wanted, _DEFAULT).render_error) is not None:
        return render_error(failure)
    record = _with_origin({"key": line.key, "line": line.number, "id": line.id}, line)
    if output_format is None and not isinstance(line, Request) and (custom_id := _custom_id_in(line.text)) is not None:
        record["custom_id"] = custom_id
        record["response"] = None
    if echo:
        record["input"] = line.input
    record["error"] = failure.error
    return _dump_failure(record, failure, keep_body=True)


def _openai_batch_error(failure: Failure) -> bytes:
    """Return a line of an OpenAI batch error file, followed by the members of other error records.

    `error` is always an object with code and message, as with vLLM's run-batch; OpenAI leaves it out where `response`
    has the error of an HTTP reply. Sources: platform.openai.com/docs/api-reference/batch/request-output,
    docs.vllm.ai, "Offline inference with the OpenAI batch file format".
    """
    record = _batch_members(failure.line, failure.reply)
    record["error"] = {"code": failure.code, "message": failure.error}
    return _dump_failure(record, failure, keep_body=record["response"] is None)


def anthropic_batch_record(success: Success, echo: bool, body: str) -> bytes:
    """Return a line of the results of an Anthropic batch: always with the whole message, never with the input.

    Source: docs.anthropic.com/en/api/retrieving-message-batch-results.
    """
    request = success.request
    record = _with_origin({"key": request.key, "line": request.number, "custom_id": _custom_id_of(request)}, request)
    record["result"] = {"type": "succeeded", "message": embed(success.reply.body)}
    _add_billing_and_fields(record, success)
    return dump_line(record)


def _anthropic_batch_error(failure: Failure) -> bytes:
    """Return a line of the results of an Anthropic batch, followed by the members of other error records.

    Without an error of that API, the type is the one that its documentation has for the status.
    """
    line, reply = failure.line, failure.reply
    kind = ANTHROPIC_ERRORS.get(failure.status, "api_error" if failure.attempts else "invalid_request_error")
    error: object = {"type": "error", "error": {"type": kind, "message": failure.error}}
    has_error = reply is not None and load_object(reply.body).get("type") == "error"
    if reply is not None and has_error:
        error = embed(reply.body)
    record = _with_origin({"key": line.key, "line": line.number, "custom_id": _custom_id_of(line)}, line)
    record["result"] = {"type": "errored", "error": error}
    record["error"] = {"code": failure.code, "message": failure.error}
    return _dump_failure(record, failure, keep_body=not has_error)


class RecordFormat(NamedTuple):
    """One format of records. `api` is the kind of provider whose replies they hold, whichever answered."""

    render: Callable[[Success, bool, str], bytes]
    answers: str
    """Filter of jq that shows the answers."""
    flagged: str
    """Filter of jq that chooses the incomplete answers: any reason other than these means a limit or a filter."""
    mark: bytes = b""
    """What the first bytes of its records have, and no others."""
    render_error: Callable[[Failure], bytes] | None = None
    """Without one, errors have the default format."""
    api: str | None = None


FORMATS: Final[Mapping[str, RecordFormat]] = {
    "llmblast": RecordFormat(llmblast_record, ".response", f"select(.finish_reason|{_IS_CUT_OFF})"),
    "openai-batch": RecordFormat(
        openai_batch_record,
        "'.response.body.choices[0].message.content'",
        f"select(.response.body.choices[]?.finish_reason|{_IS_CUT_OFF})",
        b'"response":{"status_code":',
        _openai_batch_error,
        "openai",
    ),
    "anthropic-batch": RecordFormat(
        anthropic_batch_record,
        "'.result.message.content[]?.text'",
        'select(.result.message.stop_reason|IN("max_tokens","refusal"))',
        b'"result":{"type":"succeeded"',
        _anthropic_batch_error,
        "anthropic",
    ),
}
"""By the values of the setting `output_format`."""
_DEFAULT: Final = FORMATS["llmblast"]


def _batch_members(line: Line, reply: Reply | None) -> dict[str, object]:
    """Return the first members of an OpenAI batch record. Without an HTTP reply `response` is null."""
    response = None
    if reply is not None and reply.status:
        request_id = _request_id_of(reply) or f"req_{line.key}_{line.number}"
        response = {"status_code": reply.status, "request_id": request_id, "body": embed(reply.body)}
    record: dict[str, object] = {
        "key": line.key,
        "line": line.number,
        "id": f"batch_req_{line.key}_{line.number}",
        "custom_id": _custom_id_of(line),
        "response": response,
    }
    return _with_origin(record, line)


def _with_origin(record: dict[str, object], line: Line) -> dict[str, object]:
    """Return the record with `repeat` and `file` behind key and line, where the line has them: later runs read `repeat`
    there (`reading.completed_keys`).
    """
    repeat = line.repeat if isinstance(line, Request) else 0
    if not repeat and line.file is None:
        return record
    start: dict[str, object] = {"key": line.key, "line": line.number}
    if repeat:
        start["repeat"] = repeat
    if line.file is not None:
        start["file"] = line.file
    return {**start, **record}


def _custom_id_of(line: Line) -> str | int:
    """Return the id of a line, a text; only a batch line whose own `custom_id` is a number keeps that."""
    if isinstance(line.id, str) or (isinstance(line, Request) and line.output_format == "openai-batch"):
        return line.id
    return str(line.id)


def _request_id_of(reply: Reply) -> str | None:
    """Return the id that the provider, or a gateway before it, gave to the request, if it names one."""
    for name in _REQUEST_ID_HEADERS:
        if value := reply.header(name):
            return value.decode("utf-8", "replace")
    return None


def _custom_id_in(text: bytes) -> str | None:
    """Return the `custom_id` of a batch line that could not be parsed as a request; None for other lines."""
    if _CUSTOM_ID not in text:
        return None
    custom_id = load_object(text).get("custom_id")
    return custom_id if isinstance(custom_id, str) else None


def _dump_failure(record: dict[str, object], failure: Failure, *, keep_body: bool) -> bytes:
    """Add the members that all error records have, and return the line."""
    text = failure.line.text
    record["status"] = failure.status
    record["code"] = failure.code
    record["transient"] = failure.transient
    record["attempts"] = failure.attempts
    record["endpoint"] = failure.endpoint
    if failure.maybe_billed:
        record["maybe_billed"] = failure.maybe_billed
    if failure.invalid is not None:
        _add_repairs(record, failure.invalid)
    if isinstance(failure.line, Request) and failure.line.batch:
        _add_batch(record, failure.line, failure.reply)
    if failure.body and keep_body:
        record["body"] = embed(failure.body)
    record["request"] = embed(text)
    if not _is_utf8(text):
        record["request_base64"] = base64.b64encode(text).decode()
    return dump_line(record)


def _add_billing_and_fields(record: dict[str, object], success: Success) -> None:
    if success.maybe_billed:
        record["maybe_billed"] = success.maybe_billed
    if success.cached:
        record["cached"] = True
    if success.parsed is not None:
        record["parsed"] = embed(success.parsed)
    if success.invalid is not None:
        _add_repairs(record, success.invalid)
    request = success.request
    our_names = OUR_NAMES if request.file is None else _OUR_NAMES_WITH_FILE
    if request.batch or success.reply.via:
        _add_batch(record, request, success.reply)
        our_names |= _NAMES_OF_BATCHES
    if request.extra:
        _add_fields(record, request.extra, our_names)


def _add_repairs(record: dict[str, object], invalid: InvalidAnswers) -> None:
    """Add how often the line was asked again, and the tokens of the answers that did not fit: `usage` has none of
    these.
    """
    record["repairs"] = invalid.repairs
    record["invalid_usage"] = {
        "prompt_tokens": invalid.prompt_tokens,
        "completion_tokens": invalid.completion_tokens,
    }


def _add_batch(record: dict[str, object], request: Request, reply: Reply | None) -> None:
    """Add the batch of the line, by which a later run finds out what it has of that batch, and how the reply came."""
    if reply is not None and reply.via:
        record["via"] = reply.via
    if request.batch:
        record["batch"] = request.batch


def _add_fields(record: dict[str, object], extra: Mapping[str, object], our_names: frozenset[str]) -> None:
    if our_names.isdisjoint(extra):
        record.update(extra)
        return
    record.update({name: value for name, value in extra.items() if name not in our_names})
    record["fields"] = {name: value for name, value in extra.items() if name in our_names}


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

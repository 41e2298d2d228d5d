"""Results in the forms of OpenAI's and Anthropic's batches. Anthropic's have no place for much of a record; what they
lack is left out.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from llmblast.converting.result_record import KNOWN, NEEDED_IN_ANSWERS, OF_ERRORS, ResultRecord, add_fields
from llmblast.converting.rows import Row
from llmblast.models import Answer, Reply, ReplyError, Request
from llmblast.providers.anthropic import Anthropic
from llmblast.providers.openai import OpenAI
from llmblast.providers.translated_replies import embeddings_in, make_chat, make_embeddings, translate_reply
from llmblast.writing.formats import ANTHROPIC_ERRORS

_OPENAI_MEMBERS = frozenset({"id", "custom_id", "response", "error"})
_ANTHROPIC_MEMBERS = frozenset({"custom_id", "result"})
_OUTCOMES = ("succeeded", "errored", "canceled", "expired")
_PATHS = {"text_completion": "completions", "response": "responses"}
_OK = range(200, 300)
_OPENAI, _ANTHROPIC = OpenAI(), Anthropic()


def is_openai(row: Mapping[str, object]) -> bool:
    """Return whether a row is a line of an OpenAI batch output or error file."""
    response = row.get("response")
    is_response = isinstance(response, dict) and "status_code" in response
    has_both = "response" in row and "error" in row
    return "custom_id" in row and "body" not in row and (is_response or (response is None and has_both))


def is_anthropic(row: Mapping[str, object]) -> bool:
    """Return whether a row is a line of the results of an Anthropic batch."""
    result = row.get("result")
    return "custom_id" in row and isinstance(result, dict) and result.get("type") in _OUTCOMES


def read_openai(row: Row) -> ResultRecord:
    """Read a line of an OpenAI batch output or error file."""
    response = row.get("response") or {}
    body, status = response.get("body"), response.get("status_code")
    record = _start(row, _OPENAI_MEMBERS)
    record.reply_id, record.request_id, record.body = row.get("id"), response.get("request_id"), body
    if status in _OK and not row.get("error"):
        _add_answer(record, body)
    else:
        inner = body.get("error") if isinstance(body, dict) else None
        _add_error(record, row.get("error") or inner, status or 0)
    return record


def write_openai(record: ResultRecord) -> Row:
    """Write a line of an OpenAI batch output or error file."""
    members = record.members
    row: Row = {name: members[name] for name in ("key", "line") if name in members}
    name = f"{row['key']}_{row['line']}" if len(row) == 2 else record.id
    row.update({"id": record.reply_id or f"batch_req_{name}", "custom_id": record.id, "response": None})
    status = int(members.get("status") or (0 if record.error else 200))
    if status and (record.error is None or record.body is not None):
        body = _body(record, "openai")
        row["response"] = {"status_code": status, "request_id": record.request_id or f"req_{name}", "body": body}
    row["error"] = None if record.error is None else {"code": members.get("code") or "", "message": record.error}
    return _finish(row, record)


def read_anthropic(row: Row) -> ResultRecord:
    """Read a line of the results of an Anthropic batch."""
    result = row["result"]
    record = _start(row, _ANTHROPIC_MEMBERS)
    kind = result["type"]
    if kind == "succeeded":
        record.body = result.get("message")
        _add_answer(record, record.body)
    elif kind == "errored":
        record.body = result.get("error")
        inner = record.body.get("error") if isinstance(record.body, dict) else record.body
        _add_error(record, inner, 0)
    else:
        _add_error(record, {"code": kind, "message": f"the request was {kind} in its batch"}, 0)
        record.members.setdefault("transient", True)
    return record


def write_anthropic(record: ResultRecord) -> Row:
    """Write a line of the results of an Anthropic batch."""
    members = record.members
    row: Row = {name: members[name] for name in ("key", "line") if name in members}
    row["custom_id"] = record.id
    code = members.get("code")
    if record.error is None:
        row["result"] = {"type": "succeeded", "message": _body(record, "anthropic")}
    elif code in ("canceled", "expired"):
        row["result"] = {"type": code}
    else:
        known = record.body if isinstance(record.body, dict) and record.body.get("type") == "error" else None
        kind = (
            code if code in ANTHROPIC_ERRORS.values() else ANTHROPIC_ERRORS.get(members.get("status") or 0, "api_error")
        )
        error = known or {"type": "error", "error": {"type": kind, "message": record.error}}
        row["result"] = {"type": "errored", "error": error}
    return _finish(row, record)


def _start(row: Row, own: frozenset[str]) -> ResultRecord:
    members: Row = {name: row[name] for name in ("key", "line") if name in row}
    members["id"] = row["custom_id"]
    rest = {name: value for name, value in row.items() if name not in own and name not in members}
    members.update({name: value for name, value in rest.items() if name in KNOWN and name != "body"})
    fields = {name: value for name, value in rest.items() if name not in KNOWN and name != "fields"}
    if isinstance(aside := rest.get("fields"), dict):
        fields.update(aside)
    return ResultRecord(members, fields)


def _finish(row: Row, record: ResultRecord) -> Row:
    """Add what a record says beyond the form."""
    names = ("maybe_billed",) if record.error is None else tuple(name for name in OF_ERRORS if name != "error")
    row.update({name: record.members[name] for name in names if name in record.members})
    add_fields(row, record.fields)
    return row


def _add_answer(record: ResultRecord, body: Any) -> None:
    """Read the answer in a reply. One that cannot be read is kept whole."""
    answer = _answer_in(body)
    if answer is None:
        record.keeps_body = True
        record.members.update(dict.fromkeys(NEEDED_IN_ANSWERS))
        return
    record.keeps_body = answer.says_more
    record.members.update(
        response=answer.text, finish_reason=answer.finish_reason, usage=answer.usage, model=answer.model
    )


def _answer_in(body: Any) -> Answer | None:
    if not isinstance(body, dict):
        return None
    if (vectors := embeddings_in(body)) is not None:
        return Answer(vectors, None, body.get("usage"), model=body.get("model"))
    provider = _ANTHROPIC if body.get("type") == "message" else _OPENAI
    path = _PATHS.get(str(body.get("object")), "chat/completions")
    request = Request(0, "", b"", "", path=path, kind=provider.kind)
    answer = provider.read_answer(request, Reply(200, body=orjson.dumps(body)))
    return None if isinstance(answer, ReplyError) else answer


def _add_error(record: ResultRecord, error: Any, status: int) -> None:
    named = error if isinstance(error, dict) else {"message": error}
    code = named.get("code") or named.get("type")
    record.members["error"] = str(named.get("message") or "the request failed")
    record.members.setdefault("status", status)
    record.members.setdefault("code", str(code) if code else f"http_{status}")


def _body(record: ResultRecord, kind: str) -> Any:
    """Return the reply in the form of an API; made of the answer if it was not kept."""
    body = record.body
    if body is None:
        response, finish_reason, usage, model = (record.members.get(name) for name in NEEDED_IN_ANSWERS)
        if isinstance(response, list):
            return make_embeddings(response, usage, model)
        body = make_chat(response, finish_reason, usage, model, record.reply_id or record.id)
    return orjson.loads(translate_reply(orjson.dumps(body), kind))

"""Faults in the body of a reply that is a 200 and proper HTTP: no answer in it, or one that is hard to stomach.

The answer's text is exchanged in JSON, so that what no JSON writer lets through can be sent, too.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from llmblast.mocking.answers import Answer
from llmblast.mocking.error_replies import error_body
from llmblast.mocking.fault_events import with_event_text, with_usage, without_choices
from llmblast.mocking.incident import Fault, Incident
from llmblast.mocking.replies import ScriptedReply

_PLACEHOLDER = "\ufdd0 the text"
"""Begins with a noncharacter, which no prompt is made of."""
_NESTED = 100_000
_ESCAPES = "\x1b[2J\x1b]0;owned\x07\x1b[31mred\x1b[0m\rover\x08\x9b1mwritten\x00"
_BIDI = "user\u202etxt.exe\u2066 \u2067hidden\u2069 \u200f\ufeff \u2028new\u2029line"


def with_text(answer: Answer, text: bytes) -> bytes:
    """The answer's body with another text, which is given as JSON or as what is to stand in its place."""
    if answer.events:
        return with_event_text(answer.events, _PLACEHOLDER).replace(orjson.dumps(_PLACEHOLDER), text)
    reply = orjson.loads(answer.body)
    for choice in reply.get("choices", ()):
        if "message" in choice:
            choice["message"]["content"] = _PLACEHOLDER
        else:
            choice["text"] = _PLACEHOLDER
    reply = _without_text(reply, answer.text)
    return orjson.dumps(reply).replace(orjson.dumps(_PLACEHOLDER), text)


def _without_text(value: Any, text: str | None) -> Any:
    """Return a reply of any API with the placeholder in the place of its text."""
    if isinstance(value, dict):
        return {name: _without_text(member, text) for name, member in value.items()}
    if isinstance(value, list):
        return [_without_text(item, text) for item in value]
    return _PLACEHOLDER if value == text and text is not None else value


def _body(body: bytes, content_type: str | None = None) -> Fault:
    """The same body every time; its media type is that of the right answer, unless it is named."""
    return lambda incident: ScriptedReply(body=body, headers={"Content-Type": content_type} if content_type else {})


def _text(text: str) -> Fault:
    """An answer with this text before the right one; JSON has a way to write all of it."""

    def reply(incident: Incident) -> ScriptedReply:
        said = f"{text} {incident.answer.text or ''}"
        return ScriptedReply(body=with_text(incident.answer, orjson.dumps(said)), text=said)

    return reply


def _no_json_text(text: bytes, meaning: str | None = None) -> Fault:
    """An answer whose text is no JSON, and what a client can read in it all the same."""
    return lambda incident: ScriptedReply(body=with_text(incident.answer, text), text=meaning)


def _half(incident: Incident) -> ScriptedReply:
    body = incident.answer.body
    return ScriptedReply(body=body[: len(body) // 2])


def _no_choices(incident: Incident) -> ScriptedReply:
    if incident.answer.events:
        return ScriptedReply(body=without_choices(incident.answer.events))
    return ScriptedReply(body=orjson.dumps({**orjson.loads(incident.answer.body), "choices": []}))


def _usage(value: bytes) -> Fault:
    """A proper answer that counts its tokens with this number, which JSON may or may not have."""

    def reply(incident: Incident) -> ScriptedReply:
        counts = b'"usage":{"prompt_tokens":%b,"completion_tokens":1}}' % value
        if incident.answer.events:
            return ScriptedReply(body=with_usage(incident.answer.events, counts), text=incident.answer.text)
        return ScriptedReply(body=incident.answer.body.partition(b'"usage":')[0] + counts, text=incident.answer.text)

    return reply


def _error(body: bytes) -> Fault:
    """An error with the status of a success; in a stream it comes as its only event."""
    return lambda incident: ScriptedReply(body=b"data: %b\n\n" % body if incident.answer.events else body)


BODIES: Mapping[str, Fault] = {
    "empty": _body(b""),
    "html": _body(b"<!doctype html><script>alert(1)</script><h1>Sign in to this network</h1>", "text/html"),
    "no-json": _body(b"upstream connect error or disconnect/reset before headers", "text/plain"),
    "error-object": _error(error_body("The engine is overloaded.", "server_error")),
    "error-status": _error(error_body("Upstream said 503.", "server_error", None, "503")),
    "no-choices": _no_choices,
    "half": _half,
    "invalid-utf8": _no_json_text(b'"caf\xe9 \xff\xfe"', "caf\ufffd \ufffd\ufffd"),
    "nul-bytes": _no_json_text(b'"nul\x00nul"', "nul\0nul"),
    "lone-surrogate": _no_json_text(b'"half a pair: \\ud83d"', "half a pair: \ufffd"),
    "deep-nesting": _no_json_text(b"[" * _NESTED + b"]" * _NESTED),
    "nan": _usage(b"NaN"),
    "huge-number": _usage(b"1" + b"0" * 300),
    "escapes": _text(_ESCAPES),
    "bidi": _text(_BIDI),
}
"""The faults of this file by the name that a rule has for them."""

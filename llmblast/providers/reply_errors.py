"""Reply errors: find message, code and all names of an error in a body of any shape.

| shape | sender |
|---|---|
| `{"error": {"message", "type", "code"}}` | OpenAI and most servers that speak its API |
| `{"type": "error", "error": {"type", "message"}}` | Anthropic |
| `[{"error": {"code", "message", "status", "details": [...]}}]` | Google's OpenAI-compatible endpoint |
| `{"error": {"message", "code", "metadata": {"raw": "JSON of the upstream"}}}` | OpenRouter |
| `{"error": {"error": {...}}}`, `{"error": {"message": "JSON of the upstream"}}` | proxies |
| `{"message"}`, `{"object": "error", "message", "type", "code"}` | Mistral, older vLLM, AWS |
| `{"error": "text"}`, with `code`, `error_type` or `estimated_time` beside it | Ollama, xAI, Hugging Face |
| `{"detail": "text"}`, `{"detail": [{"loc", "msg"}]}` | FastAPI |
| `{"errors": [...]}`, `{"code", "msg"}`, `{"error_code", "error_msg"}` | gateways, Zhipu, Baidu |
| `{"choices": null, "base_resp": {"status_code", "status_msg"}}` | MiniMax, with HTTP 200 |

Nothing here raises or takes long: depth, members, items and characters are bounded.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from llmblast.models import MAX_MESSAGE_CHARS, Reply, ReplyError
from llmblast.providers.lenient_json import UnreadableReplyError, repaired_json
from llmblast.providers.plain_text import text_of

_MAX_DEPTH = 6
_MAX_ITEMS = 8
_MAX_OBJECTS = 32
_MAX_NESTED_JSON_CHARS = 50_000
_MAX_NAME_CHARS = 80

_TEXT_KEYS = ("message", "msg", "detail", "error_message", "error_msg", "error_description", "description", "title")
_DETAIL_KEYS = ("details", "metadata")
_CODE_KEYS = ("code", "error_code", "Code")
_KIND_KEYS = ("type", "error_type", "status", "reason", "__type", "errorCode")
_STATUS_KEYS = ("code", "status", "status_code", "http_code")
_NO_ERRORS = frozenset({"", "0", "200", "false", "nil", "no error", "none", "null", "ok", "success"})
"""Values of the member `error` that some gateways add to every answer, in lower case."""
_NO_KINDS = ("error",)
"""Types that every error of a provider has."""
_NOT_IN_NAMES = r"[^a-z0-9]+"


@dataclass(slots=True)
class _Findings:
    code: str = ""
    status: int | None = None
    names: list[str] = field(default_factory=list)
    objects: list[Mapping[str, object]] = field(default_factory=list)


def read_error(reply: Reply) -> ReplyError:
    """Return the error in the body of a reply that is not 2xx. Never raises."""
    try:
        data = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        try:
            data = orjson.loads(repaired_json(reply))
        except (UnreadableReplyError, orjson.JSONDecodeError):
            return ReplyError(reply.detail or text_of(reply.body), "")
    error = find_error(data)
    if not error.message and data:
        error.message = text_of(reply.body)
    return error


def is_error(value: object, depth: int = 0) -> bool:
    """Return whether the member `error` is an error: gateways send `{"code": 0, "message": "success"}`, too."""
    if isinstance(value, dict | list) and depth < _MAX_DEPTH:
        members = value.values() if isinstance(value, dict) else value
        return any(is_error(member, depth + 1) for member in members)
    if isinstance(value, str):
        return value[:_MAX_NAME_CHARS].strip().lower() not in _NO_ERRORS
    return bool(value) and value != 200


def error_in_success(data: object) -> ReplyError | None:
    """Return the error in a 2xx reply without an answer and without the member `error`; None where there is none."""
    error = find_error(data)
    return error if error.message and error.objects and is_error(error.message) else None


def find_error(data: object) -> ReplyError:
    """Return the error in a parsed body. Never raises."""
    found = _Findings()
    message = _read(data, found, 0)[:MAX_MESSAGE_CHARS].strip()
    return ReplyError(message, found.code, tuple(found.names), found.status, tuple(found.objects))


def _read(value: object, found: _Findings, depth: int) -> str:
    """Return the message in `value`; add codes, names and objects to `found`."""
    if depth > _MAX_DEPTH or len(found.objects) >= _MAX_OBJECTS:
        return ""
    if isinstance(value, str):
        return _read_text(value, found, depth)
    if isinstance(value, list):
        return _joined((_read(item, found, depth + 1) for item in value[:_MAX_ITEMS]), "; ")
    if isinstance(value, dict):
        return _read_object(value, found, depth)
    return ""


def _read_text(text: str, found: _Findings, depth: int) -> str:
    """Return the text, or the message in it where it is the JSON of an error that a proxy has passed on."""
    stripped = text.strip()
    if stripped[:1] in ("{", "[") and len(stripped) <= _MAX_NESTED_JSON_CHARS:
        try:
            inner = orjson.loads(stripped)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            inner = None
        message = _read(inner, found, depth + 1)
        if message:
            return message
    return stripped[:MAX_MESSAGE_CHARS]


def _read_object(value: Mapping[str, object], found: _Findings, depth: int) -> str:
    found.objects.append(value)
    message = _read(value.get("error"), found, depth + 1)
    is_title = isinstance(value.get("error"), str)
    for key in _TEXT_KEYS:
        if not message or is_title:
            message = _joined((message, _read(value.get(key), found, depth + 1)), ": ")
    message = _joined((message, _read(value.get("errors"), found, depth + 1)), ": ")
    location = value.get("loc")
    if message and isinstance(location, list):
        message = f"{'.'.join(str(part) for part in location[:_MAX_ITEMS] if isinstance(part, (str, int)))}: {message}"
    _note_names(value, found, is_outermost=depth == 0)
    for key in _DETAIL_KEYS:
        _read(value.get(key), found, depth + 1)
    return _joined((message, _upstream_message(value, found, depth)), ": ")


def _upstream_message(value: Mapping[str, object], found: _Findings, depth: int) -> str:
    """Return the message of the error that a router passes on beside its own."""
    metadata, base = value.get("metadata"), value.get("base_resp")
    if isinstance(metadata, dict):
        return _read(metadata.get("raw"), found, depth + 1)
    if isinstance(base, dict) and base.get("status_code"):
        found.objects.append(base)
        found.code = found.code or _as_code(base["status_code"])
        found.names.append(f"baseresp{base['status_code']}"[:_MAX_NAME_CHARS])
        return _read(base.get("status_msg"), found, depth + 1)
    return ""


def _note_names(value: Mapping[str, object], found: _Findings, *, is_outermost: bool) -> None:
    codes = [_as_code(value.get(key)) for key in _CODE_KEYS]
    kinds = [value.get(key) for key in _KIND_KEYS]
    texts = [text for text in (*codes, *kinds) if isinstance(text, str) and text and text not in _NO_KINDS]
    found.names += [re.sub(_NOT_IN_NAMES, "", text[:_MAX_NAME_CHARS].lower()) for text in texts]
    statuses = [status for key in _STATUS_KEYS if (status := _as_status(value.get(key))) is not None]
    if found.status is None and statuses:
        found.status = statuses[0]
    if not found.code:
        tells_more = [text for text in texts if _as_status(text) is None] if is_outermost else texts
        found.code = next(iter(tells_more), "")


def _as_code(value: object) -> str:
    return str(value) if value and isinstance(value, (str, int)) and value is not True else ""


def _as_status(value: object) -> int | None:
    text = _as_code(value)
    return int(text) if len(text) == 3 and text.isdecimal() and 400 <= int(text) < 600 else None


def _joined(texts: Iterable[str], separator: str) -> str:
    """Join texts, leaving out empty ones and those that are in one before them."""
    kept: list[str] = []
    for text in texts:
        if text and not any(text in earlier for earlier in kept):
            kept.append(text)
    return separator.join(kept)

"""Faults that are told properly: a status, an error in OpenAI's form, the headers that belong to it.

Sources of statuses and codes: https://platform.openai.com/docs/guides/error-codes,
https://docs.anthropic.com/en/api/errors (413, 529)
"""

import math
from collections.abc import Mapping
from email.utils import formatdate

from llmblast.mocking.error_replies import error_body
from llmblast.mocking.headers import retry_headers
from llmblast.mocking.incident import Fault, Incident
from llmblast.mocking.replies import ScriptedReply

DEFAULT_RETRY_AFTER_S = 1.0
_OVERLOADED = "The server is overloaded or not ready yet."
_RATE_LIMITED = "Rate limit reached, a fault of the mock."
_HTML = {"Content-Type": "text/html; charset=utf-8"}


def _refuse(
    status: int, message: str, kind: str, code: str | None = None, headers: Mapping[str, str] | None = None
) -> Fault:
    """The same error every time."""
    body = error_body(message, kind, None, code)
    return lambda incident: ScriptedReply(status, body, headers or {})


def _gateway(status: int, title: str) -> Fault:
    """Return the fault of a proxy, which answers with HTML."""
    body = f"<html><head><title>{status} {title}</title></head><body><h1>{title}</h1></body></html>".encode()
    return lambda incident: ScriptedReply(status, body, _HTML)


def _too_many(incident: Incident) -> ScriptedReply:
    return _limited(retry_headers(incident.seconds_or(DEFAULT_RETRY_AFTER_S)))


def _too_many_in_ms(incident: Incident) -> ScriptedReply:
    return _limited({"retry-after-ms": f"{incident.seconds_or(DEFAULT_RETRY_AFTER_S) * 1000:g}"})


def _too_many_until_date(incident: Incident) -> ScriptedReply:
    """HTTP dates have whole seconds; the next one counts."""
    date_s = math.ceil(incident.wall_now_s + incident.seconds_or(DEFAULT_RETRY_AFTER_S))
    return _limited({"retry-after": formatdate(date_s, usegmt=True)})


def _limited(headers: Mapping[str, str]) -> ScriptedReply:
    return ScriptedReply(429, error_body(_RATE_LIMITED, "requests", None, "rate_limit_exceeded"), headers)


def _unavailable(incident: Incident) -> ScriptedReply:
    headers = retry_headers(incident.seconds_or(DEFAULT_RETRY_AFTER_S))
    return ScriptedReply(503, error_body(_OVERLOADED, "server_error"), headers)


STATUSES: Mapping[str, Fault] = {
    "301": _refuse(301, "Moved.", "invalid_request_error", None, {"Location": "http://127.0.0.1:9/v1/elsewhere"}),
    "400": _refuse(400, "This model cannot do that.", "invalid_request_error", "unsupported_value"),
    "400-should-retry": _refuse(400, "Try again.", "invalid_request_error", None, {"x-should-retry": "true"}),
    "401": _refuse(401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    "402": _refuse(402, "Insufficient Balance", "unknown_error", "invalid_request_error"),
    "403": _refuse(403, "Country, region, or territory not supported.", "request_forbidden", "unsupported_country"),
    "404": _refuse(404, "The requested resource was not found.", "invalid_request_error", "not_found"),
    "408": _refuse(408, "The request took too long to arrive.", "server_error"),
    "409": _refuse(409, "The resource was changed by another request.", "invalid_request_error"),
    "413": _refuse(413, "Request exceeds the maximum size.", "invalid_request_error", "request_too_large"),
    "422": _refuse(422, "The request could not be processed.", "invalid_request_error"),
    "429": _too_many,
    "429-date": _too_many_until_date,
    "429-ms": _too_many_in_ms,
    "429-silent": lambda incident: _limited({}),
    "429-no-quota": _refuse(429, "You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
    "429-too-large": _refuse(429, "Request too large for this model: Limit 1.", "tokens", "rate_limit_exceeded"),
    "500": _refuse(500, "The server had an error while processing your request.", "server_error"),
    "500-should-not-retry": _refuse(500, "Not again.", "server_error", None, {"x-should-retry": "false"}),
    "502": _gateway(502, "Bad Gateway"),
    "503": _refuse(503, _OVERLOADED, "server_error"),
    "503-retry-after": _unavailable,
    "504": _gateway(504, "Gateway Time-out"),
    "529": _refuse(529, "Overloaded", "overloaded_error"),
}
"""The faults of this file by the name that a rule has for them."""

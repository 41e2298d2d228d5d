"""Errors in the forms of Google, AWS and Azure, made of those in OpenAI's form.

Sources: https://cloud.google.com/apis/design/errors, https://ai.google.dev/gemini-api/docs/troubleshooting,
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html,
https://learn.microsoft.com/azure/ai-foundry/openai/quotas-limits
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import orjson

from llmblast.mocking.anthropic_messages import error_in_its_form
from llmblast.mocking.cloud_calls import AZURE, BEDROCK, GEMINI, VERTEX_ANTHROPIC
from llmblast.mocking.replies import ScriptedReply

_TYPES = "type.googleapis.com/google.rpc"
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_AWS_NAMES = {
    400: "ValidationException",
    403: "UnrecognizedClientException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_RETRY_HEADERS = ("retry-after", "retry-after-ms")
_WHOLE, _IN_MS = _RETRY_HEADERS


def cloud_error(api: str, reply: ScriptedReply, request_id: str) -> ScriptedReply:
    """Return an error of the mock in the form of an API; a body that is no error in OpenAI's form stays."""
    try:
        error = orjson.loads(reply.body)["error"]
        message = str(error["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return reply
    if api == VERTEX_ANTHROPIC:
        return replace(reply, body=error_in_its_form(reply.status, reply.body, request_id))
    return _FORMS[api](reply, error, message)


def _google(reply: ScriptedReply, error: Mapping[str, object], message: str) -> ScriptedReply:
    """Return the error with its wait in the body: there is no header for it."""
    status, details = reply.status, list[dict[str, object]]()
    if error.get("code") == "invalid_api_key":
        status, message = 400, "API key not valid. Please pass a valid API key."
        details.append({"@type": f"{_TYPES}.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"})
    if status == 429:
        kind = "Requests" if error.get("type") == "requests" else "Tokens"
        violation = {"quotaMetric": f"mock.googleapis.com/{kind.lower()}", "quotaId": f"Generate{kind}PerMinute"}
        details.append({"@type": f"{_TYPES}.QuotaFailure", "violations": [violation]})
        if (wait_s := _wait_s(reply)) is not None:
            details.append({"@type": f"{_TYPES}.RetryInfo", "retryDelay": f"{wait_s:g}s"})
    name = _GOOGLE_STATUSES.get(status, "UNKNOWN")
    members = {"code": status, "message": message, "status": name, **({"details": details} if details else {})}
    headers = {name: value for name, value in reply.headers.items() if name not in _RETRY_HEADERS}
    return replace(reply, status=status, body=orjson.dumps({"error": members}), headers=headers)


def _aws(reply: ScriptedReply, error: Mapping[str, object], message: str) -> ScriptedReply:
    status = 403 if reply.status == 401 else reply.status
    name = str(error.get("aws_name") or _AWS_NAMES.get(status, "InternalFailure"))
    if status == 429:
        message = "Too many requests, please wait before trying again."
    headers = {header: value for header, value in reply.headers.items() if header not in _RETRY_HEADERS}
    headers["x-amzn-errortype"] = f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    return replace(reply, status=status, body=orjson.dumps({"message": message}), headers=headers)


def _azure(reply: ScriptedReply, error: Mapping[str, object], message: str) -> ScriptedReply:
    """Return the error with the status as its code, and the wait in words, too."""
    members: dict[str, object] = dict(error)
    if reply.status == 401:
        members = {"code": "401", "message": "Access denied due to invalid subscription key or wrong API endpoint."}
    elif reply.status == 404 and error.get("code") != "not_found":
        members = {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}
    elif reply.status == 429:
        wait_s = _wait_s(reply)
        wait = "" if wait_s is None else f" Please retry after {max(1, round(wait_s))} seconds."
        members = {"code": "429", "message": f"Requests have exceeded the rate limit of your pricing tier.{wait}"}
    return replace(reply, body=orjson.dumps({"error": members}))


def _wait_s(reply: ScriptedReply) -> float | None:
    if _IN_MS in reply.headers:
        return float(reply.headers[_IN_MS]) / 1000
    value = reply.headers.get(_WHOLE, "")
    return float(value) if value.isdecimal() else None


_FORMS: Mapping[str, Callable[[ScriptedReply, Mapping[str, object], str], ScriptedReply]] = {
    GEMINI: _google,
    BEDROCK: _aws,
    AZURE: _azure,
}

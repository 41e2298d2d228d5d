"""Routes besides the operations: models, a health check, and errors for unknown paths and methods.

Source of the methods: RFC 9110, section 9.3.2 for HEAD, 9.3.7 for OPTIONS, 15.5.6 for the `Allow` of a 405.
"""

from urllib.parse import unquote

import orjson

from llmblast.api_paths import API_PATHS
from llmblast.mocking.anthropic_messages import OPERATION, PATH
from llmblast.mocking.batch_routes import methods_of
from llmblast.mocking.error_replies import BadRequestError, error_body
from llmblast.mocking.models import Models
from llmblast.mocking.rankings import COHERE_RERANK, RERANK, SCORE
from llmblast.mocking.replies import ScriptedReply
from llmblast.mocking.responses import OPERATION as RESPONSES

_PREFIXES = ("", "/v1")
_ANSWERED_AS = {
    "chat/completions": "chat/completions",
    "completions": "completions",
    "embeddings": "embeddings",
    "agents/completions": "chat/completions",
    "fim/completions": "completions",
    RESPONSES: RESPONSES,
    RERANK: RERANK,
    SCORE: SCORE,
}
OPERATIONS = {f"{prefix}/{path}": operation for prefix in _PREFIXES for path, operation in _ANSWERED_AS.items()}
OPERATIONS[PATH] = OPERATION
OPERATIONS[f"/{COHERE_RERANK}"] = COHERE_RERANK
"""The operations, such as `chat/completions`, by their paths."""
_NOT_MOCKED = {f"{prefix}/{path}" for prefix in _PREFIXES for path in API_PATHS}.difference(OPERATIONS)
_MODELS = {f"{prefix}/models" for prefix in _PREFIXES}
_HEALTH = {"/health", "/v1/health"}
_ROOT = {"/", ""}
_READING = "GET, HEAD, OPTIONS"
_WRITING = "POST, OPTIONS"


def needs_key(path: str) -> bool:
    """Return whether the path is for clients with a key only."""
    return path not in _HEALTH and path not in _ROOT


def read_only_reply(method: str, path: str, models: Models) -> ScriptedReply:
    """Return the reply to anything but a POST to an operation."""
    allowed = _allowed(path)
    if allowed is None:
        why = f": the mock provider answers only {', '.join(_ANSWERED_AS)}" if path in _NOT_MOCKED else ""
        return refusal(404, f"Invalid URL ({method} {path}){why}", "unknown_url")
    if method == "OPTIONS":
        return ScriptedReply(204, headers={"Allow": allowed})
    if method not in allowed.split(", "):
        message = f"Not allowed to {method} on {path}. Allowed are: {allowed}."
        return refusal(405, message, "method_not_allowed", {"Allow": allowed})
    return ScriptedReply(*_read(path, models))


def refusal(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> ScriptedReply:
    """Return an error of a request that is wrong as a whole."""
    return ScriptedReply(status, error_body(message, "invalid_request_error", None, code), headers or {})


def _allowed(path: str) -> str | None:
    """Return the methods of a path; None where nothing is."""
    if path in OPERATIONS:
        return _WRITING
    if methods := methods_of(path):
        return f"{methods}, OPTIONS"
    is_there = path in _MODELS or _model_of(path) or not needs_key(path)
    return _READING if is_there else None


def _read(path: str, models: Models) -> tuple[int, bytes]:
    if path in _HEALTH:
        return 200, b'{"status":"ok"}'
    if path in _MODELS:
        return 200, models.list_body()
    model = _model_of(path)
    if model is None:
        return 200, orjson.dumps({"name": "llmblast mock", "paths": sorted({*OPERATIONS, *_MODELS, *_HEALTH})})
    try:
        return 200, models.body(model)
    except BadRequestError as error:
        return error.status, error.body


def _model_of(path: str) -> str | None:
    """Return the model that a path names; names may have slashes."""
    for models in _MODELS:
        name = path.removeprefix(f"{models}/")
        if name and name != path:
            return unquote(name)
    return None

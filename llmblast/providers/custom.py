"""Custom: an API that the settings of an endpoint describe, without code.

The URL of the endpoint is used as it is; `{model}` in its path stands for the model. The description is
`endpoint_settings.CustomSettings`.
"""

import re
from collections.abc import Collection, Mapping
from urllib.parse import quote, urlsplit

import orjson

from llmblast.endpoint_settings import CustomSettings, EndpointSettings
from llmblast.errors import UsageError
from llmblast.hiding import may_hold_key
from llmblast.models import Answer, Prompt, Reply, ReplyError, Request
from llmblast.provider_contract import MODEL_PLACE, UnsupportedError
from llmblast.providers.body_templates import BodyTemplate
from llmblast.providers.chat_parts import data_url
from llmblast.providers.choices import add_usage
from llmblast.providers.json_pointers import JsonPointer
from llmblast.providers.on_demand import find_error, named_wait_s, read_error
from llmblast.providers.rate_limit_headers import read_rate_limits
from llmblast.providers.usage import count_of

_POINTERS = (
    "text",
    "finish_reason",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "model",
    "error",
    "error_code",
)
_KEY_PLACE = "{key}"
_KEY_HEADER = r"([A-Za-z0-9-]{1,64}): *([!-~](?:[ -~]*[!-~])?)"


class Custom:
    """The provider of one endpoint with an API of its own. Raises UsageError for a description that is not valid."""

    dialects: Mapping[str, str] = {}
    hosts: Collection[str] = ()
    key_env = ""
    """No variable: a key must not go to a host for which nobody has named it."""
    headers: Mapping[str, str] = {}
    writes_model = True
    named_wait_s = staticmethod(named_wait_s)
    read_limits = staticmethod(read_rate_limits)

    def __init__(self, endpoint: EndpointSettings, model: str | None) -> None:
        self.kind = f"custom {endpoint.name}"
        custom = endpoint.custom
        if custom is None:
            raise UsageError(
                f"endpoint {endpoint.name}: kind 'custom' needs a table custom with body and text: add "
                '[endpoints.custom] with body = {input = "{prompt}"} and text = "/output"'
            )
        self._model = endpoint.model or model
        self._base, self._path = _split(endpoint.url)
        self._place = f"endpoint {endpoint.name}: custom"
        self._template = _template(custom, self._place)
        self._pointers = {name: _pointer(custom, name, self._place) for name in _POINTERS}
        self._key_header = _key_header(custom, self._place)
        self._check(endpoint)

    def base_url(self, url: str) -> str:
        """See `Provider`. The URL of a mock differs from that of the settings."""
        return _split(url)[0]

    def names_path(self, url: str) -> bool:
        return False

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        name, value = self._key_header
        return name, value.replace(_KEY_PLACE, key)

    def unsupported_in(self, prompt: Prompt) -> str | None:
        names, params = self._template.names, self._template.params
        if prompt.system and "system" not in names:
            return 'the body template has no "{system}" for the system message: add it to custom.body'
        if prompt.parts and "images" not in names:
            return 'the body template has no "{images}": add it to custom.body'
        other = next((part.kind for part in prompt.parts if part.kind != "image"), None)
        if other is not None:
            return f"a custom API takes images only, no {other}: leave it out"
        if prompt.model is not None and "model" not in names and MODEL_PLACE not in self._path:
            return 'the body template has no "{model}", and the line names one: add it to custom.body'
        missing = [] if params is None else [name for name in prompt.params if name not in params]
        if missing:
            place = f'"{{params}}" or "{{params.{missing[0]}}}"'
            return f'the body template has no place for the parameter "{missing[0]}": add {place} to custom.body'
        return None

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        if (reason := self.unsupported_in(prompt)) is not None:
            raise UnsupportedError(reason)
        model = prompt.model or self._model
        values = {
            "prompt": prompt.text,
            "system": prompt.system or None,
            "model": model,
            "images": [part.url or data_url(part) for part in prompt.parts] or None,
            "params": prompt.params,
        }
        return _with_model(self._path, model or ""), orjson.dumps(self._template.fill(values))

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        try:
            data = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            return ReplyError(f"HTTP {reply.status} with a body that is not JSON", "unusable_reply")
        text = self._find("text", data)
        if text is None:
            missing = (
                f"HTTP {reply.status} without a value at {self._text_pointer}, where custom.text expects the answer"
            )
            error = self._add_error(find_error(data), data)
            return error if error.message else ReplyError(missing, "unusable_reply")
        answer = self._add_counts(Answer(text), data)
        if text == "" and not answer.completion_tokens:
            return ReplyError("the answer is empty, and no token was generated for it", "empty_answer")
        reason = self._find("finish_reason", data)
        answer.finish_reason = reason if type(reason) is str else None
        model = self._find("model", data)
        if type(model) is str:
            answer.model = model
        return answer

    def read_error(self, reply: Reply) -> ReplyError:
        error = read_error(reply)
        try:
            return self._add_error(error, orjson.loads(reply.body))
        except orjson.JSONDecodeError:
            return error

    @property
    def _text_pointer(self) -> str:
        pointer = self._pointers["text"]
        return "" if pointer is None else pointer.text

    def _find(self, name: str, data: object) -> object | None:
        pointer = self._pointers[name]
        return None if pointer is None else pointer.find(data)

    def _add_counts(self, answer: Answer, data: object) -> Answer:
        usage = self._find("usage", data)
        if usage is None and isinstance(data, dict):
            usage = data.get("usage")
        if isinstance(usage, dict):
            add_usage(answer, {"usage": usage})
        counts = [count_of(self._find(name, data)) for name in ("prompt_tokens", "completion_tokens")]
        if counts[0] is not None:
            answer.prompt_tokens = counts[0]
        if counts[1] is not None:
            answer.completion_tokens = counts[1]
        if answer.usage is None and any(count is not None for count in counts):
            answer.usage = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
        return answer

    def _add_error(self, error: ReplyError, data: object) -> ReplyError:
        """Put what the pointers find in front of what every reply is searched for."""
        message, code = self._find("error", data), self._find("error_code", data)
        if message is not None:
            error.message = message if isinstance(message, str) else orjson.dumps(message).decode()
        if isinstance(code, str | int):
            error.code = str(code)
            error.names = (re.sub(r"[^a-z0-9]+", "", str(code).lower()), *error.names)
        return error

    def _check(self, endpoint: EndpointSettings) -> None:
        held = next((header for header in endpoint.headers if may_hold_key(header)), None)
        if held is not None:
            raise UsageError(
                f"endpoint {endpoint.name}: the header {held} may hold a key, which is not allowed here: put it into a "
                "variable, name that with key_env, and the header with auth or custom.key_header"
            )
        if MODEL_PLACE in self._base:
            raise UsageError(f"endpoint {endpoint.name}: {MODEL_PLACE} is only allowed in the path of the URL")
        if self._model is None and (MODEL_PLACE in self._path or "model" in self._template.names):
            raise UsageError(
                f"endpoint {endpoint.name}: the model is missing, which its requests need: add model=NAME, or "
                "--model NAME"
            )


def _split(url: str) -> tuple[str, str]:
    """Return base and path of an endpoint's URL: the path is its last segment, or all from `{model}` on."""
    parts = urlsplit(url.strip())
    first, place, rest = parts.path.partition(MODEL_PLACE)
    base, _, last = first.rpartition("/")
    return parts._replace(path=base, fragment="").geturl(), f"{last}{place}{rest}"


def _with_model(path: str, model: str) -> str:
    if MODEL_PLACE not in path:
        return path
    if ".." in model.split("/"):
        raise UnsupportedError('a model in a URL must not have ".." in it')
    return path.replace(MODEL_PLACE, quote(model, safe="/:@"))


def _template(custom: CustomSettings, place: str) -> BodyTemplate:
    try:
        return BodyTemplate(custom.body)
    except ValueError as error:
        raise UsageError(f"{place}.body: {error}") from None
    except TypeError:
        raise UsageError(
            f"{place}.body: a value is not allowed in JSON: write texts, numbers, lists or tables"
        ) from None


def _pointer(custom: CustomSettings, name: str, place: str) -> JsonPointer | None:
    text: str | None = getattr(custom, name)
    try:
        return None if text is None else JsonPointer(text)
    except ValueError as error:
        raise UsageError(f"{place}.{name}: {text!r} is not a JSON pointer: {error}, such as /choices/0/text") from None


def _key_header(custom: CustomSettings, place: str) -> tuple[str, str]:
    header = custom.key_header or f"Authorization: Bearer {_KEY_PLACE}"
    found = re.fullmatch(_KEY_HEADER, header)
    if found is None or _KEY_PLACE not in found[2]:
        raise UsageError(
            f'{place}.key_header: write the header with "{_KEY_PLACE}": "Authorization: Token {_KEY_PLACE}"'
        )
    return found[1], found[2]

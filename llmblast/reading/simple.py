"""The simple format: `{"input": "..."}` becomes one user message; fields that are not ours are the user's own.

What no line changes, the system message and the parameters, is JSON from the start: a plain line
costs one encoded text.
"""

from collections.abc import Mapping

import orjson

from llmblast.errors import UsageError
from llmblast.reading.exact_numbers import with_exact_integers, with_exact_numbers
from llmblast.reading.fields import STREAM_REFUSAL, BadLine, max_tokens_of, own_id
from llmblast.reading.images import Images
from llmblast.reading.template import Template
from llmblast.records import Request
from llmblast.settings import Settings

_OUR_FIELDS = frozenset(("input", "system", "images", "params", "priority", "id", "custom_id"))
_PROMPT = frozenset(("prompt",))


class Simple:
    """Takes lines with `input` or `prompt`; with a prompt template any line that is of no other format.

    UsageError if the template, the system message, the parameters or the media root of the settings will not do.
    """

    def __init__(self, settings: Settings) -> None:
        refusal = _refusal(settings.params)
        if refusal:
            raise UsageError(f"--params: {refusal}")
        self._params = settings.params
        self._max_tokens = max_tokens_of(settings.params)
        try:
            self._tail = _tail(settings.params)
            self._head = _head(settings.system)
        except orjson.JSONEncodeError as error:
            raise UsageError(f"--system or --params: cannot be sent as JSON: {error}") from None
        self._template = None if settings.prompt is None else Template(settings.prompt)
        self._images = Images(settings.media_root)
        self._never_sent = frozenset(settings.own_fields) - {"id", "custom_id"}

    def claims(self, fields: Mapping[str, object]) -> bool:
        if "input" in fields or "prompt" in fields:
            return True
        return self._template is not None and "body" not in fields and not _is_anthropic_batch(fields)

    def shape(self, number: int, key: str, text: bytes, fields: Mapping[str, object]) -> Request:
        """Raises BadLine. A field of ours that is null counts as left out; an empty `system` means none."""
        ours, never_sent = _OUR_FIELDS, self._never_sent
        asked = fields
        if never_sent and not never_sent.isdisjoint(fields):
            asked = {name: value for name, value in fields.items() if name not in never_sent}
            ours -= never_sent
        if self._template is not None:
            prompt = self._template.render(with_exact_numbers(text, fields))
        else:
            name = "input" if "input" in asked else "prompt"
            prompt = _prompt(asked, name)
            if name == "prompt":
                ours |= _PROMPT

        head, tail, max_tokens = self._head, self._tail, self._max_tokens
        content: object = prompt
        if (system := asked.get("system")) is not None:
            head = _head(_checked_system(system))
        if (line_params := asked.get("params")) is not None:
            params = {**self._params, **with_exact_integers(text, "params", _checked_params(line_params))}
            tail, max_tokens = _tail(params), max_tokens_of(params)
        if (images := asked.get("images")) is not None and (parts := self._images.parts(images)):
            content = [{"type": "text", "text": prompt}, *parts]

        extra = {name: value for name, value in fields.items() if name not in ours}
        return Request(
            number,
            key,
            text,
            own_id(fields, number),
            prompt,
            with_exact_numbers(text, extra) if extra else None,
            body=b"".join((head, orjson.dumps(content), tail)),
            needs_model=True,
            max_tokens=max_tokens,
            deferred=_is_deferred(asked.get("priority")),
        )


def _head(system: str | None) -> bytes:
    """The body up to the content of the user message."""
    message = b'{"role":"system","content":%b},' % orjson.dumps(system) if system else b""
    return b'{"messages":[%b{"role":"user","content":' % message


def _tail(params: Mapping[str, object]) -> bytes:
    """The body from the content of the user message on."""
    return b"}]," + orjson.dumps(dict(params))[1:] if params else b"}]}"


def _refusal(params: Mapping[str, object]) -> str | None:
    """What is wrong with parameters, in a few words."""
    if "model" in params:
        return 'params must not contain "model": name it with --model, or write a raw line'
    if "messages" in params:
        return 'params must not contain "messages": they are made from the line'
    return STREAM_REFUSAL if params.get("stream") is True else None


def _prompt(fields: Mapping[str, object], name: str) -> str:
    if name not in fields:
        raise BadLine('a simple line needs "input" or "prompt"')
    value = fields[name]
    if type(value) is not str:
        raise BadLine(f'"{name}" must be a string')
    return value


def _checked_system(value: object) -> str:
    if type(value) is not str:
        raise BadLine('"system" must be a string')
    return value


def _checked_params(value: object) -> dict[str, object]:
    if type(value) is not dict:
        raise BadLine('"params" must be an object such as {"temperature": 0}')
    refusal = _refusal(value)
    if refusal:
        raise BadLine(refusal)
    return value


def _is_deferred(priority: object) -> bool:
    if priority is None:
        return False
    if type(priority) is not int:
        raise BadLine('"priority" must be an integer; below 0: sent when nothing else is left')
    return priority < 0


def _is_anthropic_batch(fields: Mapping[str, object]) -> bool:
    params = fields.get("params")
    return "custom_id" in fields and type(params) is dict and "messages" in params

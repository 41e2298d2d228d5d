"""The simple format: `{"input": "..."}` becomes one user message; other fields are the user's own.

Lines without a system message and parameters share those of the settings as the same objects, so that a provider
encodes them once: a plain line costs one encoded text.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from llmblast.errors import UsageError
from llmblast.models import Prompt, Request, UnsupportedError
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.exact_numbers import with_exact_integers, with_exact_numbers
from llmblast.reading.fields import STREAM_REFUSAL, BadLine, max_tokens_of, own_id, without
from llmblast.reading.images import Images
from llmblast.reading.template import Template
from llmblast.settings import Settings

_RESERVED: Final = frozenset(("input", "system", "images", "params", "priority", "id", "custom_id"))
_PROMPT: Final = frozenset(("prompt",))
_NO_IMAGES: Final[Sequence[str]] = ()


class Simple:
    """Format of lines with `input` or `prompt`, and with a prompt template of any line that has no other format.

    Raises UsageError where the template, system message, parameters or media root of the settings are invalid.
    """

    def __init__(self, settings: Settings, router: DialectRouter) -> None:
        refusal = _refusal(settings.params)
        if refusal:
            raise UsageError(f"--params: {refusal}")
        self._params = settings.params
        self._system = settings.system
        self._schema = settings.schema if isinstance(settings.schema, Mapping) else None
        self._max_tokens = max_tokens_of(settings.params)
        self._router = router if router.is_mixed else None
        self._render, self._kind = router.first.render, router.first.kind
        try:
            router.render_first(Prompt("", settings.system, (), settings.params))
        except (BadLine, UnsupportedError) as error:
            raise UsageError(f"--params: {error}.") from None
        except orjson.JSONEncodeError as not_json:
            raise UsageError(f"--system or --params: cannot be sent as JSON: {not_json}") from None
        self._template = None if settings.prompt is None else Template(settings.prompt)
        self._images = Images(settings.media_root)
        self._never_sent = frozenset(settings.own_fields) - {"id", "custom_id"}

    def claims(self, fields: Mapping[str, object]) -> bool:
        if "input" in fields or "prompt" in fields:
            return True
        return self._template is not None and "body" not in fields and not _is_anthropic_batch(fields)

    def parse(self, number: int, key: str, text: bytes, fields: Mapping[str, object]) -> Request:
        """Return the request for the prompt of a line. Raises BadLine.

        A reserved field that is null counts as left out; an empty `system` means no system message.
        """
        reserved, never_sent = _RESERVED, self._never_sent
        asked = fields
        if never_sent and not never_sent.isdisjoint(fields):
            asked = without(never_sent, fields)
            reserved -= never_sent
        if self._template is not None:
            prompt = self._template.render(with_exact_numbers(text, fields))
        else:
            name = "input" if "input" in asked else "prompt"
            if name not in asked:
                raise BadLine('a simple line needs "input" or "prompt"')
            prompt = _text(name, asked[name])
            if name == "prompt":
                reserved |= _PROMPT

        system, params, max_tokens, urls = self._system, self._params, self._max_tokens, _NO_IMAGES
        if (line_system := asked.get("system")) is not None:
            system = _text("system", line_system)
        if (line_params := asked.get("params")) is not None:
            params = {**params, **with_exact_integers(text, "params", _checked_params(line_params))}
            max_tokens = max_tokens_of(params)
        if (images := asked.get("images")) is not None:
            urls = self._images.urls(images)
        asks, render = Prompt(prompt, system, urls, params, self._schema), self._render
        kind, closed_to = self._kind, 0
        if self._router is not None:
            provider, closed_to = self._router.choose(asks)
            render, kind = provider.render, provider.kind
        path, body = render(asks)

        extra = without(reserved, fields)
        return Request(
            number,
            key,
            text,
            own_id(fields, number),
            prompt,
            with_exact_numbers(text, extra) if extra else None,
            path=path,
            body=body,
            kind=kind,
            content=asks if self._router is not None else None,
            closed_to=closed_to,
            needs_model=True,
            max_tokens=max_tokens,
            deferred=_is_deferred(asked.get("priority")),
        )


def _refusal(params: Mapping[str, object]) -> str | None:
    """Return in a few words why parameters are invalid."""
    if "model" in params:
        return 'params must not contain "model": name it with --model, or write a raw line'
    if "messages" in params:
        return 'params must not contain "messages": they are made from the line'
    return STREAM_REFUSAL if params.get("stream") is True else None


def _text(name: str, value: object) -> str:
    if type(value) is not str:
        raise BadLine(f'"{name}" must be a string')
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

"""The simple format: `{"input": "..."}` becomes one user message; other fields are the user's own.

Lines without a system message and parameters share those of the settings as the same objects, so that a provider
encodes them once: a plain line costs one encoded text.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import orjson

from llmblast.errors import UsageError
from llmblast.models import Part, Prompt, Request
from llmblast.provider_contract import Provider, UnsupportedError, names_model_in_path, writes_model
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.exact_numbers import with_exact_integers, with_exact_numbers
from llmblast.reading.fields import MEDIA_KINDS, STREAM_REFUSAL, BadLine, max_tokens_of, own_id, without
from llmblast.reading.line_choices import is_record
from llmblast.settings import Settings

if TYPE_CHECKING:
    from llmblast.reading.media import Media
    from llmblast.reading.template import Template

_RESERVED: Final = frozenset(("input", "system", "params", "priority", "id", "custom_id", *MEDIA_KINDS))
_MODEL: Final = frozenset(("model",))
_PROMPT: Final = frozenset(("prompt",))
_MEDIA: Final = frozenset(MEDIA_KINDS)
_NO_PARTS: Final[Sequence[Part]] = ()


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
        self._takes_model = settings.format != "simple"
        self._router = router if router.is_mixed else None
        self._keeps_prompt = router.is_mixed or writes_model(router.first)
        self._first = router.first
        try:
            router.render_first(Prompt("", settings.system, (), settings.params))
        except (BadLine, UnsupportedError) as error:
            raise UsageError(f"--params: {error}.") from None
        except orjson.JSONEncodeError as not_json:
            raise UsageError(f"--system or --params: cannot be sent as JSON: {not_json}") from None
        self._template: Template | None = None
        self._system_template: Template | None = None
        if settings.prompt is not None or settings.system is not None:
            self._template, self._system_template = _compile_templates(settings)
        self._settings = settings
        self._media: Media | None = None
        if settings.media_root is not None:
            self._media = _open_media(settings)
        self._never_sent = frozenset(settings.own_fields) - {"id", "custom_id"}

    def claims(self, fields: dict[str, object]) -> bool:
        if "input" in fields or "prompt" in fields:
            return True
        if self._template is None or _is_anthropic_batch(fields):
            return False
        return "body" not in fields or is_record(fields)

    def sends(self, name: str) -> bool:
        return False

    def parse(self, number: int, key: str, text: bytes, fields: dict[str, object]) -> Request:
        """Return the request for the prompt of a line. Raises BadLine.

        A reserved field that is null counts as left out; an empty `system` means no system message.
        """
        reserved, never_sent = _RESERVED, self._never_sent
        asked = fields
        if never_sent and not never_sent.isdisjoint(fields):
            asked = without(never_sent, fields)
            reserved -= never_sent
        if self._template is not None:
            prompt = self._template.render(text, fields)
        else:
            name = "input" if "input" in asked else "prompt"
            if name not in asked:
                raise BadLine('a simple line needs "input" or "prompt"')
            prompt = _text(name, asked[name])
            if name == "prompt":
                reserved |= _PROMPT

        params, max_tokens, parts = self._params, self._max_tokens, _NO_PARTS
        system = self._system
        if self._system_template is not None or "system" in asked:
            system = self._system_of(text, fields, asked)
        if (line_params := asked.get("params")) is not None:
            params = {**params, **with_exact_integers(text, "params", _checked_params(line_params))}
            max_tokens = max_tokens_of(params)
        if not _MEDIA.isdisjoint(asked):
            self._media = self._media or _open_media(self._settings)
            parts = self._media.parts(asked)
        model = self._model_of(asked) if "model" in asked else None
        if model is not None:
            reserved |= _MODEL
        asks = Prompt(prompt, system, parts, params, model, self._schema, self._settings.cache_control)
        provider, closed_to = self._first, 0
        if self._router is not None:
            provider, closed_to = self._router.choose(asks)
        path, body = provider.render(asks)
        if model is not None and names_model_in_path(provider):
            path = provider.path_for(path, model)
        image_bytes, image_tokens = self._measure(parts, model, provider) if parts else (0, 0.0)
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
            kind=provider.kind,
            content=asks if self._keeps_prompt else None,
            closed_to=closed_to,
            needs_model=True,
            model=model,
            max_tokens=max_tokens,
            image_bytes=image_bytes,
            image_tokens=image_tokens,
        )

    def _measure(self, parts: Sequence[Part], model: str | None, provider: Provider) -> tuple[int, float]:
        """Return the bytes of media as base64, and their tokens as far as these are known."""
        from llmblast.reading.image_tokens import measure_parts  # noqa: PLC0415 -- 2 ms; most runs send no media

        return measure_parts(parts, model or self._settings.only_model, provider.dialects)

    def _system_of(self, text: bytes, fields: dict[str, object], asked: dict[str, object]) -> str | None:
        """Return the system message of a line: its own, else that of the settings."""
        if (line_system := asked.get("system")) is not None:
            return _text("system", line_system)
        return self._system if self._system_template is None else self._system_template.render(text, fields)

    def _model_of(self, fields: Mapping[str, object]) -> str | None:
        """Return the model that a line names. That of a record of an earlier run is the user's own field."""
        model = fields["model"]
        if not self._takes_model or model is None or is_record(fields):
            return None
        if type(model) is not str:
            raise BadLine('"model" must be a string')
        return sys.intern(model)


def _compile_templates(settings: Settings) -> "tuple[Template | None, Template | None]":
    """Return the templates of prompts and of system messages. Raises UsageError."""
    from llmblast.reading.template import compile_prompt, compile_system  # noqa: PLC0415 -- many runs have none

    prompt, system = settings.prompt, settings.system
    return (
        None if prompt is None else compile_prompt(prompt, settings.prompt_option),
        None if system is None else compile_system(system, settings.system_option),
    )


def _open_media(settings: Settings) -> "Media":
    from llmblast.reading.media import Media  # noqa: PLC0415 -- 3 ms; most runs send no media

    return Media(settings)


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


def _is_anthropic_batch(fields: dict[str, object]) -> bool:
    params = fields.get("params")
    return "custom_id" in fields and type(params) is dict and "messages" in params

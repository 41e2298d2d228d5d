"""Table of the forms of requests: how a `Request` is written in each. `reading` reads them all.

What a form has no words for raises UnsupportedError.
"""

from collections.abc import Callable, Mapping

from llmblast.converting.rows import Row, load_value
from llmblast.models import Failure, Prompt, RawBody, Request
from llmblast.provider_contract import UnsupportedError
from llmblast.providers.anthropic import Anthropic
from llmblast.providers.chat_parts import data_url
from llmblast.providers.openai import OpenAI
from llmblast.providers.translated_requests import CHAT, MESSAGES, prompt_in, translate_request
from llmblast.reading import RequestParser, RowForm
from llmblast.reading.terms import CLASSES, PRIORITY
from llmblast.settings import Settings

SIMPLE, RAW = "simple", "raw"
_WITH_VERSION = "v2/"
_PRIORITY_MEMBER = b'"priority"'


class RequestForms:
    """Parse rows of any form, and write them in another one. `settings.model` is for requests that name none."""

    def __init__(self, settings: Settings) -> None:
        self._model = settings.model
        self._openai, self._anthropic = OpenAI(), Anthropic()
        self._parser = RequestParser(settings, [self._openai, self._anthropic])

    def parse(self, number: int, text: bytes, form: RowForm) -> Request | Failure:
        """Return the request that a line of a file in this form asks for, or what is wrong with it."""
        self._parser.take_rows_of(form.name, form.unit, form.columns, is_typed=True)
        return self._parser.parse(number, "", text.strip())

    def write(self, form: str, request: Request) -> Row:
        """Return the row for a request in a form. Raises UnsupportedError.

        A `priority` stands beside the request; in a raw one a number is a parameter of the API.
        """
        row = _WRITERS[form](self, request)
        priority = _priority_of(request)
        if priority is None or PRIORITY in row:
            return row
        is_raw = form == RAW or (form == SIMPLE and ("input" not in row or "model" in row))
        if is_raw and not isinstance(priority, str):
            raise UnsupportedError(
                'a number as "priority" is the API\'s own in a raw request: write "immediate" or "deferred"'
            )
        return {**row, PRIORITY: priority}

    def write_openai(self, request: Request) -> Row:
        """Write a line of an OpenAI batch."""
        path, body = self._openai_body(request)
        url = f"/{path}" if path.startswith(_WITH_VERSION) else f"/v1/{path}"
        line = {"custom_id": str(request.id), "method": "POST", "url": url, "body": self._with_model(body)}
        return {**line, **_own_fields(request, line)}

    def write_anthropic(self, request: Request) -> Row:
        """Write a line of an Anthropic batch."""
        content = request.content
        if isinstance(content, Prompt):
            _, rendered = self._anthropic.render(content)
            body = load_value(rendered)
        else:
            body = translate_request(load_value(request.body), _dialect_of(request), MESSAGES)
        line = {"custom_id": str(request.id), "params": self._with_model(body)}
        return {**line, **_own_fields(request, line)}

    def write_raw(self, request: Request) -> Row:
        """Write a request body with its id."""
        content = request.content
        is_raw = isinstance(content, RawBody)
        body = load_value(request.body) if is_raw else self._openai_body(request)[1]
        return {**_id_of(request), **self._with_model(body), **_own_fields(request, body)}

    def write_simple(self, request: Request) -> Row:
        """Write a simple line; a raw one where the simple form has no words for the request."""
        content = request.content
        if isinstance(content, Prompt):
            members = _simple_members(content)
        else:
            found = self._simple_of(request)
            if found is None:
                return self.write_raw(request)
            members = found
        return {**_id_of(request), **members, **_own_fields(request, members)}

    def _simple_of(self, request: Request) -> Row | None:
        """Return the members of a simple line for a body with one question; a model of its own has no place there."""
        try:
            body = translate_request(load_value(request.body), _dialect_of(request), CHAT)
        except UnsupportedError:
            return None
        if body.pop("model", None) not in (None, self._model):
            return None
        prompt = prompt_in(body)
        return None if prompt is None else _simple_members(prompt)

    def _openai_body(self, request: Request) -> tuple[str, Row]:
        content = request.content
        if isinstance(content, Prompt):
            path, rendered = self._openai.render(content)
            return path, load_value(rendered)
        dialect, body = _dialect_of(request), load_value(request.body)
        if dialect in self._openai.dialects:
            return self._openai.dialects[dialect], body
        return self._openai.dialects[CHAT], translate_request(body, dialect, CHAT)

    def _with_model(self, body: Row) -> Row:
        return {"model": self._model, **body} if self._model is not None and "model" not in body else body


_WRITERS: Mapping[str, Callable[[RequestForms, Request], Row]] = {
    SIMPLE: RequestForms.write_simple,
    RAW: RequestForms.write_raw,
    "openai-batch": RequestForms.write_openai,
    "anthropic-batch": RequestForms.write_anthropic,
}
REQUEST_FORMS = tuple(_WRITERS)


def _dialect_of(request: Request) -> str:
    return request.content.dialect if isinstance(request.content, RawBody) else CHAT


def _id_of(request: Request) -> Row:
    """Return the id of a request that has one of its own; the number of its row is none."""
    return {} if request.id == request.number else {"id": request.id}


def _priority_of(request: Request) -> str | int | None:
    """Return the `priority` of a line that is ours, not the API's; None for none."""
    if _PRIORITY_MEMBER not in request.text:
        return None
    fields = load_value(request.text)
    word = fields.get(PRIORITY) if isinstance(fields, dict) else None
    return word if word in CLASSES else request.terms.priority or None


def _own_fields(request: Request, taken: Row) -> Row:
    return {name: value for name, value in (request.extra or {}).items() if name not in taken}


_FIELDS: Mapping[str, str] = {"image": "images", "audio": "audio", "video": "video"}
"""Where a simple line names media, by their kind; `files` holds all others."""


def _simple_members(prompt: Prompt) -> Row:
    members: Row = {"input": prompt.text}
    if prompt.system:
        members["system"] = prompt.system
    for part in prompt.parts:
        members.setdefault(_FIELDS.get(part.kind, "files"), []).append(part.url or data_url(part))
    if prompt.params:
        members["params"] = dict(prompt.params)
    return members

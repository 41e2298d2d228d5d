"""Conversations: a request that asks again, after an answer that did not fit, with the reason.

It is the request with two turns more: the answer, and what is wrong with it. A dialect whose requests are written in
another way is one function and one line in `CONVERSATIONS`. An API of the user's own gets both as part of the prompt.
One that has no turns, such as completions, gets the same request again: another draw may fit.
"""

from collections.abc import Callable, Mapping
from typing import Final

import orjson

from llmblast.models import Prompt
from llmblast.provider_contract import Provider, names_model_in_path

Turns = list[tuple[str, str]]
"""Role and text of what is said after the request."""
Members = dict[str, object]
_ASK: Final = "Your answer cannot be used: {reason}. Answer again, with a corrected answer and nothing else."
_AGAIN: Final = "{prompt}\n\nYour last answer to this was:\n{answer}\n\n{ask}"
_AGAIN_AFTER_NOTHING: Final = "{prompt}\n\n{ask}"
_USER: Final = "user"


def ask_again(provider: Provider, path: str, body: bytes, answer: object, reason: str) -> bytes:
    """Return the body of a request to a path of the provider, with the answer and the reason."""
    add = CONVERSATIONS.get(_dialect_at(provider, path))
    if add is None:
        return body
    turns = [("assistant", answer)] if isinstance(answer, str) and answer.strip() else []
    turns.append((_USER, _ask(reason)))
    return orjson.dumps(add(orjson.loads(body), turns))


def prompt_again(prompt: Prompt, answer: object, reason: str) -> Prompt:
    """Return a prompt that holds the answer and the reason itself, for an API of which no turns are known."""
    is_said = isinstance(answer, str) and bool(answer.strip())
    form = _AGAIN if is_said else _AGAIN_AFTER_NOTHING
    text = form.format(prompt=prompt.text, answer=answer, ask=_ask(reason))
    return Prompt(text, prompt.system, prompt.parts, prompt.params, prompt.model, prompt.schema, prompt.caches_system)


def _ask(reason: str) -> str:
    return _ASK.format(reason=reason.rstrip(". "))


def _dialect_at(provider: Provider, path: str) -> str:
    """Return the dialect of bodies for a path. A path with a model in it is the only one of its provider."""
    dialects = provider.dialects
    if names_model_in_path(provider):
        return next(iter(dialects))
    return next((dialect for dialect, known in dialects.items() if known == path), "")


def _in_messages(members: Members, turns: Turns) -> Members:
    return _added(members, "messages", [{"role": role, "content": text} for role, text in turns], "content")


def _in_input(members: Members, turns: Turns) -> Members:
    """Add to the input of the Responses API, which is a text or a list of items."""
    given = members.get("input")
    items = [{"role": _USER, "content": given}] if isinstance(given, str) else given
    added = [{"role": role, "content": text} for role, text in turns]
    return {**members, "input": [*items, *added]} if isinstance(items, list) else members


def _in_contents(members: Members, turns: Turns) -> Members:
    given = members.get("contents")
    members = {**members, "contents": [{"role": _USER, **given}]} if isinstance(given, dict) else members
    roles = {_USER: _USER, "assistant": "model"}
    added: list[Members] = [{"role": roles[role], "parts": [{"text": text}]} for role, text in turns]
    return _added(members, "contents", added, "parts")


def _in_converse(members: Members, turns: Turns) -> Members:
    added: list[Members] = [{"role": role, "content": [{"text": text}]} for role, text in turns]
    return _added(members, "messages", added, "content")


def _added(members: Members, name: str, turns: list[Members], content: str) -> Members:
    """Return members with turns at the end of the list `name`; `content` is where a turn has its text or parts.

    A first turn of the role that had the last word becomes part of that: many servers want the roles to alternate.
    """
    said = members.get(name)
    if not isinstance(said, list):
        return members
    last = said[-1] if said else None
    if isinstance(last, dict) and last.get("role") == turns[0]["role"]:
        joined = _joined(last.get(content), turns[0][content], is_user=last["role"] == _USER)
        if joined is not None:
            return {**members, name: [*said[:-1], {**last, content: joined}, *turns[1:]]}
    return {**members, name: [*said, *turns]}


def _joined(before: object, more: object, *, is_user: bool) -> object | None:
    """Return two contents of a turn as one; None where they cannot be. An answer goes on where its start ended."""
    if isinstance(before, str) and isinstance(more, str):
        return f"{before}\n\n{more}" if is_user else f"{before}{more}"
    if not isinstance(before, list):
        return None
    return [*before, {"type": "text", "text": more}] if isinstance(more, str) else [*before, *_list(more)]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


CONVERSATIONS: Final[Mapping[str, Callable[[Members, Turns], Members]]] = {
    "openai.chat": _in_messages,
    "openai.agents/completions": _in_messages,
    "openai.responses": _in_input,
    "anthropic.messages": _in_messages,
    "gemini.generate": _in_contents,
    "bedrock.converse": _in_converse,
}
"""By dialect of the request."""

"""Conversations: a request that asks again, after an answer that did not fit, with the reason.

It is the request with two turns more: the answer, and what is wrong with it. An API whose requests are written in
another way is one function and one line in `CONVERSATIONS`; one that has no turns gets the same request again.
"""

from collections.abc import Callable, Mapping
from typing import Final

import orjson

Turns = list[tuple[str, str]]
"""Role and text of what is said after the request."""
_ASK: Final = "Your answer cannot be used: {reason}. Answer again, with a corrected answer and nothing else."


def ask_again(kind: str, path: str, body: bytes, answer: object, reason: str) -> bytes:
    """Return the body of a request, of the kind of provider and for the path, with the answer and the reason."""
    turns = [("assistant", answer)] if isinstance(answer, str) and answer.strip() else []
    turns.append(("user", _ASK.format(reason=reason.rstrip(". "))))
    add = CONVERSATIONS.get((kind, path))
    members = orjson.loads(body)
    return orjson.dumps(add(members, turns)) if add is not None else body


def with_model(body: bytes, model: str) -> bytes:
    """Return the body of a request with that model."""
    return orjson.dumps({**orjson.loads(body), "model": model})


def _in_messages(members: dict[str, object], turns: Turns) -> dict[str, object]:
    messages = members.get("messages")
    added = [{"role": role, "content": text} for role, text in turns]
    return {**members, "messages": [*messages, *added]} if isinstance(messages, list) else members


def _in_input(members: dict[str, object], turns: Turns) -> dict[str, object]:
    """Add to the input of the Responses API, which is a text or a list of items."""
    given = members.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    added = [{"role": role, "content": text} for role, text in turns]
    return {**members, "input": [*items, *added]} if isinstance(items, list) else members


CONVERSATIONS: Final[Mapping[tuple[str, str], Callable[[dict[str, object], Turns], dict[str, object]]]] = {
    ("openai", "chat/completions"): _in_messages,
    ("openai", "responses"): _in_input,
    ("openai-responses", "chat/completions"): _in_messages,
    ("openai-responses", "responses"): _in_input,
    ("azure", "chat/completions"): _in_messages,
    ("azure", "responses"): _in_input,
    ("anthropic", "v1/messages"): _in_messages,
}
"""By kind of provider and path of the request."""

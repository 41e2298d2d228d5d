"""Faults that are proper HTTP: what their headers ask for, and whether an answer can be read in their bodies."""

import json
from email.utils import parsedate_to_datetime

import pytest

from llmblast.mocking.answers import Answers
from llmblast.mocking.fault_answers import ANSWERS as ANSWER_FAULTS
from llmblast.mocking.fault_bodies import BODIES
from llmblast.mocking.fault_statuses import STATUSES
from llmblast.mocking.incident import Incident
from llmblast.mocking.settings import MockSettings

NOW_S = 1_700_000_000.25
ANSWERS = Answers(MockSettings())
CHAT = ANSWERS.answer("chat/completions", b'{"messages":[{"role":"user","content":"Count the ships"}]}')
COMPLETION = ANSWERS.answer("completions", b'{"prompt":"Count the ships"}')


def text_in(body: bytes) -> object:
    """What a client that reads JSON leniently finds in OpenAI's form; None where there is nothing to find."""
    try:
        choice = json.loads(body.decode("utf-8", "replace"), strict=False)["choices"][0]
    except (ValueError, KeyError, IndexError, RecursionError):
        return None
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@pytest.mark.parametrize("kind", [*BODIES, *ANSWER_FAULTS])
@pytest.mark.parametrize("answer", [CHAT, COMPLETION], ids=["chat", "completion"])
def test_the_text_that_a_reply_tells_is_the_one_in_its_body(kind: str, answer: object) -> None:
    """The ledger goes by it: where it tells none, no client can read any."""
    reply = {**BODIES, **ANSWER_FAULTS}[kind](Incident(CHAT if answer is CHAT else COMPLETION, NOW_S))

    assert reply.status == 200
    assert text_in(reply.body) == reply.text


@pytest.mark.parametrize(("kind", "character"), [("escapes", "\x1b"), ("escapes", "\x00"), ("bidi", "\u202e")])
def test_hostile_texts_hold_what_they_are_for(kind: str, character: str) -> None:
    """Beside the right answer, so that answers cannot be mixed up."""
    reply = BODIES[kind](Incident(CHAT, NOW_S))

    assert reply.text is not None
    assert character in reply.text
    assert reply.text.endswith(CHAT.text or "no text")


@pytest.mark.parametrize(
    ("kind", "seconds", "headers"),
    [
        ("429", 2.5, {"retry-after": "3", "retry-after-ms": "2500"}),
        ("429", None, {"retry-after": "1"}),
        ("429-ms", 0.25, {"retry-after-ms": "250"}),
        ("429-silent", 2.5, {}),
        ("503", 2.5, {}),
        ("503-retry-after", 3.0, {"retry-after": "3"}),
    ],
)
def test_a_refusal_names_the_wait_that_the_rule_says(kind: str, seconds: float | None, headers: dict[str, str]) -> None:
    """Or a second, or nothing where that is the fault."""
    reply = STATUSES[kind](Incident(CHAT, NOW_S, seconds=seconds))

    told = {name.lower(): value for name, value in reply.headers.items() if name.lower().startswith("retry-after")}
    assert told == headers


def test_a_date_is_not_before_the_wait_is_over() -> None:
    """HTTP dates know whole seconds only."""
    reply = STATUSES["429-date"](Incident(CHAT, NOW_S, seconds=2.0))

    assert parsedate_to_datetime(reply.headers["retry-after"]).timestamp() == 1_700_000_003


@pytest.mark.parametrize("kind", STATUSES)
def test_a_fault_is_called_by_its_status(kind: str) -> None:
    """So that a person finds it."""
    assert STATUSES[kind](Incident(CHAT, NOW_S)).status == int(kind[:3])


@pytest.mark.parametrize("kind", ANSWER_FAULTS)
def test_an_answer_that_was_not_asked_for_comes_in_both_apis(kind: str) -> None:
    """Anthropic's messages have their texts in blocks."""
    message = ANSWERS.answer("messages", b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Count"}]}')

    reply = ANSWER_FAULTS[kind](Incident(message, NOW_S))

    assert json.loads(reply.body)["content"][0]["text"] == reply.text != message.text

"""Terms of lines: class, priority, deadline and tenant, in lines of every format."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import IMMEDIATE, Failure, Request, Terms
from llmblast.providers import PROVIDERS
from llmblast.reading import RequestParser
from llmblast.reading.terms import MAX_TENANTS, TENANT_GROUPS, LineTerms
from llmblast.settings import Settings

NOW_S = 1_800_000_000.0
DEFERRED = Terms(is_deferred=True)
CHAT = {"messages": [{"role": "user", "content": "x"}]}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "x"}]}]}
BODIES: dict[str, dict[str, Any]] = {
    "simple": {"input": "x"},
    "raw": {"model": "m", **CHAT},
    "openai-batch": {"custom_id": "a", "body": CHAT},
    "anthropic-batch": {"custom_id": "a", "params": {"max_tokens": 5, **CHAT}},
    "gemini": CONTENTS,
    "gemini-batch": {"key": "a", "request": CONTENTS},
    "bedrock": CONVERSE,
    "bedrock-batch": {"recordId": "a", "modelInput": CONVERSE},
}
KINDS = {"anthropic-batch": "anthropic", "gemini": "gemini", "gemini-batch": "gemini"}
KINDS |= {"bedrock": "bedrock", "bedrock-batch": "bedrock"}
SENT_WHOLE = ("raw", "gemini", "bedrock")
"""Formats whose lines are request bodies."""


def make_parser(name: str = "simple", defaults: Terms = IMMEDIATE, **settings: Any) -> RequestParser:
    kind = KINDS.get(name, "openai")
    endpoints = (EndpointSettings(url="http://127.0.0.1/v1", name="e", kind=kind, model="m"),)
    whole = Settings(endpoints=endpoints, **settings)
    terms = LineTerms(NOW_S, whole.own_fields, defaults)
    return RequestParser(whole, [PROVIDERS[kind]], terms=terms)


def parse(line: dict[str, Any], name: str = "simple", defaults: Terms = IMMEDIATE, **settings: Any) -> Request:
    result = make_parser(name, defaults, **settings).parse(3, "0" * 16, orjson.dumps(line))
    assert isinstance(result, Request), result
    return result


@pytest.mark.parametrize("name", BODIES)
def test_lines_of_every_format_have_terms_that_are_not_sent(name: str) -> None:
    """The record keeps tenant and deadline, and its line is the whole one."""
    line = {**BODIES[name], "priority": "deferred", "deadline": "2h", "tenant": "a"}

    request = parse(line, name)

    assert request.terms == Terms(True, 0, NOW_S + 7200, "a")
    assert request.body == parse(BODIES[name], name).body
    assert request.text == orjson.dumps(line)
    kept = orjson.loads(orjson.dumps({**(request.extra or {})}))
    assert (kept.get("tenant"), kept.get("deadline")) == ("a", "2h")


@pytest.mark.parametrize("name", BODIES)
def test_a_priority_that_is_a_number_is_sent_only_where_the_line_is_the_request(name: str) -> None:
    """As vLLM has it; elsewhere it is ours: below zero, the line may wait."""
    request = parse({**BODIES[name], "priority": -7}, name)

    if name in SENT_WHOLE:
        assert orjson.loads(request.body)["priority"] == -7
        assert request.terms is IMMEDIATE
    else:
        assert b"priority" not in request.body
        assert request.terms == Terms(True, -7)


@pytest.mark.parametrize(
    ("line", "terms"),
    [
        ({}, IMMEDIATE),
        ({"priority": "immediate"}, IMMEDIATE),
        ({"priority": 0, "deadline": None, "tenant": ""}, IMMEDIATE),
        ({"priority": "", "deadline": ""}, IMMEDIATE),
        ({"priority": 5}, Terms(priority=5)),
        ({"priority": 5.0}, Terms(priority=5)),
        ({"priority": "deferred"}, DEFERRED),
        ({"deadline": 1.5}, Terms(deadline_s=NOW_S + 1.5)),
        ({"deadline": 1_900_000_000}, Terms(deadline_s=1_900_000_000)),
        ({"deadline": "2027-02-01T08:00:00+00:00"}, Terms(deadline_s=1_801_468_800)),
        ({"tenant": 17}, Terms(tenant="17")),
    ],
)
def test_terms_are_what_a_line_says(line: dict[str, Any], terms: Terms) -> None:
    """Null and empty cells say nothing. Lines that say nothing share one object, others with equal terms, too."""
    parser = make_parser()
    text = orjson.dumps({"input": "x", **line})

    first, second = (parser.parse(number, "0" * 16, text) for number in (1, 2))

    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert first.terms == terms
    assert first.terms is second.terms
    assert (first.terms is IMMEDIATE) == (terms == IMMEDIATE)
    assert parser.read_terms(text) is first.terms
    assert parser.terms.has_read_others == (terms != IMMEDIATE)


@pytest.mark.parametrize(
    ("line", "terms"),
    [
        ({}, Terms(True, deadline_s=NOW_S + 60)),
        ({"priority": "immediate"}, Terms(deadline_s=NOW_S + 60)),
        ({"priority": 3}, Terms(True, 3, NOW_S + 60)),
        ({"priority": -3, "deadline": 5}, Terms(True, -3, NOW_S + 5)),
    ],
)
def test_an_input_may_have_terms_of_its_own(line: dict[str, Any], terms: Terms) -> None:
    """For lines that say nothing; a number orders within the class."""
    assert parse({"input": "x", **line}, defaults=Terms(True, deadline_s=NOW_S + 60)).terms == terms


@pytest.mark.parametrize("own", ["priority", "deadline", "tenant"])
def test_own_fields_are_no_terms(own: str) -> None:
    """They are copied into the record, whatever they hold."""
    request = parse({"input": "x", own: ["high"]}, own_fields=(own,))

    assert request.terms is IMMEDIATE
    assert request.extra == {own: ["high"]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"priority": "high"}, '"priority" must be "immediate", "deferred" or an integer'),
        ({"priority": "high"}, ', not "high"; a field of your own'),
        ({"priority": 1.5}, '"priority" must be'),
        ({"priority": float(10**12)}, '"priority" must be'),
        ({"priority": 10**12}, '"priority" must be'),
        ({"deadline": "end of March"}, '"deadline" is not a time: write seconds'),
        ({"deadline": -1}, '"deadline" is not a time'),
        ({"deadline": 1796198400000}, "08:00+01:00, not 1796198400000; a field"),
        ({"deadline": "x" * 100}, f', not "{"x" * 39}...; a field'),
        ({"deadline": True}, '"deadline" is not a time'),
        ({"deadline": "2026-12-01"}, '"deadline" is not a time'),
        ({"tenant": ["a"]}, '"tenant" must be a text of at most 64 characters'),
        ({"tenant": "a" * 65}, '"tenant" must be'),
    ],
)
def test_wrong_terms_make_a_line_bad(line: dict[str, Any], reason: str) -> None:
    """The message names the place and the option that makes the field the user's own."""
    parser, text = make_parser(), orjson.dumps({"input": "x", **line})

    result = parser.parse(3, "0" * 16, text)

    assert isinstance(result, Failure)
    assert result.error.startswith("standard input:3:1: ")
    assert reason in result.error
    assert result.error.endswith(f"--own-fields {next(iter(line))}")
    assert parser.read_terms(text) is None


def test_fields_may_be_mapped_to_terms() -> None:
    """As any other name that formats read."""
    line = {"input": "x", "customer": "a"}

    assert parse(line, map={"tenant": "customer"}).terms.tenant == "a"
    assert make_parser(map={"tenant": "customer"}).read_terms(orjson.dumps(line)) == Terms(tenant="a")


def test_deadlines_count_from_the_arrival_of_the_line() -> None:
    """Where lines come while the run goes on."""
    parser, text = make_parser(), b'{"input":"x","deadline":60}'
    first = parser.read_terms(text)
    parser.terms.count_from(NOW_S + 100)

    second = parser.read_terms(text)

    assert first is not None
    assert second is not None
    assert second.deadline_s - first.deadline_s == 100


VALUES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=8)
    | st.just([])
    | st.just({})
)


@given(st.fixed_dictionaries({}, optional={"priority": VALUES, "deadline": VALUES, "tenant": VALUES}))
def test_any_values_are_terms_or_a_bad_line(fields: dict[str, Any]) -> None:
    """With and without a look at the rest of the line."""
    parser, text = make_parser(), orjson.dumps({"input": "x", **fields})

    result, terms = parser.parse(3, "0" * 16, text), parser.read_terms(text)

    assert (result.terms if isinstance(result, Request) else None) is terms


def test_very_many_tenants_share_by_groups() -> None:
    """Each of the first ones, and each that has a weight, is one for itself; records name all as their lines do."""
    terms = LineTerms(NOW_S, weighted=("paid",))

    names = [terms.read({"tenant": f"t{number}"}, sends_priority=False).tenant for number in range(3 * MAX_TENANTS)]

    assert names[:MAX_TENANTS] == [f"t{number}" for number in range(MAX_TENANTS)]
    assert len(set(names[MAX_TENANTS:])) == TENANT_GROUPS
    assert [terms.read({"tenant": name}, sends_priority=False).tenant for name in ("paid", "t5", "")] == [
        "paid",
        "t5",
        "",
    ]
    assert terms.read({"tenant": "t25000"}, sends_priority=False).tenant == names[25_000]

"""What each input format makes of its lines."""

import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.errors import UsageError
from llmblast.models import Failure, Request
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.reading.dialect_router import DialectRouter
from llmblast.reading.formats import FORMATS
from llmblast.setting_option import choices_of, options_of
from llmblast.settings import FILE_FORMATS, Settings
from tests.openai_provider import RequestParser


def parse(line: dict[str, Any], **settings: Any) -> Request:
    result = RequestParser(Settings(**settings)).parse(3, "0" * 16, orjson.dumps(line))
    assert isinstance(result, Request), result.error
    return result


def refusal(line: dict[str, Any], **settings: Any) -> str:
    result = RequestParser(Settings(**settings)).parse(3, "0" * 16, orjson.dumps(line))
    assert isinstance(result, Failure)
    return result.error


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize("name", ["input", "prompt"])
def test_a_simple_line_becomes_one_user_message(name: str) -> None:
    """Without a model, which the endpoint has."""
    request = parse({name: 'say "hi"\n'})

    assert orjson.loads(request.body) == {"messages": [user('say "hi"\n')]}
    assert (request.path, request.needs_model, request.output_format) == ("chat/completions", True, "llmblast")
    assert (request.input, request.extra, request.id, request.terms.is_deferred) == ('say "hi"\n', None, 3, False)


def test_system_and_params_of_the_settings_are_sent_with_every_line() -> None:
    """The system message first, the parameters beside the messages."""
    request = parse({"input": "x"}, system="Be brief.", params={"temperature": 0, "max_tokens": 9})

    messages = [{"role": "system", "content": "Be brief."}, user("x")]
    assert orjson.loads(request.body) == {"messages": messages, "temperature": 0, "max_tokens": 9}
    assert request.max_tokens == 9


def test_a_line_overrides_system_and_params() -> None:
    """Parameters are merged one by one."""
    line = {"input": "x", "system": "In French.", "params": {"max_tokens": 5, "max_completion_tokens": 7}}
    request = parse(line, system="Be brief.", params={"temperature": 0, "max_tokens": 9})

    messages = [{"role": "system", "content": "In French."}, user("x")]
    expected = {"messages": messages, "temperature": 0, "max_tokens": 5, "max_completion_tokens": 7}
    assert orjson.loads(request.body) == expected
    assert request.max_tokens == 7


def test_null_means_left_out_and_an_empty_system_means_none() -> None:
    """Tables that were turned into JSON lines are full of nulls."""
    nulls = dict.fromkeys(("system", "images", "params", "priority", "id", "custom_id"))

    assert orjson.loads(parse({"input": "x", **nulls}, system="S").body)["messages"][0]["content"] == "S"
    assert orjson.loads(parse({"input": "x", "system": ""}, system="S").body) == {"messages": [user("x")]}


@pytest.mark.parametrize("max_tokens", ["9", True, 0, -1, 2.5, None])
def test_a_cap_that_is_no_count_is_sent_but_not_counted_with(max_tokens: object) -> None:
    """The provider judges it."""
    request = parse({"input": "x", "params": {"max_tokens": max_tokens}})

    assert request.max_tokens is None
    assert orjson.loads(request.body)["max_tokens"] == max_tokens


def test_other_fields_are_the_users_own() -> None:
    """Carried along in the order of the line, never sent."""
    request = parse({"z": [1], "custom_id": "c", "input": "x", "a": None, "id": 1, "priority": 2, "prompt": "p"})

    assert list((request.extra or {}).items()) == [("z", [1]), ("a", None), ("prompt", "p")]
    assert orjson.loads(request.body) == {"messages": [user("x")]}
    assert (request.id, request.terms.is_deferred) == ("c", False)


def test_a_priority_below_zero_defers_the_line() -> None:
    """It waits until nothing else is left to send."""
    assert parse({"input": "x", "priority": -1}).terms.is_deferred
    assert not parse({"input": "x", "priority": 0}).terms.is_deferred


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"input": 5}, '"input" must be a string'),
        ({"prompt": ["x"]}, '"prompt" must be a string'),
        ({"input": "x", "system": 5}, '"system" must be a string'),
        ({"input": "x", "params": []}, '"params" must be an object'),
        ({"input": "x", "params": {"model": "m"}}, "--model"),
        ({"input": "x", "params": {"messages": []}}, "made from the line"),
        ({"input": "x", "params": {"stream": True}}, '"stream": true is not supported'),
        ({"input": "x", "priority": "high"}, '"priority" must be "immediate", "deferred" or an integer'),
        ({"input": "x", "priority": True}, '"priority" must be "immediate", "deferred" or an integer'),
        ({"input": "x", "id": 1.5}, '"id" must be a string or an integer'),
        ({"input": "x", "custom_id": False}, '"custom_id" must be a string or an integer'),
        ({"input": "x", "images": {"a": 1}}, '"images" must be a list'),
    ],
)
def test_a_field_of_the_wrong_kind_makes_a_simple_line_bad(fields: dict[str, object], reason: str) -> None:
    """Named with what it should be."""
    assert reason in refusal(fields)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"params": {"model": "m"}}, "--model"),
        ({"params": {"stream": True}}, "remove it"),
        ({"params": {"seed": 2**70}}, "cannot be sent as JSON"),
        ({"system": "\udcff"}, "cannot be sent as JSON"),
        ({"prompt": "\udcff"}, "UTF-8"),
    ],
)
def test_settings_that_no_request_can_hold_are_refused_at_once(settings: dict[str, Any], reason: str) -> None:
    """Before a line is read."""
    with pytest.raises(UsageError, match=reason):
        RequestParser(Settings(**settings))


def test_a_template_is_filled_from_the_lines_fields() -> None:
    """Values that are no text stand there as JSON; what is sent is what the record echoes."""
    line = {"text": "chat", "n": 5, "tags": ["a", None], "id": "r"}

    request = parse(line, prompt="{{{n}}} {text} {tags}{{}}")

    assert request.input == '{5} chat ["a",null]{}'
    assert orjson.loads(request.body) == {"messages": [user(request.input)]}
    assert request.extra == {"text": "chat", "n": 5, "tags": ["a", None]}
    assert request.id == "r"


def test_a_template_may_name_input_which_is_then_not_echoed_twice() -> None:
    """The record's `input` is the rendered prompt."""
    request = parse({"input": "chat", "prompt": "p"}, prompt="French: {input}")

    assert (request.input, request.extra) == ("French: chat", {"prompt": "p"})


@pytest.mark.parametrize("template", ["", "Describe it.", "{{'text'}}"])
def test_a_template_without_fields_is_refused(template: str) -> None:
    """Every line would pay for the same prompt."""
    with pytest.raises(
        UsageError, match=r"--prompt .*: it names no field: write .*text.* where the text of a line goes"
    ):
        RequestParser(Settings(prompt=template))


def test_with_a_template_only_lines_of_other_formats_are_left_alone() -> None:
    """A request body stays one; a `body` without `custom_id` is unclear; Anthropic batch lines stay refused."""
    messages = [user("x")]

    assert parse({"messages": messages, "text": "t"}, prompt="{text}").extra is None
    assert "nothing to send" in refusal({"body": "b"}, prompt="{body}")
    assert "Anthropic" in refusal({"custom_id": "a", "params": {"messages": messages}}, prompt="{custom_id}")
    assert parse({"custom_id": "a", "text": "t", "params": {"n": 1}}, prompt="{text}").input == "t"


def test_a_field_that_the_line_lacks_makes_it_bad() -> None:
    """The message names it."""
    assert 'it has no field "text", which --prompt names' in refusal({"txt": "x"}, prompt="Say {text}")


def test_a_field_that_is_null_makes_the_line_bad_as_a_missing_one_does() -> None:
    """Nobody wants to pay for a prompt about the word null; null within a value is that value's affair."""
    assert 'its field "text" is null, which --prompt names' in refusal({"text": None}, prompt="Say {text}")
    assert parse({"text": [None], "n": 0, "ok": False, "s": ""}, prompt="{text}{n}{ok}{s}").input == "[null]0false"


@pytest.mark.parametrize(
    "template",
    [
        "{a.}",
        "{a..b}",
        "{a[]}",
        "{a[0}",
        "{.a}",
        "{}",
        "{a!r}",
        "{a:>5}",
        "{a",
        "a}",
        '{"json": 1}',
        "{a{b}}",
        "{a:{b}}",
    ],
)
def test_a_template_that_is_more_than_field_names_is_refused(template: str) -> None:
    """With the way to write it."""
    with pytest.raises(UsageError, match=r"--prompt .*\{text\}.*\{\{"):
        RequestParser(Settings(prompt=template))


@pytest.mark.parametrize(
    ("line", "path", "needs_model"),
    [
        ({"model": "m", "messages": [], "max_tokens": 8}, "chat/completions", False),
        ({"messages": [], "max_tokens": 8}, "chat/completions", True),
        ({"model": "m", "input": ["a"], "max_tokens": 8}, "embeddings", False),
        ({"model": "m", "prompt": "a", "max_tokens": 8}, "completions", False),
        ({"model": "m", "input": "a", "max_output_tokens": 8}, "responses", False),
        ({"model": "m", "input": "a", "instructions": "b", "max_tokens": 8}, "responses", False),
        ({"model": "m", "input": [{"role": "user", "content": "a"}], "max_tokens": 8}, "responses", False),
        ({"model": "m", "prompt": {"id": "pmpt_1"}, "max_output_tokens": 8}, "responses", False),
        ({"model": "m", "query": "a", "documents": ["b"], "max_tokens": 8}, "rerank", False),
        ({"query": "a", "documents": ["b"], "max_tokens": 8}, "rerank", True),
        ({"model": "m", "text_1": "a", "text_2": ["b"], "max_tokens": 8}, "score", False),
        ({"queries": "a", "documents": ["b"], "max_tokens": 8}, "score", True),
    ],
)
def test_a_raw_line_is_sent_byte_for_byte(line: dict[str, object], path: str, needs_model: bool) -> None:
    """Its path follows from its shape."""
    text = orjson.dumps(line, option=orjson.OPT_INDENT_2).replace(b"\n", b" ")

    request = RequestParser(Settings(system="S", params={"n": 1})).parse(3, "0" * 16, text)

    assert isinstance(request, Request)
    assert request.body is text
    assert (request.path, request.needs_model, request.max_tokens, request.id) == (path, needs_model, 8, 3)
    assert orjson.dumps(request.input) == text
    assert request.extra is None


def test_a_raw_line_without_an_id_is_known_by_its_number() -> None:
    """As every line is."""
    assert parse({"messages": []}).id == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"model": "m"}, '"messages", "input" or "prompt"'),
        ({"model": None, "messages": []}, '"model" must be a string'),
        ({"messages": [], "stream": True}, '"stream": true is not supported, replies are read whole: remove it'),
    ],
)
def test_a_raw_line_that_cannot_be_sent_is_bad(line: dict[str, object], reason: str) -> None:
    """Nothing in it is changed silently."""
    assert reason in refusal(line)


BATCH = {
    "custom_id": "row 1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": [], "max_completion_tokens": 4},
}


@pytest.mark.parametrize(
    ("url", "member", "path"),
    [
        ("/v1/chat/completions", "messages", "chat/completions"),
        ("chat/completions/", "messages", "chat/completions"),
        ("https://api.openai.com/v1/completions?x=1", "prompt", "completions"),
        ("http://127.0.0.1:8000/embeddings", "input", "embeddings"),
    ],
)
def test_of_a_batch_lines_url_only_the_path_counts(url: str, member: str, path: str) -> None:
    """The host is the endpoint's affair."""
    request = parse({**BATCH, "url": url, "body": {member: []}})

    assert (request.path, request.needs_model) == (path, True)


def test_a_batch_line_is_sent_as_its_body_and_answered_as_a_batch_line() -> None:
    """By its custom_id."""
    request = parse(BATCH)

    assert orjson.loads(request.body) == BATCH["body"]
    assert orjson.loads(orjson.dumps(request.input)) == BATCH["body"]
    assert (request.id, request.output_format, request.needs_model) == ("row 1", "openai-batch", False)
    assert (request.max_tokens, request.extra) == (4, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"custom_id": 1.5}, '"custom_id" that is a string or an integer'),
        ({"method": "GET"}, '"method" must be "POST"'),
        ({"url": "/v1/files"}, '"url" must be one of /v1/chat/completions, /v1/completions, /v1/embeddings'),
        ({"url": "/v1/chat/completions/../../admin"}, '"url" must be one of'),
        ({"url": "https://[::1/x"}, '"url" must be one of'),
        ({"url": 5}, '"url" must be one of'),
        ({"method": 5}, '"method" must be "POST"'),
        (
            {"url": None, "body": {"model": "m"}},
            '"body" must have "messages", "input" or "prompt", or the line a "url"',
        ),
        ({"body": "{}"}, '"body" must be an object'),
        ({"body": {}}, '"body" has no "messages", which chat/completions needs'),
        ({"body": {"messages": [], "model": 1}}, '"model" must be a string'),
        ({"body": {"messages": [], "stream": True}}, '"stream": true is not supported'),
    ],
)
def test_a_batch_line_with_a_wrong_member_is_bad(change: dict[str, object], reason: str) -> None:
    """The message names the member."""
    assert reason in refusal({**BATCH, **change})


def test_a_batch_line_that_waits_takes_no_more_memory_than_its_body() -> None:
    """What may wait is bounded by bytes: nothing of what its body was made in is kept beside it."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 8000}]}
    line = {"custom_id": "a", "url": "/v1/chat/completions", "body": body}
    text, parser = orjson.dumps(line), RequestParser(Settings())
    parser.parse(1, "key", text)  # what is made once, such as patterns, is of no line
    tracemalloc.start()
    try:
        request = parser.parse(1, "key", text)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(request, Request)
    assert kept_bytes < 1.5 * len(request.body)


def test_each_format_can_be_forced() -> None:
    """A format in the table is also a choice of `--format`."""
    entry, _ = options_of(Settings)["format"]

    assert set(choices_of(entry.type)) == {"auto", *FORMATS, *FILE_FORMATS}


MESSAGE = {"role": "user", "content": [{"text": "Hi"}]}
BODIES = [{"messages": [MESSAGE]}, {"contents": [{"parts": [{"text": "Hi"}]}]}, [MESSAGE], "Hi", 7, None]
MEMBERS: list[frozenset[str]] = [getattr(make, "members", frozenset()) for make in FORMATS.values()]
NAMES = ["id", "model", "messages", "input", "system", "answer", *sorted(frozenset[str]().union(*MEMBERS))]


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(BODIES)), st.sampled_from([None, "Translate {id}"]))
def test_a_line_without_the_members_of_a_format_is_not_of_it(fields: dict[str, object], prompt: str | None) -> None:
    """All formats but the simple one name such members."""
    router = DialectRouter([DEFAULT_PROVIDER])
    formats = [make(Settings(prompt=prompt), router) for make in FORMATS.values()]
    claims = [members for one, members in zip(formats, MEMBERS, strict=True) if one.claims(fields)]

    assert MEMBERS.count(frozenset()) == 1
    assert all(not members or not members.isdisjoint(fields) for members in claims)

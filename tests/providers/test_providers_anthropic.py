"""The Messages API: what is sent for a prompt, and what is read in a reply."""

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast import sending
from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import Answer, Attempt, Part, Prompt, Reply, ReplyError, Request
from llmblast.provider_contract import UnsupportedError
from llmblast.providers.anthropic import Anthropic
from llmblast.providers.anthropic_messages import DEFAULT_MAX_TOKENS
from llmblast.sending import Action, Blame, Verdict

PROVIDER = Anthropic()
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "Blue."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 10,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 30,
        "output_tokens": 4,
        "service_tier": "standard",
    },
}


def body_of(
    text: str = "Why?", system: str | None = None, parts: list[Part] | None = None, **params: object
) -> dict[str, Any]:
    path, body = PROVIDER.render(Prompt(text, system, parts or [], params))
    assert path == "v1/messages"
    loaded: dict[str, Any] = orjson.loads(body)
    return loaded


def read(message: object = None, **changed: object) -> Answer | ReplyError:
    body = message if isinstance(message, bytes) else orjson.dumps({**MESSAGE, **changed})
    return PROVIDER.read_answer(Request(1, "k", b"", 1), Reply(200, body=body))


def judge(status: int, body: object, headers: Mapping[bytes, bytes] | None = None) -> Answer | Verdict:
    reply = Reply(status, headers or {}, body if isinstance(body, bytes) else orjson.dumps(body))
    return sending.judge(Attempt(Request(1, "k", b"", 1)), reply, 1.8e9, PROVIDER)


def an_error(kind: str, message: str = "no") -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def stream_of(*events: Mapping[str, object]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), orjson.dumps(e)) for e in events)


def test_a_prompt_becomes_a_message() -> None:
    """With the token limit that the API demands, and without a model, which the endpoint has."""
    assert body_of() == {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": DEFAULT_MAX_TOKENS}


def test_the_system_prompt_is_a_member_of_its_own() -> None:
    body = body_of(system="Be brief.")

    assert (body["system"], len(body["messages"])) == ("Be brief.", 1)
    assert "system" not in body_of(system="")


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        ({"temperature": 0, "top_k": 5, "thinking": {"type": "enabled"}}, None),
        ({"max_tokens": 7}, None),
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["A", "B"]}, {"stop_sequences": ["A", "B"]}),
        ({"stop": None, "n": 1, "stream": False, "seed": None}, {}),
        ({"user": "u1"}, {"metadata": {"user_id": "u1"}}),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
            {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        ),
        ({"tools": [{"name": "f", "input_schema": {}}]}, None),
        ({"tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
        ({"tool_choice": {"function": {"name": "f"}}}, {"tool_choice": {"type": "tool", "name": "f"}}),
        ({"tool_choice": {"type": "any"}}, None),
    ],
    ids=str,
)
def test_parameters_have_the_names_of_the_api(params: dict[str, Any], sent: dict[str, Any] | None) -> None:
    """Those of OpenAI's API are translated where that is plain; others are sent as they are."""
    body = body_of(**params)
    del body["messages"]

    assert body == {"max_tokens": DEFAULT_MAX_TOKENS, **(params if sent is None else sent)}


@pytest.mark.parametrize("name", ["n", "seed", "response_format", "logprobs", "logit_bias"])
def test_a_parameter_that_the_api_has_nothing_like_is_named(name: str) -> None:
    """Left out, it would give another answer than was asked for."""
    with pytest.raises(UnsupportedError, match=f'no parameter like "{name}"'):
        PROVIDER.render(Prompt("Why?", None, (), {name: 2}))


def image(media_type: str = "image/png", data: str = "AAAA", url: str = "") -> Part:
    return Part("image", media_type, "" if url else data, url, "")


def test_images_come_before_the_text() -> None:
    """As data or as a URL."""
    content = body_of(parts=[image(), image(url="https://h/a.png")])["messages"][0]["content"]

    assert content == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://h/a.png"}},
        {"type": "text", "text": "Why?"},
    ]


def test_documents_are_data_text_or_a_url() -> None:
    """PDFs as they are, files of text as text, with their names."""
    pdf = Part("document", "application/pdf", "AAAA", "", "a.pdf")
    text = Part("document", "text/markdown", b64encode("# é".encode()).decode(), "", "a.md")
    url = Part("document", "application/pdf", "", "https://h/b.pdf", "b.pdf")

    content = body_of(parts=[pdf, text, url])["messages"][0]["content"]

    assert content[:3] == [
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "# é"}, "title": "a.md"},
        {"type": "document", "source": {"type": "url", "url": "https://h/b.pdf"}, "title": "b.pdf"},
    ]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (image("image/svg+xml"), "takes no image/svg.xml: convert it to image/jpeg"),
        (image("image/bmp"), "takes no image/bmp: convert it to image/jpeg"),
        (Part("audio", "audio/wav", "AAAA", "", "a.wav"), "takes no audio"),
        (Part("video", "video/mp4", "", "https://h/a.mp4", "a.mp4"), "takes no video"),
        (Part("document", "application/msword", "AAAA", "", "a.doc"), "takes no application/msword: convert it to PDF"),
        (Part("document", "text/csv", "", "https://h/a.csv", "a.csv"), "takes no URL of text/csv: name a local file"),
    ],
)
def test_a_part_that_cannot_be_sent_is_named(part: Part, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        body_of(parts=[image(url="https://h/a.png"), part])


def test_a_prompt_does_not_get_the_system_or_the_parameters_of_the_one_before() -> None:
    """What two prompts have in common is encoded once; what they have not is not mixed up."""
    first = PROVIDER.render(Prompt("a", "S1", (), {"top_k": 1}))[1]
    PROVIDER.render(Prompt("a", "S2", (), {"top_k": 2}))

    assert PROVIDER.render(Prompt("a", "S1", (), {"top_k": 1}))[1] == first


def test_an_answer_has_its_text_and_what_was_used() -> None:
    """The prompt's tokens are those that were read from and written to a cache, too."""
    answer = read()

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.model, answer.says_more) == ("Blue.", "stop", "claude-x", False)
    assert (answer.prompt_tokens, answer.completion_tokens) == (60, 4)
    assert answer.usage == MESSAGE["usage"]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("a_new_one", "a_new_one"),
        (None, None),
    ],
)
def test_stop_reasons_have_one_name_for_all_providers(reason: str | None, expected: str | None) -> None:
    """So that one query finds all answers that are cut off; a word that is not known stays."""
    answer = read(stop_reason=reason)

    assert isinstance(answer, Answer)
    assert answer.finish_reason == expected


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Blue."}]}, "Blue."),
        ({"content": [{"type": "text", "text": "Bl"}, {"type": "text", "text": "ue.", "citations": [{}]}]}, "Blue."),
        ({"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}], "stop_reason": "tool_use"}, None),
        ({"content": [], "stop_reason": "refusal", "stop_details": {"category": "x"}}, None),
    ],
    ids=["thinking", "citations", "tool", "refusal"],
)
def test_what_is_more_than_a_text_is_kept(changed: dict[str, object], text: str | None) -> None:
    answer = read(**changed)

    assert isinstance(answer, Answer)
    assert (answer.text, answer.says_more) == (text, True)


def test_an_empty_answer_counts_where_tokens_were_generated() -> None:
    """The model may have nothing to say; without a token, something went wrong."""
    meant = read(content=[])
    broken = read(content=[], usage={"input_tokens": 5, "output_tokens": 0})

    assert isinstance(meant, Answer)
    assert meant.text == ""
    assert isinstance(broken, ReplyError)
    assert broken.code == "empty_answer"


STREAM: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Bl"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "ue."}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]


def test_a_stream_that_was_not_asked_for_is_joined() -> None:
    """The raw reply becomes the message, with its blocks and the usage of its end."""
    reply = Reply(200, body=stream_of(*STREAM))

    answer = PROVIDER.read_answer(Request(1, "k", b"", 1), reply)

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("Blue.", "stop", 9)
    assert [block.get("input", block.get("thinking")) for block in orjson.loads(reply.body)["content"]] == [
        "Hm",
        None,
        {"a": 1},
    ]


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    """Nor is one that ends in an error, which is judged as that error."""
    broken = read(stream_of(*STREAM[:8]))
    overloaded = judge(200, stream_of(*STREAM[:8], an_error("overloaded_error", "Overloaded")))

    assert isinstance(broken, ReplyError)
    assert "ends too early" in broken.message
    assert isinstance(overloaded, Verdict)
    assert overloaded.action is Action.PUSH_BACK


@pytest.mark.parametrize(
    ("status", "kind", "message", "action", "blame"),
    [
        (429, "rate_limit_error", "would exceed your rate limit", Action.PUSH_BACK, Blame.UNKNOWN),
        (529, "overloaded_error", "Overloaded", Action.PUSH_BACK, Blame.UNKNOWN),
        (500, "api_error", "Internal server error", Action.RETRY, Blame.UNKNOWN),
        (504, "timeout_error", "Gateway timeout", Action.RETRY, Blame.UNKNOWN),
        (401, "authentication_error", "invalid x-api-key", Action.REFUSED, Blame.ENDPOINT),
        (402, "billing_error", "pay", Action.REFUSED, Blame.ENDPOINT),
        (400, "invalid_request_error", "Your credit balance is too low", Action.REFUSED, Blame.ENDPOINT),
        (400, "invalid_request_error", "prompt is too long: 2 tokens > 1 maximum", Action.REFUSED, Blame.LINE),
        (413, "request_too_large", "Request too large", Action.REFUSED, Blame.LINE),
        (404, "not_found_error", "model: claude-9", Action.REFUSED, Blame.UNKNOWN),
    ],
)
def test_errors_are_judged_by_what_they_are(status: int, kind: str, message: str, action: Action, blame: Blame) -> None:
    verdict = judge(status, an_error(kind, message))

    assert isinstance(verdict, Verdict)
    assert (verdict.action, verdict.blame, verdict.code) == (action, blame, kind)
    assert message in verdict.message


def test_an_error_with_the_status_of_a_success_is_none() -> None:
    verdict = judge(200, an_error("overloaded_error", "Overloaded"))

    assert isinstance(verdict, Verdict)
    assert verdict.action is Action.PUSH_BACK


def test_rate_limit_headers_are_read() -> None:
    """Each kind of limit with its amount, its rest and its reset."""
    headers = {
        b"anthropic-ratelimit-requests-limit": b"50",
        b"anthropic-ratelimit-requests-remaining": b"49",
        b"anthropic-ratelimit-requests-reset": b"2027-01-15T08:00:01Z",
        b"anthropic-ratelimit-input-tokens-limit": b"30000",
    }
    infos = PROVIDER.read_limits(headers.items(), 1800000000.0)

    assert [(info.kind, info.limit, info.remaining, info.reset_s) for info in infos] == [
        ("requests", 50.0, 49.0, 1.0),
        ("input_tokens", 30000.0, None, None),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*MESSAGE, "text", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
MEMBERS = st.dictionaries(
    st.sampled_from(["index", "delta", "message", "content_block", "usage", "type"]), JSON, max_size=2
)


@given(JSON, st.sampled_from(sorted(MESSAGE)), st.booleans())
def test_any_reply_is_read_without_a_defect(value: object, name: str, is_whole: bool) -> None:
    """A server may send whatever it likes."""
    body = json.dumps(value if is_whole else {**MESSAGE, name: value}).encode("utf-8", "replace")

    assert isinstance(read(body), Answer | ReplyError)


@given(st.lists(st.tuples(st.sampled_from(STREAM), MEMBERS), max_size=8))
def test_any_stream_is_read_without_a_defect(events: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    body = "".join(f"data: {json.dumps({**event, **more})}\n\n" for event, more in events).encode("utf-8", "replace")

    assert isinstance(read(body or b"x"), Answer | ReplyError)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1"),
        ("https://gw/anthropic/v1/messages?beta=true", "https://gw/anthropic?beta=true"),
    ],
)
def test_the_base_of_a_url(url: str, base: str) -> None:
    assert PROVIDER.base_url(url) == base


def a_target(key: str | None = "sk-ant-1", **settings: Any) -> sending.Target:
    endpoint = EndpointSettings(**{"url": "https://api.anthropic.com", "name": "e", **settings})
    return sending.make_target(endpoint, "claude-x", key, PROVIDER)


def test_a_request_has_the_headers_of_the_api() -> None:
    """The key as it is, and the version."""
    headers = a_target().headers

    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-ant-1", "2023-06-01")
    assert "Authorization" not in headers
    assert a_target().with_key("sk-ant-2").headers["x-api-key"] == "sk-ant-2"


def test_an_endpoint_may_say_otherwise() -> None:
    """Its own headers go before those of the API, and its own way to send the key."""
    headers = a_target(headers={"Anthropic-Version": "2026-10-21"}, auth="bearer").headers

    assert headers["Anthropic-Version"] == "2026-10-21"
    assert headers["Authorization"] == "Bearer sk-ant-1"
    assert not {"anthropic-version", "x-api-key"} & headers.keys()


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1/messages"),
        ("https://gateway.example/anthropic", "https://gateway.example/anthropic/v1/messages"),
        ("https://gateway.example/v1/messages?beta=true", "https://gateway.example/v1/messages?beta=true"),
    ],
)
def test_requests_go_to_v1_messages(url: str, where: str) -> None:
    """Whatever of it the URL has already."""
    assert a_target(url=url).url_of("v1/messages") == where


def test_the_model_of_the_endpoint_is_put_in_front() -> None:
    """Of a prompt that another kind has rendered as it was read, too, and only once."""
    request = Request(
        1, "k", b"", 1, body=b'{"messages":[]}', needs_model=True, kind="openai", content=Prompt("Why?", None, (), {})
    )
    target = a_target()

    rendering = target.rendering_of(request)

    assert orjson.loads(target.body_of(rendering))["model"] == "claude-x"
    assert target.rendering_of(request) is rendering

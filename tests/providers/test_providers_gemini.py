"""generateContent: what is sent for a prompt, what is read in a reply, and which URLs speak it."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from llmblast import sending
from llmblast.models import Answer, Attempt, Prompt, Reply, ReplyError, Request
from llmblast.provider_contract import UnsupportedError
from llmblast.providers.gemini import Gemini
from llmblast.sending import Action, Blame, Verdict
from tests.media_parts import parts_of

PROVIDER = Gemini()
NOON_UTC = 1_780_315_200.0
"""2026-06-01T12:00:00Z, five in the morning in California."""
REPLY: dict[str, Any] = {
    "candidates": [
        {"content": {"parts": [{"text": "Blue."}], "role": "model"}, "finishReason": "STOP", "index": 0},
    ],
    "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 4, "thoughtsTokenCount": 6},
    "modelVersion": "gemini-2.5-flash",
}
USUAL = st.sampled_from(["candidates", "content", "parts", "text", "finishReason", "usageMetadata", "promptFeedback"])
NAMES = USUAL | st.sampled_from(["blockReason", "error", "functionCall"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3) | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
BY_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
BY_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
USED_UP = "You exceeded your current quota, please check your plan and billing details."


def body_of(
    text: str = "Why?", system: str | None = None, images: list[str] | None = None, **params: object
) -> dict[str, Any]:
    path, body = PROVIDER.render(Prompt(text, system, parts_of(images or []), params))
    assert path == "models/{model}:generateContent"
    loaded: dict[str, Any] = orjson.loads(body)
    return loaded


def read(reply: object = None, **changed: object) -> Answer | ReplyError:
    body = reply if isinstance(reply, bytes) else orjson.dumps({**REPLY, **changed})
    return PROVIDER.read_answer(Request(1, "k", b"", 1), Reply(200, body=body))


def read_parts(*parts: object, reason: str = "STOP", **changed: object) -> Answer | ReplyError:
    return read(candidates=[{"content": {"parts": list(parts)}, "finishReason": reason, **changed}])


def judge(status: int, body: object, wall_now_s: float = NOON_UTC) -> Answer | Verdict:
    reply = Reply(status, {}, body if isinstance(body, bytes) else orjson.dumps(body))
    return sending.judge(Attempt(Request(1, "k", b"", 1)), reply, wall_now_s, PROVIDER)


def an_error(code: int, status: str, message: str = "no", *details: Mapping[str, object]) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def a_detail(name: str, **members: object) -> Mapping[str, object]:
    return {"@type": f"type.googleapis.com/google.rpc.{name}", **members}


def used_up(quota: str, wait: str) -> dict[str, object]:
    details = a_detail("QuotaFailure", violations=[{"quotaId": quota}]), a_detail("RetryInfo", retryDelay=wait)
    return an_error(429, "RESOURCE_EXHAUSTED", USED_UP, *details)


def test_a_prompt_becomes_contents() -> None:
    assert body_of() == {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]}
    assert body_of(system="Be brief.")["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert "systemInstruction" not in body_of(system="")


@pytest.mark.parametrize(
    ("params", "config"),
    [
        (
            {"temperature": 0, "top_p": 0.5, "top_k": 5, "seed": 7},
            {"temperature": 0, "topP": 0.5, "topK": 5, "seed": 7},
        ),
        ({"max_tokens": 7}, {"maxOutputTokens": 7}),
        ({"max_completion_tokens": 7}, {"maxOutputTokens": 7}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"stop": ["A", "B"], "n": 2}, {"stopSequences": ["A", "B"], "candidateCount": 2}),
        ({"logprobs": True, "top_logprobs": 3}, {"responseLogprobs": True, "logprobs": 3}),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}},
        ),
        ({"reasoning_effort": "low"}, {"thinkingConfig": {"thinkingBudget": 1024}}),
        ({"thinkingConfig": {"includeThoughts": True}}, {"thinkingConfig": {"includeThoughts": True}}),
        ({"generationConfig": {"topK": 3}, "max_tokens": 5}, {"topK": 3, "maxOutputTokens": 5}),
        ({"stop": None, "n": 1, "stream": False, "seed": None, "user": "u"}, None),
        ({"response_format": {"type": "text"}}, None),
    ],
    ids=str,
)
def test_parameters_have_the_names_of_the_api(params: dict[str, Any], config: dict[str, Any] | None) -> None:
    """The official client knows each of them."""
    body = body_of(**params)

    assert body.get("generationConfig") == config
    assert set(body) <= {"contents", "generationConfig"}
    types.GenerationConfig.model_validate(config or {})


def test_tools_and_safety_stand_beside_the_config() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    body = body_of(
        tools=[{"type": "function", "function": function}, {"googleSearch": {}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        safety_settings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
    )

    declared = {"name": "f", "description": "d", "parametersJsonSchema": {"type": "object"}}
    assert body["tools"] == [{"functionDeclarations": [declared]}, {"googleSearch": {}}]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}
    assert body["safetySettings"][0]["threshold"] == "OFF"
    assert body_of(tool_choice="none")["toolConfig"] == {"functionCallingConfig": {"mode": "NONE"}}


def test_files_come_before_the_text() -> None:
    """As data, or as a URL whose type its end shows."""
    (content,) = body_of(images=["data:image/png;base64,AAAA", "https://h/a.PDF?x=1", "https://youtu.be/abc"])[
        "contents"
    ]

    assert content["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        {"fileData": {"mimeType": "application/pdf", "fileUri": "https://h/a.PDF?x=1"}},
        {"fileData": {"fileUri": "https://youtu.be/abc"}},
        {"text": "Why?"},
    ]


@pytest.mark.parametrize(
    ("images", "params", "words"),
    [
        ((), {"logit_bias": {"1": 2}}, 'no parameter like "logit_bias"'),
        (("https://h/picture",), {}, "the URL ends in none of .png"),
        (("data:application/msword;base64,AAAA",), {}, "takes no application/msword: convert it to PDF or text"),
    ],
)
def test_what_the_api_has_no_words_for_is_named(images: tuple[str, ...], params: dict[str, object], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        PROVIDER.render(Prompt("Why?", None, parts_of(images), params))


def test_an_answer_has_its_text_usage_and_model() -> None:
    """Thoughts count as a part of the answer, as they are paid for."""
    answer = read()

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.model) == ("Blue.", "stop", "gemini-2.5-flash")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.says_more) == (10, 10, False)
    assert answer.usage == REPLY["usageMetadata"]


def test_thoughts_are_not_a_part_of_the_text() -> None:
    answer = read_parts({"text": "Hm", "thought": True}, {"text": "Blue", "thoughtSignature": "c2ln"}, {"text": "."})

    assert isinstance(answer, Answer)
    assert (answer.text, answer.says_more) == ("Blue.", True)


def test_a_signature_alone_keeps_no_body() -> None:
    answer = read_parts({"text": "Blue", "thoughtSignature": "c2ln"})

    assert isinstance(answer, Answer)
    assert (answer.text, answer.says_more) == ("Blue", False)


@pytest.mark.parametrize(
    ("parts", "reason", "text", "finish_reason", "says_more"),
    [
        ([{"functionCall": {"name": "f"}}], "STOP", None, "tool_calls", True),
        ([{"inlineData": {"data": "AAAA"}}], "STOP", None, "stop", True),
        ([{"text": "Blu"}], "MAX_TOKENS", "Blu", "length", False),
        ([], "MAX_TOKENS", None, "length", False),
        ([], "SAFETY", None, "content_filter", True),
        ([{"text": "Bl"}], "RECITATION", "Bl", "content_filter", True),
        ([], "IMAGE_SAFETY", None, "content_filter", True),
        ([{"text": "Blue"}], "OTHER", "Blue", "other", False),
        ([], "STOP", "", "stop", False),
    ],
)
def test_answers_that_are_no_plain_texts(
    parts: list[object], reason: str, text: str | None, finish_reason: str, says_more: bool
) -> None:
    answer = read_parts(*parts, reason=reason)

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.says_more) == (text, finish_reason, says_more)


@pytest.mark.parametrize("name", ["groundingMetadata", "citationMetadata", "logprobsResult"])
def test_what_stands_beside_the_text_keeps_the_body(name: str) -> None:
    more: dict[str, Any] = {name: {"a": 1}}
    answer = read_parts({"text": "Blue"}, **more)

    assert isinstance(answer, Answer)
    assert answer.says_more


def test_several_candidates_keep_the_body() -> None:
    """The first with an answer counts."""
    failed = {"finishReason": "MALFORMED_FUNCTION_CALL", "index": 0}
    answer = read(candidates=[failed, *REPLY["candidates"]])

    assert isinstance(answer, Answer)
    assert (answer.text, answer.says_more) == ("Blue.", True)


@pytest.mark.parametrize(
    "reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "NO_IMAGE", "MALFORMED_RESPONSE"]
)
def test_a_generation_that_failed_is_no_answer(reason: str) -> None:
    error = read_parts(reason=reason, finishMessage="a broken call")

    assert isinstance(error, ReplyError)
    assert (error.code, error.has_usage) == ("generation_failed", True)
    assert error.message == f"the generation failed (finishReason '{reason}'): a broken call"


def test_an_empty_answer_for_which_nothing_was_generated_is_none() -> None:
    error = read(candidates=[{"finishReason": "STOP"}], usageMetadata={"promptTokenCount": 4})

    assert isinstance(error, ReplyError)
    assert error.code == "empty_answer"


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "OTHER", "JAILBREAK"])
def test_a_blocked_prompt_is_the_lines_fault_and_is_not_sent_again(reason: str) -> None:
    verdict = judge(200, {"promptFeedback": {"blockReason": reason, "blockReasonMessage": "no ships"}})

    assert isinstance(verdict, Verdict)
    assert (verdict.action, verdict.blame, verdict.code) == (Action.REFUSED, Blame.LINE, "content_filter")
    assert f"the prompt was blocked by a content filter: {reason}: no ships" in verdict.message


def test_a_stream_that_nobody_asked_for_is_joined() -> None:
    """Texts that follow one another become one part; thoughts stay apart."""
    chunks = [
        {"candidates": [{"content": {"parts": [{"text": "Hm", "thought": True}]}, "index": 0}]},
        {"candidates": [{"content": {"parts": [{"text": "Bl"}]}, "index": 0}]},
        {
            "candidates": [{"content": {"parts": [{"text": "ue."}]}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": REPLY["usageMetadata"],
        },
    ]
    reply = Reply(200, body=b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks))

    answer = PROVIDER.read_answer(Request(1, "k", b"", 1), reply)

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason, answer.prompt_tokens) == ("Blue.", "stop", 10)
    assert types.GenerateContentResponse.model_validate(orjson.loads(reply.body)).text == "Blue."


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'"x"', b"<html>busy</html>", b"", b'{"candidates":[]}', b'{"candidates":3}']
)
def test_a_reply_without_an_answer_is_an_error(body: bytes) -> None:
    assert isinstance(read(body), ReplyError)


@given(ANY_JSON)
def test_no_reply_raises(data: object) -> None:
    read(orjson.dumps(data))


@pytest.mark.parametrize(
    ("status", "body", "action", "code", "wait_s"),
    [
        (429, used_up(BY_MINUTE, "38.5s"), Action.PUSH_BACK, "RESOURCE_EXHAUSTED", 38.5),
        (429, used_up(BY_DAY, "38s"), Action.PUSH_BACK, "RESOURCE_EXHAUSTED", 19 * 3600),
        (503, an_error(503, "UNAVAILABLE", "The model is overloaded."), Action.PUSH_BACK, "UNAVAILABLE", None),
        (500, an_error(500, "INTERNAL"), Action.RETRY, "INTERNAL", None),
        (504, an_error(504, "DEADLINE_EXCEEDED"), Action.RETRY, "DEADLINE_EXCEEDED", None),
        (
            400,
            an_error(400, "INVALID_ARGUMENT", "API key not valid.", a_detail("ErrorInfo", reason="API_KEY_INVALID")),
            Action.REFUSED, "API_KEY_INVALID", None,
        ),
        (403, an_error(403, "PERMISSION_DENIED"), Action.REFUSED, "PERMISSION_DENIED", None),
        (404, an_error(404, "NOT_FOUND", "models/x is not found"), Action.REFUSED, "NOT_FOUND", None),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_errors_have_the_names_and_waits_of_google(
    status: int, body: object, action: Action, code: str, wait_s: float | None
) -> None:
    """A quota by the day is full again at midnight in California, whatever RetryInfo says."""
    verdict = judge(status, body)

    assert isinstance(verdict, Verdict)
    assert (verdict.action, verdict.code, verdict.wait_s) == (action, code, wait_s)


def test_a_wrong_key_is_the_endpoints_fault() -> None:
    """Google answers it with a 400."""
    detail = a_detail("ErrorInfo", reason="API_KEY_INVALID")
    verdict = judge(400, an_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", detail))

    assert isinstance(verdict, Verdict)
    assert verdict.blame is Blame.ENDPOINT


@pytest.mark.parametrize(
    ("url", "base", "model"),
    [
        ("https://generativelanguage.googleapis.com", "/v1beta", None),
        ("https://generativelanguage.googleapis.com/v1beta/", "/v1beta", None),
        ("https://generativelanguage.googleapis.com/v1alpha", "/v1alpha", None),
        ("https://generativelanguage.googleapis.com/v1/models/gemini-x:generateContent", "/v1", "gemini-x"),
        ("https://generativelanguage.googleapis.com/v1beta/models/gemini-x:generateContent", "/v1beta", "gemini-x"),
        ("http://127.0.0.1:8000/v1", "/v1beta", None),
        ("https://gateway.example/google/v1beta", "/google/v1beta", None),
    ],
)
def test_urls_may_be_bases_or_whole(url: str, base: str, model: str | None) -> None:
    host = "/".join(url.split("/", 3)[:3])
    assert (PROVIDER.base_url(url), PROVIDER.model_in(url)) == (f"{host}{base}", model)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-x", "models/gemini-x:generateContent"),
        ("models/gemini-x", "models/gemini-x:generateContent"),
        ("tunedModels/mine", "tunedModels/mine:generateContent"),
        ("a b?c", "models/a%20b%3Fc:generateContent"),
    ],
)
def test_models_have_their_place_in_the_path(model: str, path: str) -> None:
    assert PROVIDER.path_for("models/{model}:generateContent", model) == path


def test_keys_and_tokens_have_their_headers() -> None:
    assert PROVIDER.auth_header("", "AIza-key") == ("x-goog-api-key", "AIza-key")
    assert PROVIDER.auth_header("", "ya29.token") == ("Authorization", "Bearer ya29.token")

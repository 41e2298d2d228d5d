"""A generation that failed is no answer, an empty text may be one, and answers that were cut off are known by words."""

import orjson
import pytest

from llmblast.models import Answer, Attempt, Reply, Request
from llmblast.providers import is_flagged
from llmblast.sending import Action, Verdict
from tests.openai_provider import judge

FAILED = [
    {"finish_reason": "error"},
    {"finish_reason": "abort"},
    {"finish_reason": "aborted"},
    {"finish_reason": "cancelled"},
    {"finish_reason": "canceled"},
    {"finish_reason": "ERROR"},
    {"finish_reason": "network_error"},
    {"finish_reason": "insufficient_system_resource"},
    {"finish_reason": "function_call_filter: MALFORMED_FUNCTION_CALL"},
    {"finish_reason": {"type": "abort", "message": "the instance is killed", "status_code": 500}},
    {"finish_reason": None, "error": {"code": 502, "message": "upstream broke"}},
    {"finish_reason": "stop", "error": {"code": 502, "message": "upstream broke"}},
    {"finish_reason": "stop", "native_finish_reason": "error"},
    {"native_finish_reason": "MALFORMED_FUNCTION_CALL"},
]


def a_request(unusable_replies: int = 0) -> Attempt:
    return Attempt(Request(1, "0" * 16, b"", "row-1"), unusable_replies=unusable_replies)


def reply_with(text: object, usage: object = None, **choice: object) -> Reply:
    message = {"role": "assistant", "content": text}
    return Reply(200, body=orjson.dumps({"choices": [{"index": 0, "message": message, **choice}], "usage": usage}))


@pytest.mark.parametrize("choice", FAILED)
@pytest.mark.parametrize(("retried", "action"), [(0, Action.RETRY), (1, Action.RETRY), (2, Action.FAIL)])
def test_a_failed_generation_is_retried_twice(choice: dict[str, object], retried: int, action: Action) -> None:
    """Half a text is no answer; it may have been paid for, so the body is kept."""
    reply = reply_with("half a te", {"prompt_tokens": 5, "completion_tokens": 3}, **choice)

    verdict = judge(a_request(retried), reply, 0.0)

    assert isinstance(verdict, Verdict)
    assert (verdict.action, verdict.code) == (action, "generation_failed")
    assert verdict.transient
    assert verdict.keeps_body
    assert verdict.was_used


def test_the_message_of_a_failed_generation_is_told() -> None:
    """The provider's own words follow the reason."""
    reply = reply_with("", finish_reason="error", error={"code": 502, "message": "upstream broke"})

    verdict = judge(a_request(), reply, 0.0)

    assert isinstance(verdict, Verdict)
    assert verdict.message == "the generation failed (finish_reason 'error'): upstream broke"


def test_a_rate_limit_in_a_choice_is_one() -> None:
    """A router hands on what it met upstream."""
    reply = reply_with("", finish_reason="error", error={"code": 429, "message": "rate limit"})

    verdict = judge(a_request(), reply, 0.0)

    assert isinstance(verdict, Verdict)
    assert verdict.action is Action.PUSH_BACK


@pytest.mark.parametrize(
    "reason", ["stop", "tool_calls", "length", "content_filter", "SAFETY", "eos", "end_turn", None]
)
@pytest.mark.parametrize("native", [None, "STOP", "stop", "max_tokens"])
def test_other_reasons_do_not_spoil_an_answer(reason: str | None, native: str | None) -> None:
    """A reason that is not known is taken for a good one."""
    reply = reply_with("4", finish_reason=reason, native_finish_reason=native, error=None)

    answer = judge(a_request(), reply, 0.0)

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason) == ("4", reason)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 5, "completion_tokens": 0}, {"prompt_tokens": 5, "total_tokens": 5}]
)
@pytest.mark.parametrize(("retried", "action"), [(0, Action.RETRY), (2, Action.FAIL)])
def test_an_empty_text_without_tokens_is_no_answer(usage: object, retried: int, action: Action) -> None:
    """Nothing was generated: it is tried again twice, and told."""
    verdict = judge(a_request(retried), reply_with("", usage, finish_reason="stop"), 0.0)

    assert isinstance(verdict, Verdict)
    assert (verdict.action, verdict.code) == (action, "empty_answer")
    assert verdict.message == "the answer is empty, and no token was generated for it"


@pytest.mark.parametrize(
    "usage",
    [
        {"completion_tokens": 1},
        {"output_tokens": 1},
        {"completion_tokens": 0, "completion_tokens_details": {"reasoning_tokens": 9}},
        {"completion_tokens": 0, "reasoning_tokens": 9},
        {"prompt_tokens": 5, "total_tokens": 6},
    ],
)
def test_an_empty_text_that_was_generated_is_an_answer(usage: object) -> None:
    """The model had nothing to say; asking again would cost again."""
    answer = judge(a_request(), reply_with("", usage, finish_reason="stop"), 0.0)

    assert isinstance(answer, Answer)
    assert answer.text == ""


@pytest.mark.parametrize("more", [{"tool_calls": [{"id": "t1"}]}, {"refusal": "no"}, {"reasoning_content": "hm"}])
def test_an_empty_text_beside_something_else_is_an_answer(more: dict[str, object]) -> None:
    """Tool calls, refusals and reasoning are answers too."""
    choice = {"message": {"role": "assistant", "content": "", **more}, "finish_reason": "stop"}

    assert isinstance(judge(a_request(), Reply(200, body=orjson.dumps({"choices": [choice]})), 0.0), Answer)


@pytest.mark.parametrize("reason", ["length", "content_filter", "SAFETY"])
def test_an_empty_text_that_was_cut_off_is_flagged(reason: str) -> None:
    """A reasoning model may use up all its tokens before it says a word: the same again would end the same way."""
    answer = judge(a_request(), reply_with("", finish_reason=reason), 0.0)

    assert isinstance(answer, Answer)
    assert is_flagged(answer.finish_reason)


@pytest.mark.parametrize(
    "reason",
    [
        "length",
        "max_tokens",
        "MAX_TOKENS",
        "max_output_tokens",
        "model_length",
        "model_context_window_exceeded",
        "time_limit",
        "content_filter",
        "content_filter: PROHIBITED_CONTENT",
        "content_filter_jailbreak",
        "content_filtered",
        "SAFETY",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "RECITATION",
        "BLOCKLIST",
        "SPII",
        "sensitive",
        "guardrail_intervened",
        "refusal",
        "ERROR_TOXIC",
    ],
)
def test_an_answer_that_was_cut_off_or_filtered_is_flagged(reason: str) -> None:
    """It is an answer, and is counted apart."""
    assert is_flagged(reason)
    assert isinstance(judge(a_request(), reply_with("4", finish_reason=reason), 0.0), Answer)


@pytest.mark.parametrize("reason", [None, "stop", "STOP", "tool_calls", "function_call", "eos", "end_turn", "COMPLETE"])
def test_a_whole_answer_is_not_flagged(reason: str | None) -> None:
    """Words of a natural end."""
    assert not is_flagged(reason)

"""What real providers answer, and what each reply says by itself: a push-back, a refusal and whose, or another try."""

import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import Answer, Reply, Request
from llmblast.sending import Action, Blame, Verdict
from llmblast.sending.signature import MAX_SIGNATURE_CHARS
from tests.openai_provider import judge

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

NOW_S = 1_800_000_000.0
RETRY_AFTER = {b"Retry-After": b"7"}


def verdict_on(status: int, body: object, headers: dict[bytes, bytes] | None = None) -> Verdict:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    verdict = judge(Request(1, "0" * 16, b"", "row-1"), Reply(status, headers or {}, raw), NOW_S)
    assert isinstance(verdict, Verdict)
    return verdict


def err(message: str, **more: object) -> object:
    return {"error": {"message": message, **more}}


def minimax(code: int, message: str) -> object:
    return {"choices": None, "usage": {"total_tokens": 0}, "base_resp": {"status_code": code, "status_msg": message}}


PEAK = "Demand is high: your request exceeds the maximum usage size allowed during peak load. Retry after 2 seconds."
QUOTA = "You exceeded your current quota, please check your plan and billing details."
ADD_PAYMENT = (
    "Rate limit reached on requests per min. Limit: 60.000000 / min. Current: 70.000000 / min. Add a payment method: "
)
ACCOUNT_URL = "https://platform.openai.com/account/billing"
OUT_OF_TOKENS = "Rate limit reached on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443."
WOULD_EXCEED = (
    "This request would exceed your organization's rate limit of 30,000 input tokens per minute. Reduce the prompt."
)
PUSH_BACKS = {
    "Azure, which has a wait in words": (429, err(PEAK, code="429"), 2.0),
    "Azure": (429, err("have exceeded token rate limit of your tier. Please retry after 86400 seconds."), 86_400.0),
    "OpenAI, which asks for a payment method": (429, err(ADD_PAYMENT + ACCOUNT_URL, type="requests"), None),
    "Groq": (429, err(OUT_OF_TOKENS + " Please try again in 4.77s.", code="rate_limit_exceeded"), 4.77),
    "Anthropic": (429, err(WOULD_EXCEED, type="rate_limit_error"), None),
    "529": (529, b"", None),
    "a link to a page of accounts": (429, err("Slow down. See https://a.b/unpaid-or-overdue"), None),
    "Anthropic's overload": (529, err("Overloaded", type="overloaded_error"), None),
    "Anthropic's overload as a 500": (500, err("Overloaded", type="overloaded_error"), None),
    "Mistral": (429, {"object": "error", "message": "Service tier capacity exceeded", "code": "3505"}, None),
    "Cohere": (429, {"message": "You are past the per minute request limit, please wait and try again later."}, None),
    "OpenRouter's free models": (
        429,
        err("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000"),
        None,
    ),
    "a quota with a wait": (429, err(QUOTA + " Please retry in 47.5s.", status="RESOURCE_EXHAUSTED", code=429), 47.5),
    "a budget with a wait": (429, err("Budget exceeded", type="budget_exceeded", retry_after=30), 30.0),
    "Zhipu": (429, err("您当前使用该 API 的并发数过高", code="1302"), None),
    "DashScope": (429, {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded"}, None),
    "AWS": (400, {"__type": "com.amazon.coral#ThrottlingException", "message": "Rate exceeded"}, None),
    "Google's older form": (403, err("Quota used", errors=[{"reason": "userRateLimitExceeded"}], code=403), None),
    "a gateway's 403": (403, {"message": "API rate limit exceeded"}, None),
    "Ollama": (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, None),
    "a full queue": (503, {"error": "busy: too many requests are waiting, try again"}, None),
    "SGLang": (503, {"object": "error", "message": "The request queue is full.", "type": "abort"}, None),
    "Triton": (503, {"error": "Exceeds maximum queue size"}, None),
    "TGI": (503, {"error": "Model is overloaded", "error_type": "overloaded"}, None),
    "Hugging Face": (503, {"error": "Model x is currently loading", "estimated_time": 20.0}, 20.0),
    "llama.cpp": (503, err("Loading model", type="unavailable_error", code=503), None),
    "Gemini": (503, [err("The model is overloaded. Please try again later.", status="UNAVAILABLE")], None),
    "OpenAI's overload": (503, err("The server is overloaded or not ready yet.", type="server_error"), None),
    "a 502 of a full queue": (502, b"upstream queue is full", None),
}


@pytest.mark.parametrize(("status", "body", "wait_s"), PUSH_BACKS.values(), ids=PUSH_BACKS)
def test_a_push_back_in_any_clothes(status: int, body: object, wait_s: float | None) -> None:
    """Nothing of it is the line's fault, and the wait is kept."""
    verdict = verdict_on(status, body)

    assert (verdict.action, verdict.wait_s, verdict.transient) == (Action.PUSH_BACK, wait_s, True)
    assert (verdict.blame, verdict.was_used, verdict.never_fits) == (Blame.UNKNOWN, False, False)


LIMIT_7000 = "Rate limit (TPM): Limit 7000, Used 0, Requested ~12903. Try again in 5.6s."
NEVER_FITS = {
    "Groq": (429, err(LIMIT_7000, code="rate_limit_exceeded")),
    "Groq's 413": (
        413,
        err("Request too large (TPM): Limit 6000, Requested 14810, please reduce", code="rate_limit_exceeded"),
    ),
    "OpenAI": (429, err("Request too large for gpt-4o (TPM): Limit 30000, Requested 40000. The input must be reduced")),
    "with thousands": (429, err("tokens per minute: limit of 30,000, requested 1,000,000")),
    "the other way round": (429, err("You requested 9000 tokens; the limit is 7000")),
    "in a sentence": (429, err("Request contains 12903 tokens, which exceeds the limit of 7000 per minute")),
    "as a comparison": (429, err("Prompt too long: prompt has 69120 > 36608")),
}


@pytest.mark.parametrize("headers", [{}, RETRY_AFTER])
@pytest.mark.parametrize(("status", "body"), NEVER_FITS.values(), ids=NEVER_FITS)
def test_more_than_the_limit_never_fits(status: int, body: object, headers: dict[bytes, bytes]) -> None:
    """Numbers are no wording: no wait helps."""
    verdict = verdict_on(status, body, headers)

    assert (verdict.action, verdict.blame, verdict.transient) == (Action.REFUSED, Blame.LINE, False)
    assert verdict.never_fits


REGAIN = "You have reached your specified API usage limits. You will regain access on 2027-02-01 at 00:00 UTC."
GOOGLE_KEY = [
    err("API key not valid.", code=400, status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]),
]
ACCOUNT_TROUBLE = {
    "401": (401, b""),
    "402": (402, b""),
    "407": (407, b""),
    "OpenAI": (429, err("You exceeded it", code="insufficient_quota")),
    "OpenAI, by words": (429, err(QUOTA)),
    "OpenAI's hard limit": (400, err("Billing hard limit has been reached", code="billing_hard_limit_reached")),
    "Anthropic": (400, err("Your credit balance is too low to access the API.", type="invalid_request_error")),
    "Anthropic's spend limit": (400, err(REGAIN, type="invalid_request_error")),
    "Google": (400, GOOGLE_KEY),
    "Google, for a country": (400, [err("User location is not supported for the API use.", code=400)]),
    "LiteLLM": (400, err("Budget has been exceeded! Current cost: 14.2, Max budget: 10.0", type="budget_exceeded")),
    "LiteLLM's 429": (429, err("Budget exceeded: cost 10.51, maximum 10.0", type="budget_exceeded", code="429")),
    "LiteLLM without a database": (400, err("No connected db.", type="no_db_connection", code="400")),
    "LiteLLM's expired key": (400, err("Authentication Error - Expired Key.", type="expired_key", code="400")),
    "DeepSeek": (402, err("Insufficient Balance")),
    "MiniMax's 500": (500, err("insufficient balance (1008)", type="api_error")),
    "Zhipu": (429, err("[1113][Insufficient balance or no resource package.]", code="1113", type="rate_limit_error")),
    "Zhipu, in Chinese": (429, err("余额不足或无可用资源包,请充值。")),
    "DashScope": (400, {"code": "Arrearage", "message": "Access denied, account is not in good standing."}),
    "xAI": (403, {"code": "denied", "error": "Your team has either used all available credits or reached its limit"}),
    "xAI, a new team": (403, {"error": "Your newly created team doesn't have any credits or licenses yet."}),
    "OpenRouter's key": (403, err("Key limit exceeded (daily limit).", code=403)),
    "Fireworks": (412, err("Account x is suspended, possibly due to reaching the monthly spending limit")),
    "OpenAI's account": (403, err("Your account has been deactivated.", code="account_deactivated")),
    "a resource gone": (404, err("This organization has been disabled.")),
}


@pytest.mark.parametrize(("status", "body"), ACCOUNT_TROUBLE.values(), ids=ACCOUNT_TROUBLE)
def test_account_trouble_points_to_the_endpoint(status: int, body: object) -> None:
    """Whatever the status: all lines would meet it, and another run may not."""
    verdict = verdict_on(status, body)

    assert (verdict.action, verdict.blame, verdict.transient) == (Action.REFUSED, Blame.ENDPOINT, True)
    assert not verdict.is_not_found


def test_when_money_comes_back_is_told() -> None:
    """In the error record, and for whoever decides whether to wait."""
    assert verdict_on(400, err(REGAIN), {b"Date": b"Fri, 15 Jan 2027 08:00:00 GMT"}).wait_s == 16 * 86_400 + 16 * 3600


AZURE_FILTER = err("The response was filtered due to the content management policy.", code="content_filter", status=400)
LLAMA_BATCH = "input (604 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
OF_THE_LINE = {
    "413": (413, b""),
    "422, too long": (422, err("input is too long", code="context_length_exceeded")),
    "OpenRouter's moderation": (403, err('moderation refused this input: flagged for "violence".', code=403)),
    "a policy": (403, err("Request blocked by content policy")),
    "OpenAI's context": (400, err("This model's maximum context length is 8192", code="context_length_exceeded")),
    "Anthropic's context": (
        400,
        err("prompt is too long: 208310 tokens > 200000 maximum", type="invalid_request_error"),
    ),
    "llama.cpp's context": (400, err("the request exceeds", type="exceed_context_size_error")),
    "llama.cpp's batch": (500, err(LLAMA_BATCH, type="server_error", code=500)),
    "llama.cpp's context for embeddings": (400, err("input (404 tokens) is larger than the max context size (256)")),
    "Azure's filter": (400, AZURE_FILTER),
    "DashScope's filter": (400, {"code": "DataInspectionFailed", "message": "Input data may contain it"}),
    "a long text": (400, err("expected a string with maximum length", code="string_above_max_length")),
    "an image": (400, err("Invalid image data", code="invalid_image")),
    "an image, by words": (400, err("Could not process image", type="invalid_request_error")),
    "too large, in words": (429, err("Request too large for model")),
}


@pytest.mark.parametrize(("status", "body"), OF_THE_LINE.values(), ids=OF_THE_LINE)
def test_what_is_in_a_line_points_to_the_line(status: int, body: object) -> None:
    """Another run would meet it again."""
    verdict = verdict_on(status, body)

    assert (verdict.action, verdict.blame, verdict.transient) == (Action.REFUSED, Blame.LINE, False)
    assert (verdict.is_not_found, verdict.never_fits) == (False, False)


@pytest.mark.parametrize(
    "body", [err("Request too large for model"), err(PEAK), err("x", code="insufficient_quota"), b""]
)
def test_a_429_that_names_a_wait_is_never_final_on_its_wording(body: object) -> None:
    """Words are for people, and change."""
    verdict = verdict_on(429, body, RETRY_AFTER)

    assert (verdict.action, verdict.wait_s) == (Action.PUSH_BACK, 7.0)


LITELLM_MODEL = "/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available models."
OTHERS = {
    "a plain 400": (400, err("unknown parameter", type="invalid_request_error"), False, False),
    "a plain 403": (403, b"Forbidden", False, True),
    "a model of somebody else": (403, err("no access to it", code="model_not_found"), True, True),
    "an unknown model": (404, err("The model `x` does not exist", code="model_not_found"), True, False),
    "an unknown model as a 400": (400, err("Invalid model: x", type="invalid_model", code="1500"), True, False),
    "LiteLLM's unknown model": (400, err(LITELLM_MODEL, type="invalid_request_error", code="400"), True, False),
    "DeepSeek's unknown model": (400, err("Model Not Exist", type="invalid_request_error"), True, False),
    "OpenRouter's unknown model": (400, err("x/y-1.5 is not a valid model ID", code=400), True, False),
    "xAI's unknown model": (400, {"error": "The model grok-2.5 does not exist or is not yours"}, True, False),
    "a value in a line": (400, err("Invalid model output format"), False, False),
    "501": (501, err("This server does not support embeddings.", type="not_supported_error", code=501), False, False),
    "505": (505, b"", False, False),
    "an unknown path": (404, {"detail": "Not Found"}, True, False),
    "an upstream's 404": (404, err("Provider returned error", code=404, metadata={"raw": ""}), True, False),
    "405": (405, b"", True, False),
    "a redirect": (302, b"", True, False),
    "410": (410, b"", False, False),
    "451": (451, b"", False, False),
}


@pytest.mark.parametrize(("status", "body", "is_not_found", "transient"), OTHERS.values(), ids=OTHERS)
def test_a_refusal_that_points_nowhere(status: int, body: object, is_not_found: bool, transient: bool) -> None:
    """What other lines meet at the same endpoint decides."""
    verdict = verdict_on(status, body)

    assert (verdict.action, verdict.blame) == (Action.REFUSED, Blame.UNKNOWN)
    assert (verdict.is_not_found, verdict.transient) == (is_not_found, transient)


@pytest.mark.parametrize(
    "message", ["input (100 tokens) is too large to process (current batch size: 512)", "the context size is exceeded"]
)
def test_a_500_is_of_the_line_by_its_numbers_only(message: str) -> None:
    """llama.cpp's slots may share a context: there is room in it later."""
    verdict = verdict_on(500, err(message, type="server_error"))

    assert (verdict.action, verdict.transient) == (Action.RETRY, True)


@pytest.mark.parametrize("status", [408, 409, 419, 423, 424, 425, 430, 444, 460, 498, 499, 500, 502, 504, 520, 530])
def test_a_status_that_means_later(status: int) -> None:
    """Also every 4xx that is not registered: nobody said that it is permanent."""
    verdict = verdict_on(
        status, err("No flex capacity now, try again later.", code="capacity_exceeded") if status < 500 else b""
    )

    assert (verdict.action, verdict.transient) == (Action.RETRY, True)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, {"detail": [{"loc": ["body", "top_k"], "msg": "extra fields not permitted"}]}),
        (400, err("bad request")),
        (412, err("precondition failed")),
    ],
)
def test_a_refusal_without_a_reason_blames_nobody(status: int, body: object) -> None:
    """A parameter that the endpoint does not know is in every line: what others meet has to show it."""
    verdict = verdict_on(status, body)

    assert (verdict.action, verdict.blame) == (Action.REFUSED, Blame.UNKNOWN)


@pytest.mark.parametrize("status", [400, 403, 404, 406, 410, 411, 412, 414, 415, 416, 417, 421, 426, 428, 431, 451])
def test_a_registered_status_is_permanent(status: int) -> None:
    """https://www.iana.org/assignments/http-status-codes"""
    assert verdict_on(status, b"").action is Action.REFUSED


USED = {"usage": {"prompt_tokens": 5, "completion_tokens": 0}}
NOT_USED = {"usage": {"prompt_tokens": 0, "total_tokens": 0}}
IN_SUCCESS = {
    "MiniMax, requests": (minimax(1002, "rate limit exceeded(RPM)"), Action.PUSH_BACK, Blame.UNKNOWN, "1002"),
    "MiniMax, tokens": (minimax(1039, "TPM"), Action.PUSH_BACK, Blame.UNKNOWN, "1039"),
    "MiniMax, connections": (minimax(1041, "conn limit"), Action.PUSH_BACK, Blame.UNKNOWN, "1041"),
    "MiniMax, key": (minimax(1004, "login fail"), Action.REFUSED, Blame.ENDPOINT, "1004"),
    "MiniMax, money": (minimax(1008, "insufficient balance"), Action.REFUSED, Blame.ENDPOINT, "1008"),
    "MiniMax, unknown error": (minimax(1000, "unknown error"), Action.RETRY, Blame.UNKNOWN, "1000"),
    "MiniMax, timeout": (minimax(1001, "request timeout"), Action.RETRY, Blame.UNKNOWN, "1001"),
    "MiniMax, 1013": (minimax(1013, "service internal error"), Action.RETRY, Blame.UNKNOWN, "1013"),
    "MiniMax, 1024": (minimax(1024, "internal error"), Action.RETRY, Blame.UNKNOWN, "1024"),
    "MiniMax, 1033": (minimax(1033, "downstream error"), Action.RETRY, Blame.UNKNOWN, "1033"),
    "MiniMax, parameters": (minimax(2013, "invalid params"), Action.REFUSED, Blame.UNKNOWN, "2013"),
    "MiniMax, content": (minimax(1026, "input new_sensitive"), Action.REFUSED, Blame.LINE, "1026"),
    "OpenRouter": ({"choices": [], **NOT_USED, **err("x", code=429)}, Action.PUSH_BACK, Blame.UNKNOWN, "429"),  # type: ignore[dict-item] # err gives a dict
    "by name": (err("x", code="rate_limit_exceeded"), Action.PUSH_BACK, Blame.UNKNOWN, "rate_limit_exceeded"),
    "by words": ({"error": "Too many requests"}, Action.PUSH_BACK, Blame.UNKNOWN, "http_200"),
    "overload": (err("Overloaded", type="overloaded_error"), Action.PUSH_BACK, Blame.UNKNOWN, "overloaded_error"),
    "money": (err("x", type="insufficient_quota"), Action.REFUSED, Blame.ENDPOINT, "insufficient_quota"),
    "a gateway's code": (
        {"code": 429, "msg": "slow down", "success": False},
        Action.PUSH_BACK,
        Blame.UNKNOWN,
        "http_429",
    ),
}


@pytest.mark.parametrize(("body", "action", "blame", "code"), IN_SUCCESS.values(), ids=IN_SUCCESS)
def test_an_error_in_a_success(body: object, action: Action, blame: Blame, code: str) -> None:
    """HTTP 200 says nothing of it; what was pushed back was not used."""
    verdict = verdict_on(200, body)

    assert (verdict.action, verdict.blame, verdict.code) == (action, blame, code)
    assert (verdict.was_used, verdict.keeps_body) == (False, action is not Action.PUSH_BACK)
    assert len(verdict.message) > len("HTTP 200: ")


def test_a_success_that_words_an_overload_may_have_been_worked_on() -> None:
    """It is tried again like any reply without an answer, not for ever."""
    verdict = verdict_on(200, err("The engine is overloaded.", type="server_error"))

    assert (verdict.action, verdict.was_used) == (Action.RETRY, True)


def test_a_push_back_with_usage_was_used() -> None:
    """Half an answer may have been paid for."""
    verdict = verdict_on(200, {"error": {"message": "x", "code": 429}, **USED})

    assert (verdict.action, verdict.was_used, verdict.keeps_body) == (Action.PUSH_BACK, True, True)


def test_only_a_push_back_waits_for_more_than_a_day() -> None:
    """A month may be true of a quota; one failed line must not be parked for it."""
    a_month = {b"Retry-After": b"2592000"}

    assert verdict_on(429, b"", a_month).wait_s == 2_592_000
    assert verdict_on(503, b"", a_month).wait_s == 2_592_000
    assert verdict_on(500, b"", a_month).wait_s == 86_400


ONE = err("The model `gpt-x` refused request req_abc of org-Aa1: 12 tokens. See https://a.b/c")
TWO = err("The model `llama`   refused request req_xyz of org-Bb2: 9,340 tokens. See https://a.b/d")


def test_the_same_refusal_of_two_lines_has_one_signature() -> None:
    """Names in quotes, numbers, ids and links differ from line to line."""
    one, two = verdict_on(400, ONE), verdict_on(400, TWO)

    assert one.message != two.message
    assert one.signature == two.signature == "400 http_400 the model refused request of tokens. see"


@pytest.mark.parametrize(
    ("status", "body"), [(403, ONE), (400, err("another reason")), (400, err("The model refused", code="other"))]
)
def test_another_refusal_has_another_signature(status: int, body: object) -> None:
    """Status, code and reason count."""
    assert verdict_on(status, body).signature != verdict_on(400, ONE).signature


KEYS = ["error", "errors", "message", "code", "type", "detail", "metadata", "raw", "headers", "base_resp", "usage"]
TEXTS = [
    "retry in 5s",
    "Limit 5, Requested 7",
    "credit balance",
    "429",
    "rate_limit",
    "flagged",
    '{"error":"x"}',
    '"',
    "`",
]
json_values = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(st.integers(0, 999), st.binary(max_size=60) | json_values.map(orjson.dumps) | st.text().map(str.encode))
def test_no_reply_makes_the_judge_stumble(status: int, body: bytes) -> None:
    """Whatever a server says, there is a verdict that can be recorded, and its signature is bounded."""
    verdict = judge(Request(1, "0" * 16, b"", "row-1"), Reply(status, {}, body), NOW_S)

    if not isinstance(verdict, Answer):
        assert verdict.code
        assert len(verdict.signature) <= MAX_SIGNATURE_CHARS
        assert verdict.blame is Blame.UNKNOWN or verdict.action is Action.REFUSED
        assert not (verdict.is_not_found or verdict.never_fits) or verdict.action is Action.REFUSED


HOSTILE = ["a" * 9000, "limit 1 " * 1200, "try again " * 900, "retry in 1m " * 800, '"' * 5000, "request " * 1100]
HOSTILE += [
    "1" * 9000,
    "1," * 4000,
    "key " * 2000,
    "- " * 4000,
    "prompt 1 token > " * 500,
    "https://" * 1000,
    "word " * 900,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:9])
@pytest.mark.parametrize("status", [200, 400, 429])
def test_no_text_takes_long_to_read(text: str, status: int) -> None:
    """Patterns are bounded: an answer in milliseconds, with room for a slow machine."""
    began_s = time.perf_counter()

    verdict = verdict_on(status, err(text, code=text))

    assert time.perf_counter() - began_s < 0.5
    assert len(verdict.signature) <= MAX_SIGNATURE_CHARS

"""The verdict table, row by row: what a reply means for its request, its endpoint and its limits."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.models import Answer, Attempt, Cause, Reply, Request
from llmblast.sending import Action, Blame, Verdict
from tests.openai_provider import judge

NOW_S = 1_800_000_000.0
ANSWER = b'{"choices":[{"message":{"role":"assistant","content":"4"},"finish_reason":"stop"}]}'
RETRY_AFTER = {b"Retry-After": b"7"}


def a_request(**more: int) -> Attempt:
    attempt = Attempt(Request(1, "0" * 16, b"", "row-1"))
    for name, value in more.items():
        setattr(attempt, name, value)
    return attempt


def an_error(message: str = "no", **more: object) -> bytes:
    return orjson.dumps({"error": {"message": message, **more}})


def verdict_on(reply: Reply, request: Attempt | Request | None = None) -> Verdict:
    verdict = judge(request or a_request(), reply, NOW_S)
    assert isinstance(verdict, Verdict)
    return verdict


@pytest.mark.parametrize("status", [200, 201, 299])
def test_a_usable_answer_needs_no_verdict(status: int) -> None:
    """Any 2xx."""
    answer = judge(a_request(), Reply(status, body=ANSWER), NOW_S)

    assert isinstance(answer, Answer)
    assert answer.text == "4"


@pytest.mark.parametrize("finish_reason", ["length", "content_filter"])
@pytest.mark.parametrize("content", ["4", "", None])
def test_a_cut_off_answer_is_a_success(finish_reason: str, content: str | None) -> None:
    """It is flagged by its finish_reason; asking again would cost again and end the same way."""
    body = orjson.dumps({"choices": [{"message": {"content": content}, "finish_reason": finish_reason}]})

    answer = judge(a_request(), Reply(200, body=body), NOW_S)

    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason) == (content, finish_reason)


TABLE = [
    # status, body, headers, action, code, wait_s, transient
    (429, an_error("slow down", code="rate_limit_exceeded"), {}, Action.PUSH_BACK, "rate_limit_exceeded", None, True),
    (429, b"", RETRY_AFTER, Action.PUSH_BACK, "http_429", 7.0, True),
    (529, an_error("overloaded", type="overloaded_error"), {}, Action.PUSH_BACK, "overloaded_error", None, True),
    (503, b"", RETRY_AFTER, Action.PUSH_BACK, "http_503", 7.0, True),
    (503, b"", {}, Action.RETRY, "http_503", None, True),
    (503, b"", {b"Retry-After": b"soon"}, Action.RETRY, "http_503", None, True),
    (429, an_error("Request too large for m: Limit 10, Requested 20"), {}, Action.REFUSED, "http_429", None, False),
    (429, an_error("you", code="insufficient_quota"), {}, Action.REFUSED, "insufficient_quota", None, True),
    (429, an_error("you", type="insufficient_quota"), {}, Action.REFUSED, "insufficient_quota", None, True),
    (429, an_error("you", type="insufficient_quota", code="429"), {}, Action.REFUSED, "429", None, True),
    (
        429,
        an_error("you", code="billing_hard_limit_reached"),
        {},
        Action.REFUSED,
        "billing_hard_limit_reached",
        None,
        True,
    ),
    (402, b"", {}, Action.REFUSED, "http_402", None, True),
    (401, an_error("bad key", code="invalid_api_key"), {}, Action.REFUSED, "invalid_api_key", None, True),
    (403, b"Forbidden", {}, Action.REFUSED, "http_403", None, True),
    (
        400,
        an_error("too long", code="context_length_exceeded"),
        {},
        Action.REFUSED,
        "context_length_exceeded",
        None,
        False,
    ),
    (404, b"", {}, Action.REFUSED, "http_404", None, False),
    (413, b"", {}, Action.REFUSED, "http_413", None, False),
    (422, b'{"detail":"bad"}', {}, Action.REFUSED, "http_422", None, False),
    (301, b"", {}, Action.REFUSED, "http_301", None, False),
    (307, b"", {}, Action.REFUSED, "http_307", None, False),
    (408, b"", {}, Action.RETRY, "http_408", None, True),
    (409, b"", {}, Action.RETRY, "http_409", None, True),
    (500, an_error("oops", type="server_error"), {}, Action.RETRY, "server_error", None, True),
    (502, b"<html>", {}, Action.RETRY, "http_502", None, True),
    (504, b"", RETRY_AFTER, Action.RETRY, "http_504", 7.0, True),
    (524, b"", {}, Action.RETRY, "http_524", None, True),
    (599, b"", {}, Action.RETRY, "http_599", None, True),
    (200, an_error("slow down", code=429), {}, Action.PUSH_BACK, "429", None, True),
    (200, an_error("upstream", code=502), {}, Action.RETRY, "502", None, True),
    (200, an_error("no", code="401"), {}, Action.REFUSED, "401", None, True),
    (200, an_error("bad", code=400), {}, Action.REFUSED, "400", None, False),
]


@pytest.mark.parametrize(("status", "body", "headers", "action", "code", "wait_s", "transient"), TABLE)
def test_a_status_decides(
    status: int,
    body: bytes,
    headers: dict[bytes, bytes],
    action: Action,
    code: str,
    wait_s: float | None,
    transient: bool,
) -> None:
    """None of these was worked on, so none counts as paid."""
    verdict = verdict_on(Reply(status, headers, body))

    assert (verdict.action, verdict.code, verdict.wait_s) == (action, code, wait_s)
    assert (verdict.transient, verdict.was_used) == (transient, False)
    assert str(status if status != 200 else orjson.loads(body)["error"]["code"]) in verdict.message


YES, NO = {b"X-Should-Retry": b"true"}, {b"x-should-retry": b"False "}
TOO_LARGE = an_error("Request too large for m: Limit 10, Requested 20")


@pytest.mark.parametrize(
    ("status", "body", "headers", "action", "transient"),
    [
        (500, b"", NO, Action.FAIL, True),
        (503, b"", NO, Action.FAIL, True),
        (409, b"", NO, Action.FAIL, True),
        (400, b"", NO, Action.REFUSED, False),
        (400, b"", YES, Action.RETRY, True),
        (404, b"", YES, Action.RETRY, True),
        (500, b"", YES, Action.RETRY, True),
        (429, TOO_LARGE, YES, Action.RETRY, True),
        (429, TOO_LARGE, NO, Action.REFUSED, False),
        (429, b"", NO, Action.PUSH_BACK, True),
        (503, b"", {**NO, **RETRY_AFTER}, Action.PUSH_BACK, True),
        (401, b"", YES, Action.RETRY, True),
        (429, an_error(code="insufficient_quota"), YES, Action.RETRY, True),
        (307, b"", YES, Action.REFUSED, False),
        (400, b"", {b"x-should-retry": b"perhaps"}, Action.REFUSED, False),
        (500, b"", {b"x-should-retry": b"\xff"}, Action.RETRY, True),
        (200, an_error(code=500), NO, Action.FAIL, True),
        (200, an_error(code=400), YES, Action.RETRY, True),
        (200, b"", NO, Action.RETRY, True),
    ],
)
def test_the_provider_may_say_whether_to_retry(
    status: int, body: bytes, headers: dict[bytes, bytes], action: Action, transient: bool
) -> None:
    """It knows better than its status; but a push-back is about more than one line."""
    verdict = verdict_on(Reply(status, headers, body))

    assert (verdict.action, verdict.transient) == (action, transient)


@pytest.mark.parametrize(("headers", "is_not_found"), [({}, True), (NO, True), (YES, False)])
def test_what_is_to_be_retried_is_not_missing(headers: dict[bytes, bytes], is_not_found: bool) -> None:
    """A 404 that shall be asked again is no sign of a wrong URL."""
    assert verdict_on(Reply(404, headers)).is_not_found is is_not_found


def test_a_plain_text_may_be_a_rate_limit() -> None:
    """Some gateways send their own words with HTTP 200."""
    verdict = verdict_on(Reply(200, {}, b"Too many requests, try again in 3 s"))

    assert (verdict.action, verdict.wait_s) == (Action.PUSH_BACK, 3.0)
    assert verdict.message == "HTTP 200 with a body that is not JSON: Too many requests, try again in 3 s"


UNUSABLE = {
    "empty": (b"", "unusable_reply", "HTTP 200 with an empty body"),
    "blank": (b" \n", "unusable_reply", "HTTP 200 with an empty body"),
    "no JSON": (b"OK", "unusable_reply", "HTTP 200 with a body that is not JSON: OK"),
    "a page": (
        b"<html><title>Just a moment...</title></html>",
        "unusable_reply",
        "HTTP 200 with a body that is not JSON: Just a moment...",
    ),
    "bytes": (b"\x1f\x8b\x08\0", "unusable_reply", "HTTP 200 with a body that is not JSON"),
    "a long text": (b"too many requests " * 20, "unusable_reply", "HTTP 200 with a body that is not JSON"),
    "torn JSON": (ANSWER[:-1], "unusable_reply", "HTTP 200 with a body that is not JSON"),
    "no object": (b"[1]", "unusable_reply", "HTTP 200 with JSON that is not an object"),
    "no choices": (b'{"choices":[]}', "unusable_reply", "HTTP 200 without an answer in it"),
    "no content": (
        b'{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}',
        "unusable_reply",
        "HTTP 200 without an answer in it",
    ),
    "an error": (an_error("oh no", type="engine_error"), "engine_error", "oh no"),
    "an error in a word": (b'{"error":"oh no"}', "unusable_reply", "oh no"),
    "an error that says nothing": (b'{"error":{"x":1}}', "unusable_reply", "the endpoint answered with an error"),
}


@pytest.mark.parametrize(("body", "code", "message"), UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize(("retried", "action"), [(0, Action.RETRY), (1, Action.RETRY), (2, Action.FAIL)])
def test_an_unusable_reply_is_retried_twice(body: bytes, code: str, message: str, retried: int, action: Action) -> None:
    """It may have been paid for, so its body is kept."""
    verdict = verdict_on(Reply(200, body=body), a_request(unusable_replies=retried))

    assert (verdict.action, verdict.code, verdict.message) == (action, code, message)
    assert (verdict.transient, verdict.keeps_body, verdict.was_used) == (True, True, True)


def test_the_body_of_a_success_that_carries_an_error_is_kept() -> None:
    """Also where the error has a status of its own."""
    assert verdict_on(Reply(200, body=an_error(code=400))).keeps_body


def test_another_3xx_names_no_other_url() -> None:
    """304 says that nothing has changed."""
    assert verdict_on(Reply(304)).message == "HTTP 304"


def test_a_redirect_says_what_to_do() -> None:
    """A person has to name the final URL."""
    verdict = verdict_on(Reply(308))

    assert verdict.message == "HTTP 308 (redirects are not followed: name the final URL)"


def test_what_was_never_sent_cost_nothing() -> None:
    """DNS, refused, TLS, connect timeout."""
    verdict = verdict_on(Reply(cause=Cause.NOT_SENT, detail="nobody listens"))

    assert verdict == Verdict(Action.NOT_SENT, "nobody listens", "not_sent", transient=True)


def test_a_stale_connection_is_made_up_for_once() -> None:
    """The second time it is as good as broken."""
    stale = Reply(cause=Cause.STALE, detail="closed", latency_s=0.1)

    assert verdict_on(stale) == Verdict(Action.RESEND, "closed", "stale_connection", transient=True)
    again = verdict_on(stale, a_request(resent=True))
    assert (again.action, again.code, again.was_used) == (Action.RETRY, "connection_broken", True)


@pytest.mark.parametrize(("cause", "code"), [(Cause.BROKEN, "connection_broken"), (Cause.TIMED_OUT, "timeout")])
@pytest.mark.parametrize(("retried", "action"), [(0, Action.RETRY), (1, Action.FAIL)])
def test_an_ambiguous_send_is_retried_once(cause: Cause, code: str, retried: int, action: Action) -> None:
    """It may have been paid for."""
    verdict = verdict_on(Reply(cause=cause, detail="so it was"), a_request(ambiguous_sends=retried))

    assert verdict == Verdict(action, "so it was", code, transient=True, was_used=True)


def test_a_reply_over_the_cap_fails_for_good() -> None:
    """It was paid for, and would be as large again."""
    verdict = verdict_on(Reply(cause=Cause.TOO_LARGE, detail="too large"))

    assert verdict == Verdict(Action.FAIL, "too large", "reply_too_large", was_used=True)


KEYS = st.sampled_from(
    ["error", "choices", "message", "content", "code", "type", "usage", "data", "embedding", "text", "detail", "model"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
headers = st.dictionaries(
    st.sampled_from([b"Retry-After", b"retry-after-ms", b"x-should-retry"]), st.binary(max_size=20), max_size=3
)


@given(
    st.integers(0, 999),
    st.binary(max_size=60) | json_values.map(orjson.dumps),
    headers,
    st.sampled_from(["", "embeddings"]),
)
def test_no_reply_makes_the_judge_stumble(status: int, body: bytes, headers: dict[bytes, bytes], path: str) -> None:
    """Whatever a server says, there is a verdict that can be recorded."""
    request = Request(1, "0" * 16, b"", "row-1", path=path)

    verdict = judge(request, Reply(status, headers, body), NOW_S)

    assert isinstance(verdict, Answer) or (verdict.code and verdict.message)


NESTED = b"[" * 900 + b"]" * 900


@pytest.mark.parametrize("status", [200, 400, 429])
@pytest.mark.parametrize(
    "body",
    [
        b'{"error":' + NESTED + b"}",
        b'{"error":{"code":' + NESTED + b"}}",
        b'{"error":{"type":' + NESTED + b"}}",
        b'{"detail":' + NESTED + b"}",
        b'{"error":{"code":"\xc2\xb2\xc2\xb2\xc2\xb2"}}',
        b'{"error":{"code":"' + b"9" * 5000 + b'"}}',
        b'{"error":{"code":4.5e2}}',
        NESTED * 2,
    ],
    ids=["error", "code", "type", "detail", "superscript", "many digits", "float", "array"],
)
def test_malice_does_not_make_the_judge_stumble(status: int, body: bytes) -> None:
    """Nesting deeper than Python prints, digits that are no number, a number that is no status."""
    assert verdict_on(Reply(status, body=body)).message


def test_a_kept_connection_that_dies_late_may_have_been_paid_for() -> None:
    """Silence for a second and then the end: the server may have worked on it."""
    verdict = judge(a_request(), Reply(cause=Cause.STALE, detail="closed", latency_s=1.5), NOW_S)

    assert isinstance(verdict, Verdict)
    assert (verdict.action, verdict.was_used) == (Action.RETRY, True)


@pytest.mark.parametrize("status", [301, 302, 404, 405])
def test_what_is_not_there_is_told_apart(status: int) -> None:
    """Whether that is the endpoint's fault depends on its past, which the reply does not know."""
    verdict = verdict_on(Reply(status, body=b"<html>"))

    assert (verdict.action, verdict.blame, verdict.is_not_found) == (Action.REFUSED, Blame.UNKNOWN, True)

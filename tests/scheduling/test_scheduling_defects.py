"""Defects in what scheduling learns: the part is switched off, and what the user set holds as before."""

from collections.abc import Callable
from typing import Any

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.fence import Fence
from llmblast.models import Answer, Attempt, RateLimitInfo, Request
from llmblast.scheduling import (
    ANSWERED,
    Concurrency,
    Endpoint,
    Kind,
    KnownLimits,
    Limit,
    LimitSet,
    Rate,
    Scheduler,
    SendOutcome,
    limit_set,
)
from llmblast.scheduling.adaptive_concurrency import AdaptiveConcurrency
from llmblast.scheduling.advertised_rate import AdvertisedRate
from llmblast.scheduling.learned_rate import LearnedRate
from llmblast.scheduling.routes import weighted
from llmblast.scheduling.tokens import FIRST_OUTPUT_TOKENS, TokenEstimator
from llmblast.settings import Settings

pytestmark = pytest.mark.pure
TOKENS = (10.0, 4.0, 6.0)
Break = Callable[[type, str], Callable[[], None]]


class Counted(Limit):
    """A limit that counts what it is charged."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.charged = 0.0

    def ready_at(self, cost: float, now: float) -> float:
        return now

    def acquire(self, cost: float, now: float) -> None:
        self.charged += cost

    def settle(self, paid: float, real: float, now: float) -> None:
        self.charged += real - paid


class Parts(Fence):
    """Keeps the names of the parts that were switched off, each time that one is."""

    def __init__(self) -> None:
        self.names: list[str] = []
        super().__init__(lambda part, error: self.names.append(part))


def _raise(*arguments: object) -> Any:
    raise ZeroDivisionError("a defect")


def failing_limit(name: str, failing: str, *, is_learned: bool = True) -> Counted:
    """One whose method of that name always fails."""
    kind = type("Failing", (Counted,), {failing: _raise, "is_learned": is_learned})
    limit: Counted = kind(name)
    return limit


@pytest.fixture
def break_method(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Lets a method of a class fail from the moment on that what it returns is called."""

    def break_later(owner: type, name: str) -> Callable[[], None]:
        calls: list[Callable[..., Any]] = [getattr(owner, name)]

        def call(*arguments: object) -> object:
            return calls[-1](*arguments)

        monkeypatch.setattr(owner, name, call)
        return lambda: calls.append(_raise)

    return break_later


def a_request() -> Request:
    return Request(1, "0" * 16, b"{}", 1, body=b"{}")


def guarded(**limits: list[Limit]) -> tuple[LimitSet, list[str]]:
    """A set of limits that leaves out those that are learned and fail, and their names."""
    names: list[str] = []

    def leave_out(limit: Limit, error: Exception) -> None:
        if not getattr(limit, "is_learned", False):
            raise error
        limits_of_one.replace(limit, None)
        names.append(limit.name)

    limits_of_one = LimitSet(**limits, on_defect=leave_out)
    return limits_of_one, names


@pytest.mark.parametrize("place", range(3))
def test_the_others_are_charged_once_where_a_learned_limit_fails(place: int) -> None:
    """Wherever it stands: those before it were charged already, those behind it were not."""
    first, second, tokens = Counted("a"), Counted("b"), Counted("tokens")
    limits: list[Limit] = [first, second]
    limits.insert(place, failing_limit("learned", "acquire"))
    limits_of_one, names = guarded(per_request=limits, total=[tokens])

    limits_of_one.acquire(TOKENS, 0.0)
    limits_of_one.acquire(TOKENS, 0.0)

    assert (first.charged, second.charged, tokens.charged) == (2.0, 2.0, 20.0)
    assert names == ["learned"]


def test_the_others_are_settled_once_where_a_learned_limit_fails() -> None:
    """Slots come back, and tokens are charged as they were."""
    slots, tokens = Counted("slots"), Counted("tokens")
    learned = failing_limit("learned tokens", "settle")
    limits, names = guarded(slots=[slots], total=[learned], prompt=[tokens])
    limits.acquire(TOKENS, 0.0)

    limits.release(TOKENS, (20.0, 5.0, 15.0), 1.0)

    assert (slots.charged, tokens.charged, names) == (0.0, 5.0, ["learned tokens"])


@pytest.mark.parametrize("ask", ["is_ready", "last_ready"])
def test_several_learned_limits_fail_at_once(ask: str) -> None:
    """All of them are left out, and what is left says when to go."""
    rate = Rate("rate", 1.0)
    rate.acquire(1.0, 100.0)
    limits, names = guarded(per_request=[failing_limit("a", "ready_at"), rate], total=[failing_limit("b", "ready_at")])

    ready, (at, limit) = limits.is_ready(TOKENS, 100.5), limits.last_ready(TOKENS, 100.5)

    assert (ready, limit, sorted(names)) == (False, rate, ["a", "b"])
    assert at > 100.5


def test_a_defect_in_a_limit_that_was_set_comes_out() -> None:
    """Without it more would be sent than the user allows."""
    limits, _ = guarded(per_request=[failing_limit("a", "acquire", is_learned=False)])

    with pytest.raises(ZeroDivisionError):
        limits.acquire(TOKENS, 0.0)


def test_without_a_report_a_defect_in_advice_comes_out(break_method: Break) -> None:
    """So that tests of a part see its defects."""
    break_method(LearnedRate, "acquire")()
    endpoint = Endpoint(0, EndpointSettings(url="http://a/v1", name="a"), known=KnownLimits(5.0))

    with pytest.raises(ZeroDivisionError):
        endpoint.limits.acquire(TOKENS, 0.0)


@pytest.mark.parametrize("failing", ["ready_at", "acquire", "settle", "on_answer"])
def test_the_users_concurrency_holds_where_the_adaptive_one_fails(break_method: Break, failing: str) -> None:
    """With as many slots taken as there are requests in flight."""
    parts, break_now = Parts(), break_method(AdaptiveConcurrency, failing)
    settings = EndpointSettings(url="http://a/v1", name="a", concurrency=3)
    endpoint = Endpoint(0, settings, fence=parts)
    scheduler = Scheduler(limit_set("run", Settings(), 0.0), [endpoint], weighted)
    scheduler.queue.add(Attempt(a_request()))
    scheduler.next(0.0)
    break_now()
    for _ in range(4):
        scheduler.queue.add(Attempt(a_request()))

    dispatched = scheduler.next(0.0)
    if failing in ("settle", "on_answer"):
        assert dispatched is not None
        scheduler.on_outcome(dispatched[0], endpoint, ANSWERED, 0.1)
        scheduler.release(dispatched[0], endpoint, TOKENS, 0.1)
    while scheduler.next(0.2) is not None:
        pass

    assert endpoint.traffic.in_flight == 3
    assert parts.names == ["a concurrency"]
    assert endpoint.learned.concurrency is None


@pytest.mark.parametrize("failing", ["on_rejected", "on_held_rejected", "on_exhausted", "ready_at", "acquire"])
def test_a_learned_rate_that_fails_is_left_out(break_method: Break, failing: str) -> None:
    """Push-back still holds the endpoint back."""
    break_method(LearnedRate, failing)()
    parts = Parts()
    endpoint = Endpoint(0, EndpointSettings(url="http://a/v1", name="a"), fence=parts)
    now = 0.0

    for _ in range(60):
        now = max(now + 0.01, min(endpoint.hold.push_back.ready_at(1.0, now), now + 1.0))
        sent = Attempt(a_request(), sent_s=now)
        endpoint.limits.is_ready(TOKENS, now)
        endpoint.limits.acquire(TOKENS, now)
        endpoint.record_send(sent, now)
        endpoint.on_outcome(sent, SendOutcome(Kind.RATE_LIMITED, wait_s=0.1) if now < 5 else ANSWERED, now + 0.005)
        endpoint.record_return(sent, now + 0.005)
        endpoint.limits.release(TOKENS, TOKENS, now + 0.005)

    assert parts.names == ["a learned rate"]
    assert endpoint.learned.rate is None
    assert "a learned rate" not in [limit.name for limit in endpoint.limits.all()]
    assert endpoint.hold.push_back.share > 0


@pytest.mark.parametrize("failing", ["ready_at", "acquire", "settle", "on_rate_limit_headers"])
def test_an_advertised_rate_that_fails_is_left_out_for_good(break_method: Break, failing: str) -> None:
    """The next headers do not bring it back."""
    parts, break_now = Parts(), break_method(AdvertisedRate, failing)
    endpoint = Endpoint(0, EndpointSettings(url="http://a/v1", name="a"), fence=parts)
    infos = [RateLimitInfo(kind, 100.0, 10.0, 30.0) for kind in ("requests", "tokens")]
    endpoint.learned.on_rate_limit_headers(infos, 0.0, 0.0)
    break_now()

    endpoint.learned.on_rate_limit_headers(infos, 1.0, 1.0)
    endpoint.limits.is_ready(TOKENS, 1.0)
    endpoint.limits.acquire(TOKENS, 1.0)
    endpoint.limits.release(TOKENS, TOKENS, 1.1)

    assert len(parts.names) == 1
    assert not endpoint.learned.advertised
    assert not endpoint.learned.reads_headers
    assert not endpoint.limits.counts_tokens


def test_token_counts_that_cannot_be_learned_stay_as_they_were_at_first(break_method: Break) -> None:
    """The estimate before anything is known errs on the safe side."""
    parts, break_now = Parts(), break_method(TokenEstimator, "learn")
    endpoint = Endpoint(0, EndpointSettings(url="http://a/v1", name="a"), fence=parts)
    endpoint.learned.learn_tokens(a_request(), Answer(prompt_tokens=1, completion_tokens=9000), 0.0)
    break_now()

    endpoint.learned.learn_tokens(a_request(), Answer(prompt_tokens=1, completion_tokens=9000), 1.0)
    endpoint.learned.learn_tokens(a_request(), Answer(prompt_tokens=1, completion_tokens=9000), 2.0)

    assert endpoint.learned.estimator.estimate(a_request())[2] == FIRST_OUTPUT_TOKENS
    assert parts.names == ["learning token counts of a"]


@pytest.mark.parametrize(
    "limit",
    [Concurrency("a", 9), AdaptiveConcurrency("a", 2000)],
    ids=lambda limit: type(limit).__name__,
)
def test_a_plain_limit_has_the_users_number(limit: Concurrency) -> None:
    """Not the number of the moment."""
    limit.waited_s = 5.0

    plain = limit.to_fixed(3)

    assert (plain.ready_at(limit.max_slots - 3, 0.0), plain.is_full, plain.waited_s) == (0.0, False, 5.0)
    plain.acquire(limit.max_slots - 3, 0.0)
    assert plain.is_full

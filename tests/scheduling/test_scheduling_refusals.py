"""The circuit breaker for permanent refusals: rows of different lines, suspicion, probes."""

import math

import pytest

from llmblast.scheduling.refusals import (
    FIRST_PROBES,
    FIRST_ROW,
    MIN_BLAMED_ROW,
    MIN_ROW,
    MIXED_ROWS,
    PROBE_INTERVAL_S,
    PROBES,
    BreakerState,
    RefusalBreaker,
)


class Endpoint:
    """A breaker whose requests are sent one millisecond apart; each takes as long as a test lets it."""

    def __init__(self) -> None:
        self.breaker = RefusalBreaker("e0 refusals")
        self.now = 100.0
        self._line = 0

    def state(self) -> BreakerState:
        return self.breaker.state

    def send(self) -> float:
        """The moment of the send."""
        self.now += 0.001
        self.breaker.acquire(1.0, self.now)
        return self.now

    def answer(self, sent_s: float | None = None) -> bool:
        sent_s = self.send() if sent_s is None else sent_s
        self.now += 0.001
        self.breaker.settle(1.0, 0.0, self.now)
        return self.breaker.on_answer(sent_s)

    def refuse(
        self,
        times: int = 1,
        *,
        sent_s: float | None = None,
        says: str = "400 no",
        line: int = 0,
        is_blamed: bool = False,
    ) -> None:
        for _ in range(times):
            moment_s = self.send() if sent_s is None else sent_s
            self.now += 0.001
            self.breaker.settle(1.0, 0.0, self.now)
            self._line += 1
            self.breaker.on_refusal(line or self._line, says, moment_s, self.now, is_blamed=is_blamed)

    def answer_many(self, times: int = 100) -> None:
        for _ in range(times):
            self.answer()


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def working() -> Endpoint:
    """One that has answered many."""
    endpoint = Endpoint()
    endpoint.answer_many()
    return endpoint


def test_one_refusal_before_the_first_answer_is_no_suspicion(endpoint: Endpoint) -> None:
    """The file may begin with a bad line."""
    endpoint.refuse()
    assert endpoint.state() is BreakerState.CLOSED
    endpoint.refuse()
    assert (endpoint.state(), FIRST_ROW) == (BreakerState.SUSPECTED, 2)


@pytest.mark.parametrize(("is_blamed", "row"), [(False, MIN_ROW), (True, MIN_BLAMED_ROW)])
def test_after_answers_it_takes_a_longer_row(working: Endpoint, is_blamed: bool, row: int) -> None:
    """A shorter one where the words blame the account."""
    working.refuse(row - 1, is_blamed=is_blamed)
    assert working.state() is BreakerState.CLOSED
    working.refuse(is_blamed=is_blamed)
    assert working.state() is BreakerState.SUSPECTED


def test_the_same_line_is_no_row(working: Endpoint) -> None:
    """It may be tried again, as after a 404."""
    working.refuse(100, line=7)

    assert working.state() is BreakerState.CLOSED


def test_refusals_that_are_not_alike_take_a_longer_row(working: Endpoint) -> None:
    """Messages may repeat what stands in the line."""
    for n in range(MIXED_ROWS * MIN_ROW - 1):
        working.refuse(says=f"400 {n}")
    assert working.state() is BreakerState.CLOSED
    working.refuse(says="400 other")
    assert working.state() is BreakerState.SUSPECTED


def test_an_answer_to_what_was_sent_later_ends_the_row(working: Endpoint) -> None:
    """And shows that those lines are to blame."""
    working.refuse(MIN_ROW - 1)

    assert working.answer()
    assert not working.answer()
    working.refuse(MIN_ROW - 1)
    assert working.state() is BreakerState.CLOSED


def test_an_answer_to_what_was_sent_before_shows_nothing(working: Endpoint) -> None:
    """The money may have run out in between."""
    sent_s = working.send()
    working.refuse(MIN_ROW - 1)

    assert not working.answer(sent_s)
    working.refuse()
    assert working.state() is BreakerState.SUSPECTED


def test_an_answer_between_clears_only_the_refusals_that_came_before_it_was_sent(working: Endpoint) -> None:
    """The others stay a row."""
    working.refuse(MIN_ROW - 2)
    sent_s = working.send()
    working.refuse(2)

    assert working.answer(sent_s)
    working.refuse(MIN_ROW - 3)
    assert working.state() is BreakerState.CLOSED
    working.refuse()
    assert working.state() is BreakerState.SUSPECTED


def test_a_row_counts_once_it_is_as_long_as_what_is_in_flight(working: Endpoint) -> None:
    """Answers may be slower than refusals: fifty that are under way may still be answered."""
    sent = [working.send() for _ in range(50)]
    working.refuse(49)
    assert working.state() is BreakerState.CLOSED

    working.answer(sent[0])
    working.refuse()
    assert working.state() is BreakerState.SUSPECTED


def test_where_many_lines_are_refused_anyway_longer_rows_are_chance(endpoint: Endpoint) -> None:
    """Of two lines one."""
    for _ in range(100):
        endpoint.answer()
        endpoint.refuse()
    endpoint.answer()

    endpoint.refuse(18)

    assert endpoint.state() is BreakerState.CLOSED


@pytest.mark.parametrize("answers", [0, 100])
def test_refused_probes_take_it_out(endpoint: Endpoint, answers: int) -> None:
    """More of them where it has never answered."""
    endpoint.answer_many(answers)
    endpoint.refuse(MIN_ROW if answers else FIRST_ROW)
    probes = PROBES if answers else FIRST_PROBES

    endpoint.refuse(probes - 1)
    assert endpoint.state() is BreakerState.SUSPECTED
    endpoint.refuse()
    assert endpoint.state() is BreakerState.OPEN
    assert endpoint.breaker.ready_at(1.0, endpoint.now + 1e9) == math.inf


def test_what_was_in_flight_before_the_suspicion_is_no_probe(endpoint: Endpoint) -> None:
    """64 were sent at once, and the first of them are bad."""
    sent = [endpoint.send() for _ in range(64)]
    for moment_s in sent[:40]:
        endpoint.refuse(sent_s=moment_s)
    assert endpoint.state() is BreakerState.SUSPECTED

    endpoint.answer(sent[50])
    assert endpoint.state() is BreakerState.SUSPECTED  # the account may have run dry since
    endpoint.answer()
    assert endpoint.state() is BreakerState.CLOSED


def test_the_first_answer_ends_a_suspicion_that_was_too_early(endpoint: Endpoint) -> None:
    """Two lines are enough only for an endpoint that never answers."""
    sent_s = endpoint.send()
    endpoint.refuse(FIRST_ROW)
    assert endpoint.state() is BreakerState.SUSPECTED

    endpoint.answer(sent_s)

    assert endpoint.state() is BreakerState.CLOSED


def test_single_requests_probe_when_all_in_flight_is_back(working: Endpoint) -> None:
    """Or after some seconds: one of them may take minutes."""
    working.send()
    working.refuse(MIN_ROW)
    ready_s = working.breaker.ready_at(1.0, working.now)
    assert ready_s == pytest.approx(working.now + PROBE_INTERVAL_S, abs=0.1)

    working.breaker.settle(1.0, 0.0, working.now)
    assert working.breaker.ready_at(1.0, working.now) <= working.now
    working.send()
    assert working.breaker.ready_at(1.0, working.now) > working.now + 4


def test_while_paused_nothing_goes(working: Endpoint) -> None:
    """Such as while a key is fetched."""
    working.breaker.waits_for_key = True
    assert working.breaker.ready_at(1.0, working.now) == math.inf
    working.breaker.waits_for_key = False
    assert working.breaker.ready_at(1.0, working.now) <= working.now


def test_a_reset_forgets_the_row(working: Endpoint) -> None:
    """With a new key all begins anew."""
    working.refuse(MIN_ROW)

    working.breaker.reset()

    assert working.state() is BreakerState.CLOSED
    working.refuse(MIN_ROW - 1)
    assert working.state() is BreakerState.CLOSED


def test_it_is_idle_some_seconds_after_the_last_send(working: Endpoint) -> None:
    """And never while something is in flight."""
    sent_s = working.send()
    assert not working.breaker.is_idle(working.now + 100, 5.0)
    working.answer(sent_s)
    assert not working.breaker.is_idle(working.now + 1, 5.0)
    assert working.breaker.is_idle(working.now + 6, 5.0)

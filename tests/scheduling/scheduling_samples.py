"""Requests, endpoints and a driver with a fake clock for the tests of this room."""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Literal, TypedDict, Unpack

from llmblast.endpoint_settings import EndpointSettings, RateSettings
from llmblast.models import IMMEDIATE, NO_TOKENS, Answer, Attempt, Request, Terms, Tokens
from llmblast.scheduling import (
    ANSWERED,
    ROUTES,
    Endpoint,
    Kind,
    PushBack,
    Rate,
    RequestQueue,
    Scheduler,
    SendOutcome,
    limit_set,
)


class Levels(TypedDict, total=False):
    """Limits of the whole run."""

    rps: float
    rpm: float
    rpd: float
    tpm: float
    itpm: float
    otpm: float
    concurrency: int


class EndpointOptions(TypedDict, total=False):
    """What a test may set on an endpoint."""

    weight: float
    rps: float
    rpm: float
    rpd: float
    tpm: float
    itpm: float
    otpm: float
    burst: float
    concurrency: int
    adaptive: bool
    charge: Literal["usage", "max_tokens"]
    quota: str


def tokens_of(prompt: float, output: float = 0.0) -> Tokens:
    """What so many tokens cost."""
    return prompt + output, prompt, output


def make_answer(prompt_tokens: int | None, completion_tokens: int | None) -> Answer:
    """An answer of which nothing but its tokens matters."""
    return Answer(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def make_request(
    number: int = 1,
    *,
    body: bytes = b"",
    max_tokens: int | None = None,
    deferred: bool = False,
    model: str | None = None,
) -> Request:
    """A request with nothing that scheduling does not look at."""
    return Request(
        number=number,
        key=f"{number:016x}",
        text=b"x" * number,
        id=number,
        body=body,
        max_tokens=max_tokens,
        terms=Terms(is_deferred=True) if deferred else IMMEDIATE,
        model=model,
    )


def make_attempt(
    number: int = 1,
    *,
    body: bytes = b"",
    max_tokens: int | None = None,
    deferred: bool = False,
    model: str | None = None,
    failed_on: int = 0,
    sent_s: float = 0.0,
) -> Attempt:
    """An attempt at such a request."""
    request = make_request(number, body=body, max_tokens=max_tokens, deferred=deferred, model=model)
    return Attempt(request, failed_on=failed_on, sent_s=sent_s)


def make_endpoint(index: int = 0, push_back: PushBack | None = None, **options: Unpack[EndpointOptions]) -> Endpoint:
    """An endpoint named e0, e1, ... as its index says, with no other limits than those that are named."""
    named: EndpointOptions = {"adaptive": False, **options}
    settings = EndpointSettings(url="http://127.0.0.1/v1", name=f"e{index}", **named)
    return Endpoint(index, settings, push_back=push_back)


def make_scheduler(
    endpoints: Sequence[EndpointOptions],
    requests: int = 0,
    route: str = "weighted",
    burst_s: float = 0.0,
    **run: Unpack[Levels],
) -> Scheduler:
    """A scheduler with that many requests queued; endpoints of one quota group share what holds them back."""
    push_backs = {options["quota"]: PushBack(options["quota"]) for options in endpoints if "quota" in options}
    made = [
        make_endpoint(index, push_backs.get(options.get("quota", "")), **options)
        for index, options in enumerate(endpoints)
    ]
    scheduler = Scheduler(limit_set("run", RateSettings(**run), burst_s), made, ROUTES[route])
    for number in range(1, requests + 1):
        scheduler.queue.add(make_attempt(number))
    return scheduler


def admit_all(scheduler: Scheduler, now: float) -> list[tuple[Attempt, Endpoint]]:
    """Everything that may go at `now`."""
    return list(iter(lambda: scheduler.next(now), None))


def answer(endpoint: Endpoint, sent_s: float, latency_s: float = 0.1) -> None:
    """An answer to a request that was sent at that time."""
    endpoint.on_outcome(make_attempt(sent_s=sent_s), ANSWERED, sent_s + latency_s)


def end(endpoint: Endpoint, kind: Kind, sent_s: float, now: float, *, is_first: bool = True) -> None:
    """A request that was sent at `sent_s` ends in that way, without a reply."""
    outcome = SendOutcome(kind, has_reply=False, is_first=is_first)
    endpoint.on_outcome(make_attempt(sent_s=sent_s), outcome, now)


def drain(queue: RequestQueue, now: float) -> list[int]:
    """Numbers in the order in which the queue let them go at `now`."""
    numbers = []
    while queue.peek(now) is not None:
        numbers.append(queue.pop(now).request.number)
    return numbers


def sends_of(rate: Rate, lateness_s: Iterator[float], until_s: float, start_s: float = 1000.0) -> list[float]:
    """Moments at which unit costs leave when `rate` is asked again up to so late after each is ready."""
    now, sends = start_s, []
    while now < start_s + until_s:
        rate.acquire(1.0, now)
        sends.append(now)
        ready_s = rate.ready_at(1.0, now)
        now = ready_s + next(lateness_s) if ready_s > now else now
    return sends


def most_within(moments: Sequence[float], window_s: float) -> int:
    """The most moments in any stretch of that length, both ends belonging to it."""
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


class Driver:
    """Plays a scheduler against a fake clock: replies come after `latency()`, `judge` says what a reply leads to.

    `judge(request, endpoint)` returns what was really charged and the seconds after which the request is tried again,
    or None when it is done.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        latency: Callable[[Endpoint], float],
        judge: Callable[[Attempt, Endpoint], tuple[Tokens, float | None]] = lambda attempt, endpoint: (NO_TOKENS, None),
        lateness: Callable[[], float] = lambda: 0.0,
        now: float = 1000.0,
    ) -> None:
        self.scheduler = scheduler
        self.now = now
        self.sends: list[tuple[float, int, int]] = []
        self.done: list[int] = []
        self.most_in_flight: dict[int | None, int] = {None: 0}
        self._latency = latency
        self._judge = judge
        self._lateness = lateness
        self._flights: list[tuple[float, int, Attempt, Endpoint]] = []
        self._order = count()

    def run(self, until_s: float = math.inf) -> None:
        """Goes on until all is done, or that many seconds have passed."""
        end_s = self.now + until_s
        while (self.scheduler.queue or self._flights) and self.now < end_s:
            self._admit()
            reply_s = self._flights[0][0] if self._flights else math.inf
            wake_at = self.scheduler.wake_at
            assert min(reply_s, wake_at) < math.inf, "nothing would ever wake the queue"
            if wake_at < reply_s:
                self._check_that_nothing_goes_before(wake_at)
                self.now = wake_at + self._lateness()
            else:
                self.now = max(self.now, reply_s)
                self._land()

    def _admit(self) -> None:
        for attempt, endpoint in admit_all(self.scheduler, self.now):
            self.sends.append((self.now, attempt.request.number, endpoint.index))
            heapq.heappush(self._flights, (self.now + self._latency(endpoint), next(self._order), attempt, endpoint))
            for index, load in ((None, len(self._flights)), (endpoint.index, endpoint.traffic.in_flight)):
                self.most_in_flight[index] = max(self.most_in_flight.get(index, 0), load)
        assert self.scheduler.wake_at > self.now

    def _check_that_nothing_goes_before(self, wake_at: float) -> None:
        assert self.scheduler.next((self.now + wake_at) / 2) is None
        assert self.scheduler.wake_at == wake_at

    def _land(self) -> None:
        _, _, attempt, endpoint = heapq.heappop(self._flights)
        tokens, wait_s = self._judge(attempt, endpoint)
        if wait_s is None:
            self.scheduler.on_outcome(attempt, endpoint, ANSWERED, self.now)
        self.scheduler.release(attempt, endpoint, tokens, self.now)
        if wait_s is None:
            self.done.append(attempt.request.number)
        else:
            attempt.failed_on |= endpoint.bit
            self.scheduler.queue.add_retry(attempt, self.now + wait_s)

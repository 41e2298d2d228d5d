"""Closed-loop simulation of one endpoint: a client that learns from push-back, and servers that push back.

The client has `slots` requests in flight at most, slow start with pacing, and the parts under test: `PushBack`,
`LearnedRate`, `LearnedConcurrency`. Every event comes late by some jitter, all randomness has a seed.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from llmblast.scheduling.learned_concurrency import LearnedConcurrency
from llmblast.scheduling.learned_rate import LearnedRate
from llmblast.scheduling.push_back import PushBack

GIVE_UP_S = 900.0
TIMER_S = 0.0002
JITTER_S = 0.0002
FIRST_SLOTS = 2
MAX_GAP_S = 0.25
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 0.4

Told = Callable[[float], float | None]
"""The retry-after that a server sends when it knows the exact wait."""


def untold(wait_s: float) -> float | None:
    return None


def exactly(wait_s: float) -> float | None:
    return wait_s


def rounded_up(wait_s: float) -> float | None:
    return float(math.ceil(wait_s))


def constant(told_s: float) -> Told:
    return lambda wait_s: told_s


class Server(Protocol):
    def wait_s(self, now: float, in_flight: int) -> float:
        """Return 0 when a request is let in, else the time until one will be."""

    def latency_s(self, now: float, usual_s: float) -> float:
        """Return how long the answer to a request that was let in takes."""


class _Usual:
    def latency_s(self, now: float, usual_s: float) -> float:
        return usual_s


class Unlimited(_Usual):
    def wait_s(self, now: float, in_flight: int) -> float:
        return 0.0


class TokenBucket(_Usual):
    def __init__(self, per_s: float, burst: float) -> None:
        self.per_s, self.burst, self.level, self.at_s = per_s, burst, burst, 0.0

    def wait_s(self, now: float, in_flight: int) -> float:
        self.level = min(self.burst, self.level + (now - self.at_s) * self.per_s)
        self.at_s = now
        if self.level < 1:
            return (1 - self.level) / self.per_s
        self.level -= 1
        return 0.0


class FixedWindow(_Usual):
    """`phase` is the part of the first window that is over when the run begins."""

    def __init__(self, count: int, window_s: float, phase: float = 0.37) -> None:
        self.count, self.window_s, self.phase = count, window_s, phase
        self.window = self.counted = 0

    def wait_s(self, now: float, in_flight: int) -> float:
        window = math.floor(now / self.window_s + self.phase)
        if window != self.window:
            self.window, self.counted = window, 0
        if self.counted >= self.count:
            return (window + 1 - self.phase) * self.window_s - now
        self.counted += 1
        return 0.0


class SlidingWindow(_Usual):
    def __init__(self, count: int, window_s: float) -> None:
        self.count, self.window_s = count, window_s
        self.accepted_s: deque[float] = deque()

    def wait_s(self, now: float, in_flight: int) -> float:
        while self.accepted_s and self.accepted_s[0] <= now - self.window_s:
            self.accepted_s.popleft()
        if len(self.accepted_s) >= self.count:
            return self.accepted_s[0] + self.window_s - now
        self.accepted_s.append(now)
        return 0.0


class Noise(_Usual):
    """Rejects a share at random, whatever the rate is."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.random = share, Random(seed)

    def wait_s(self, now: float, in_flight: int) -> float:
        return 1.0 if self.random.random() < self.share else 0.0


class Outage(_Usual):
    def __init__(self, start_s: float, end_s: float) -> None:
        self.start_s, self.end_s = start_s, end_s

    def wait_s(self, now: float, in_flight: int) -> float:
        return self.end_s - now if self.start_s <= now < self.end_s else 0.0


class Changing(_Usual):
    """A token bucket whose rate changes: pairs of the time and the rate from then on."""

    def __init__(self, burst: float, rates: list[tuple[float, float]]) -> None:
        self.bucket, self.rates = TokenBucket(rates[0][1], burst), rates

    def wait_s(self, now: float, in_flight: int) -> float:
        self.bucket.per_s = max((at_s, per_s) for at_s, per_s in self.rates if at_s <= now)[1]
        return self.bucket.wait_s(now, in_flight)


class Both(_Usual):
    """Ask the first server before the second."""

    def __init__(self, first: Server, second: Server) -> None:
        self.first, self.second = first, second

    def wait_s(self, now: float, in_flight: int) -> float:
        return self.first.wait_s(now, in_flight) or self.second.wait_s(now, in_flight)


class ConcurrencyLimit(_Usual):
    """LiteLLM's max_parallel_requests, which names a minute."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def wait_s(self, now: float, in_flight: int) -> float:
        return 60.0 if in_flight >= self.slots else 0.0


class FullQueue:
    """Ollama: some run, some wait, the next is rejected at once."""

    def __init__(self, running: int, waiting: int) -> None:
        self.places = running + waiting
        self.free_s = [0.0] * running

    def wait_s(self, now: float, in_flight: int) -> float:
        return 1.0 if in_flight >= self.places else 0.0

    def latency_s(self, now: float, usual_s: float) -> float:
        start_s = max(heapq.heappop(self.free_s), now)
        heapq.heappush(self.free_s, start_s + usual_s)
        return start_s + usual_s - now


@dataclass
class Options:
    lines: int = 1500
    slots: int = 256
    latency_s: float = 0.05
    sigma: float = 0.0
    """Of the log-normal distribution of latencies; 0 is constant."""
    rejection_s: float = 0.001
    """Infinity: rejections take as long as answers."""
    told: Told = untold
    set_per_s: float = math.inf
    learned_per_s: float = math.inf
    seed: int = 1


@dataclass
class Run:
    elapsed_s: float = 0.0
    sent_s: list[float] = field(default_factory=list)
    accepted_s: list[float] = field(default_factory=list)
    """When the accepted requests were sent."""
    rejected_s: list[float] = field(default_factory=list)
    """When the rejected requests were sent."""
    heard_s: list[float] = field(default_factory=list)
    """When the rejections arrived."""
    done: int = 0

    def accepted_within(self, start_s: float, end_s: float) -> int:
        return sum(start_s <= at_s < end_s for at_s in self.accepted_s)


class _SlowStart:
    """Two requests in flight at first, one more with each answer; paced, so that a round trip brings no crowd."""

    def __init__(self, slots: int, is_open: bool) -> None:
        self.max_slots = slots
        self.slots = slots if is_open else min(FIRST_SLOTS, slots)
        self.next_s = self.doubled_s = self.blocked_s = -math.inf
        self.latency_s = 0.0
        self.is_paced = not is_open

    def open_with_time(self, now: float) -> None:
        if self.slots < self.max_slots and now >= self.opens_s:
            self.slots, self.doubled_s = min(2 * self.slots, self.max_slots), now

    @property
    def opens_s(self) -> float:
        return max(self.doubled_s + MAX_GAP_S, self.blocked_s) if self.slots < self.max_slots else math.inf

    def on_sent(self, now: float) -> None:
        if self.is_paced:
            gap_s = min(self.latency_s or MAX_GAP_S, MAX_GAP_S) / (2 * self.slots)
            credit_s = 0.001 if self.slots > 8 else 0.0
            self.next_s = max(self.next_s, now - credit_s) + gap_s

    def on_answer(self, latency_s: float) -> None:
        self.latency_s += 0.2 * (latency_s - self.latency_s) if self.latency_s else latency_s
        self.slots = min(self.slots + 1, self.max_slots)


class Simulation:
    def __init__(self, server: Server, options: Options) -> None:
        self.server, self.options = server, options
        self.random = Random(options.seed)
        self.gate = PushBack("gate")
        self.rate = LearnedRate("rate", options.set_per_s, options.learned_per_s)
        self.concurrency = LearnedConcurrency("in flight")
        is_rate_known = min(options.set_per_s, options.learned_per_s) < math.inf
        self.slow_start = _SlowStart(options.slots, is_open=is_rate_known)
        self.run = Run()
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._events_made = 0
        self._fresh = options.lines
        self._retries: list[tuple[float, int]] = []
        self._in_flight = self._in_server = 0
        self._set_next_s = -math.inf
        self._wakes_s = math.inf

    def play(self) -> Run:
        self._dispatch()
        while self.run.done < self.options.lines and self._events and self.now < GIVE_UP_S:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self._dispatch()
        self.run.elapsed_s = self.now
        return self.run

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        self._events_made += 1
        heapq.heappush(self._events, (at_s + self.random.expovariate(1 / JITTER_S), self._events_made, event))

    def _wake(self, at_s: float) -> None:
        if at_s < math.inf and (at_s < self._wakes_s or self._wakes_s <= self.now):
            self._wakes_s = max(at_s, self.now)
            self._at(self._wakes_s + TIMER_S, lambda: None)

    def _dispatch(self) -> None:
        while True:
            is_retry = bool(self._retries) and self._retries[0][0] <= self.now
            if not is_retry and not self._fresh:
                if self._retries:
                    self._wake(self._retries[0][0])
                return
            if self._in_flight >= self.slow_start.slots:
                self.slow_start.open_with_time(self.now)
            if self._in_flight >= self.slow_start.slots:
                self._wake(self.slow_start.opens_s)
                return
            if self.gate.is_held and self.concurrency.is_suspected:
                self.gate.probe_now(self.now)
            limits = (self.gate, self.rate, self.concurrency)
            ready_s = max(*(limit.ready_at(1, self.now) for limit in limits), self.slow_start.next_s, self._set_next_s)
            if ready_s > self.now + 1e-9:
                self._wake(ready_s)
                return
            self._send(is_retry)

    def _send(self, is_retry: bool) -> None:
        now = self.now
        was_exhausted, held_since_s = self.gate.is_exhausted, self.gate.held_since_s
        self.gate.acquire(1, now)
        if held_since_s < math.inf and not self.gate.is_held:
            self._on_hold_ended(held_since_s, was_exhausted)
        self.rate.acquire(1, now)
        self.concurrency.acquire(1, now)
        self._set_next_s = max(self._set_next_s, now - 0.002) + 1 / self.options.set_per_s
        failures = 0
        if self._fresh and (self.gate.is_held or not is_retry):
            self._fresh -= 1
        else:
            failures = heapq.heappop(self._retries)[1]
        self._in_flight += 1
        in_flight = self.concurrency.in_flight
        self.slow_start.on_sent(now)
        self.run.sent_s.append(now)
        self._at(now, lambda: self._on_arrival(now, in_flight, failures))

    def _on_arrival(self, sent_s: float, in_flight: int, failures: int) -> None:
        wait_s = self.server.wait_s(self.now, self._in_server)
        latency_s = self.options.latency_s
        if self.options.sigma:
            latency_s *= math.exp(self.random.gauss(0, self.options.sigma) - self.options.sigma**2 / 2)
        if wait_s > 0:
            self.run.rejected_s.append(sent_s)
            told_s = self.options.told(wait_s)
            took_s = min(self.options.rejection_s, latency_s)
            self._at(self.now + took_s, lambda: self._on_rejected(sent_s, in_flight, failures, told_s))
            return
        self._in_server += 1
        self.run.accepted_s.append(sent_s)
        latency_s = self.server.latency_s(self.now, latency_s)
        self._at(self.now + latency_s, lambda: self._on_answer(sent_s, in_flight))

    def _on_answer(self, sent_s: float, in_flight: int) -> None:
        self._in_server -= 1
        self._in_flight -= 1
        self.run.done += 1
        self.slow_start.on_answer(self.now - sent_s)
        self.concurrency.settle(1, 0, self.now)
        self.concurrency.on_answer(in_flight, sent_s, self.now)
        was_exhausted, held_since_s = self.gate.is_exhausted, self.gate.held_since_s
        if self.gate.on_answer(sent_s):
            self._on_hold_ended(held_since_s, was_exhausted)

    def _on_hold_ended(self, held_since_s: float, was_exhausted: bool) -> None:
        if was_exhausted:
            self.rate.on_exhausted(held_since_s, self.now)

    def _on_rejected(self, sent_s: float, in_flight: int, failures: int, told_s: float | None) -> None:
        self._in_flight -= 1
        self.run.heard_s.append(self.now)
        self.concurrency.settle(1, 0, self.now)
        delay_s = min(FIRST_BACKOFF_S * 2**failures, MAX_BACKOFF_S)
        if told_s is not None and not failures:
            delay_s = told_s
        was_known = self.concurrency.is_known
        if self.concurrency.on_rejected(in_flight, sent_s, self.now):
            if not was_known:
                self.gate.end_hold()
                self.rate.set_free(self.now)
                self._retries = [(min(at_s, self.now + FIRST_BACKOFF_S), n) for at_s, n in self._retries]
                heapq.heapify(self._retries)
            delay_s = FIRST_BACKOFF_S
        else:
            was_held = self.gate.is_held
            self.gate.on_rejected(sent_s, told_s, self.now)
            if was_held:
                self.rate.on_held_rejected()
            else:
                self.rate.on_rejected(sent_s, self.now)
                if self.gate.is_held:
                    self.slow_start.blocked_s = self.now + 1.0
        heapq.heappush(self._retries, (self.now + delay_s, failures + 1))


def simulate(server: Server, options: Options) -> Run:
    return Simulation(server, options).play()

"""Draw the fault and the latency of each request from the seed and the body, not from the order of arrival.

Two runs that send the same bodies meet the same faults, however many connections they use and whatever comes first. A
body that is sent again has a new draw, so that a retry can succeed. Only rules that name requests, moments, a number of
times or an even share look at the order of arrival.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from llmblast.mocking.fault_answers import ANSWERS
from llmblast.mocking.fault_bodies import BODIES
from llmblast.mocking.fault_statuses import STATUSES
from llmblast.mocking.fault_wires import WIRES
from llmblast.mocking.incident import Fault
from llmblast.mocking.settings import MockSettings

FAULTS: Mapping[str, Fault] = {**STATUSES, **BODIES, **ANSWERS, **WIRES}
"""All faults by the name that a rule's `kind` has for them."""
MAX_BODIES_REMEMBERED = 100_000
_ROUNDING = 1e-9
_ANSWER = re.compile(rb'"role"\s*:\s*"(?:assistant|model)"')
_HALF_BITS = 64
_HALF_RANGE = float(2**_HALF_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Select requests that meet a fault, among those that the limits admit: all conditions have to hold.

    `share` of them, drawn, or `even`, so that 0.2 is each fifth one; `requests` by their number in order of arrival,
    from 1; every n-th; those whose body has `containing` in it, or does not have `lacking` in it; the first so many
    `sends` of a body; from second `from_s` to `to_s` after the server's first request; so many `times` in all.
    `first_answers` leaves out requests with an answer of the model in them. `seconds` is how long the fault lasts or
    asks to wait for. For calls of files and batches APIs, method and path stand before the body.
    """

    kind: str
    share: float | None = None
    even: bool = False
    requests: Sequence[int] | None = None
    every: int | None = None
    containing: str | None = None
    lacking: str | None = None
    first_answers: bool = False
    sends: int | None = None
    from_s: float = 0.0
    to_s: float = math.inf
    times: int | None = None
    seconds: float | None = None

    def covers(self, number: int, body: bytes, sends: int, since_first_s: float) -> bool:
        """Return whether the request may meet the fault; `draw` looks at the share and the times."""
        return (
            (self.requests is None or number in self.requests)
            and (self.every is None or number % self.every == 0)
            and (self.sends is None or sends < self.sends)
            and self.from_s <= since_first_s < self.to_s
            and (self.containing is None or self.containing.encode() in body)
            and (self.lacking is None or self.lacking.encode() not in body)
            and not (self.first_answers and _ANSWER.search(body))
        )


def rules_of(settings: MockSettings) -> list[Rule]:
    """The rules that the shares among the settings make."""
    too_many = "429" if settings.tell_retry_after else "429-silent"
    rules = (
        Rule(kind="500", share=settings.errors),
        Rule(kind=too_many, share=settings.rate_limited, seconds=settings.retry_after),
        Rule(kind="closed", share=settings.broken),
        Rule(kind="half", share=settings.malformed),
        Rule(kind="broken-json", share=settings.invalid, even=True, first_answers=True),
    )
    return [rule for rule in rules if rule.share]


class Faults:
    """Draws a fault and a latency for each request. How often a body was seen is forgotten oldest first.

    The first rule that befalls a request counts. Shares of rules that cover the same requests add up.
    """

    def __init__(self, settings: MockSettings, rules: Sequence[Rule] = ()) -> None:
        self._rules = [*rules_of(settings), *rules]
        self._shortest_s = settings.latency * (1 - settings.jitter)
        self._spread_s = settings.latency * settings.jitter * 2
        self._key = settings.seed.to_bytes(8, "big")
        self._times_seen: dict[int, int] = {}
        self._times_met = dict.fromkeys(self._rules, 0)
        self._times_covered = dict.fromkeys(self._rules, 0)
        self._first_s = math.inf

    @property
    def are_any(self) -> bool:
        """Return whether there are any rules."""
        return bool(self._rules)

    def draw(self, body: bytes, number: int = 0, now: float = 0.0) -> tuple[Rule | None, float]:
        """Return the rule that this request meets, and the seconds until its answer."""
        if not self._rules and not self._spread_s:
            return None, self._shortest_s
        sends = self._count(body) if self._rules else 0
        salt = sends.to_bytes(8, "big")
        bits = int.from_bytes(blake2b(body, digest_size=16, key=self._key, salt=salt).digest(), "big")
        latency_s = self._shortest_s + self._spread_s * ((bits >> _HALF_BITS) / _HALF_RANGE)
        self._first_s = min(self._first_s, now)
        point = (bits % 2**_HALF_BITS) / _HALF_RANGE
        covering = [rule for rule in self._rules if rule.covers(number, body, sends, now - self._first_s)]
        return self._rule_at(point, covering), latency_s

    def _rule_at(self, point: float, covering: Sequence[Rule]) -> Rule | None:
        for rule in covering:
            share = 1.0 if rule.share is None else rule.share
            if rule.even:
                before = self._times_covered[rule]
                self._times_covered[rule] += 1
                share = float(int((before + 1) * share + _ROUNDING) > int(before * share + _ROUNDING))
            if point >= share:
                point -= share
            elif rule.times is None or self._times_met[rule] < rule.times:
                self._times_met[rule] += 1
                return rule
        return None

    def _count(self, body: bytes) -> int:
        seen, key = self._times_seen, hash(body)
        sends = seen.pop(key, 0)
        seen[key] = sends + 1
        if len(seen) > MAX_BODIES_REMEMBERED:
            del seen[next(iter(seen))]
        return sends

"""Faults and latencies follow from the seed and the body alone."""

from collections import Counter

import pytest

from llmblast.mocking import faults
from llmblast.mocking.faults import Fault, Faults
from llmblast.mocking.settings import MockSettings

BODIES = [b"body %d" % index for index in range(4000)]
FAULTY = MockSettings(errors=0.1, rate_limited=0.2, broken=0.05, malformed=0.15)


def test_the_order_of_arrival_does_not_matter() -> None:
    """Each body has the same draws, first and again."""
    forwards, backwards = Faults(FAULTY), Faults(FAULTY)

    first = {body: forwards.draw(body) for body in BODIES} | {body + b"'": forwards.draw(body) for body in BODIES}
    second = {body: backwards.draw(body) for body in reversed(BODIES)}
    second |= {body + b"'": backwards.draw(body) for body in reversed(BODIES)}

    assert first == second


def test_each_fault_has_its_share() -> None:
    """Of 4,000 bodies, to three standard deviations."""
    rules = Faults(FAULTY)

    drawn = Counter(rules.draw(body)[0] for body in BODIES)

    assert drawn[Fault.ERROR] == pytest.approx(400, abs=60)
    assert drawn[Fault.RATE_LIMITED] == pytest.approx(800, abs=80)
    assert drawn[Fault.BROKEN] == pytest.approx(200, abs=45)
    assert drawn[Fault.MALFORMED] == pytest.approx(600, abs=70)
    assert drawn[Fault.NONE] == pytest.approx(2000, abs=100)


def test_a_body_that_comes_again_has_a_new_draw() -> None:
    """A retry can succeed, as often as not where half of the requests fail."""
    rules = Faults(MockSettings(errors=0.5))

    drawn = Counter(rules.draw(b"the same")[0] for _ in range(400))

    assert drawn[Fault.ERROR] == pytest.approx(200, abs=40)


def test_another_seed_has_other_faults() -> None:
    """Otherwise the seed would be for nothing."""
    one, other = Faults(MockSettings(errors=0.5)), Faults(MockSettings(errors=0.5, seed=1))

    assert [one.draw(body)[0] for body in BODIES] != [other.draw(body)[0] for body in BODIES]


def test_latencies_fill_their_range() -> None:
    """Uniform between the ends of 2-5."""
    rules = Faults(MockSettings.from_query("latency=2-5"))

    latencies = [rules.draw(body)[1] for body in BODIES]

    assert 2 <= min(latencies) < 2.01
    assert 4.99 < max(latencies) <= 5
    assert sum(latencies) / len(latencies) == pytest.approx(3.5, abs=0.05)


def test_fault_and_latency_are_independent() -> None:
    """Requests that fail take as long as the others."""
    rules = Faults(MockSettings(latency=1, jitter=1, errors=0.5))

    failed = [latency_s for fault, latency_s in map(rules.draw, BODIES) if fault is Fault.ERROR]

    assert sum(failed) / len(failed) == pytest.approx(1, abs=0.05)


def test_no_jitter_is_exactly_the_latency() -> None:
    """Nothing is drawn where nothing varies."""
    assert Faults(MockSettings(latency=0.3, jitter=0)).draw(b"x") == (Fault.NONE, 0.3)


def test_the_memory_of_bodies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen longest ago is forgotten and starts anew; what was seen of late goes on."""
    monkeypatch.setattr(faults, "MAX_BODIES_REMEMBERED", 2)
    rules, unbounded = Faults(FAULTY), Faults(FAULTY)
    first, second, third = (unbounded.draw(b"kept") for _ in range(3))

    kept = [rules.draw(b"kept")]
    lost = [rules.draw(b"lost")]
    kept.append(rules.draw(b"kept"))
    rules.draw(b"newer")
    kept.append(rules.draw(b"kept"))
    lost.append(rules.draw(b"lost"))

    assert kept == [first, second, third]
    assert lost[0] == lost[1]

"""Faults and latencies follow from the seed and the body alone."""

from collections import Counter

import pytest

from llmblast.mocking import faults
from llmblast.mocking.faults import Faults, Rule
from llmblast.mocking.settings import MockSettings

BODIES = [b"body %d" % index for index in range(4000)]
FAULTY = MockSettings(errors=0.1, rate_limited=0.2, broken=0.05, malformed=0.15)


def kind_of(faults: Faults, body: bytes, number: int = 0, now: float = 0.0) -> str | None:
    rule, _ = faults.draw(body, number, now)
    return rule.kind if rule else None


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

    drawn = Counter(kind_of(rules, body) for body in BODIES)

    assert drawn["500"] == pytest.approx(400, abs=60)
    assert drawn["429"] == pytest.approx(800, abs=80)
    assert drawn["closed"] == pytest.approx(200, abs=45)
    assert drawn["half"] == pytest.approx(600, abs=70)
    assert drawn[None] == pytest.approx(2000, abs=100)


def test_a_body_that_comes_again_has_a_new_draw() -> None:
    """A retry can succeed, as often as not where half of the requests fail."""
    rules = Faults(MockSettings(errors=0.5))

    drawn = Counter(kind_of(rules, b"the same") for _ in range(400))

    assert drawn["500"] == pytest.approx(200, abs=40)


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

    failed = [latency_s for rule, latency_s in map(rules.draw, BODIES) if rule]

    assert sum(failed) / len(failed) == pytest.approx(1, abs=0.05)


def test_no_jitter_is_exactly_the_latency() -> None:
    """Nothing is drawn where nothing varies."""
    assert Faults(MockSettings(latency=0.3, jitter=0)).draw(b"x") == (None, 0.3)


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


def test_a_rule_names_requests_by_number_or_every_nth() -> None:
    """Whatever their bodies are; the first rule that holds counts."""
    rules = Faults(MockSettings(), [Rule(kind="500", requests=(2, 3)), Rule(kind="reset", every=3)])

    met = [kind_of(rules, b"same", number) for number in range(1, 7)]

    assert met == [None, "500", "500", None, None, "reset"]


def test_a_rule_names_what_stands_in_a_body() -> None:
    """Every send of such a body meets it."""
    rules = Faults(MockSettings(), [Rule(kind="500", containing="row-17")])

    met = [kind_of(rules, body) for body in (b"row-1", b"has row-17 in it", b"has row-17 in it")]

    assert met == [None, "500", "500"]


def test_a_rule_holds_for_the_first_sends_of_a_body() -> None:
    """Each body is counted by itself, so a retry succeeds however many lines there are."""
    rules = Faults(MockSettings(), [Rule(kind="500", sends=2)])

    met = [kind_of(rules, body) for body in (b"a", b"b", b"a", b"a", b"b", b"b")]

    assert met == ["500", "500", "500", None, "500", None]


def test_a_rule_holds_for_a_time() -> None:
    """In seconds from the first request on."""
    rules = Faults(MockSettings(), [Rule(kind="500", from_s=3, to_s=33)])

    met = [kind_of(rules, b"x", now=now) for now in (100.0, 102.9, 103.0, 132.9, 133.0)]

    assert met == [None, None, "500", "500", None]


def test_a_rule_holds_so_many_times_in_all() -> None:
    """Then the next one has its turn."""
    rules = Faults(MockSettings(), [Rule(kind="500", times=2), Rule(kind="reset", times=1)])

    met = [kind_of(rules, body) for body in BODIES[:4]]

    assert met == ["500", "500", "reset", None]


def test_what_a_rule_says_holds_together() -> None:
    """A share of those lines, not of all."""
    rules = Faults(MockSettings(), [Rule(kind="500", share=0.5, containing="7")])

    drawn = Counter((kind_of(rules, body), b"7" in body) for body in BODIES)

    with_seven = sum(b"7" in body for body in BODIES)
    assert drawn["500", True] == pytest.approx(with_seven / 2, abs=60)
    assert drawn["500", False] == 0


def test_the_shares_of_a_file_come_on_top_of_the_settings() -> None:
    """Each has its own part of the draws."""
    rules = Faults(MockSettings(errors=0.5), [Rule(kind="reset", share=0.5)])

    drawn = Counter(kind_of(rules, body) for body in BODIES)

    assert drawn["500"] == pytest.approx(2000, abs=100)
    assert drawn["500"] + drawn["reset"] == 4000


def test_a_rule_may_be_for_the_requests_without_a_text() -> None:
    """Such as those that do not ask again."""
    rules = Faults(MockSettings(), [Rule(kind="500", lacking="assistant")])

    assert rules.draw(b"hello")[0] is not None
    assert rules.draw(b"hello assistant")[0] is None

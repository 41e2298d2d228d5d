"""Fair sharing: tenants that wait get the shares of their weights, and what an idle one leaves goes to the others."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.models import Attempt, Terms
from llmblast.scheduling import RequestQueue
from llmblast.scheduling.fair_sharing import FairSharing
from tests.scheduling.class_simulation import line

TENANTS = ("a", "b", "c")


def queue_of(shares: Mapping[str, float], lines: Mapping[str, int], *, is_deferred: bool = False) -> RequestQueue:
    """A queue in which each tenant has so many lines."""
    queue = RequestQueue(shares)
    number = 0
    for name, count in lines.items():
        for _ in range(count):
            number += 1
            queue.add(line(number, Terms(is_deferred=is_deferred, tenant=name)))
    return queue


def tenants_of(queue: RequestQueue, sends: int, cost: float = 1.0) -> list[str]:
    """The tenants of the next sends."""
    tenants = []
    for _ in range(sends):
        queue.peek(0.0)
        tenants.append(queue.pop(0.0, cost).request.terms.tenant)
    return tenants


@pytest.mark.parametrize("is_deferred", [False, True])
def test_three_tenants_share_by_their_weights_and_take_what_an_idle_one_leaves(is_deferred: bool) -> None:
    """1:2:5 while all wait; then 1:2 once the third has nothing left."""
    queue = queue_of({"a": 1, "b": 2, "c": 5}, {"a": 5000, "b": 5000, "c": 2500}, is_deferred=is_deferred)

    together = Counter(tenants_of(queue, 4000))
    tenants_of(queue, 20)
    alone = Counter(tenants_of(queue, 1500))

    assert together == {"a": 500, "b": 1000, "c": 2500}
    assert alone["c"] == 0
    assert alone["b"] == pytest.approx(2 * alone["a"], abs=2)


def test_tenants_without_a_weight_count_one() -> None:
    """So do lines without a tenant."""
    queue = queue_of({"a": 2}, {"a": 100, "b": 100, "": 100})

    assert Counter(tenants_of(queue, 100)) == {"a": 50, "b": 25, "": 25}


def test_a_tenant_that_was_idle_has_saved_up_nothing() -> None:
    """It gets its share from now on, not what it could have had before."""
    queue = queue_of({}, {"a": 1000})
    tenants_of(queue, 500)
    for number in range(2000, 2100):
        queue.add(line(number, Terms(tenant="b")))

    assert Counter(tenants_of(queue, 100)) == {"a": 50, "b": 50}


def test_a_tenant_with_one_line_at_a_time_gets_no_more_than_its_share() -> None:
    """What it has had is remembered while it is idle for a moment."""
    queue = queue_of({"a": 9}, {"a": 1000})
    sent: Counter[str] = Counter()
    for number in range(2000, 2500):
        if not queue.waiting_of("b", is_deferred=False):
            queue.add(line(number, Terms(tenant="b")))
        sent.update(tenants_of(queue, 1))

    assert sent["b"] == pytest.approx(50, abs=1)


def test_costs_count_where_tokens_are_limited() -> None:
    """A tenant with requests that are four times as large sends a quarter of them."""
    queue = queue_of({}, {"small": 1000, "large": 1000})
    sent: Counter[str] = Counter()
    for _ in range(500):
        attempt = queue.peek(0.0)
        assert attempt is not None
        queue.pop(0.0, 400.0 if attempt.request.terms.tenant == "large" else 100.0)
        sent[attempt.request.terms.tenant] += 1

    assert sent["large"] == pytest.approx(100, abs=1)


def test_retries_count_against_the_share_of_their_tenant() -> None:
    """Each send of one tenant fails once: it gets half as many answers, not half as many again."""
    queue = queue_of({}, {"good": 1000, "bad": 1000})
    sends: Counter[str] = Counter()
    failed: set[int] = set()
    for _ in range(400):
        queue.peek(0.0)
        attempt = queue.pop(0.0)
        request = attempt.request
        sends[request.terms.tenant] += 1
        if request.terms.tenant == "bad" and request.number not in failed:
            failed.add(request.number)
            queue.add_retry(attempt, 0.0)

    assert sends["bad"] == pytest.approx(200, abs=3)


def test_plain_lines_take_part_once_another_tenant_comes() -> None:
    """They were a queue of their own until then, and are one again afterwards."""
    queue = RequestQueue()
    for number in range(1, 101):
        queue.add(line(number))
    tenants_of(queue, 10)
    was_plain = [queue.is_plain]
    for number in range(200, 210):
        queue.add(line(number, Terms(tenant="a")))
    was_plain.append(queue.is_plain)
    sent = Counter(tenants_of(queue, 20))
    tenants_of(queue, 3)

    assert sent == {"": 10, "a": 10}
    assert [*was_plain, queue.is_plain] == [True, False, True]
    assert len(queue) == 77


@pytest.mark.parametrize("waits", [0, 1])
def test_idle_tenants_are_forgotten(waits: int) -> None:
    """Ten thousand tenants that sent one line each leave little behind, also while another one waits all the time."""
    sharing = FairSharing({})
    for number in range(waits):
        sharing.add(line(number), number)
    for number in range(10_000):
        sharing.add(line(number, Terms(tenant=f"t{number}")), number)
        tenant = sharing.next_tenant()
        assert tenant is not None
        if tenant.name:
            tenant.peek(0.0)
            tenant.pop()
        sharing.charge_turn(tenant, 1.0)

    assert len(sharing.tenants()) <= 1100


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(*[st.sampled_from([0.5, 1.0, 2.0, 5.0])] * 3),
    st.lists(st.sampled_from([1.0, 3.0, 10.0]), min_size=3, max_size=3),
    st.lists(st.sampled_from(["a", "b", "c", "send", "send", "send"]), max_size=200),
)
def test_no_two_waiting_tenants_get_further_apart_than_a_send_of_each(
    weights: Sequence[float], costs: Sequence[float], operations: Sequence[str]
) -> None:
    """The bound of the paper, over each stretch in which both wait: what one got over its weight differs from that of
    the other by no more than one send of each, over their weights.
    """
    sharing = FairSharing(dict(zip(TENANTS, weights, strict=True)))
    cost_of, weight_of = dict(zip(TENANTS, costs, strict=True)), dict(zip(TENANTS, weights, strict=True))
    waiting: Counter[str] = Counter()
    served: dict[tuple[str, str], list[float]] = {}
    for number, operation in enumerate(operations):
        if operation != "send":
            sharing.add(line(number, Terms(tenant=operation)), number)
            waiting[operation] += 1
        elif (tenant := sharing.next_tenant()) is not None:
            tenant.peek(0.0)
            tenant.pop()
            sharing.charge_turn(tenant, cost_of[tenant.name])
            waiting[tenant.name] -= 1
            _note(served, tenant.name, cost_of[tenant.name] / weight_of[tenant.name])
        for pair in _pairs():
            if not (waiting[pair[0]] and waiting[pair[1]]):
                served.pop(pair, None)
            else:
                served.setdefault(pair, [0.0, 0.0, 0.0, 0.0])
                low, high = served[pair][2:]
                assert high - low <= sum(cost_of[name] / weight_of[name] for name in pair) + 1e-9


def _pairs() -> list[tuple[str, str]]:
    return [("a", "b"), ("a", "c"), ("b", "c")]


def _note(served: dict[tuple[str, str], list[float]], name: str, amount: float) -> None:
    """Add what one got to each stretch that it is part of: both sums, and the range of their difference."""
    for pair, sums in served.items():
        if name in pair:
            sums[pair.index(name)] += amount
            difference = sums[0] - sums[1]
            sums[2], sums[3] = min(sums[2], difference), max(sums[3], difference)


def test_attempts_of_one_tenant_keep_their_order() -> None:
    """Without deadlines, the order of the file."""
    queue = queue_of({}, {"a": 3, "b": 3})
    popped: list[Attempt] = []
    while queue.peek(0.0) is not None:
        popped.append(queue.pop(0.0))

    assert [each.request.number for each in popped if each.request.terms.tenant == "a"] == [1, 2, 3]

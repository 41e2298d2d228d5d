"""Deferral: whole runs with immediate and deferred lines against a fake clock."""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random

import pytest

from llmblast.endpoint_settings import RateSettings
from llmblast.fence import Fence
from llmblast.models import Attempt, Terms
from llmblast.scheduling import ROUTES, Scheduler, limit_set
from llmblast.scheduling.even_rate import MARGIN
from llmblast.scheduling.slot_reserve import SlotReserve, poisson_quantile
from tests.scheduling.class_simulation import WALL_S, ClassSimulation, line, poisson
from tests.scheduling.scheduling_samples import EndpointOptions, make_endpoint

pytestmark = pytest.mark.no_cover  # long in itself, and coverage would make it four times as long

RATE = 200.0
START_S = 1000.0
DEFERRED = Terms(is_deferred=True)
FIRST_DEFERRED = 10**6
BACKLOG = 500
"""Deferred lines that are kept in the queue, as the reader does."""


def simulate(
    arrivals: Sequence[tuple[float, Attempt]],
    until_s: float,
    *,
    rps: float | None = RATE,
    concurrency: int = 256,
    reserve: float | None = None,
    deferred_floor: float = 0.05,
    has_backlog: bool = True,
    endpoints: Sequence[EndpointOptions] = ({},),
    latency_s: float = 0.5,
) -> ClassSimulation:
    """Play arrivals beside an endless backlog of deferred lines."""
    random = Random(11)
    simulation = ClassSimulation(
        Scheduler(
            limit_set("run", RateSettings(rps=rps, concurrency=concurrency), 0.0),
            [make_endpoint(index, **options) for index, options in enumerate(endpoints)],
            ROUTES["weighted"],
            reserve=reserve,
            deferred_floor=deferred_floor,
            wall_clock=lambda: simulation.wall_clock(),  # noqa: PLW0108 -- it is made below
        ),
        arrivals,
        latency=lambda: random.expovariate(1 / latency_s),
    )
    if has_backlog:
        simulation.refill = partial(_refill, simulation.scheduler, iter(range(FIRST_DEFERRED, 2 * FIRST_DEFERRED)))
    simulation.run(until_s)
    return simulation


def _refill(scheduler: Scheduler, numbers: Iterator[int]) -> None:
    while scheduler.queue.size_of(is_deferred=True)[0] < BACKLOG:
        scheduler.queue.add(line(next(numbers), DEFERRED))


def waits(simulation: ClassSimulation) -> list[float]:
    """How long each immediate line waited from its arrival, the shortest first."""
    arrived = {attempt.request.number: moment for moment, attempt in simulation.arrivals}
    return sorted(
        moment - arrived[attempt.request.number]
        for moment, attempt in simulation.sends
        if attempt.request.number in arrived and not attempt.request.terms.is_deferred
    )


def p95(values: Sequence[float]) -> float:
    return values[int(0.95 * len(values))]


def bursts_of(size: int, until_s: float) -> list[tuple[float, Attempt]]:
    random, moment, number, arrivals = Random(4), START_S + 5, 0, []
    while moment < until_s:
        arrivals += [(moment, line(number + extra)) for extra in range(size)]
        number += size
        moment += 4 + 2 * random.random()
    return arrivals


def deferred_within_bursts(simulation: ClassSimulation) -> int:
    """How many deferred lines were sent between the arrival of a burst and its last send."""
    arrived = {attempt.request.number: moment for moment, attempt in simulation.arrivals}
    last = {arrived[a.request.number]: moment for moment, a in simulation.sends if a.request.number in arrived}
    deferred = [moment for moment, a in simulation.sends if a.request.terms.is_deferred]
    return sum(any(begin <= moment < end for begin, end in last.items()) for moment in deferred)


def test_single_immediate_lines_hardly_wait_beside_a_backlog_and_the_rate_is_used() -> None:
    """40 a second at random moments beside an endless backlog, at 200 a second."""
    moments = poisson(Random(1), 40.0, START_S, START_S + 60)
    arrivals = [(moment, line(number)) for number, moment in enumerate(moments)]
    beside, alone = (simulate(arrivals, START_S + 60, has_backlog=is_beside) for is_beside in (True, False))

    assert p95(waits(beside)) <= p95(waits(alone)) + 0.02
    assert len(beside.sends) >= 0.99 * 60 * RATE * (1 - MARGIN)


def test_no_line_of_a_burst_waits_for_a_deferred_one() -> None:
    """150 at once, every few seconds."""
    simulation = simulate(bursts_of(150, START_S + 60), START_S + 60)

    assert deferred_within_bursts(simulation) == 0
    assert len(simulation.sends) >= 0.98 * 60 * RATE


def test_with_slots_as_the_only_limit_immediate_lines_find_one() -> None:
    """The learned reserve covers what arrives; without a reserve they wait for answers."""
    moments = poisson(Random(1), 40.0, START_S, START_S + 60)
    arrivals = [(moment, line(number)) for number, moment in enumerate(moments)]
    play = partial(simulate, arrivals, START_S + 60, rps=None, concurrency=100)
    learned, without = play(), play(reserve=0.0)

    assert p95(waits(learned)) == 0.0
    assert p95(waits(without)) > 0.01
    assert len(learned.sends) >= 0.8 * len(without.sends)


@pytest.mark.parametrize("concurrency", [110, 130])
def test_a_reserve_does_not_cost_the_rate_where_slots_are_scarce(concurrency: int) -> None:
    """With bursts as well: the rate, not a slot, is what holds them back."""
    play = partial(simulate, bursts_of(150, START_S + 60), START_S + 60, concurrency=concurrency)

    assert len(play().sends) >= 0.99 * len(play(reserve=0.0).sends)


@pytest.mark.parametrize(("reserve", "kept"), [(0.1, 10), (0.25, 25), (7.0, 7)])
def test_a_set_reserve_is_kept_free_of_deferred_lines(reserve: float, kept: int) -> None:
    """A share below 1, or a number of slots. Immediate lines may use them."""
    simulation = simulate([], START_S + 5, rps=None, concurrency=100, reserve=reserve, latency_s=1e9)
    in_flight = [simulation.scheduler.in_flight]
    for number in range(kept + 5):
        simulation.scheduler.queue.add(line(number))
    simulation.run(START_S + 6)

    assert [*in_flight, simulation.scheduler.in_flight] == [100 - kept, 100]


def test_each_endpoint_keeps_its_part_of_the_reserve() -> None:
    """Slots of one endpoint alone would not help a line that the other has to take."""
    endpoints: list[EndpointOptions] = [{"concurrency": 20}, {"concurrency": 40}]
    simulation = simulate([], START_S + 5, rps=None, endpoints=endpoints, reserve=0.2, latency_s=1e9)

    assert [e.traffic.in_flight for e in simulation.scheduler.endpoints] == [16, 32]


def test_nothing_is_kept_once_no_immediate_line_can_come_any_more() -> None:
    """All of them were read."""
    simulation = simulate([], START_S + 5, rps=None, concurrency=100, reserve=0.1, latency_s=1e9)
    simulation.scheduler.end_immediate()
    simulation.run(START_S + 6)

    assert simulation.scheduler.in_flight == 100


def test_deferred_lines_do_not_starve() -> None:
    """Immediate lines at twice the rate: after a minute, deferred ones have their floor."""
    arrivals = [(START_S + number / (2 * RATE), line(number)) for number in range(int(2 * RATE * 240))]
    simulation = simulate(arrivals, START_S + 240, concurrency=1000)
    late = [attempt for moment, attempt in simulation.sends if moment >= START_S + 120]

    assert sum(a.request.terms.is_deferred for a in late) == pytest.approx(0.05 * len(late), rel=0.1)


@pytest.mark.parametrize(("per_second", "share"), [(5.0, 0.2), (12.0, 0.05)])
def test_the_floor_counts_tokens_where_these_are_limited(per_second: float, share: float) -> None:
    """Deferred lines are eleven times as large, so few of them are enough; immediate ones wait only where they come
    faster than their share of the tokens allows.
    """
    moments = poisson(Random(1), per_second, START_S, START_S + 600)
    arrivals = [(moment, line(number, body=b"x" * 300)) for number, moment in enumerate(moments)]
    scheduler = Scheduler(
        limit_set("run", RateSettings(tpm=130_000), 10.0),
        [make_endpoint()],
        ROUTES["weighted"],
        wall_clock=lambda: simulation.wall_clock(),  # noqa: PLW0108 -- it is made below
    )
    simulation = ClassSimulation(scheduler, arrivals)
    numbers = iter(range(FIRST_DEFERRED, 2 * FIRST_DEFERRED))

    def refill() -> None:
        while scheduler.queue.size_of(is_deferred=True)[0] < 10:
            scheduler.queue.add(line(next(numbers), DEFERRED, b"x" * 12_000))

    simulation.refill = refill
    simulation.run(START_S + 600)

    tokens = {False: 0.0, True: 0.0}
    for _, attempt in simulation.sends:
        tokens[attempt.request.terms.is_deferred] += attempt.tokens_paid[0]
    assert tokens[True] / sum(tokens.values()) == pytest.approx(share, abs=0.02)
    if share > 0.05:
        assert p95(waits(simulation)) < 1.0


def test_a_deferred_line_is_promoted_when_its_deadline_comes_near() -> None:
    """Immediate lines take the whole rate; a hundred deferred ones, due in ten seconds, are all in time, and wait until
    they have to go.
    """
    arrivals = [(START_S + number / RATE, line(number)) for number in range(int(RATE * 20))]
    arrivals += [(START_S + 2, line(FIRST_DEFERRED + n, _due(START_S + 12))) for n in range(100)]
    arrivals.sort(key=lambda arrival: arrival[0])
    simulation = simulate(arrivals, START_S + 30, has_backlog=False, deferred_floor=0.0, latency_s=0.1)
    sent = [moment for moment, a in simulation.sends if a.request.terms.is_deferred]

    assert len(sent) == 100
    assert min(sent) > START_S + 6
    assert sum(simulation.answers[FIRST_DEFERRED + n] > START_S + 12 for n in range(100)) <= 2


def test_immediate_lines_have_every_second_send_beside_urgent_ones() -> None:
    """A thousand lines whose deadline cannot be met do not stop what has to be answered now."""
    arrivals = [(START_S + 1, line(FIRST_DEFERRED + n, _due(START_S + 4))) for n in range(2000)]
    arrivals += [(START_S + 1.5 + number / 100, line(number)) for number in range(200)]
    simulation = simulate(arrivals, START_S + 10, has_backlog=False, latency_s=0.1)

    assert waits(simulation)[-1] < 0.1


def test_deadlines_at_four_fifths_of_the_rate_are_all_met() -> None:
    """In both classes, with some that are soon and some that are not, all known at the start or as they come."""
    for is_deferred in (True, False):
        for is_known in (True, False):
            deadlines = mixed_deadlines(0.8, is_known=is_known)
            assert missed_of(deadlines, is_deferred=is_deferred) == 0


def test_with_too_many_lines_as_many_deadlines_are_met_as_possible() -> None:
    """At 120 % within 5 % of the fewest misses that there can be."""
    deadlines = mixed_deadlines(1.2, is_known=True)
    fewest = fewest_missed(deadlines)

    assert fewest > 200
    for is_deferred in (True, False):
        assert fewest <= missed_of(deadlines, is_deferred=is_deferred) <= 1.05 * fewest


LINES = 3000
ANSWER_S = 0.3


def _due(moment: float) -> Terms:
    return Terms(is_deferred=True, deadline_s=moment + WALL_S)


def mixed_deadlines(load: float, *, is_known: bool) -> list[tuple[float, float]]:
    """Arrival and deadline of each line."""
    random, span_s = Random(5), LINES / (RATE * load)
    if is_known:
        return [(START_S, START_S + 1 + random.random() * span_s) for _ in range(LINES)]
    arrivals = [START_S + span_s * number / LINES for number in range(LINES)]
    return [(moment, moment + random.choice([1.0, 5.0, 20.0]) * (0.5 + random.random())) for moment in arrivals]


def missed_of(deadlines: Sequence[tuple[float, float]], *, is_deferred: bool) -> int:
    """Play lines with these arrivals and deadlines, and count the answers that come too late."""
    arrivals = [
        (arrival, line(number, Terms(is_deferred=is_deferred, deadline_s=deadline + WALL_S)))
        for number, (arrival, deadline) in enumerate(deadlines)
    ]
    simulation = ClassSimulation(
        Scheduler(
            limit_set("run", RateSettings(rps=RATE, concurrency=256), 0.0),
            [make_endpoint()],
            ROUTES["weighted"],
            wall_clock=lambda: simulation.wall_clock(),  # noqa: PLW0108 -- it is made below
        ),
        arrivals,
        latency=lambda: ANSWER_S,
    )
    simulation.run()
    assert len(simulation.answers) == len(deadlines)
    return sum(simulation.answers[number] > deadline for number, (_, deadline) in enumerate(deadlines))


def fewest_missed(deadlines: Sequence[tuple[float, float]]) -> int:
    """Earliest deadline first at the paced rate, where no line is sent that would be late: none misses fewer."""
    waiting: list[float] = []
    todo, met, now, coming = sorted(deadlines), 0, START_S, 0
    while coming < len(todo) or waiting:
        if not waiting:
            now = max(now, todo[coming][0])
        while coming < len(todo) and todo[coming][0] <= now:
            heapq.heappush(waiting, todo[coming][1])
            coming += 1
        if heapq.heappop(waiting) >= now + ANSWER_S:
            met += 1
            now += 1 / (RATE * (1 - MARGIN))
    return len(todo) - met


@pytest.mark.pure
def test_a_defect_in_what_is_learned_holds_no_line_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported once; a set reserve would be kept."""
    reported: list[str] = []

    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(SlotReserve, "learn", fail)
    limits, fence = limit_set("run", RateSettings(concurrency=10), 0.0), Fence(lambda part, _: reported.append(part))
    scheduler = Scheduler(limits, [make_endpoint()], ROUTES["weighted"], fence=fence)
    for number in range(20):
        scheduler.queue.add(line(number, DEFERRED))

    sent = [scheduler.next(moment / 10) for moment in range(20)]

    assert sum(dispatch is not None for dispatch in sent) == 10
    assert len(reported) == 1


def test_a_deferred_line_that_waits_for_tokens_does_not_hold_back_an_immediate_one() -> None:
    """It is large, and the burst does not cover it for a while; the small one goes at once."""
    scheduler = Scheduler(
        limit_set("run", RateSettings(tpm=60_000), 10.0), [make_endpoint()], ROUTES["weighted"], wall_clock=lambda: 0.0
    )
    for number in (1, 2):
        scheduler.queue.add(line(number, DEFERRED, body=b"x" * 30_000))
    assert scheduler.next(0.0) is not None
    assert scheduler.next(0.1) is None
    scheduler.queue.add(line(3, body=b"x"))

    found = scheduler.next(0.9)

    assert found is not None
    assert found[0].request.number == 3


def test_an_immediate_line_that_only_one_endpoint_takes_has_the_next_slot_of_it() -> None:
    """Deferred lines, which any endpoint takes, do not keep that one full."""
    arrivals = [(START_S + 5 + 4 * number, line(number, closed_to=2)) for number in range(20)]

    simulation = simulate(
        arrivals, START_S + 90, rps=None, endpoints=({"concurrency": 2}, {"concurrency": 8}), reserve=0.0, latency_s=0.1
    )

    waited = waits(simulation)
    assert len(waited) == 20
    assert sum(waited) / 20 < 0.1  # two slots: the first of them is free after 50 ms on average
    assert len(simulation.sends) > 0.97 * 85 * 10 / 0.1


def test_a_line_that_only_one_endpoint_takes_goes_when_a_slot_of_it_is_free() -> None:
    """It waits no longer than that, while others go elsewhere."""
    arrivals = [(START_S + number / 10, line(number, closed_to=0 if number % 2 else 2)) for number in range(100)]

    simulation = simulate(
        arrivals, START_S + 60, rps=None, endpoints=({"concurrency": 1}, {}), has_backlog=False, latency_s=0.05
    )

    assert max(waits(simulation)) < 0.5
    assert simulation.scheduler.queue.retried == 0


def test_a_large_immediate_line_of_one_endpoint_does_not_starve_behind_small_deferred_ones() -> None:
    """Each of these needs few tokens, and would take them as they come; the other endpoint has room for both."""
    arrivals = [(START_S + 2.0, line(1, body=b"x" * 30_000, closed_to=2))]

    simulation = simulate(
        arrivals,
        START_S + 40,
        rps=None,
        endpoints=({"tpm": 60_000, "burst": 10.0}, {"concurrency": 4}),
        latency_s=0.1,
    )

    assert max(waits(simulation), default=99.0) < 15.0


@pytest.mark.parametrize(("mean", "number"), [(0.0, 0), (0.2, 2), (1.0, 4), (20.0, 31), (150.0, 179)])
def test_the_quantile_of_poisson(mean: float, number: int) -> None:
    """Arrivals exceed it in one of a hundred cases at most (tables of the distribution)."""
    assert poisson_quantile(mean) == number


def test_a_reserve_is_learned_from_arrivals_bursts_and_rates() -> None:
    """None without arrivals; a burst counts by what the rate lets go before others end."""
    reserve = SlotReserve()
    found = Counter[str]()
    for name, values in {
        "quiet": (0.0, 0, 200.0, 200.0),
        "single": (40.0, 2, 200.0, 200.0),
        "burst at a rate": (30.0, 150, 220.0, 200.0),
        "burst at five times the turnover": (30.0, 150, 200.0, 1000.0),
        "no slots": (30.0, 150, float("inf"), 200.0),
    }.items():
        reserve.learn(*values)
        found[name] = reserve.learned

    assert found == {
        "quiet": 0,
        "single": 2,
        "burst at a rate": 1,
        "burst at five times the turnover": 120,
        "no slots": 0,
    }

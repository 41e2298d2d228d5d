"""Warm prefixes: which lines share a start, who goes ahead, who waits and for how long, and where they go."""

import random
from collections.abc import Callable
from math import inf

import pytest

from llmblast.models import Attempt, Request
from llmblast.providers.prompt_starts import SYSTEM_BEHIND, front_of, tools_behind, with_system_first
from llmblast.scheduling import Endpoint, PrefixesByField, PrefixesByHash, RequestQueue, Scheduler, WarmPrefixes
from llmblast.scheduling.affinity import MAX_SCOUT_S, choose_for
from llmblast.scheduling.recent import Recent
from llmblast.scheduling.routes import weighted
from llmblast.scheduling.shared_prefixes import LATER_EVERY, PATIENCE
from llmblast.scheduling.waiting_worth import GRACE_S, MIN_ANSWERS, MIN_SHARED_BYTES
from llmblast.scheduling.warm_prefixes import MAX_HOLD_S, MAX_WAIT_S, WARM_S
from tests.scheduling.scheduling_samples import admit_all, drain, make_attempt, make_endpoint, make_scheduler

COMMON = b"You are a careful reviewer of contracts. " * 200
OTHER = b"You are a translator of poems, and you rhyme. " * 200
ENDPOINT = make_endpoint()


def chat(start: bytes, rest: bytes = b"", params: bytes = b"") -> bytes:
    return b'{%b"messages":[{"role":"system","content":"%b"},{"role":"user","content":"%b"}]}' % (params, start, rest)


def line(
    number: int, body: bytes, *, kind: str = "openai", model: str | None = None, deferred: bool = False
) -> Attempt:
    plain = make_attempt(number, deferred=deferred).request
    request = Request(number, plain.key, plain.text, number, body=body, kind=kind, model=model, terms=plain.terms)
    return Attempt(request)


def make_finder() -> PrefixesByHash:
    return PrefixesByHash(front_of, with_system_first, tools_behind, SYSTEM_BEHIND)


class Run:
    """Warm prefixes before a queue, with a fake clock."""

    def __init__(self, max_in_flight: int = 8) -> None:
        self.now = 1000.0
        self.queue = RequestQueue()
        self.cached_tokens = 1
        self.warm = WarmPrefixes(
            make_finder(),
            self.queue,
            lambda: self.now,
            lambda: self.now,
            max_in_flight,
            cached_tokens=lambda: self.cached_tokens,
        )
        self.sent: dict[int, Attempt] = {}

    def add(self, *attempts: Attempt) -> "Run":
        for attempt in attempts:
            self.warm.add(attempt, len(self.sent))
        return self

    def send(self) -> list[int]:
        """Send all that may go; return their numbers."""
        numbers = []
        while self.queue.peek(self.now) is not None:
            attempt = self.queue.pop(self.now)
            attempt.sent_s = self.now
            self.sent[attempt.request.number] = attempt
            numbers.append(attempt.request.number)
        return numbers

    def reply(self, number: int, *, is_answered: bool = True) -> None:
        self.warm.on_reply(self.sent.pop(number), ENDPOINT, is_answered=is_answered)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.warm.release_due(self.now)


def group(*numbers: int, deferred: bool = False, start: bytes = COMMON) -> list[Attempt]:
    return [line(number, chat(start, b"line %d" % number), deferred=deferred) for number in numbers]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(line(1, chat(COMMON, b"a")), line(2, chat(COMMON, b"b")), id="system message"),
        pytest.param(
            line(1, chat(COMMON, b"a", b'"model":"m","user":"u-1",')),
            line(2, chat(COMMON, b"b", b'"model":"m","user":"u-22",')),
            id="parameters before it differ",
        ),
        pytest.param(
            line(1, b'{"messages":[{"role":"user","content":"a"}],"system":"%b"}' % COMMON, kind="anthropic"),
            line(2, b'{"messages":[{"role":"user","content":"bb"}],"system":"%b"}' % COMMON, kind="anthropic"),
            id="system message behind the others",
        ),
        pytest.param(
            line(1, b'{"model":"m","messages":[{"role":"user","content":"%b a"}]}' % COMMON, kind="anthropic"),
            line(2, b'{"model":"m","messages":[{"role":"user","content":"%b b"}]}' % COMMON, kind="anthropic"),
            id="no system message",
        ),
        pytest.param(
            line(
                1, b'{"contents":[{"parts":[{"text":"a"}]}],"system_instruction":{"text":"%b"}}' % COMMON, kind="gemini"
            ),
            line(
                2,
                b'{"contents":[{"parts":[{"text":"bb"}]}],"system_instruction":{"text":"%b"}}' % COMMON,
                kind="gemini",
            ),
            id="another name of the system message",
        ),
        pytest.param(
            line(1, b'{"messages":[{"content":"%b"},{"content":"a"}],"tools":[{"name":"x"}]}' % COMMON),
            line(2, b'{"messages":[{"content":"%b"},{"content":"b"}],"tools":[{"name":"x"}]}' % COMMON),
            id="the same tools behind",
        ),
    ],
)
def test_lines_share_what_their_prompts_have_in_common_at_the_start(first: Attempt, second: Attempt) -> None:
    """Where in a body it stands, and what stands before it, does not matter."""
    finder = make_finder()

    assert finder.find(first) is None
    assert finder.find(second) is first.prefix is not None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(line(1, chat(COMMON)), line(2, chat(OTHER)), id="another prompt"),
        pytest.param(line(1, chat(COMMON), model="a"), line(2, chat(COMMON), model="b"), id="another model"),
        pytest.param(
            line(1, b'{"messages":[{"content":"%b"}],"tools":[{"name":"x"}]}' % COMMON),
            line(2, b'{"messages":[{"content":"%b"}],"tools":[{"name":"y"}]}' % COMMON),
            id="other tools behind",
        ),
        pytest.param(
            line(1, b'{"messages":[],"system":"%b","tools":[{"name":"x"}]}' % COMMON, kind="anthropic"),
            line(2, b'{"messages":[],"system":"%b","tools":[{"name":"y"}]}' % COMMON, kind="anthropic"),
            id="other tools behind the system message",
        ),
        pytest.param(line(1, chat(b"A" + COMMON[1:])), line(2, chat(COMMON)), id="only the start differs"),
        pytest.param(line(1, chat(COMMON[:3000], b"x" * 3000)), line(2, chat(COMMON[:3000])), id="too little"),
    ],
)
def test_lines_share_nothing_that_no_cache_would_keep(first: Attempt, second: Attempt) -> None:
    """A cache keeps a prefix as a whole, for one model, from 1,024 tokens on."""
    finder = make_finder()
    finder.find(first)

    assert finder.find(second) is None


def test_a_line_shares_the_longest_prefix_that_is_known() -> None:
    """One system message, and documents of which some are the same."""
    finder = make_finder()
    bodies = [chat(COMMON + document * 100, b"%d" % n) for n, document in enumerate([b"one " * 9, b"two " * 9] * 2)]
    attempts = [line(number, body) for number, body in enumerate(bodies, 1)]
    shared = [finder.find(attempt) for attempt in attempts]

    assert shared[1] is attempts[0].prefix
    assert shared[2] is attempts[0].prefix
    assert shared[3] is attempts[1].prefix


def test_a_million_different_lines_need_no_more_memory_than_some_thousand() -> None:
    """What was not asked for in a long time is forgotten, what was asked for is kept."""
    recent = Recent(100)
    finder = make_finder()
    kept = line(0, chat(COMMON))
    finder.find(kept)
    assert kept.prefix is not None
    recent.put("kept", kept.prefix)
    for number in range(1000):
        recent.put(number, kept.prefix)
        assert recent.get("kept") is kept.prefix
        assert recent.known <= 200
    assert recent.get(0) is None


def test_a_file_without_common_prefixes_is_soon_looked_at_now_and_then_only() -> None:
    """A group that comes after thousands of such lines is found all the same."""
    finder = make_finder()
    for number in range(PATIENCE + 1):
        finder.find(line(number, chat(b"%d" % number * 2000)))
    late = [line(number, chat(b"%d" % number * 2000)) for number in range(50_000, 50_080)]
    for attempt in late:
        finder.find(attempt)
    found = [finder.find(attempt) is not None for attempt in group(*range(1, 101))]

    assert sum(attempt.prefix is not None for attempt in late) == 80 // LATER_EVERY
    assert all(found[2 * LATER_EVERY :])


def test_the_first_of_a_group_goes_alone_and_the_others_follow_its_answer() -> None:
    """In front of lines that were read before them."""
    run = Run().add(*group(1, 2, 3), make_attempt(4), make_attempt(5))
    assert len(run.queue) == 5
    assert run.send() == [1, 4, 5]

    run.add(make_attempt(6))
    run.reply(1)

    assert run.send() == [2, 3, 6]
    assert run.queue.held == 0


def test_lines_of_a_warm_group_wait_for_nothing_until_it_is_cold() -> None:
    """Providers forget it some minutes after its last use: one goes ahead again."""
    run = Run().add(*group(1))
    run.send()
    run.reply(1)
    run.add(*group(2, 3))
    assert run.send() == [2, 3]

    run.now += WARM_S / 2
    run.reply(2)
    run.now += WARM_S / 2 + 1
    run.reply(3)
    run.add(*group(4))
    assert run.send() == [4]

    run.now += WARM_S
    run.add(*group(5, 6))
    assert run.send() == [5]


def test_a_leader_without_an_answer_is_replaced_and_after_the_third_all_go() -> None:
    """A refused or failed line says nothing about the others."""
    run = Run().add(*group(1, 2, 3, 4, 5))
    assert run.send() == [1]
    run.reply(1, is_answered=False)
    assert run.send() == [2]
    run.reply(2, is_answered=False)
    assert run.send() == [3]
    run.reply(3, is_answered=False)

    assert run.send() == [4, 5]


def test_a_leader_that_is_sent_nowhere_holds_nobody() -> None:
    """As where no endpoint takes its model."""
    run = Run().add(*group(1, 2))
    leader = run.queue.pop(run.now)

    run.warm.on_unsendable(leader)

    assert run.send() == [2]


def test_followers_wait_for_a_limited_time_after_the_leader_was_sent() -> None:
    """Long answers do not hold them: the prompt was read long before."""
    run = Run().add(*group(1, 2))
    run.send()
    run.wait(MAX_WAIT_S - 1)
    assert run.send() == []

    run.wait(1)

    assert run.send() == [2]
    run.add(*group(3))
    assert run.send() == [3]


def test_followers_wait_longer_for_a_leader_that_could_not_be_sent() -> None:
    """They could not be sent either. But not for ever."""
    run = Run().add(*group(1, 2))
    run.wait(MAX_WAIT_S)
    assert run.queue.held == 1

    for _ in range(int(MAX_HOLD_S / MAX_WAIT_S)):
        run.wait(MAX_WAIT_S)

    assert run.queue.held == 0


def test_where_others_stand_before_the_leader_the_next_one_goes_before_them() -> None:
    """Lines are read ahead of their turn: a group that comes up is warm by then."""
    run = Run(max_in_flight=4).add(*(make_attempt(number) for number in range(1, 9)), *group(11, 12, 13))

    assert drain(run.queue, run.now) == [12, 1, 2, 3, 4, 5, 6, 7, 8, 11]


def test_immediate_lines_are_not_held_once_there_are_deferred_ones() -> None:
    """Somebody waits for them."""
    run = Run().add(*group(1, 2))
    run.add(*group(10, 11, 12, deferred=True, start=OTHER))
    assert sorted(run.send()) == [1, 2, 10]

    run.add(*group(3, 4, start=OTHER))
    assert run.send() == [3, 4]
    run.reply(10)
    assert run.send() == [11, 12]


def test_lines_are_not_held_where_that_leaves_slots_free_for_too_long() -> None:
    """As in conversations that grow: each line would wait for the one before it."""
    run = Run(max_in_flight=8)
    start = COMMON
    for number in range(1, 6):
        start += OTHER
        run.add(line(number, chat(start)))
    sent = run.send()
    assert sent == [1]
    run.warm.wake_at(run.now, in_flight=1)
    run.now += 1.0
    run.reply(1)
    sent += run.send()
    assert run.warm.wake_at(run.now, in_flight=1) <= run.now + 1.0

    run.wait(1.0)

    assert sorted(sent + run.send()) == [1, 2, 3, 4, 5]


def test_slots_do_not_stay_free_for_long_where_little_would_be_saved() -> None:
    """A small file would take twice the time, to save a cent. With more lines, or others to send, it is no loss."""
    run = Run().add(*group(1, 2, 3))
    assert run.send() == [1]
    assert run.warm.wake_at(run.now, in_flight=1) == run.now + GRACE_S
    run.wait(GRACE_S)
    assert run.send() == [2, 3]

    many = range(2, 3 + MIN_SHARED_BYTES // len(OTHER))
    run = Run(max_in_flight=8).add(*group(1, *many, start=OTHER))
    assert run.send() == [1]
    assert run.warm.wake_at(run.now, in_flight=1) > run.now + GRACE_S

    run = Run(max_in_flight=1).add(*group(1, 2, 3))
    assert run.send() == [1]
    assert run.warm.wake_at(run.now, in_flight=1) > run.now + GRACE_S


def test_a_pause_without_free_slots_does_not_count() -> None:
    """Only from when nothing else is left to send lines go that share little."""
    run = Run().add(*group(1, 2, 3))
    run.send()
    run.warm.wake_at(run.now, in_flight=1)
    run.now += GRACE_S / 2
    run.add(make_attempt(9))
    run.warm.wake_at(run.now, in_flight=1)
    run.now += GRACE_S
    run.send()

    assert run.warm.wake_at(run.now, in_flight=2) == run.now + GRACE_S


@pytest.mark.parametrize(("cached_tokens", "is_held"), [(0, False), (1, True)])
def test_where_answers_show_no_cached_tokens_no_line_waits_any_more(cached_tokens: int, is_held: bool) -> None:
    """There is no cache, or none that is told of."""
    run = Run(max_in_flight=100)
    run.cached_tokens = cached_tokens
    run.add(*group(*range(1, MIN_ANSWERS + 2)))
    for number in run.send():
        run.reply(number)
    run.add(*group(101, 102, start=OTHER))
    for number in run.send():
        if number < 101:
            run.reply(number)

    run.add(*group(103, start=OTHER))

    assert run.queue.parked.may_wait_for_cache is is_held
    assert (run.send() == []) is is_held


def test_a_field_makes_the_groups_where_it_is_named() -> None:
    """Whatever the lines look like; a line without a value is in none."""
    values: dict[int, str | None] = {1: "a", 2: "b", 3: "a", 4: None, 5: None}
    value_of: Callable[[Request], object] = lambda request: values[request.number]  # noqa: E731 -- typed
    finder = PrefixesByField(value_of)
    attempts = {number: line(number, b"{}") for number in values}

    shared = {number: finder.find(attempt) for number, attempt in attempts.items()}

    assert shared == {1: None, 2: None, 3: attempts[1].prefix, 4: None, 5: None}


def make_group(key: int) -> Attempt:
    first, second = group(1, 2)
    finder = make_finder()
    finder.find(first)
    finder.find(second)
    assert first.prefix is not None
    first.prefix.key = key
    return second


def home_of(key: int, endpoints: list[Endpoint]) -> Endpoint:
    attempt = make_group(key)
    assert attempt.prefix is not None
    return choose_for(attempt.prefix, attempt.request, endpoints, endpoints, weighted)


def test_groups_spread_over_the_endpoints_by_weight_and_most_stay_when_one_goes() -> None:
    """Rendezvous hashing moves the groups of the endpoint that is off, and no others."""
    endpoints = [make_endpoint(0), make_endpoint(1), make_endpoint(2, weight=2.0)]
    homes = {key: home_of(key, endpoints) for key in range(2000)}
    shares = [sum(home is endpoint for home in homes.values()) / len(homes) for endpoint in endpoints]

    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.04)
    left = endpoints[1:]
    assert all(home_of(key, left) is home for key, home in homes.items() if home is not endpoints[0])


def test_a_group_goes_where_its_first_line_went() -> None:
    """There its start is in the cache."""
    scheduler = make_scheduler([{}, {}, {}], route="least-loaded")
    first, *others = group(1, 2, 3, 4)
    finder = make_finder()
    finder.find(first)
    scheduler.queue.add(first)
    [(_, home)] = admit_all(scheduler, 1000.0)
    scheduler.release(first, home, (0.0, 0.0, 0.0), 1000.0)
    random.seed(1)
    for attempt in others:
        finder.find(attempt)
        scheduler.queue.add(attempt)
        [(_, endpoint)] = admit_all(scheduler, 1000.0)
        assert endpoint is home
        scheduler.release(attempt, endpoint, (0.0, 0.0, 0.0), 1000.0)


def test_a_group_with_most_of_the_lines_uses_all_endpoints() -> None:
    """None gets more than its share and a tenth."""
    scheduler = make_scheduler([{}, {}])
    finder = make_finder()
    for attempt in group(*range(1, 101)):
        finder.find(attempt)
        scheduler.queue.add(attempt)
    sent = admit_all(scheduler, 1000.0)
    loads = [endpoint.traffic.in_flight for endpoint in scheduler.endpoints]

    assert len(sent) == 100
    assert max(loads) <= 57


def test_lines_go_elsewhere_where_their_endpoint_has_no_room() -> None:
    """Limits are used to the full."""
    scheduler = make_scheduler([{"concurrency": 2}, {"concurrency": 2}])
    finder = make_finder()
    for attempt in group(*range(1, 9)):
        finder.find(attempt)
        scheduler.queue.add(attempt)

    assert len(admit_all(scheduler, 1000.0)) == 4


def make_busy_home(count: int = 6) -> Scheduler:
    """Queue lines of a group that is warm at one endpoint, which has room for two; the other one has room for four."""
    scheduler = make_scheduler([{"concurrency": 2}, {"concurrency": 4}])
    finder = make_finder()
    first, *others = group(*range(1, count + 1))
    for attempt in (first, *others):
        finder.find(attempt)
        scheduler.queue.add(attempt)
    assert first.prefix is not None
    first.prefix.home, first.prefix.warm_at = 0, scheduler.endpoints[0].bit
    return scheduler


def test_one_line_goes_ahead_to_another_endpoint_and_the_others_wait_for_its_reply() -> None:
    """The group's own endpoint has no room, and the other one has not read its start. None of them counts as sent
    before.
    """
    scheduler = make_busy_home()
    sent = admit_all(scheduler, 1000.0)
    assert [endpoint.index for _, endpoint in sent] == [0, 0, 1]

    warm = WarmPrefixes(make_finder(), scheduler.queue, lambda: 1000.5, lambda: 1000.5, 8)
    warm.on_reply(sent[2][0], scheduler.endpoints[1], is_answered=True)
    sent = admit_all(scheduler, 1000.5)

    assert [endpoint.index for _, endpoint in sent] == [1, 1, 1]
    assert scheduler.queue.retried == 0


def test_the_reply_to_a_line_that_went_ahead_elsewhere_is_waited_for_a_limited_time() -> None:
    """That endpoint may hang."""
    scheduler = make_busy_home()
    admit_all(scheduler, 1000.0)

    assert admit_all(scheduler, 1000.0 + MAX_SCOUT_S - 1) == []
    assert len(admit_all(scheduler, 1000.0 + MAX_SCOUT_S)) == 3


def test_other_lines_go_while_some_wait_for_a_warm_endpoint() -> None:
    """The other endpoint is not idle."""
    scheduler = make_busy_home()
    admit_all(scheduler, 1000.0)
    scheduler.queue.add(make_attempt(9))

    [(attempt, endpoint)] = admit_all(scheduler, 1000.0)

    assert (attempt.request.number, endpoint.index) == (9, 1)


def test_immediate_lines_wait_for_no_warm_endpoint_where_there_are_deferred_ones() -> None:
    """Somebody waits for them."""
    scheduler = make_busy_home()
    scheduler.queue.add(make_attempt(9, deferred=True))

    assert [attempt.request.number for attempt, _ in admit_all(scheduler, 1000.0)] == [1, 2, 3, 4, 5, 6]


def test_nothing_is_due_where_nothing_is_held() -> None:
    """The timer of the run is not set for it."""
    assert Run().warm.wake_at(1000.0, 0) == inf

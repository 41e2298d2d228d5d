"""Lending: where nothing but slots can hold a request back, the workers of a crew fill slots on their own account.

To decide on every send costs the leader as much as a worker takes for all that it does with it. Without any rate there
is nothing to decide as long as lines are answered: so the leader lends the slots of its limits, hands out lines, and
takes in sums. Slots are passed on and back, never counted twice: what is in flight is never more than the limits say.
Lines that are not answered come back one by one and go the way of any other.

All is called in as soon as that does not hold any more: a rate is learned or told, an endpoint is in trouble, an output
takes nothing, the run is to end.
"""

from collections.abc import Callable, Sequence

from llmblast.job.engine import Engine
from llmblast.job.frames import News
from llmblast.job.hands import Hand
from llmblast.reading import BAD_LINE
from llmblast.records import Failure, Line
from llmblast.scheduling import Scheduler
from llmblast.watching import Counters
from llmblast.writing import Writer

PAUSE_S = 1.0
"""After trouble, for so long the leader decides on every send."""
LEAST_SLOTS_EACH = 4
"""With fewer in all, one worker or the other would have lines and no slot."""
MOST_WANTED = 0.25
"""Of all slots, the share that may be asked back for requests in the lanes: retries, most of them. Or all that have no
line, if these are more."""


class Lending:
    """Lends slots to `hands`, and takes in what they do with them."""

    def __init__(
        self,
        scheduler: Scheduler,
        engine: Engine,
        writer: Writer,
        counters: Counters,
        hands: Sequence[Hand],
        *,
        clock: Callable[[], float],
    ) -> None:
        self.is_on = False
        self._scheduler = scheduler
        self._engine = engine
        self._writer = writer
        self._counters = counters
        self._hands = hands
        self._clock = clock
        self._not_before_s = 0.0

    @property
    def lines(self) -> int:
        """Lines that are the workers' own."""
        return sum(hand.own_lines for hand in self._hands)

    @property
    def in_flight(self) -> int:
        """Of these, how many are under way, as last heard."""
        return sum(hand.own_in_flight for hand in self._hands)

    @property
    def slots(self) -> int:
        """Slots that are lent."""
        return sum(hand.slots for hand in self._hands)

    def balance(self) -> None:
        """Lends what nobody else needs, asks back what requests in the lanes wait for, or calls all in."""
        now = self._clock()
        if not self._may_lend(now):
            if self.is_on:
                self._call_in(now)
            return
        self.is_on = True
        spare = self._scheduler.free_slots
        is_waiting = self.lines > self.in_flight
        if self._scheduler.lanes.peek(now) is not None:
            is_waiting = True
            most = max(int((self.slots + max(spare, 0)) * MOST_WANTED), sum(hand.free_slots for hand in self._hands))
            spare -= max(min(len(self._scheduler.lanes), most), 1)
        self._scheduler.wait_for_slots(spare <= 0 and is_waiting, now)
        if spare > 0:
            self._lend(spare, now)
        elif spare < 0:
            self._ask_back(-spare - sum(hand.asked for hand in self._hands))

    def hear(self, hand: Hand, news: News) -> None:
        """Takes in what a worker did on its own account."""
        answers = len(news.latencies)
        hand.own_lines -= answers + len(news.failed) + len(news.refused) + len(news.returned)
        hand.lines -= answers + len(news.refused)
        self._scheduler.lanes.is_behind = self.lines > self.in_flight
        if news.sent:
            self._counters.endpoints[0].sent += news.sent
            self._scheduler.sent_on_lent_slots(news.sent)
            self._counters.last_sent_s = max(self._counters.last_sent_s or 0.0, news.last_sent_s)
        if answers:
            self._add_up(answers, news)
        for (number, key, text, *_), message, name in news.refused:
            self._engine.refuse(Failure(Line(number, key, text, name), message, BAD_LINE))
        for line, measures in news.returned:
            self._engine.accept(hand.assign(line, measures))
        for line, measures, sent_s, *reply in news.failed:
            hand.lost_slot()
            request = hand.assign(line, measures)
            self._engine.adopt(request, sent_s, hand.reply_of(request, reply))
            if answers:  # a row of failures in one frame is none where there is an answer in it
                self._scheduler.endpoints[0].outage.worked(news.last_answered_sent_s)
        if news.given_back:
            hand.got_back(news.given_back)
            self._engine.take_back(news.given_back)
        if news.failed or news.returned or news.given_back:
            self._engine.pump()
        else:
            self.balance()
        self._engine.check_done()

    def lost(self, hand: Hand) -> None:
        """A worker is gone. What it had under way on its own account has no record, and may have been paid for."""
        self._counters.maybe_billed += hand.own_in_flight
        slots, hand.slots, hand.asked, hand.own_lines, hand.own_in_flight = hand.slots, 0, 0, 0, 0
        self._engine.take_back(slots)

    def _add_up(self, answers: int, news: News) -> None:
        counters = self._counters
        counters.succeeded += answers
        counters.flagged += news.flagged
        counters.prompt_tokens += news.prompt_tokens
        counters.completion_tokens += news.completion_tokens
        mine = counters.endpoints[0]
        mine.succeeded += answers
        mine.tokens += news.prompt_tokens + news.completion_tokens
        for latency_s in news.latencies:
            mine.latency.add(latency_s)
        self._scheduler.answered_on_lent_slots(answers, news.last_answered_sent_s, news.slow)
        if news.headers is not None:
            self._engine.hear(news.last_answered_sent_s, news.headers)
        self._writer.put_rendered(news.records)

    def _may_lend(self, now: float) -> bool:
        is_over = self._engine.exit_code is not None or (self._counters.input_ended and self._has_idle_hand())
        has_deferred = self._scheduler.lanes.has_deferred  # only here is known when nothing else is left
        if is_over or has_deferred or self._writer.is_full or now < self._not_before_s:
            return False
        has_enough = self._scheduler.in_flight + self._scheduler.free_slots >= LEAST_SLOTS_EACH * len(self._hands)
        return has_enough and self._scheduler.may_lend(now)

    def _has_idle_hand(self) -> bool:
        """Whether one has no line for its next slot: those that the others have shall go on any slot."""
        return any(hand.own_lines <= hand.own_in_flight for hand in self._hands)

    def _lend(self, slots: int, now: float) -> None:
        """Evenly, as far as that goes. Whoever still owes some gets none."""
        hands = sorted((hand for hand in self._hands if not hand.asked), key=lambda hand: hand.slots)
        for place, hand in enumerate(hands):
            others = hands[place:]
            even = -(-(sum(other.slots for other in others) + slots) // len(others))
            given = min(max(even - hand.slots, 0), slots)
            if given:
                self._scheduler.lend(given, now)
                hand.lend(given)
                slots -= given

    def _ask_back(self, slots: int) -> None:
        for hand in sorted(self._hands, key=lambda hand: (hand.free_slots, hand.slots - hand.asked), reverse=True):
            asked = min(slots, hand.slots - hand.asked - (1 if hand.own_lines else 0))
            if asked > 0:
                hand.ask_back(asked)
                slots -= asked

    def _call_in(self, now: float) -> None:
        self.is_on = False
        if self._scheduler.endpoints[0].state(now):
            self._not_before_s = now + PAUSE_S
        for hand in self._hands:
            hand.call_in()

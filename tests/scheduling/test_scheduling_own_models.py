"""Models that lines name themselves: what one of them meets at an endpoint, and others do not."""

from llmblast.models import Attempt
from llmblast.scheduling import ANSWERED, Endpoint, Finding, Kind, SendOutcome
from llmblast.scheduling.own_models import MAX_MODELS, OwnModels
from llmblast.scheduling.refusals import MIN_ROW, BreakerState
from tests.scheduling.scheduling_samples import make_attempt, make_endpoint


class Sends:
    """Sends lines that name a model to one endpoint, ten milliseconds apart."""

    def __init__(self) -> None:
        self.endpoint: Endpoint = make_endpoint()
        self.now = 100.0
        self._line = 0

    def send(self, model: str | None) -> Attempt:
        self.now += 0.01
        self._line += 1
        attempt = make_attempt(self._line, model=model, sent_s=self.now)
        self.endpoint.limits.acquire((0.0, 0.0, 0.0), self.now)
        self.endpoint.record_send(attempt, self.now)
        return attempt

    def back(self, attempt: Attempt) -> None:
        self.now += 0.001
        self.endpoint.record_return(attempt, self.now)
        self.endpoint.limits.release((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), self.now)

    def answer(self, model: str | None) -> bool:
        attempt = self.send(model)
        self.back(attempt)
        return self.endpoint.on_outcome(attempt, ANSWERED, self.now) is Finding.LINES_TO_BLAME

    def refuse(self, model: str | None, times: int = 1, *, is_blamed: bool = False) -> None:
        for _ in range(times):
            attempt = self.send(model)
            self.back(attempt)
            self.endpoint.on_outcome(
                attempt, SendOutcome(Kind.REFUSED, signature="403 no", is_blamed=is_blamed), self.now
            )

    def reject(self, model: str | None, wait_s: float | None = None, times: int = 1) -> None:
        for _ in range(times):
            attempt = self.send(model)
            self.back(attempt)
            self.endpoint.on_outcome(attempt, SendOutcome(Kind.RATE_LIMITED, wait_s=wait_s), self.now)

    def state_of(self, model: str) -> BreakerState:
        known = self.endpoint.models.get(model)
        assert known is not None
        return known.refusals.state


def test_a_model_that_never_got_an_answer_is_no_evidence_against_its_endpoint() -> None:
    """Where others did: the name may be wrong."""
    sends = Sends()
    sends.answer("a")

    sends.refuse("typo", 3 * MIN_ROW)

    assert sends.state_of("typo") is BreakerState.OPEN
    assert sends.endpoint.health.refusals.state is BreakerState.CLOSED


def test_where_no_model_got_an_answer_the_endpoint_is_suspected() -> None:
    """All lines may name the same model."""
    sends = Sends()

    sends.refuse("typo", 2)

    assert sends.endpoint.is_held


def test_words_that_blame_the_account_count_against_the_endpoint_too() -> None:
    """The key is the same for all models."""
    sends = Sends()
    sends.answer("a")

    sends.refuse("b", 20, is_blamed=True)

    assert sends.endpoint.health.refusals.state is BreakerState.OPEN


def test_a_model_that_loses_its_access_is_out_while_another_is_answered() -> None:
    """Each answer to the other one clears the endpoint only."""
    sends = Sends()
    for _ in range(50):
        sends.answer("a")
        sends.answer("b")

    for _ in range(2 * MIN_ROW):
        sends.refuse("a")
        sends.answer("b")

    assert (sends.state_of("a"), sends.state_of("b")) == (BreakerState.OPEN, BreakerState.CLOSED)
    assert sends.endpoint.health.refusals.state is BreakerState.CLOSED


def test_a_pause_is_the_models_where_others_pass() -> None:
    """Lines of the other model go on."""
    sends = Sends()
    for _ in range(30):
        sends.answer("a")
        sends.answer("b")

    for _ in range(20):
        sends.reject("b", 30.0)
        sends.answer("a")

    assert sends.endpoint.model_ready_at("b", sends.now) > sends.now
    assert sends.endpoint.model_ready_at("a", sends.now) <= sends.now
    assert not sends.endpoint.hold.push_back.is_held


def test_a_pause_is_the_endpoints_where_all_models_meet_it() -> None:
    """Nothing goes for a while."""
    sends = Sends()
    for _ in range(30):
        sends.answer("a")
        sends.answer("b")

    for _ in range(10):
        sends.reject("b", 30.0)
        sends.reject("a", 30.0)

    assert sends.endpoint.hold.push_back.is_held


def test_models_beyond_the_bound_count_for_their_endpoint() -> None:
    """A file may name a million of them."""
    models = OwnModels("e0")

    known = [models.add(f"m{n}") for n in range(MAX_MODELS + 5)]

    assert [model is None for model in known[-6:]] == [False, *[True] * 5]
    assert len(list(models)) == MAX_MODELS

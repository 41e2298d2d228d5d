"""The token estimate follows what the provider counts."""

import math
from random import Random
from statistics import NormalDist

import pytest

from llmblast.scheduling import TokenEstimator
from llmblast.scheduling.tokens import max_tokens_of
from tests.scheduling.scheduling_samples import make_answer, make_attempt, make_request, tokens_of


def test_an_estimate_before_the_first_reply_is_on_the_high_side() -> None:
    """Too much is given back, too little draws a 429."""
    total, prompt, output = TokenEstimator().estimate(make_request(body=b"x" * 1000))

    assert 250 < prompt <= 400
    assert output == 256
    assert total == prompt + output


@pytest.mark.parametrize("ratio", [0.1, 0.25, 1.5])
def test_the_prompt_ratio_converges(ratio: float) -> None:
    """After a few hundred replies it is the provider's, whatever it was."""
    estimator = TokenEstimator()
    for size in range(100, 500):
        request = make_request(body=b"x" * size, max_tokens=0)
        estimator.learn(request, make_answer(round(size * ratio), 50))

    expected = tokens_of(1000 * ratio)
    assert estimator.estimate(make_request(body=b"x" * 1000, max_tokens=0)) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("median", [10, 300, 8000])
def test_the_output_estimate_is_near_the_high_quantile(median: float) -> None:
    """Log-normal lengths of any scale: 90 % of the answers are no longer than the estimate, give or take."""
    random, estimator = Random(5), TokenEstimator()
    estimates = []
    for _ in range(4000):
        estimator.learn(make_request(), make_answer(0, round(random.lognormvariate(math.log(median), 0.7))))
        estimates.append(estimator.estimate(make_request())[2])
    settled = estimates[2000:]
    exact = median * math.exp(0.7 * NormalDist().inv_cdf(0.9))

    assert sum(settled) / len(settled) == pytest.approx(exact, rel=0.15)
    assert min(settled) > exact / 2
    assert max(settled) < exact * 2


def test_the_output_estimate_is_bounded_by_max_tokens() -> None:
    """No answer can be longer."""
    estimator = TokenEstimator()

    assert estimator.estimate(make_request(max_tokens=16)) == tokens_of(0, 16)
    assert estimator.estimate(make_request(max_tokens=100_000)) == tokens_of(0, 256)


def test_answers_without_output_bring_the_estimate_to_nothing() -> None:
    """Embeddings cost their prompt only."""
    estimator = TokenEstimator()
    for _ in range(5000):
        estimator.learn(make_request(body=b"x" * 100), make_answer(25, 0))

    assert estimator.estimate(make_request(body=b"x" * 100)) == pytest.approx(tokens_of(25), abs=0.1)


def test_a_request_without_body_teaches_no_ratio() -> None:
    """Nothing can be divided by its size."""
    estimator = TokenEstimator()
    before = estimator.estimate(make_request(body=b"x" * 1000, max_tokens=0))
    estimator.learn(make_request(), make_answer(1000, 50))

    assert estimator.estimate(make_request(body=b"x" * 1000, max_tokens=0)) == before


def test_a_provider_that_charges_max_tokens_is_paid_max_tokens() -> None:
    """However short the answers are; without a bound in the request the learned length has to do."""
    estimator = TokenEstimator("max_tokens")
    for _ in range(2000):
        estimator.learn(make_request(), make_answer(0, 10))

    assert estimator.estimate(make_request(max_tokens=4096)) == tokens_of(0, 4096)
    assert estimator.estimate(make_request(max_tokens=5)) == tokens_of(0, 5)
    assert estimator.estimate(make_request())[2] == pytest.approx(10, rel=0.2)


def test_charging_usage_gives_back_what_the_answer_did_not_take() -> None:
    """And asks for what it took more."""
    estimator, attempt = TokenEstimator("usage"), make_attempt()
    attempt.tokens_paid = tokens_of(100, 256)

    assert estimator.count_tokens(attempt, make_answer(80, 10)) == tokens_of(80, 10)
    assert estimator.count_tokens(attempt, make_answer(120, 900)) == tokens_of(120, 900)


def test_charging_max_tokens_never_gives_output_back() -> None:
    """The prompt is known afterwards, so that is settled all the same."""
    estimator, attempt = TokenEstimator("max_tokens"), make_attempt(max_tokens=4096)
    attempt.tokens_paid = tokens_of(100, 4096)

    assert estimator.count_tokens(attempt, make_answer(80, 10)) == tokens_of(80, 4096)


@pytest.mark.parametrize("counts", [(None, None), (80, None), (None, 10)])
def test_an_answer_without_counts_stays_charged_as_estimated(counts: tuple[int | None, int | None]) -> None:
    """Half a count is none, and teaches nothing."""
    estimator, attempt = TokenEstimator(), make_attempt(body=b"x" * 100)
    attempt.tokens_paid = estimator.estimate(attempt.request)
    estimator.learn(attempt.request, make_answer(*counts))

    assert estimator.count_tokens(attempt, make_answer(*counts)) == attempt.tokens_paid
    assert estimator.estimate(attempt.request) == attempt.tokens_paid


def test_the_largest_estimate_is_that_of_each_kind() -> None:
    """One endpoint may count more for the prompt, the other for the answer."""
    assert max_tokens_of([tokens_of(10, 500), tokens_of(90, 1)]) == (510, 90, 500)
    assert max_tokens_of([]) == (0, 0, 0)

"""The token estimate follows what the provider counts."""

import math
from random import Random
from statistics import NormalDist

import pytest

from llmblast.scheduling import TokenEstimator
from tests.scheduling.scheduling_samples import make_request


def test_an_estimate_before_the_first_reply_is_on_the_high_side() -> None:
    """Too much is given back, too little draws a 429."""
    estimate = TokenEstimator().estimate(make_request(body=b"x" * 1000))

    assert 250 < estimate - 256 <= 400


@pytest.mark.parametrize("ratio", [0.1, 0.25, 1.5])
def test_the_prompt_ratio_converges(ratio: float) -> None:
    """After a few hundred replies it is the provider's, whatever it was."""
    estimator = TokenEstimator()
    for size in range(100, 500):
        request = make_request(body=b"x" * size, max_tokens=0)
        estimator.learn(request, round(size * ratio), 50)

    assert estimator.estimate(make_request(body=b"x" * 1000, max_tokens=0)) == pytest.approx(1000 * ratio, rel=0.03)


@pytest.mark.parametrize("median", [10, 300, 8000])
def test_the_output_estimate_is_near_the_high_quantile(median: float) -> None:
    """Log-normal lengths of any scale: 90 % of the answers are no longer than the estimate, give or take."""
    random, estimator = Random(5), TokenEstimator()
    estimates = []
    for _ in range(4000):
        estimator.learn(make_request(), 0, round(random.lognormvariate(math.log(median), 0.7)))
        estimates.append(estimator.estimate(make_request()))
    settled = estimates[2000:]
    exact = median * math.exp(0.7 * NormalDist().inv_cdf(0.9))

    assert sum(settled) / len(settled) == pytest.approx(exact, rel=0.15)
    assert min(settled) > exact / 2
    assert max(settled) < exact * 2


def test_the_output_estimate_is_bounded_by_max_tokens() -> None:
    """No answer can be longer."""
    estimator = TokenEstimator()

    assert estimator.estimate(make_request(max_tokens=16)) == 16
    assert estimator.estimate(make_request(max_tokens=100_000)) == 256


def test_answers_without_output_bring_the_estimate_to_nothing() -> None:
    """Embeddings cost their prompt only."""
    estimator = TokenEstimator()
    for _ in range(5000):
        estimator.learn(make_request(body=b"x" * 100), 25, 0)

    assert estimator.estimate(make_request(body=b"x" * 100)) == pytest.approx(25, abs=0.1)


def test_a_request_without_body_teaches_no_ratio() -> None:
    """Nothing can be divided by its size."""
    estimator = TokenEstimator()
    before = estimator.estimate(make_request(body=b"x" * 1000, max_tokens=0))
    estimator.learn(make_request(), 1000, 50)

    assert estimator.estimate(make_request(body=b"x" * 1000, max_tokens=0)) == before

"""What `mock:?...` may say, and what a person is told when it says something else."""

from dataclasses import fields

import pytest
from typer.main import get_command

from llmblast.cli.main import app
from llmblast.errors import UsageError
from llmblast.mocking.settings import MockSettings


def test_a_query_sets_what_it_names_and_leaves_the_rest() -> None:
    """Each value takes the type of its setting."""
    query = "rps=50&latency=0.2&burst=3&unauthorized=1&policy=sliding&key=k&concurrency=7&models=a+b"

    settings = MockSettings.from_query(query)

    assert settings == MockSettings(
        rps=50.0, latency=0.2, burst=3, unauthorized=True, policy="sliding", key="k", concurrency=7, models="a b"
    )


def test_an_empty_query_gives_the_defaults() -> None:
    """`mock:` alone is enough."""
    assert MockSettings.from_query("") == MockSettings()


@pytest.mark.parametrize("text", ["2-5", "2.-5.0"])
def test_a_range_of_latency_reaches_both_ends(text: str) -> None:
    """Mean and jitter together span the range."""
    settings = MockSettings.from_query(f"latency={text}")

    assert settings.latency * (1 - settings.jitter) == pytest.approx(2)
    assert settings.latency * (1 + settings.jitter) == pytest.approx(5)


def test_a_latency_with_an_exponent_is_no_range() -> None:
    """The minus sign of 1e-05 does not separate two numbers."""
    assert MockSettings.from_query("latency=1e-05").latency == 1e-05


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("rsp=50", "mock: rsp: unknown setting: did you mean rps?"),
        ("zzzzzz=1", "known are latency, jitter, rps"),
        ("rps=fast", "mock: rps=fast: is not a number: write it like 0.5"),
        ("burst=1.5", "mock: burst=1.5: is not a whole number"),
        ("concurrency=", "mock: concurrency=: is not a whole number"),
        ("unauthorized=perhaps", "mock: unauthorized=perhaps: is neither yes nor no"),
        ("key=", "mock: key=: is empty"),
        ("policy=fxied", "mock: policy=fxied: unknown: did you mean fixed?"),
        ("charge=zero", "mock: charge=zero: unknown: known are usage, max_tokens"),
        ("headers=anthropc", "mock: headers=anthropc: unknown: did you mean anthropic?"),
        ("window=fixed", "mock: window: unknown setting"),
        ("stolen=1", "mock: stolen=1: must be from 0 to 0.99"),
        ("policy=token-bucket&burst=0", "an empty token bucket admits nothing"),
        ("policy=token-bucket&burst_tokens=0", "an empty token bucket admits nothing"),
        ("rps=0", "mock: rps=0: must be from 1e-06 to 1e+12"),
        ("latency=nan", "mock: latency=nan: must be from"),
        ("latency=-1", "mock: latency=-1: must be from"),
        ("latency=5-2", "the smaller number first"),
        ("latency=2-x", "mock: latency=2-x: is not a number"),
        ("latency=2-5&jitter=0.1", "a range has its own jitter"),
        ("errors=1.5", "mock: errors=1.5: must be from 0 to 1"),
        ("errors=0.6&broken=0.6", "together they must be at most 1"),
        ("rps=1&rps=2", "mock: rps: is given twice"),
    ],
)
def test_a_wrong_query_is_told_by_place_and_fix(query: str, told: str) -> None:
    """One sentence names the setting and what would do."""
    with pytest.raises(UsageError) as caught:
        MockSettings.from_query(query)

    assert told in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("TRUE", True), ("", True), ("0", False), ("no", False)])
def test_a_switch_takes_the_usual_words(text: str, value: bool) -> None:
    """A bare name switches on."""
    assert MockSettings.from_query(f"unauthorized={text}").unauthorized is value


def test_shares_that_make_exactly_one_are_taken() -> None:
    """Float rounding does not push a sum of 1 over 1."""
    settings = MockSettings.from_query("errors=0.05&rate_limited=0.55&broken=0.3&malformed=0.1")

    assert settings.malformed == 0.1


def test_a_leaky_bucket_may_have_no_burst() -> None:
    """That is its own default, written out."""
    assert MockSettings.from_query("policy=leaky&burst=0&tell_retry_after=0").burst == 0


def test_every_setting_is_an_option_of_the_command() -> None:
    """With the help text of its field."""
    options = {param.name: param.help for param in get_command(app).commands["mock"].params}  # type: ignore[attr-defined] # a group, by construction

    assert {entry.name: entry.metadata["help"] for entry in fields(MockSettings)}.items() <= options.items()

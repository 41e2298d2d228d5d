"""Columns that hold in any width and any script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.watching.counters import EndpointCounters
from llmblast.watching.tables import align, cell_width, cut, endpoint_table
from tests.watching.watching_helpers import busy_counters, endpoint


@given(st.text(st.characters(categories=["L", "N", "M"])), st.integers(0, 30))
def test_cut_text_never_takes_more_columns_than_allowed(text: str, width: int) -> None:
    """Wide characters count as two."""
    assert cell_width(cut(text, width)) <= width


def test_wide_and_combining_characters_take_their_real_width() -> None:
    """Rows with Chinese names stay below each other."""
    assert cell_width("模型") == 4
    assert cell_width("e\u0301") == 1
    assert align([["模型", "1"], ["gpu", "22"]], [False, True]) == ["模型   1", "gpu   22"]


def test_an_endpoint_row_shows_its_share_of_the_requests() -> None:
    """Weights of 3:1 can be checked at a glance."""
    lines = endpoint_table([endpoint("gpu1", 750, 740), endpoint("gpu2", 250, 250)], 80)

    assert lines[0].split() == ["endpoint", "sent", "share", "ok", "errors", "429s", "p50"]
    assert lines[1].split() == ["gpu1", "750", "75", "%", "740", "0", "0", "-"]


def test_answers_by_batch_have_a_column_where_there_are_some() -> None:
    """They are not sent one by one, so that `sent` does not have them."""
    batched = EndpointCounters("hosted", sent=5, succeeded=35, batched=30)

    lines = endpoint_table([batched, endpoint("gpu1", 10, 10)], 80)

    assert lines[0].split("  ")[0] == "endpoint"
    assert lines[0].index("by batch") > lines[0].index("ok")
    assert lines[1].split() == ["hosted", "5", "33", "%", "35", "30", "0", "0", "-"]
    assert "by batch" not in endpoint_table([endpoint("gpu1", 10, 10)], 80)[0]


def test_states_have_a_column_when_somebody_has_one() -> None:
    """It takes no room while all is well."""
    lines = endpoint_table([endpoint("gpu1"), endpoint("gpu2", state="disabled: 401")], 80)

    assert lines[0].endswith("state")
    assert lines[2].endswith("disabled: 401")


@pytest.mark.parametrize("width", [10, 60, 80, 120])
@pytest.mark.parametrize("state", ["", "cooling down for another 12 s because of a rate limit"])
def test_the_largest_figures_fit_the_width(width: int, state: str) -> None:
    """Nothing wraps: a wrapped line breaks the live display."""
    endpoints = list(busy_counters().endpoints)
    endpoints[1].state = state

    lines = endpoint_table(endpoints, width, with_in_flight=True)

    assert max(map(cell_width, lines)) <= width


def test_large_counts_are_shortened_before_names_are_cut() -> None:
    """Names tell the rows apart."""
    endpoints = [endpoint("inference-server-number-one", 3_456_789, 3_456_789)]

    wide = endpoint_table(endpoints, 90, with_in_flight=True)
    narrow = endpoint_table(endpoints, 80, with_in_flight=True)

    assert "3,456,789" in wide[1]
    assert "3.5M" in narrow[1]
    assert "inference-server-number-one" in narrow[1]


@pytest.mark.parametrize(
    ("width", "header"),
    [
        (60, "endpoint  in flight  sent  share   ok  errors  429s     p50"),
        (50, "endpoint  in flight  sent   ok  errors  429s"),
        (42, "endpoint  in flight  sent  errors  429s"),
    ],
)
def test_a_narrow_table_has_fewer_columns_and_whole_ones(width: int, header: str) -> None:
    """What went wrong stays to the last; half a column of digits would be another number."""
    endpoints = [endpoint("inference-server-number-one", 314, 314)]
    endpoints[0].latency.add(0.5)

    lines = endpoint_table(endpoints, width, with_in_flight=True)

    assert lines[0].split() == header.split()
    assert "…" not in lines[0]


def test_what_ten_rows_cannot_show_is_counted() -> None:
    """The shares are of all endpoints, shown or not."""
    lines = endpoint_table([endpoint(f"gpu{n}", 10) for n in range(15)], 80)

    assert len(lines) == 12
    assert "7 %" in lines[1]
    assert lines[-1] == "... and 5 more"


def test_a_hostile_name_is_cleaned() -> None:
    """Names come from a file that somebody else may have written."""
    assert endpoint_table([endpoint("\x1b[2Jgpu\n1")], 80)[1].startswith("gpu 1 ")


@pytest.mark.parametrize(
    "state", ["", "down, next try in 2 s: 127.0.0.1:9: connection refused: is the server running?"]
)
def test_names_stay_distinct_as_long_as_there_are_columns_to_leave_out(state: str) -> None:
    """Eleven rows called `endpoin…` say nothing."""
    endpoints = [endpoint(f"endpoint-{n}.inference.example.com", 314, 314) for n in range(11)]
    endpoints[10].state = state

    lines = endpoint_table(endpoints, 60, 11, with_in_flight=True)

    assert len({line.split()[0] for line in lines[1:]}) == 11
    assert max(map(cell_width, lines)) <= 60


def test_names_that_differ_only_at_their_end_cost_no_columns() -> None:
    """They are cut as ever: nothing is gained."""
    endpoints = [endpoint(f"a-very-long-name-of-an-endpoint-{n}", 314, 314) for n in range(2)]

    assert "share" in endpoint_table(endpoints, 60, with_in_flight=True)[0]

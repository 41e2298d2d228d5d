"""What is told at the end of a run, as text and as values."""

import orjson
import pytest

from llmblast.watching.counters import Counters, EndpointCounters
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.summary import OutputFiles, Summary
from llmblast.watching.tables import cell_width, endpoint_table
from tests.watching.watching_helpers import busy_counters, endpoint


def finished_run() -> Counters:
    """10 s of sending at 100/s."""
    counters = Counters(lines_read=1205, skipped=200, malformed=2, sent=1001, succeeded=990, flagged=3, failed=10)
    counters.endpoints, counters.input_ended = [endpoint("only", tokens=(20_000, 30_000))], True
    counters.retries, counters.rate_limited, counters.hedged, counters.maybe_billed = 1, 4, 5, 6
    counters.first_sent_s, counters.last_sent_s = 50.0, 60.0
    for latency_s in (0.5, 1.0, 2.0):
        counters.endpoints[0].latency.add(latency_s)
    return counters


def text_of(counters: Counters, width: int = 200, **waited: float) -> str:
    limits = LimitsView(waited=lambda: {name.replace("_", " "): seconds for name, seconds in waited.items()})
    return Summary(counters, 12.0, limits, "finished: some lines have no answer").as_text(width)


def test_refusals_of_the_flex_tier_are_told() -> None:
    """They explain retries that no limit has caused."""
    counters = finished_run()
    counters.flex_refusals = 2

    assert "1 retry, 4 x 429, 2 refused by the flex tier, 5 hedged" in text_of(counters)


def test_the_figures_of_a_run_are_told() -> None:
    """Lines, requests, time, tokens, latency: each on its line."""
    lines = text_of(finished_run()).splitlines()

    assert lines[0] == "finished: some lines have no answer"
    assert lines[1].split(maxsplit=1) == [
        "lines",
        "1,205 read, 200 skipped (finished earlier), 990 answered, 10 failed (2 bad lines), 5 pending",
    ]
    assert lines[2] == "cut off   3 hit max_tokens or a filter"
    del lines[2]
    assert lines[2].split(maxsplit=1) == [
        "requests",
        "1,001 sent, 1 retry, 4 x 429, 5 hedged, 6 maybe billed",
    ]
    assert lines[3].split(maxsplit=1) == ["time", "12.0 s, 100.0 requests/s"]
    assert lines[4].split(maxsplit=1) == ["tokens", "20,000 in, 30,000 out, 250k/min"]
    assert lines[5].startswith("latency")
    assert "p50 1.0" in lines[5]
    assert "p99" in lines[5]


def test_a_narrow_terminal_gets_more_lines_and_no_less_figures() -> None:
    """Lines break between two facts."""
    narrow, wide = text_of(finished_run(), 60), text_of(finished_run(), 200)

    assert narrow.split() == wide.split()
    assert len(narrow.splitlines()) > len(wide.splitlines())


@pytest.mark.parametrize(
    ("sent", "span_s", "duration_s", "per_s"),
    [
        (241, 0.0018, 0.1, 2410.0),
        (1, 0.0, 4.0, 0.25),
        (101, 0.999, 2.0, 50.5),
        (101, 1.0, 2.0, 100.0),
        (5, 0.0, 0.0, None),
        (0, 0.0, 4.0, None),
    ],
)
def test_the_rate_of_a_short_run_is_that_of_the_whole(
    sent: int, span_s: float, duration_s: float, per_s: float | None
) -> None:
    """What leaves at once says nothing about how fast the run was."""
    counters = Counters(sent=sent)
    if sent:
        counters.first_sent_s, counters.last_sent_s = 50.0, 50.0 + span_s

    values = orjson.loads(orjson.dumps(Summary(counters, duration_s, LimitsView(), "finished").as_json()))

    assert values["requests"]["per_second"] == (None if per_s is None else pytest.approx(per_s))


def test_the_text_tells_the_same_rate_as_the_values() -> None:
    """A request that took 4 s is no 0.00 a second."""
    counters = Counters(sent=1, first_sent_s=50.0, last_sent_s=50.0)

    assert "time      4.0 s, 0.25 requests/s\n" in Summary(counters, 4.0, LimitsView(), "finished").as_text()


@pytest.mark.parametrize(
    ("input_ended", "input_bytes", "bytes_read", "lines_read", "expected"),
    [
        (False, 1000, 500, 1000, "948 read and pending, the rest of the input not read"),
        (False, None, 500, 1000, "948 read and pending, the rest of the input not read"),
        (False, 1000, 500, 52, "0 failed, the rest of the input not read"),
        (False, 500, 500, 1000, "0 failed, 948 pending"),
        (True, 1000, 500, 1000, "0 failed, 948 pending"),
        (True, 1000, 1000, 52, "0 failed"),
    ],
)
def test_a_run_that_stopped_early_says_that_there_is_more_to_read(
    input_ended: bool, input_bytes: int | None, bytes_read: int, lines_read: int, expected: str
) -> None:
    """The lines read ahead are not all that is left; nor is there more when the whole file is in memory."""
    counters = Counters(lines_read=lines_read, succeeded=52, bytes_read=bytes_read)
    counters.input_ended, counters.input_bytes = input_ended, input_bytes

    assert text_of(counters).splitlines()[1].endswith(expected)


def test_lines_that_failed_earlier_are_told_apart() -> None:
    """They have no answer, and there is a way to get one."""
    counters = Counters(lines_read=10, skipped=10, skipped_failed=2, input_ended=True)

    text = text_of(counters)

    assert "10 skipped (8 answered, 2 failed earlier; --retry-errors all tries those again)," in text


def test_a_fact_longer_than_a_line_breaks_between_two_words() -> None:
    """Cut off it would lose what to do about it."""
    counters = Counters(lines_read=10, skipped=10, skipped_failed=2, input_ended=True)

    narrow = text_of(counters, 60)

    assert max(map(cell_width, narrow.splitlines())) <= 60
    assert narrow.split() == text_of(counters, 200).split()


def test_abandoned_requests_are_told() -> None:
    """Somebody may have to pay for them."""
    counters = finished_run()
    counters.abandoned = 250

    assert "6 maybe billed, 250 dropped, maybe billed\n" in text_of(counters)


def test_a_run_that_sent_nothing_is_told_in_a_few_lines() -> None:
    """Sections without content are left out."""
    text = Summary(Counters(lines_read=5, skipped=5, input_ended=True), 0.1, LimitsView(), "finished").as_text()

    assert text.splitlines() == [
        "finished",
        "lines     5 read, 5 skipped (finished earlier), 0 answered, 0 failed",
        "requests  none sent",
        "time      0.1 s",
    ]


def test_waiting_is_told_for_limits_that_held_the_run_back() -> None:
    """The longest first; less than half a percent of the time is noise."""
    text = text_of(finished_run(), run_rps=3.0, gpu1_tpm=6.0, run_concurrency=0.05)

    assert "waiting   held back by gpu1 tpm 6.0 s (50 %), --rps 3.0 s (25 %)\n" in text + "\n"


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("run rps", "held back by --rps 6.0 s (50 %)"),
        ("run concurrency", "held back by --concurrency 6.0 s (50 %)"),
        ("my gpu tpm", "held back by my gpu tpm 6.0 s (50 %)"),
        ("output", "held back by the output files 6.0 s (50 %)"),
        ("gpu1 breaker", "gpu1 was down 6.0 s (50 %)"),
        ("gpu1 outage", "gpu1 was failing 6.0 s (50 %)"),
        ("gpu1 pause", "gpu1 paused after 429s 6.0 s (50 %)"),
        ("gpu1 learned rate", "gpu1 slowed after 429s 6.0 s (50 %)"),
        ("gpu1 learned concurrency", "gpu1 was limited to fewer in flight after 429s 6.0 s (50 %)"),
        ("gpu1 refusals", "gpu1 was rejecting lines 6.0 s (50 %)"),
    ],
)
def test_what_held_the_run_back_is_told_in_words(limit: str, words: str) -> None:
    """Options by their names, and what happened to an endpoint as an event."""
    limits = LimitsView(waited=lambda: {limit: 6.0})

    assert f"waiting   {words}\n" in Summary(finished_run(), 12.0, limits, "finished").as_text(200) + "\n"


def test_limits_are_told_before_what_happened_to_endpoints() -> None:
    """They can be changed; each of the two the longest first."""
    text = text_of(finished_run(), gpu1_breaker=6.0, run_rps=1.2, gpu2_breaker=3.0, run_tpm=2.4)

    assert (
        "held back by --tpm 2.4 s (20 %), --rps 1.2 s (10 %), gpu1 was down 6.0 s (50 %), gpu2 was down 3.0 s (25 %)"
    ) in text


FILES = OutputFiles("out/save.jsonl", "out/save.errors.jsonl", 200, 5, "jq -c 'select(...)' out/save.jsonl")


def files_text(counters: Counters, files: OutputFiles, width: int = 200) -> list[str]:
    return Summary(counters, 12.0, LimitsView(), "finished", files=files).as_text(width).splitlines()


def test_the_files_are_told_with_what_is_in_each() -> None:
    """With what earlier runs have left there, since that is what a person finds."""
    assert files_text(finished_run(), FILES)[2:4] == [
        "files     1,190 answers in out/save.jsonl, 15 errors in out/save.errors.jsonl",
        "cut off   3 hit max_tokens or a filter: jq -c 'select(...)' out/save.jsonl",
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (OutputFiles("a", "b"), "files     1 answer in a"),
        (OutputFiles(None, "b", 0, 1), "files     1 error in b"),
        (OutputFiles(None, "b"), "requests  none sent"),
    ],
)
def test_a_file_without_records_is_not_told(files: OutputFiles, expected: str) -> None:
    """Nor are answers that went to standard output: they were seen there."""
    assert files_text(Counters(succeeded=1), files)[2] == expected


def test_paths_and_commands_are_never_cut() -> None:
    """They are there to be copied."""
    path = "a-long-path/" * 8 + "save.jsonl"
    files = OutputFiles(path, path + "2", 0, 0, f"jq . {path}")

    lines = files_text(finished_run(), files, 40)

    assert [line for line in lines if path in line] == [
        f"files     990 answers in {path},",
        f"          10 errors in {path}2",
        f"          jq . {path}",
    ]


def test_what_has_to_be_so_first_stands_before_the_command() -> None:
    """Where it makes no sense to type it at once; the command alone is what scripts get."""
    summary = Summary(
        finished_run(), 12.0, LimitsView(), "stopped", "llmblast run x", "once gpu1 is reachable, run again"
    )

    assert summary.as_text().endswith("\n\nnext: once gpu1 is reachable, run again: llmblast run x")
    assert summary.as_json()["next_command"] == "llmblast run x"


def test_a_run_that_no_limit_held_back_says_so() -> None:
    """Then it is the endpoints that set the pace."""
    assert "no limit held the run back" in text_of(finished_run(), run_rps=0.01)


def used_text(used: dict[str, float], width: int = 200) -> list[str]:
    return Summary(finished_run(), 12.0, LimitsView(used=lambda: used), "finished").as_text(width).splitlines()


def test_how_far_limits_were_used_is_told_right_after_the_waiting() -> None:
    """The most used first; a limit without a share is left out."""
    lines = used_text({"gpu1 tpm": 0.96, "run rps": 0.9937, "gpu2 tpm": 0.0, "gpu1 rps": 0.421})

    assert lines[-2].startswith("waiting")
    assert lines[-1] == "limits    used: --rps 99.4 %, gpu1 tpm 96 %, gpu1 rps 42 %"


@pytest.mark.parametrize("used", [{}, {"run rps": 0.0}])
def test_nothing_is_said_about_limits_that_were_not_used(used: dict[str, float]) -> None:
    """No line without content."""
    assert used_text(used)[-1].startswith("waiting")


@pytest.mark.parametrize(
    ("limits", "names", "end"), [(6, 6, "gpu5 rps 40 %"), (7, 6, "and 1 more"), (9, 6, "and 3 more")]
)
def test_six_limits_are_named_and_the_others_counted(limits: int, names: int, end: str) -> None:
    """A run over twenty endpoints has a hundred limits."""
    line = used_text({f"gpu{n} rps": 0.9 - n / 10 for n in range(limits)} | {"idle rps": 0.0})[-1]

    assert line.count("gpu") == names
    assert line.endswith(end)


def test_several_endpoints_get_a_table() -> None:
    """With the state in which each of them ended."""
    counters = finished_run()
    counters.endpoints = [endpoint("gpu1", 750, 740), endpoint("gpu2", 250, 250, state="disabled: 401")]

    lines = text_of(counters).splitlines()

    assert lines[-3].split() == ["endpoint", "sent", "share", "ok", "errors", "429s", "p50", "state"]
    assert lines[-2].split()[:5] == ["gpu1", "750", "75", "%", "740"]
    assert lines[-1].endswith("disabled: 401")


@pytest.mark.parametrize(("state", "is_shown"), [("", False), ("disabled: 401", True)])
def test_a_single_endpoint_is_only_told_when_it_is_in_trouble(state: str, is_shown: bool) -> None:
    """Its figures are those of the run."""
    counters = finished_run()
    counters.endpoints = [endpoint("gpu1", 1001, state=state)]

    assert ("gpu1" in text_of(counters)) is is_shown


def test_the_most_frequent_errors_come_with_their_first_line() -> None:
    """Five kinds, and a count of the others."""
    counters = finished_run()
    for kind in range(7):
        for case in range(kind + 1):
            counters.count_error(f"code_{kind}", 1000 + 10 * kind + case, f"message\n  {kind}")

    lines = text_of(counters).splitlines()
    errors = lines[lines.index("errors") + 1 :]

    assert errors[0] == "  7 x  code_6  first at line 1,060: message 6"
    assert len(errors) == 6
    assert errors[-1] == "  ... and 2 other kinds"


def test_a_message_that_does_not_fit_has_its_own_line() -> None:
    """It says what to mend: it is cut at 200 characters only, however narrow the terminal."""
    counters = finished_run()
    counters.count_error("timed_out", 7, "no complete reply")
    counters.count_error("http_400", 1060, "the model does not exist: " + "m" * 300)

    lines = text_of(counters, 80).splitlines()
    errors = lines[lines.index("errors") + 1 :]

    assert errors[0] == "  1 x  timed_out  first at line 7: no complete reply"
    assert errors[1] == "  1 x  http_400  first at line 1,060:"
    assert errors[2] == "      the model does not exist: " + "m" * 173 + "…"


@pytest.mark.parametrize(("width", "lines_of_it"), [(53, 1), (52, 2)])
def test_a_message_stays_on_its_line_as_long_as_it_fits(width: int, lines_of_it: int) -> None:
    """To the last column."""
    counters = finished_run()
    counters.count_error("timed_out", 7, "no complete reply!")

    lines = text_of(counters, width).splitlines()

    assert len(lines[lines.index("errors") + 1 :]) == lines_of_it


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        ("bad_line", "a.jsonl:3:9: not JSON", "not JSON"),
        ("bad_line", "a b.parquet:row 3: not JSON", "not JSON"),
        ("bad_line", "unlike a.jsonl:2:1: a number", "unlike a.jsonl:2:1: a number"),
        ("other", "a.jsonl:3:9: not JSON", "a.jsonl:3:9: not JSON"),
    ],
)
def test_the_place_of_a_bad_line_is_told_once(code: str, message: str, told: str) -> None:
    """Only in front, and only where it is known to be our own."""
    counters = finished_run()
    counters.count_error(code, 3, message)

    assert text_of(counters).splitlines()[-1] == f"  1 x  {code}  first at line 3: {told}"


def test_the_verdict_and_the_next_command_are_never_cut() -> None:
    """The one ends with what to mend, the other is there to be copied."""
    verdict, command = "no space left: " + "v" * 300, "llmblast run " + "x" * 300

    lines = Summary(finished_run(), 1.0, LimitsView(), verdict, command).as_text(80).splitlines()

    assert lines[0] == verdict
    assert lines[-1] == f"next: {command}"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_other_line_is_wider_than_asked(width: int) -> None:
    """Neither by large figures nor by wide characters."""
    counters = busy_counters(15)
    counters.malformed, counters.flagged, counters.skipped = 1_111_111, 2_222_222, 3_333_333
    counters.count_error("模型" * 30, 1_234_567, "")
    counters.skipped_failed = 1_111_111
    waited = {f"endpoint-{n} tokens per minute": 6.0 for n in range(4)}
    used = {f"模型-{n} tokens per minute": 0.991 for n in range(9)}

    text = Summary(counters, 12.0, LimitsView(waited=lambda: waited, used=lambda: used), "finished").as_text(width)

    assert max(map(cell_width, text.splitlines())) <= width


def test_text_from_outside_is_cleaned_in_both_forms() -> None:
    """Messages are written by servers, names of files by anybody."""
    counters = finished_run()
    counters.endpoints = [endpoint("gpu\x1b[2J1", state="\x1b]0;x\x07down"), endpoint("gpu2")]
    counters.count_error("co\x07de", 3, "\x1b[31mmess\u202eage\ud800")
    names = {"gpu\x1b[1m1 rps": 0.9}
    limits = LimitsView(waited=lambda: names, used=lambda: names)
    summary = Summary(counters, 1.0, limits, "v\x1b[1m", "run\x1b[1m x  y")

    text, values = summary.as_text(120), orjson.dumps(summary.as_json()).decode()

    assert text.replace("\n", "").isprintable()
    assert values.isprintable()
    assert "\\u" not in values
    assert "next: run x  y" in text
    assert "mess\u202eage" not in text + values


def test_the_values_say_what_the_text_says() -> None:
    """For scripts: plain numbers in named units."""
    counters = finished_run()
    counters.endpoints = [endpoint("gpu1", 750, 740, tokens=(20_000, 30_000))]
    counters.skipped_failed, counters.abandoned = 40, 7
    counters.count_error("bad_request", 17, "no such model")
    limits = LimitsView(waited=lambda: {"run rps": 1.23456}, used=lambda: {"run rps": 0.99371, "gpu1 tpm": 0.0})

    values = Summary(counters, 12.0, limits, "finished", "llmblast report save.jsonl").as_json()

    assert values["verdict"] == "finished"
    assert values["next_command"] == "llmblast report save.jsonl"
    assert values["lines"] == {
        "read": 1205, "skipped": 200, "skipped_failed": 40, "repeats": 0, "answered": 990, "cached": 0,
            "batched": 0, "in_batches": 0,
        "late": 0, "flagged": 3, "failed": 10, "malformed": 2, "pending": 5,
    }  # fmt: skip
    assert values["requests"] == {
        "sent": 1001, "retries": 1, "hedged": 5, "rate_limited": 4, "maybe_billed": 6, "abandoned": 7,
        "per_second": 100.0,
    }  # fmt: skip
    assert values["tokens"] == {"prompt": 20_000, "completion": 30_000, "cached": 0, "per_minute": 250_000.0}
    assert values["waited_s"] == {"run rps": 1.235}
    assert values["used"] == {"run rps": 0.9937, "gpu1 tpm": 0.0}
    assert values["errors"] == [{"code": "bad_request", "count": 1, "first_line": 17, "message": "no such model"}]
    assert orjson.loads(orjson.dumps(values))["endpoints"][0]["share"] == 1.0


def test_a_run_without_sends_has_no_rates_in_its_values() -> None:
    """None rather than a division by zero."""
    values = orjson.loads(orjson.dumps(Summary(Counters(endpoints=[endpoint("a")]), 0.0, LimitsView(), "v").as_json()))

    assert values["requests"]["per_second"] is None
    assert values["tokens"]["per_minute"] is None
    assert values["latency_s"] == {"p50": None, "p95": None, "p99": None}
    assert values["endpoints"][0]["share"] == 0
    assert values["next_command"] is None


def test_a_state_that_the_table_cuts_is_told_below_it() -> None:
    """Whole: it says what to mend. The others are in the table only."""
    why = f"failing, probing: HTTP 501: {'the method is not supported ' * 4}here"
    counters = Counters(endpoints=[EndpointCounters("a"), EndpointCounters("b", state=why)])
    counters.endpoints[0].state = "cooling down 12 s"

    lines = text_of(counters, 100).splitlines()

    assert lines[-1] == f"b: {why}"
    assert lines[-3].endswith("  cooling down 12 s")
    assert lines[-2].startswith("b ")
    assert "failing, probing: HTTP 501" in lines[-2]


def test_endpoints_in_trouble_come_first_where_there_are_too_many() -> None:
    """What is off has to be seen; those that do not fit are counted."""
    counters = finished_run()
    counters.endpoints = [endpoint(f"gpu{n}", 10, 10, state="off: HTTP 401" if n >= 8 else "") for n in range(20)]
    counters.endpoints[5].errors = 3

    lines = text_of(counters).splitlines()
    rows = lines[lines.index(next(line for line in lines if line.startswith("endpoint "))) + 1 :]

    assert [row.split()[0] for row in rows] == [*(f"gpu{n}" for n in range(8, 18)), "..."]
    assert rows[-1] == "... and 10 more, 2 of them in trouble"


def test_endpoints_with_errors_come_before_those_without() -> None:
    """Where there are too many; else they stand in their order."""
    endpoints = [endpoint(f"gpu{n}", 10, 10) for n in range(12)]
    endpoints[11].errors, endpoints[7].state = 3, "down"

    many, few = endpoint_table(endpoints, 100, 3), endpoint_table(endpoints, 100, 12)

    assert [row.split()[0] for row in many[1:]] == ["gpu7", "gpu11", "gpu0", "..."]
    assert [row.split()[0] for row in few[1:]] == [f"gpu{n}" for n in range(12)]

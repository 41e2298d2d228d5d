"""Whose fault is it: a line's, a model's, an endpoint's, a quota's? What other lines meet decides, words break ties.

The replies have the codes and shapes of real providers; the rules are in `llmblast.scheduling.refusals`.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.scheduling.refusals import FIRST_PROBES, MIN_BLAMED_ROW, MIN_ROW, PROBES
from tests.conftest import RunLlmblast, records
from tests.end_to_end.scripted_server import Asked, Said, Script, ScriptedServer, answer, error
from tests.processes import let_run, start_run

Serve = Callable[[Script], ScriptedServer]

FLAGGED = error(403, 'moderation refused this input: flagged for "violence".', code=403)
NO_CREDIT = error(400, "Credit balance is too low for this request. Buy credits.", type="invalid_request_error")
WRONG_KEY = error(401, "Incorrect API key provided", code="invalid_api_key")
FORBIDDEN = error(403, "Access denied")
ODD = error(400, "The request is not acceptable")
RATE_LIMIT = error(429, "Rate limit reached", code="rate_limit_exceeded")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that answers as a function says."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(ScriptedServer(script).running())


@dataclass
class Ran:
    """One run: its exit code, what it said, and the lines that have an answer and an error record by now."""

    exit_code: int
    said: str
    answered: list[int]
    errors: list[dict[str, Any]]

    @property
    def failed(self) -> list[int]:
        return sorted(record["line"] for record in self.errors)


@pytest.fixture
def run(tmp_path: Path, llmblast: RunLlmblast) -> Callable[..., Ran]:
    """Run `prompts.jsonl` on these endpoints: a server, or its URL with settings behind it."""

    def run(endpoints: Sequence[ScriptedServer | str], *arguments: str) -> Ran:
        urls = [part for e in endpoints for part in ("-u", e if isinstance(e, str) else e.url)]
        done = llmblast("run", "prompts.jsonl", *urls, "--progress", "none", *arguments)
        answered = sorted(record["line"] for record in records(tmp_path / "save.jsonl"))
        return Ran(done.returncode, done.stderr, answered, records(tmp_path / "errors.jsonl"))

    return run


def write_lines(tmp_path: Path, texts: Sequence[str]) -> None:
    lines = (orjson.dumps({"input": text}) for text in texts)
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def write_models(tmp_path: Path, models: Sequence[str]) -> None:
    """One line for each model that is named, with a text of its own."""
    lines = (
        orjson.dumps({"model": model, "messages": [{"role": "user", "content": f"Question {n}?"}]})
        for n, model in enumerate(models)
    )
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def questions(count: int, bad: Sequence[int] = ()) -> list[str]:
    """Texts of `count` lines; those with these line numbers are BAD."""
    return [f"Question {n}?{' BAD' if n in bad else ''}" for n in range(1, count + 1)]


def refuse_bad(reply: Said, others: Said | None = None) -> Script:
    return lambda asked: reply if "BAD" in asked.text else others or answer()


def others_than(bad: Sequence[int], count: int) -> list[int]:
    return [n for n in range(1, count + 1) if n not in bad]


# A refusal of one line at an endpoint that answers others is that line's.


@pytest.mark.parametrize("concurrency", ["1", "4", "256"])
@pytest.mark.parametrize(
    ("bad", "reply"),
    [((1,), FLAGGED), ((60,), FORBIDDEN), ((1, 2, 3, 4), ODD), (range(1, 21), FORBIDDEN), (range(12, 31), ODD)],
    ids=["first", "last", "first four", "first twenty", "twenty"],
)
def test_bad_lines_do_not_stop_the_others(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], concurrency: str, bad: Sequence[int], reply: Said
) -> None:
    """Wherever they are, also several in a row: all others are answered, and each bad line has its error record."""
    write_lines(tmp_path, questions(60, bad))
    server = serve(refuse_bad(reply))

    ran = run([server], "-j", concurrency)

    assert (ran.exit_code, ran.answered, ran.failed) == (3, others_than(bad, 60), list(bad))
    assert len(server.asked) == 60


@pytest.mark.parametrize(
    "reply",
    [
        error(401, "This prompt needs a verified account"),
        error(402, "This model needs credits"),
        error(403, "Forbidden"),
        error(404, "Nothing here"),
        error(412, "Precondition failed"),
        error(422, "Unprocessable"),
        error(400, "insufficient_quota", code="insufficient_quota"),
        error(413, "Too large: limit 100, requested 200"),
    ],
    ids=lambda reply: str(reply.status),
)
def test_whatever_the_status_and_words_are_a_single_line_stops_nothing(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], reply: Said
) -> None:
    """A second run, with more lines behind it, does not stop at that line either."""
    server = serve(refuse_bad(reply))
    for count in (40, 60):
        write_lines(tmp_path, questions(count, [1]))

        ran = run([server], "-j", "1", "-a", "2")

        assert (ran.exit_code, ran.answered, ran.failed) == (3, others_than([1], count), [1]), ran.said


def test_half_of_all_lines_may_be_bad(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """Rows of them come about by chance."""
    bad = [n for n in range(1, 401) if n * 7919 % 17 % 2]
    write_lines(tmp_path, questions(400, bad))

    ran = run([serve(refuse_bad(ODD))], "-j", "8")

    assert (ran.exit_code, ran.answered, ran.failed) == (3, others_than(bad, 400), bad), ran.said


@pytest.mark.parametrize("reply", [ODD, WRONG_KEY], ids=["400", "401"])
@pytest.mark.parametrize("concurrency", ["4", "100"])
def test_refusals_may_be_much_faster_than_answers(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], reply: Said, concurrency: str
) -> None:
    """Answers take 2 s, refusals 1 ms, and one line in 20 is refused: many refusals come before the first answer."""
    count = 40 if concurrency == "4" else 320
    bad = [n for n in range(1, count + 1) if n % 20 in (3, 4) and n % 40 < 20]
    write_lines(tmp_path, questions(count, bad))
    server = serve(refuse_bad(reply, answer(after_s=2.0 if concurrency == "100" else 0.5)))

    began_s = time.monotonic()
    ran = run([server], "-j", concurrency)

    assert (ran.exit_code, ran.answered, ran.failed) == (3, others_than(bad, count), bad), ran.said
    assert time.monotonic() - began_s < 20


def test_an_unknown_model_in_the_first_lines_is_theirs(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """Others name one that is there."""
    write_models(tmp_path, ["typo", "typo", *["good"] * 28])
    server = serve(lambda asked: error(404, 'model "typo" not found') if asked.model == "typo" else answer())

    ran = run([server], "-j", "1")

    assert (ran.exit_code, ran.failed, len(ran.answered)) == (3, [1, 2], 28), ran.said
    assert [record["status"] for record in ran.errors] == [404, 404]


def test_a_file_that_is_sorted_by_model_goes_past_an_unknown_one(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """300 lines in a row name it: some are sent, all of them fail, and what comes behind is answered."""
    write_models(tmp_path, [*["good"] * 20, *["typo"] * 300, *["fine"] * 20])
    server = serve(lambda asked: error(404, 'model "typo" not found') if asked.model == "typo" else answer())

    ran = run([server], "-j", "4")

    assert (ran.exit_code, len(ran.answered), len(ran.errors)) == (3, 40, 300), ran.said
    assert sum(asked.model == "typo" for asked in server.asked) <= 20
    assert any("no endpoint accepts the model typo: " in record["error"] for record in ran.errors)


def test_a_404_that_comes_and_goes_is_tried_again(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """Every tenth request draws one."""
    write_lines(tmp_path, questions(40))
    server = serve(lambda asked: error(404, "Provider returned error") if asked.n % 10 == 0 else answer())

    ran = run([server], "-j", "2")

    assert (ran.exit_code, len(ran.answered)) == (0, 40), ran.said


def test_a_status_that_is_not_registered_is_tried_again(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """498: no capacity at this moment."""
    write_lines(tmp_path, questions(40))
    full = error(498, "No flex capacity now, try again later.", type="capacity_exceeded", code="capacity_exceeded")
    server = serve(lambda asked: full if asked.n % 4 == 0 and asked.n < 40 else answer())

    ran = run([server], "-j", "2")

    assert (ran.exit_code, len(ran.answered)) == (0, 40), ran.said


def test_a_line_that_two_endpoints_refuse_fails(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """It is tried at both, once each; all others are answered."""
    write_lines(tmp_path, questions(60, [30]))
    servers = [serve(refuse_bad(ODD)), serve(refuse_bad(ODD))]

    ran = run(servers, "-j", "4")

    assert (ran.exit_code, ran.failed) == (3, [30]), ran.said
    assert [sum("BAD" in asked.text for asked in server.asked) for server in servers] == [1, 1]
    assert ran.errors[0]["attempts"] == 2


def test_a_line_that_one_endpoint_refuses_is_answered_by_the_other(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """Their filters differ."""
    write_lines(tmp_path, questions(60, [1, 2, 3, 30, 60]))
    strict, lenient = serve(refuse_bad(FLAGGED)), serve(lambda asked: answer())

    ran = run([strict, lenient], "-j", "4")

    assert (ran.exit_code, len(ran.answered)) == (0, 60), ran.said


def test_an_open_pipe_does_not_keep_a_refused_line_waiting(
    tmp_path: Path, environment: dict[str, str], serve: Serve
) -> None:
    """Its error record comes within some seconds, though no other line may come for hours."""
    server = serve(refuse_bad(ODD))
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe, os.fdopen(reading) as stdin:
        process = start_run(tmp_path, environment, "-", "-u", server.url, "-o", "save.jsonl", stdin=stdin)
        pipe.write(b"".join(orjson.dumps({"input": text}) + b"\n" for text in questions(5, [5])))
        pipe.flush()
        until_s = time.monotonic() + 15
        errors = tmp_path / "errors.jsonl"
        while time.monotonic() < until_s and not (errors.exists() and errors.stat().st_size):
            let_run(process, 0.05)
        found = records(errors)
        assert process.poll() is None
    process.communicate(timeout=20)

    assert [record["line"] for record in found] == [5]
    assert process.returncode == 3


# The same refusal of several lines in a row is the endpoint's or the account's.


@pytest.mark.parametrize(
    ("reply", "row"),
    [
        (NO_CREDIT, MIN_BLAMED_ROW),
        (WRONG_KEY, MIN_BLAMED_ROW),
        (error(402, "Payment required"), MIN_BLAMED_ROW),
        (error(429, "Budget exceeded: cost 10.51, maximum 10.0", type="budget_exceeded", code="429"), MIN_BLAMED_ROW),
        (FORBIDDEN, MIN_ROW),
        (ODD, MIN_ROW),
        (error(412, "Account x is not active"), MIN_ROW),
        (error(422, "extra fields not permitted: top_k"), MIN_ROW),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Said) else "",
)
@pytest.mark.parametrize("concurrency", [1, 50])
def test_an_account_that_refuses_everything_from_some_moment_on_ends_the_run(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], reply: Said, row: int, concurrency: int
) -> None:
    """Exit code 77 with the reason, no line is lost, and once it is mended the same command completes."""
    write_lines(tmp_path, questions(300))
    server = serve(lambda asked: reply if asked.n > 60 else answer(after_s=0.01))

    refused = run([server], "-j", str(concurrency))
    asked = len(server.asked)
    server.script = lambda asked: answer()
    done = run([server])

    assert refused.exit_code == 77, refused.said
    assert refused.said.startswith("all endpoints rejected the requests: 127.0.0.1:")
    assert f"HTTP {reply.status}: {reply.body['error']['message']}" in refused.said  # type: ignore[index] # of `error`
    assert (len(refused.answered), refused.errors) == (60, [])
    assert asked - 60 <= max(row, 2 * concurrency) + PROBES + concurrency
    assert (done.exit_code, len(done.answered)) == (0, 300)


@pytest.mark.parametrize("reply", [NO_CREDIT, WRONG_KEY, FORBIDDEN, ODD, error(404, "model not found")])
@pytest.mark.parametrize("concurrency", [1, 20])
def test_an_endpoint_that_refuses_all_lines_ends_the_run(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], reply: Said, concurrency: int
) -> None:
    """After some requests; nothing is recorded as failed."""
    write_lines(tmp_path, questions(200))
    server = serve(lambda asked: reply)

    ran = run([server], "-j", str(concurrency))

    assert (ran.exit_code, ran.answered, ran.errors) == (77, [], []), ran.said
    assert len(server.asked) <= 2 + concurrency + FIRST_PROBES


def test_an_error_in_a_list_is_read(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """As Google's endpoint sends it, for a wrong key."""
    write_lines(tmp_path, questions(30))
    details = [{"reason": "API_KEY_INVALID"}]
    wrong = {
        "error": {"code": 400, "message": "API key is not valid.", "status": "INVALID_ARGUMENT", "details": details}
    }
    ran = run([serve(lambda asked: Said(400, [wrong]))], "-j", "4")

    assert ran.exit_code == 77
    assert "HTTP 400: API key is not valid." in ran.said


@pytest.mark.parametrize(
    ("reply", "exit_code", "pending"),
    [(WRONG_KEY, 77, 1), (error(404, "not found"), 77, 1), (FLAGGED, 3, 0), (ODD, 3, 0)],
    ids=["401", "404", "moderation", "400"],
)
def test_a_file_of_one_refused_line_is_decided_by_words(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], reply: Said, exit_code: int, pending: int
) -> None:
    """No other line shows anything. What no word calls the line's fault is tried again by the next run."""
    write_lines(tmp_path, ["the only one"])

    ran = run([serve(lambda asked: reply)])

    assert (ran.exit_code, len(ran.errors)) == (exit_code, 1 - pending), ran.said
    assert all(record["transient"] == (reply is ODD) for record in ran.errors)


@pytest.mark.parametrize("route", ["weighted", "least-loaded", "fastest"])
def test_an_endpoint_without_credit_leaves_all_lines_to_the_other(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], route: str
) -> None:
    """From the start, and though its refusals are quicker than any answer."""
    write_lines(tmp_path, questions(200))
    good, broke = serve(lambda asked: answer(after_s=0.02)), serve(lambda asked: NO_CREDIT)

    ran = run([good, broke], "-j", "4", "--route", route)

    assert (ran.exit_code, len(ran.answered)) == (0, 200), ran.said
    assert len(broke.asked) <= 12


def test_an_endpoint_that_loses_its_credit_in_mid_run_leaves_the_rest_to_the_other(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """No line fails."""
    write_lines(tmp_path, questions(400))
    good = serve(lambda asked: answer(after_s=0.01))
    broke = serve(lambda asked: NO_CREDIT if asked.n > 100 else answer(after_s=0.01))

    ran = run([good, broke], "-j", "20")

    assert (ran.exit_code, len(ran.answered)) == (0, 400), ran.said
    assert len(broke.asked) <= 100 + 20 + 2 * MIN_ROW
    assert "off: HTTP 400: Credit balance is too low" in ran.said


def test_both_reasons_are_told_where_two_endpoints_are_out(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """One has no credit, the other a wrong key."""
    write_lines(tmp_path, questions(200))
    servers = [serve(lambda asked: NO_CREDIT), serve(lambda asked: WRONG_KEY)]

    ran = run([f"{server.url},name=gpu{n}" for n, server in enumerate(servers)], "-j", "4")

    assert (ran.exit_code, ran.errors) == (77, []), ran.said
    first = ran.said.splitlines()[0]
    assert "gpu0: HTTP 400: Credit balance is too low" in first
    assert "gpu1: HTTP 401: Incorrect API key provided" in first


def test_the_last_lines_are_not_lost_when_the_account_is_empty(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """Too few of them to show it: they fail for this run, and the next one takes them again."""
    write_lines(tmp_path, questions(50))
    server = serve(lambda asked: NO_CREDIT if asked.n > 48 else answer())

    first = run([server], "-j", "1")
    server.script = lambda asked: answer()
    second = run([server])

    assert (first.exit_code, len(first.answered)) == (3, 48), first.said
    assert all(record["transient"] for record in first.errors)
    assert (second.exit_code, len(second.answered)) == (0, 50)


@pytest.mark.parametrize("reply", [FORBIDDEN, error(404, "model a is gone")], ids=["403", "404"])
def test_a_model_that_loses_its_access_beside_another_costs_only_its_own_lines(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], reply: Said
) -> None:
    """All of them are for the next run, and only some of them are sent."""
    write_models(tmp_path, ["a", "b", "b"] * 100)
    asked_for = Counter[str | None]()

    def script(asked: Asked) -> Said:
        asked_for[asked.model] += 1
        return reply if asked.model == "a" and asked_for["a"] > 30 else answer(after_s=0.005)

    server = serve(script)
    first = run([server], "-j", "4", "-a", "2")
    sent = asked_for["a"]
    server.script = lambda asked: answer()
    second = run([server])

    assert (first.exit_code, len(first.answered)) == (3, 230), first.said
    assert all(record["transient"] for record in first.errors)
    assert sent <= 30 + 2 * MIN_ROW + PROBES + 4
    assert (second.exit_code, len(second.answered)) == (0, 300)


# A rate limit belongs to where it is met, and nothing waits for ever.


def used_up(hours: int) -> Said:
    """A daily allowance, as a router passes it on; without a `Date`."""
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int((time.time() + hours * 3600) * 1000))}
    return error(429, "free requests for this model today are used up", code=429, metadata={"headers": headers})


def test_a_model_whose_quota_is_used_up_for_hours_holds_up_no_other(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """The other's lines are answered, and the run ends at once with the moment to come back."""
    write_models(tmp_path, ["a", "a", "a", "b"] * 10)
    server = serve(lambda asked: used_up(10) if asked.model == "b" else answer())

    began_s = time.monotonic()
    ran = run([server], "-j", "2")

    assert time.monotonic() - began_s < 15
    assert (ran.exit_code, len(ran.answered), ran.errors) == (5, 30, []), ran.said
    assert "10 lines wait for the model b" in ran.said
    assert "its rate limit lasts until 20" in ran.said


@pytest.mark.parametrize(
    "reply",
    [
        lambda: used_up(10),
        lambda: error(429, "limit reached", {"retry-after": "36000"}),
        lambda: error(503, "overloaded", {"retry-after": "36000"}),
    ],
    ids=["moment", "429", "503"],
)
def test_a_quota_that_is_used_up_for_hours_ends_the_run_at_once(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], reply: Callable[[], Said]
) -> None:
    """Exit code 5 with the moment; nothing fails."""
    write_lines(tmp_path, questions(100))
    server = serve(lambda asked: reply() if asked.n > 40 else answer())

    began_s = time.monotonic()
    ran = run([server], "-j", "4")

    assert time.monotonic() - began_s < 15
    assert (ran.exit_code, len(ran.answered), ran.errors) == (5, 40, []), ran.said
    assert "its rate limit lasts until 20" in ran.said


def test_a_pause_beyond_the_end_of_the_run_ends_it_at_once(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """The provider names two minutes, `--max-time` is one."""
    write_lines(tmp_path, questions(100))
    server = serve(lambda asked: error(429, "slow down", {"retry-after": "120"}) if asked.n > 40 else answer())

    began_s = time.monotonic()
    ran = run([server], "-j", "4", "--max-time", "60")

    assert time.monotonic() - began_s < 15
    assert (ran.exit_code, ran.errors) == (5, []), ran.said


def test_rate_limit_replies_without_one_answer_end_the_run_after_the_longest_wait(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """No moment is named, ever."""
    write_lines(tmp_path, questions(100))
    server = serve(lambda asked: RATE_LIMIT if asked.n > 40 else answer())

    began_s = time.monotonic()
    ran = run([server], "-j", "4", "--max-wait", "3")

    assert 3 <= time.monotonic() - began_s < 20
    assert (ran.exit_code, ran.errors) == (5, []), ran.said
    assert "no request was accepted for 3.0 s" in ran.said


def test_a_failure_that_names_hours_is_left_to_another_run(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """A 500 of one line with `retry-after` is no rate limit: the line fails, as transient, and nobody waits."""
    write_lines(tmp_path, questions(30, [10]))
    server = serve(refuse_bad(error(500, "broken", {"retry-after": "36000"})))

    ran = run([server], "-j", "4")

    assert (ran.exit_code, ran.failed) == (3, [10]), ran.said
    assert ran.errors[0]["transient"]


@pytest.mark.parametrize(("count", "rate"), [(200, ("--rps", "40")), (2000, ())], ids=["paced", "unlimited"])
def test_a_line_that_never_fits_fails_while_others_pass(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran], count: int, rate: tuple[str, ...]
) -> None:
    """Without numbers in its words, at some rate and at none; it is sent some times, the others are answered."""
    write_lines(tmp_path, questions(count, [50]))
    server = serve(refuse_bad(RATE_LIMIT, answer(after_s=0.02)))

    ran = run([server], "-j", "8", *rate, "--max-time", "60")

    assert (ran.exit_code, ran.answered, ran.failed) == (3, others_than([50], count), [50]), ran.said
    assert sum("BAD" in asked.text for asked in server.asked) <= 20


def test_a_line_whose_numbers_say_that_it_never_fits_is_sent_once(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """7,000 tokens a minute, and the line asks for more."""
    write_lines(tmp_path, questions(60, [20]))
    words = "Rate limit for model `big-70b` (TPM): Limit 7000, Used 0, Requested ~12903. Try again in 5.6s."
    never = error(429, words, {"retry-after": "6"}, type="tokens", code="rate_limit_exceeded")
    server = serve(refuse_bad(never))

    ran = run([server], "--rps", "100")

    assert (ran.exit_code, ran.failed) == (3, [20]), ran.said
    assert len(server.asked) == 60


def test_words_do_not_make_a_named_wait_final(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """For half a second every reply is a 429 that speaks of a maximum size, with `retry-after: 1`."""
    write_lines(tmp_path, questions(100))
    words = "Demand is high: the request exceeds the maximum size during peak load. Retry in 1 seconds."
    peak = error(429, words, {"retry-after": "1"}, code="429")
    began_s = list[float]()

    def script(asked: Asked) -> Said:
        if asked.n <= 40:
            return answer()
        began_s.append(asked.at_s)
        return peak if asked.at_s < began_s[0] + 0.5 else answer()

    ran = run([serve(script)], "-j", "2", "--rps", "100")

    assert (ran.exit_code, len(ran.answered)) == (0, 100), ran.said


def test_a_rate_limit_in_a_200_is_one(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """No line fails, nothing counts as billed."""
    write_lines(tmp_path, questions(60))
    hidden = {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit exceeded(RPM)"}}
    server = serve(lambda asked: Said(200, hidden) if 20 < asked.n <= 24 else answer())

    ran = run([server], "-j", "4")

    assert (ran.exit_code, len(ran.answered)) == (0, 60), ran.said
    assert "billed" not in ran.said


@pytest.mark.parametrize("quota", ["quota=one", ""], ids=["group", "apart"])
def test_a_pause_belongs_to_its_quota_group(tmp_path: Path, serve: Serve, run: Callable[..., Ran], quota: str) -> None:
    """Both endpoints of a group are used up together for hours: exit code 5, and what the one is told holds up the
    other, which is rarely asked. Apart, the other one takes all lines.
    """
    write_lines(tmp_path, questions(100))
    full, other = serve(lambda asked: used_up(10)), serve(lambda asked: answer(after_s=0.2))

    ran = run([f"{full.url},weight=100,{quota}".rstrip(","), f"{other.url},{quota}".rstrip(",")], "-j", "4")

    if quota:
        assert (ran.exit_code, ran.answered, ran.errors) == (5, [], []), ran.said
        assert len(other.asked) == 0
    else:
        assert (ran.exit_code, len(ran.answered)) == (0, 100), ran.said


def test_a_line_that_only_a_used_up_endpoint_would_take_stays_pending(
    tmp_path: Path, serve: Serve, run: Callable[..., Ran]
) -> None:
    """One endpoint refuses it, the other one's quota is used up for hours: the run ends with exit code 5."""
    write_lines(tmp_path, questions(40, [20]))
    full, strict = serve(lambda asked: used_up(10)), serve(refuse_bad(FLAGGED))

    began_s = time.monotonic()
    ran = run([f"{full.url},name=full", f"{strict.url},name=strict"], "-j", "4")

    assert time.monotonic() - began_s < 20
    assert (ran.exit_code, ran.answered, ran.errors) == (5, others_than([20], 40), []), ran.said
    assert "1 line waits for full: its rate limit lasts until 20" in ran.said


def test_hedging_changes_nothing_of_that(tmp_path: Path, serve: Serve, run: Callable[..., Ran]) -> None:
    """Slow answers are hedged, some lines are refused by both, and one endpoint loses its credit in mid-run."""
    bad = [n for n in range(1, 601) if n % 50 == 7]
    write_lines(tmp_path, questions(600, bad))

    def script(asked: Asked) -> Said:
        if "BAD" in asked.text:
            return Said(ODD.status, ODD.body, after_s=0.3 if asked.n % 3 == 0 else 0.0)
        return answer(after_s=0.5 if asked.n % 25 == 0 else 0.01)

    def broke(asked: Asked) -> Said:
        return NO_CREDIT if asked.n > 250 else script(asked)

    servers = [serve(script), serve(broke)]

    ran = run(servers, "-j", "16", "--hedge", "p90")

    assert (ran.exit_code, ran.answered, ran.failed) == (3, others_than(bad, 600), bad), ran.said

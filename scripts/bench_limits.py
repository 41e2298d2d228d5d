"""The measurement behind `scripts/bench limits`: how well limits are used and kept, over real sockets.

Every mock provider and every client is a process of its own. What counts is what the server saw: each mock writes its
ledger when it is told to end, with moments on the monotonic clock, which all processes of a machine share.
"""

import argparse
import math
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import fmean

import orjson
from bench_processes import merged, run_client, serving, urls, write_capped_prompts
from bench_runs import WORK, write_prompts
from bench_table import Case, Figure, Figures, Row, chosen, run_cases

from llmblast.mocking.limits import POLICIES

SETTLING_S = 5.0
"""What a limit that has to be learned may take before it is judged."""


def limited(rps: float, policy: str) -> str:
    """A mock's rate. A leaky bucket needs some tolerance: without it, 1 ms of jitter is a refusal at an even rate."""
    tolerance = f"&burst={max(2, round(rps / 100))}" if policy == "leaky" else ""
    return f"rps={rps:g}&policy={policy}&latency=0.05{tolerance}"


def pacing(rps: float, policy: str) -> Figures:
    """A rate that is told: used in full, never exceeded."""
    seconds = 20 if rps < 1 else 10
    with serving(limited(rps, policy)) as (mock,):
        run_client(write_prompts(round(rps * seconds)), "-u", mock.url, "--rps", f"{rps:g}", "-j", "4000")
    ledger = mock.ledger
    return [
        Figure("used", ledger.accepted_per_s / rps, "{:.2%}", least=0.98 if rps >= 10_000 else 0.99),
        Figure("rejected", ledger.rejected, most=0),
        Figure("most in 1 s", ledger.most_in_a_second),
    ]


def tokens(charge: str, least: float, settling_s: float) -> Figures:
    """A token limit that holds a second's worth only, for a minute; answers of log-normal length."""
    tpm, max_tokens, lines = 600_000, 400, 4_000
    query = f"tpm={tpm}&policy=token-bucket&burst_tokens={tpm // 60}&sigma=1&tokens=200&latency=0.5&charge={charge}"
    is_usage = charge == "usage"
    with serving(query) as (mock,):
        prompts = write_prompts(lines) if is_usage else write_capped_prompts(lines, max_tokens)
        run = run_client(prompts, "-u", f"{mock.url},tpm={tpm},charge={charge}", seconds=60)
    mean_cost = fmean(a.total_tokens if is_usage else a.prompt_tokens + max_tokens for a in run.answers)
    return [
        Figure("used", mean_cost * mock.ledger.accepted_per_s / (tpm / 60), "{:.1%}", least=least),
        Figure(f"rejected after {settling_s:g} s", mock.ledger.after(settling_s).rejected, most=0),
        Figure("rejected in all", mock.ledger.rejected),
        Figure("sent", len(mock.ledger.arrivals)),
    ]


def stolen(rate: str, policy: str, headers: str) -> Figures:
    """Half of a quota is somebody else's from some moment on; only headers and push-back tell.

    The share is that of the whole rest of the run, or a long pause at its end would look like full use. It may exceed
    100 %: a minute's window still holds what was not used before.
    """
    per_s = 100
    amount, after_s, seconds = (60 * per_s, 10, 70) if rate == "rpm" else (per_s, 8, 20)
    query = f"{rate}={amount}&policy={policy}&headers={headers}&stolen=0.5&stolen_after={after_s}"
    with serving(query) as (mock,):
        run_client(write_prompts((seconds + 1) * per_s), "-u", f"{mock.url},{rate}={amount}", seconds=seconds)
    left = (seconds - after_s) * per_s / 2
    return [
        Figure("rejected", mock.ledger.rejected / len(mock.ledger.arrivals), "{:.2%}", most=0.01),
        Figure("used of what is left", len(mock.ledger.after(after_s).accepted) / left, "{:.1%}"),
    ]


def unknown(policy: str, headers: str) -> Figures:
    """A rate that nobody told the client."""
    rps = 300
    with serving(f"{limited(rps, policy)}&headers={headers}") as (mock,):
        run_client(write_prompts(20_000), "-u", mock.url)
    ledger = mock.ledger
    return [
        Figure(f"used after {SETTLING_S:g} s", ledger.after(SETTLING_S).accepted_per_s / rps, "{:.1%}", least=0.9),
        Figure("rejected", ledger.rejected / len(ledger.arrivals), "{:.2%}", most=0.01),
    ]


def capacity(overload: float) -> Figures:
    """A server that slows down when more than 32 are in flight, against one run with exactly 32."""
    slots, latency_s, warm_s = 32, 0.1, 10.0
    query = f"slots={slots}&overload={overload:g}&latency={latency_s:g}"
    with serving(query) as (mock,):
        best = run_client(write_prompts(3_000), "-u", f"{mock.url},concurrency={slots},adaptive=false")
    best_per_s = mock.ledger.after(1.0).accepted_per_s
    with serving(query) as (mock,):
        run = run_client(write_prompts(12_000), "-u", mock.url)
    warm = mock.ledger.after(warm_s)
    warm_up_lines = len(mock.ledger.arrivals) - len(warm.arrivals)  # lines leave in their order
    warm_latency_s = fmean(answer.latency_s for answer in run.answers if answer.line > warm_up_lines)
    unloaded_s = fmean(answer.latency_s for answer in best.answers)
    return [
        Figure("best", best_per_s, "{:.0f}/s", least=0.95 * slots / latency_s),
        Figure("of the best", warm.accepted_per_s / best_per_s, "{:.1%}", least=0.95),
        Figure("latency", warm_latency_s / unloaded_s, "{:.2f} x", most=1.5),
        Figure("in flight", fmean(arrival.in_flight for arrival in warm.arrivals)),
    ]


def capacity_never_full() -> Figures:
    """A server with more slots than the client fills: looking for a capacity must cost nothing."""
    rates = []
    for setting in (",adaptive=false", ""):
        with serving("slots=1000&latency=0.1") as (mock,):
            run_client(write_prompts(24_000), "-u", f"{mock.url}{setting}")
        rates.append(mock.ledger.accepted_per_s)
    fixed_per_s, adaptive_per_s = rates
    return [
        Figure("adaptive=false", fixed_per_s, "{:.0f}/s"),
        Figure("adaptive", adaptive_per_s / fixed_per_s, "{:.1%}", least=0.95),
    ]


def quota_group() -> Figures:
    """A 429 with retry-after: 2 to one of two endpoints that share an account, and a third that has its own."""
    rps, pause_s, on_their_way_s = 100, 2.0, 0.05
    with serving(*3 * ["latency=0.05"], pause=(200, pause_s)) as mocks:
        quotas = zip(mocks, ("one", "one", "two"), strict=True)
        run_client(write_prompts(2_000), *urls(*(f"{mock.url},rps={rps},quota={quota}" for mock, quota in quotas)))
    first, second, stranger = ([arrival.at_s for arrival in mock.ledger.arrivals] for mock in mocks)
    paused_s = next(arrival.at_s for arrival in mocks[0].ledger.arrivals if arrival.status == 429)
    end_s = paused_s + pause_s
    in_the_pause = sum(paused_s + on_their_way_s < at_s < end_s for at_s in first + second)
    resumed_s = max(min((at_s for at_s in group if at_s >= end_s), default=math.inf) for group in (first, second))
    meanwhile = sum(paused_s <= at_s < end_s for at_s in stranger)
    return [
        Figure("sent in the pause", in_the_pause, most=0),
        Figure("resumed after", (resumed_s - end_s) * 1000, "{:.0f} ms", most=50),
        Figure("the other quota used", meanwhile / (rps * pause_s), "{:.1%}", least=0.98),
    ]


def three_endpoints() -> Figures:
    """Unequal rates of their own under one cap of the run."""
    cap, rates = 120, (100, 50, 10)
    with serving(*3 * ["latency=0.05"]) as mocks:
        endpoints = (f"{mock.url},rps={rps}" for mock, rps in zip(mocks, rates, strict=True))
        run_client(write_prompts(cap * 10), *urls(*endpoints), "--rps", str(cap))
    most = [
        Figure("most in 1 s", mock.ledger.most_in_a_second, most=rps) for mock, rps in zip(mocks, rates, strict=True)
    ]
    return [Figure("per s", merged(mocks).accepted_per_s, "{:.1f}", least=118, most=cap), *most]


def dead() -> Figures:
    """One of three dies in the middle and comes back at the same address."""
    with serving(*3 * ["latency=0.05"]) as mocks:
        victim = mocks[0]

        def die_and_return() -> None:
            time.sleep(3)
            victim.kill()
            time.sleep(5)
            victim.start()

        endpoints = urls(f"{victim.url},name=victim", *(mock.url for mock in mocks[1:]))
        run = run_client(write_prompts(4_500), *endpoints, "--rps", "300", may_lose=True, meanwhile=die_and_return)
    first_s = victim.ledger.arrivals[0].at_s if victim.ledger.arrivals else math.inf
    return [
        Figure("lost", run.lost, most=0),
        Figure("in flight at its end", run.broken_off),
        Figure("wasted", run.errors_of("victim") - run.broken_off, most=5),
        Figure("back in use after", max(0.0, first_s - victim.started_s), "{:.1f} s", most=4),
    ]


def dead_at_start() -> Figures:
    """One of three was never there, and no rate holds the first crowd back."""
    with socket.socket() as nobody, serving(*2 * ["latency=0.05"]) as mocks:
        nobody.bind(("127.0.0.1", 0))  # without listen(): the port is taken, and refuses
        absent = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1,name=absent"
        run = run_client(
            write_prompts(10_000), *urls(absent, *(mock.url for mock in mocks)), "-j", "256", may_lose=True
        )
    return [
        Figure("lost", run.lost, most=0),
        Figure("wasted", run.errors_of("absent"), most=5),
        Figure("the others", merged(mocks).accepted_per_s, "{:.0f}/s"),
    ]


def hedge() -> Figures:
    """A straggler gets 4 % of the requests and takes 30 times as long."""
    lines, p99_s, arrived = 3_000, [], 0
    for flags in ((), ("--hedge", "p95")):
        with serving("latency=0.1", "latency=0.1", "latency=3") as mocks:
            weights = zip(mocks, (12, 12, 1), strict=True)
            endpoints = urls(*(f"{mock.url},weight={weight}" for mock, weight in weights))
            p99_s.append(run_client(write_prompts(lines), *endpoints, "-j", "64", *flags).p99_s)
        arrived = len(merged(mocks).arrivals)
    plain_s, hedged_s = p99_s
    return [
        Figure("p99", plain_s, "{:.2f} s"),
        Figure("hedged", hedged_s, "{:.2f} s"),
        Figure("lower", plain_s / hedged_s, "{:.1f} x", least=3),
        Figure("extra requests", arrived / lines - 1, "{:.1%}", most=0.05),
    ]


def routes(odd_one: str, route: str) -> Figures:
    """One of three endpoints is not like the others."""
    with serving(odd_one, "latency=0.05", "latency=0.05") as mocks:
        run = run_client(write_prompts(5_000), *urls(*(mock.url for mock in mocks)), "-j", "96", "--route", route)
    together = merged(mocks)
    return [
        Figure("throughput", together.accepted_per_s, "{:.0f}/s"),
        Figure("p99", run.p99_s, "{:.3f} s"),
        Figure("share of the odd one", len(mocks[0].ledger.arrivals) / len(together.arrivals), "{:.1%}"),
    ]


def measurements() -> Mapping[str, Callable[[], Figures]]:
    """All of them by name, in order; the parts of a name are what `CASE` selects by."""
    table: dict[str, Callable[[], Figures]] = {}
    for rps in (0.5, 2, 200, 1000, 10_000):
        for policy in POLICIES:
            table[f"pacing:{rps:g}:{policy}"] = partial(pacing, rps, policy)
    table["tokens-usage"] = partial(tokens, "usage", least=0.95, settling_s=SETTLING_S)
    table["tokens-max"] = partial(tokens, "max_tokens", least=0.97, settling_s=0.0)
    for policy in ("fixed", "sliding", "token-bucket"):
        for headers in ("openai", "anthropic"):
            table[f"stolen:rpm:{policy}:{headers}"] = partial(stolen, "rpm", policy, headers)
    for policy in ("fixed", "sliding"):
        table[f"stolen:rps:{policy}"] = partial(stolen, "rps", policy, "openai")
    for policy in POLICIES:
        table[f"unknown:{policy}:none"] = partial(unknown, policy, "none")
    for policy in ("fixed", "token-bucket"):
        table[f"unknown:{policy}:openai"] = partial(unknown, policy, "openai")
    for overload in (0.3, 0.0):
        table[f"capacity:overload-{overload:g}"] = partial(capacity, overload)
    table["capacity:never-full"] = capacity_never_full
    table["quota-group"] = quota_group
    table["three"] = three_endpoints
    table["dead"] = dead
    table["dead-at-start"] = dead_at_start
    table["hedge"] = hedge
    for name, odd_one in (("slow", "latency=0.5"), ("overfull", "latency=0.05&slots=8")):
        for route in ("weighted", "least-loaded", "fastest"):
            table[f"routes:{name}:{route}"] = partial(routes, odd_one, route)
    return table


def main() -> None:
    """Measures, prints each row as it comes, writes them; exit code 1 when a bound is missed."""
    table = measurements()
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"cases: {' '.join(table)}")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="pacing, pacing:200, pacing:200:sliding, ...")
    options = parser.parse_args()
    selected = [Case(name, table[name]) for name in chosen(parser, list(table), options.cases)]
    WORK.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append(row)
        (WORK / "limits.json").write_bytes(orjson.dumps([row.as_json() for row in rows], option=orjson.OPT_INDENT_2))

    sys.exit(0 if run_cases(selected, keep) else 1)


if __name__ == "__main__":
    main()

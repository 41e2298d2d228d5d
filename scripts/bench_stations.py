"""CPU time a request of each station by itself, in one process, and of what makes a run safe or visible.

`python scripts/bench_stations.py PROMPTS URL` prints a JSON list of figures in us. The stations are driven as the run
drives them, but one after the other; what is missing to the whole is what stands between them: the engine, counters and
the tending. Every figure is process CPU, threads included, the median of the repeats.

With --profile it prints the functions in which each station spends its time instead. A profiler makes calls dearer than
they are, and does not see into compiled modules.
"""

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median

import orjson
from bench_runs import WORK

from llmblast.cli.loop import run_loop, tune_collector
from llmblast.job.input_reader import InputReader
from llmblast.job.run_scheduler import make_scheduler
from llmblast.models import Answer, Attempt, Reply, Request, Success
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.reading import RequestParser, key_of, open_sources
from llmblast.scheduling import ANSWERED, Scheduler
from llmblast.sending import TRANSPORTS, ChannelListener, make_target
from llmblast.setting_loading import load
from llmblast.settings import Settings
from llmblast.watching import Counters, EndpointCounters, LimitsView
from llmblast.watching.bar import BarDisplay, make_console
from llmblast.writing import OutputFile, Writer, output_file
from tests.openai_provider import judge

IN_FLIGHT = 256
STEP_S = 1e-5
"""Between two admissions: 100,000/s, at which none of the limits below binds."""
COLD_START_S = 0.05
"""The second admission comes that much later: a scheduler with rates lets the first request open its connection."""
UNBOUND = {"rps": 1e6, "rpm": 6e7, "tpm": 9e11}
TICKS = 200
SHOWN_FUNCTIONS = 15
Watch = Callable[[str], AbstractContextManager[object]]
"""Looks at a station, by its name, while it works."""


def cpu_us(count: int, work: Callable[[], None]) -> float:
    """CPU time of this process for each of `count` pieces of work."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / count * 1e6


async def read(prompts: Path, settings: Settings) -> list[Request]:
    """Every line of the file: split, hashed, parsed."""
    source = await open_sources([str(prompts)])
    requests: list[Request] = []
    async for items in InputReader(source, RequestParser(settings, [DEFAULT_PROVIDER]), Counters()).batches():
        requests += [item for item in items if isinstance(item, Request)]
    await source.close()
    return requests


def schedule(scheduler: Scheduler, requests: Sequence[Request]) -> None:
    """Admission, and the release that follows an answer."""
    now, answer = time.monotonic(), Answer(prompt_tokens=25, completion_tokens=32)
    for index, request in enumerate(requests):
        now += COLD_START_S if index == 1 else STEP_S
        scheduler.queue.add(Attempt(request))
        dispatch = scheduler.next(now)
        assert dispatch is not None, "a limit binds"
        attempt, endpoint = dispatch
        scheduler.on_outcome(attempt, endpoint, ANSWERED, now)
        scheduler.release(attempt, endpoint, endpoint.learned.estimator.count_tokens(attempt, answer), now)


async def send(settings: Settings, requests: Sequence[Request], replies: list[Reply]) -> float:
    """Over the lean transport, so many in flight; CPU time a request. What comes back is put into `replies`."""
    channel = TRANSPORTS["lean"](make_target(settings.endpoints[0], settings.model, None, DEFAULT_PROVIDER), 60.0, 10.0)
    queue, is_done = iter(requests), asyncio.Event()

    def start_next() -> None:
        request = next(queue, None)
        if request is not None:
            attempt = Attempt(request, sent_s=time.monotonic())
            assert channel.start(attempt, listener), "a connection was lost"

    def replied(attempt: Attempt, reply: Reply) -> None:
        replies.append(reply)
        start_next()
        if len(replies) == len(requests):
            is_done.set()

    listener = ChannelListener(on_reply=replied)
    await channel.warm_up(IN_FLIGHT)
    start = time.process_time()
    for _ in range(min(IN_FLIGHT, len(requests))):
        start_next()
    await is_done.wait()
    cpu_s = time.process_time() - start
    await channel.close()
    return cpu_s / len(requests) * 1e6


async def write(successes: Sequence[Success]) -> float:
    """Rendered, gathered, written, synced; CPU time a record."""
    paths = [WORK / "stations-save.jsonl", WORK / "stations-errors.jsonl"]
    files = [OutputFile(str(path), overwrite=True) for path in paths]
    for file in files:
        file.empty()
    start = time.process_time()
    writer = Writer(*files, echo=True, body="auto", notice=lambda notice: None)
    running = asyncio.create_task(writer.run())
    for index in range(0, len(successes), IN_FLIGHT):
        for success in successes[index : index + IN_FLIGHT]:
            writer.put(success)
        await asyncio.sleep(0)
        while writer.is_full:
            writer.changed.clear()
            await writer.changed.wait()
    await writer.close()
    await running
    cpu_s = time.process_time() - start
    for path in paths:
        path.unlink()
    return cpu_s / len(successes) * 1e6


@contextmanager
def timed_syncs() -> Iterator[tuple[list[float], list[float]]]:
    """CPU and wall time of each sync, taken where it is called: the difference of two whole runs would be noise."""
    original, cpu_s, wall_s = output_file._sync_data, [], []

    def sync(descriptor: int) -> None:
        start_cpu_s, start_s = time.thread_time(), time.perf_counter()
        original(descriptor)
        cpu_s.append(time.thread_time() - start_cpu_s)
        wall_s.append(time.perf_counter() - start_s)

    output_file._sync_data = sync
    try:
        yield cpu_s, wall_s
    finally:
        output_file._sync_data = original


def bar_share() -> float:
    """The share of a core that the live display takes, on a terminal that costs nothing; time is made up."""
    now, counters = [0.0], Counters(input_bytes=10**9, endpoints=[EndpointCounters("mock")])
    with open(os.devnull, "w") as stream:
        display = BarDisplay(counters, LimitsView(), lambda: now[0], make_console(stream))
        display.start()

        def tick() -> None:
            for _ in range(TICKS):
                now[0] += display.interval_s
                counters.lines_read += 10_000
                counters.bytes_read += 1_700_000
                counters.succeeded += 10_000
                display.tick()

        spent_us = cpu_us(TICKS, tick)
        display.stop()
    return spent_us / 1e6 / display.interval_s


@contextmanager
def profiled(station: str) -> Iterator[None]:
    """Print where the time goes, by function, without that of the functions it calls."""
    profile = cProfile.Profile()
    with profile:
        yield
    print(f"== {station}")
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(SHOWN_FUNCTIONS)


def once(prompts: Path, url: str, watch: Watch = nullcontext) -> Mapping[str, float]:
    """One measurement of everything, us; the bar as a share."""
    free = {"endpoints": [url], "model": "mock"}
    behind = ",".join((url, *(f"{name}={amount:g}" for name, amount in UNBOUND.items()), f"concurrency={IN_FLIGHT}"))
    settings, limited = load(free, None, {}), load({**free, "endpoints": [behind], **UNBOUND}, None, {})
    requests: list[Request] = []
    replies: list[Reply] = []
    told: dict[str, float] = {}

    def read_all() -> None:
        requests.extend(run_loop(read(prompts, settings)))

    def judge_all() -> None:
        wall_now_s = time.time()
        for request, reply in zip(requests, replies, strict=True):
            judge(Attempt(request), reply, wall_now_s)

    def hash_all() -> None:
        for request in requests:
            key_of(request.text)

    with watch("reading"):
        reading_us = cpu_us(1, read_all)
    count = len(requests)
    told["reading"] = reading_us / count
    gc.collect()
    gc.freeze()  # a run never holds all requests of a file, and collections would walk through them
    with watch("scheduling"):
        told["scheduling"] = cpu_us(count, partial(schedule, make_scheduler(settings), requests))
    told["with limits"] = cpu_us(count, partial(schedule, make_scheduler(limited), requests))
    with watch("sending"):
        told["sending"] = run_loop(send(settings, requests, replies))
    with watch("judging"):
        told["judging"] = cpu_us(count, judge_all)
    successes = list(_successes(requests, replies))
    with timed_syncs() as (cpu_s, wall_s), watch("writing"):
        told["writing"] = run_loop(write(successes))
    told["hash"] = cpu_us(count, hash_all)
    told["sync"], told["disk"] = sum(cpu_s) / count * 1e6, sum(wall_s) / count * 1e6
    told["bar"] = bar_share()
    gc.unfreeze()
    return told


def _successes(requests: Sequence[Request], replies: Sequence[Reply]) -> Iterator[Success]:
    for request, reply in zip(requests, replies, strict=True):
        answer = judge(Attempt(request), reply, 0.0)
        assert isinstance(answer, Answer), answer
        yield Success(request, answer, reply, "mock")


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description="CPU time a request of each station by itself, us.")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("url")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--profile", action="store_true", help="print the functions that each station spends its time in"
    )
    options = parser.parse_args()
    tune_collector(256)
    WORK.mkdir(parents=True, exist_ok=True)
    if options.profile:
        once(options.prompts, options.url, profiled)
        return
    rounds = [once(options.prompts, options.url) for _ in range(options.repeats)]
    told = {name: median(each[name] for each in rounds) for name in rounds[0]}
    names = ("reading", "scheduling", "sending", "judging", "writing")
    parts = {**{name: told[name] for name in names}, "together": sum(told[name] for name in names)}
    costs = {
        "the hash in reading": told["hash"],
        "the sync in writing": told["sync"],
        "the disk's time for it, beside the run": told["disk"],
        "all limits set": told["with limits"] - told["scheduling"],
    }
    figures = [{"name": name, "value": value, "form": "{:.2f} us"} for name, value in {**parts, **costs}.items()]
    figures.append({"name": "the progress bar", "value": told["bar"], "form": "{:.2%} of a core"})
    print(orjson.dumps(figures).decode())


if __name__ == "__main__":
    main()

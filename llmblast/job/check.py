"""Check: validate every line and estimate tokens and duration of a run; send nothing, write no file."""

import sys
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Literal, TextIO

import orjson

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode
from llmblast.input_paths import shown_input
from llmblast.job.batch_folders import check_batch_settings
from llmblast.job.deferred_ways import check_ways
from llmblast.job.earlier_runs import find_finished
from llmblast.job.input_reader import InputReader, make_parser
from llmblast.job.seen_ids import SeenIds
from llmblast.job.start import check_answers, check_deferred
from llmblast.job.unused_settings import UnusedSettings
from llmblast.models import Failure, Line, Request
from llmblast.provider_contract import Provider
from llmblast.providers import DEFAULT_PROVIDER, providers_of
from llmblast.reading import Sources, key_of_repeat, open_sources
from llmblast.reading.file_formats import forced_format
from llmblast.scheduling import TokenEstimator
from llmblast.settings import Settings
from llmblast.units import DAY_S
from llmblast.watching import BATCH, FLEX, Counters, TokenCounts, duration, money, prices_of, sanitize_text


class Files:
    """Number the lines of several files through: line 1 of the second file follows the last line of the first."""

    def __init__(self) -> None:
        self._names: list[str | None] = []
        self._starts: list[int] = []
        self._last = 0

    def position_of(self, line: Line) -> int:
        """Return the number of a line among those of all files; lines come in their order."""
        if not self._names or self._names[-1] != line.file:
            self._names.append(line.file)
            self._starts.append(self._last)
        self._last = self._starts[-1] + line.number
        return self._last

    def place_of(self, position: int, only_file: str) -> str:
        """Return the place of the line at a position; `only_file` is the input where there is one alone."""
        index = bisect_left(self._starts, position) - 1
        return f"{self._names[index] or only_file}:{position - self._starts[index]}"


@dataclass(slots=True)
class Estimate:
    """Totals of the lines. Tokens are those of the lines that a run would send."""

    good: int = 0
    wanted: int = 0
    """Answers that the good lines need."""
    malformed: int = 0
    answered: int = 0
    failed: int = 0
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0
    longest_bytes: int = 0
    doubled: int = 0
    """Batch lines that repeat the custom_id of an earlier line: their answers cannot be distinguished."""
    estimator: TokenEstimator = field(default_factory=TokenEstimator)
    seen_ids: SeenIds = field(default_factory=SeenIds)
    files: Files = field(default_factory=Files)

    @property
    def to_send(self) -> int:
        """Return the number of lines that a run would send."""
        return self.wanted - self.answered - self.failed

    def add(self, request: Request) -> None:
        """Count one request that a run would send."""
        _, prompt, answer = self.estimator.estimate(request)
        self.prompt_tokens += prompt
        self.answer_tokens += answer
        self.longest_bytes = max(self.longest_bytes, len(request.body))

    def find_double(self, request: Request, only_file: str) -> str | None:
        """Return a message if a batch line repeats the custom_id of an earlier line."""
        position = self.files.position_of(request)
        if request.output_format == "llmblast":
            return None
        first = self.seen_ids.first_line_of(str(request.id), position)
        if first is None:
            return None
        self.doubled += 1
        place, other = (self.files.place_of(each, only_file) for each in (position, first))
        return f'{place}: custom_id "{request.id}" is also at {other}: give each line its own'


NO_ENDPOINT = EndpointSettings(url="")
"""Stands for the endpoints of a check that names none."""
WAYS = {BATCH: "by batch", FLEX: "in the flex tier"}
Tell = Callable[[str], None]
"""Write a finding about a line, which names its place."""


class LineChecker:
    """Check the lines of one run, and add up what it would send. Raises LlmblastError for invalid settings."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        check_deferred(settings)
        check_batch_settings(settings)
        self.settings = check_answers(settings)
        self.providers = providers_of(settings.endpoints, settings.model)
        if self.providers:
            check_ways(settings, self.providers)
            _check_models(settings, self.providers)
        self.parser = make_parser(self.settings, self.providers or [DEFAULT_PROVIDER])
        self.estimate = Estimate()
        self._answered, self._failed = find_finished(settings)
        self._tell = tell

    def add(self, item: Request | Failure) -> Iterator[int]:
        """Count a line; tell what is wrong with it. Yield the number of each repeat that has an answer or gets one."""
        estimate = self.estimate
        if isinstance(item, Failure):
            estimate.malformed += 1
            self._tell(item.error)
            return
        estimate.good += 1
        if (double := estimate.find_double(item, shown_input(self.settings.all_inputs[0]))) is not None:
            self._tell(double)
        for repeat in range(1, self.settings.repeat + 1):
            key = key_of_repeat(item.key, repeat)
            estimate.wanted += 1
            if self._answered.consume(key):
                estimate.answered += 1
            elif self._failed.consume(key):
                estimate.failed += 1
                continue
            else:
                estimate.add(item)
            yield repeat

    def summary(self) -> list[str]:
        """Return the totals as lines of text."""
        return _summary(self.settings, self.estimate)

    def as_values(self) -> dict[str, object]:
        """Return the totals as values for JSON."""
        return _summary_json(self.settings, self.estimate)


async def check(settings: Settings) -> ExitCode:
    """Write every bad line and a summary to stdout, which with `json` is the summary's alone; with `quiet` there is
    none. Return SOME_FAILED when there is a bad line. Raises LlmblastError.
    """
    checker = LineChecker(settings, teller_of(settings))
    async with aclosing(items_of(checker)) as items:
        async for item in items:
            for _ in checker.add(item):
                pass
    exit_code = ExitCode.SOME_FAILED if checker.estimate.malformed else ExitCode.OK
    if settings.json:
        told = orjson.dumps({"exit_code": int(exit_code), **checker.as_values()}).decode()
        sys.stdout.write(f"{told}\n")
    elif not settings.quiet:
        sys.stdout.writelines(f"{line}\n" for line in checker.summary())
    return exit_code


async def items_of(checker: LineChecker) -> AsyncGenerator[Request | Failure, None]:
    """Yield the lines of the inputs, parsed. The caller closes the generator, and so the input."""
    settings = checker.settings
    are_all = not (settings.input and settings.deferred)
    for given in filter(None, (settings.input, settings.deferred)):
        sources = await open_sources(given, are_all=are_all)
        try:
            async for item in _items_in(sources, checker):
                yield item
        finally:
            await sources.close()


async def _items_in(sources: Sources, checker: LineChecker) -> AsyncGenerator[Request | Failure, None]:
    settings = checker.settings
    reader = InputReader(
        sources,
        checker.parser,
        Counters(),
        settings.limit,
        notice=partial(_write_note, _findings(settings)),
        file_format=forced_format(settings.format),
        sample=None if settings.sample is None else (settings.sample, settings.seed),
        unused=UnusedSettings(settings),
    )
    async for batch in reader.batches():
        for item in batch:
            yield item


def teller_of(settings: Settings) -> Tell:
    """Return what writes a finding."""
    findings = _findings(settings)

    def tell(finding: str) -> None:
        findings.write(f"{sanitize_text(finding, 1000)}\n")

    return tell


def _findings(settings: Settings) -> TextIO:
    return sys.stderr if settings.json else sys.stdout


def _write_note(findings: TextIO, note: str) -> None:
    findings.write(f"{sanitize_text(note, 500)}\n")


def _check_models(settings: Settings, providers: Sequence[Provider]) -> None:
    from llmblast.sending import check_model  # noqa: PLC0415 -- most checks name no endpoint

    for endpoint, provider in zip(settings.endpoints, providers, strict=True):
        check_model(endpoint, settings.model, provider)


def _summary_json(settings: Settings, estimate: Estimate) -> dict[str, object]:
    return {
        "lines": {
            "read": estimate.good + estimate.malformed,
            "good": estimate.good,
            "bad": estimate.malformed,
            "answered": estimate.answered,
            "failed": estimate.failed,
            "to_send": estimate.to_send,
        },
        "tokens": round(estimate.prompt_tokens + estimate.answer_tokens),
        "prompt_tokens": round(estimate.prompt_tokens),
        "answer_tokens": round(estimate.answer_tokens),
        "longest_bytes": estimate.longest_bytes,
        "doubled_custom_ids": estimate.doubled,
        "cost": _cost_json(settings, estimate),
        "at_least_s": {name: round(seconds, 3) for name, _, seconds in _times_at_limits(settings, estimate)},
    }


def _summary(settings: Settings, estimate: Estimate) -> list[str]:
    lines = [
        f"lines     {estimate.good + estimate.malformed:,} read, {estimate.good:,} good, {estimate.malformed:,} bad"
    ]
    if estimate.doubled or estimate.seen_ids.is_full:
        bound = " (of the first six million)" if estimate.seen_ids.is_full else ""
        lines.append(f"ids       {estimate.doubled:,} repeat the custom_id of an earlier line{bound}")
    if estimate.answered or estimate.failed:
        parts = [f"{estimate.answered:,} already answered"]
        if estimate.failed:
            parts.append(f"{estimate.failed:,} failed earlier; --retry-errors all sends those again")
        lines.append(f"to send   {estimate.to_send:,}; {', '.join(parts)}")
    if estimate.to_send:
        lines.append(
            f"tokens    about {estimate.prompt_tokens:,.0f} in prompts, {estimate.answer_tokens:,.0f} in answers"
        )
        lines.append(f"longest   {estimate.longest_bytes:,} bytes")
        if (costs := _costs(settings, estimate)) is not None:
            ways = "".join(
                f"; {_range(*of_way)} {WAYS[way]}" for way, of_way in _costs_by_way(settings, estimate).items()
            )
            lines.append(f"cost      about {_range(*costs)}, sent directly{ways}")
    times = _times_at_limits(settings, estimate)
    waits = [f"{duration(seconds)} at {limit:,.12g} {name}" for name, limit, seconds in times]
    if waits:
        lines.append(f"at least  {', '.join(waits)}")
    return lines


def _costs(settings: Settings, estimate: Estimate, way: str | None = None) -> tuple[float, float] | None:
    """Return what the lines to send cost at the cheapest and at the dearest endpoint, directly or by another way; None
    where there are no prices or no endpoint goes that way.
    """
    counts = TokenCounts(round(estimate.prompt_tokens), 0, round(estimate.answer_tokens))
    costs = [
        prices.of(counts) * (1.0 if way is None else prices.shares[way])
        for endpoint in settings.endpoints or (NO_ENDPOINT,)
        if (prices := prices_of(endpoint, settings)) is not None and way in (None, endpoint.defer or settings.defer)
    ]
    return (min(costs), max(costs)) if costs else None


def _costs_by_way(settings: Settings, estimate: Estimate) -> dict[str, tuple[float, float]]:
    """Return the same by each way that lines may take, other than directly."""
    costs = {way: _costs(settings, estimate, way) for way in WAYS}
    return {way: of_way for way, of_way in costs.items() if of_way is not None}


def _range(least: float, most: float) -> str:
    return money(most) if money(least) == money(most) else f"{money(least)} to {money(most)}"


def _cost_json(settings: Settings, estimate: Estimate) -> dict[str, object] | None:
    def rounded(costs: tuple[float, float]) -> dict[str, object]:
        return {"least": round(costs[0], 6), "most": round(costs[1], 6)}

    costs = _costs(settings, estimate)
    if costs is None:
        return None
    by_way = {way: rounded(of_way) for way, of_way in _costs_by_way(settings, estimate).items()}
    return {**rounded(costs), **by_way}


def _times_at_limits(settings: Settings, estimate: Estimate) -> list[tuple[str, float, float]]:
    """Return the name and value of each limit, and the seconds that the lines to send take at this limit."""
    if not estimate.to_send:
        return []
    tokens = estimate.prompt_tokens + estimate.answer_tokens
    amounts: tuple[tuple[Literal["rps", "rpm", "tpm", "itpm", "otpm"], float, int], ...] = (
        ("rps", estimate.to_send, 1),
        ("rpm", estimate.to_send, 60),
        ("tpm", tokens, 60),
        ("itpm", estimate.prompt_tokens, 60),
        ("otpm", estimate.answer_tokens, 60),
    )
    times: list[tuple[str, float, float]] = []
    for name, amount, seconds in amounts:
        limit = settings.together(name)
        if limit is not None:
            times.append((name, limit, amount / limit * seconds))
    per_day = settings.together("rpd")
    if per_day is not None:  # the requests of a day may all be sent at its start
        times.append(("rpd", per_day, (ceil(estimate.to_send / per_day) - 1) * DAY_S))
    return times

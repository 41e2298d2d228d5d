"""Settings of the mock provider: each with its default, its help and its range."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Self, TypeVar
from urllib.parse import parse_qsl

from llmblast.errors import UsageError
from llmblast.mocking.headers import HEADERS
from llmblast.mocking.limits import POLICIES

T = TypeVar("T")

_RANGE = re.compile(r"(\d+\.?\d*|\.\d+)-(\d+\.?\d*|\.\d+)")
_SHARE = (0.0, 1.0)
_RATE = (1e-6, 1e12)
_RANGES: dict[str, tuple[float, float]] = {
    "latency": (0, 1e6),
    "jitter": _SHARE,
    "rps": _RATE,
    "rpm": _RATE,
    "rpd": _RATE,
    "tpm": _RATE,
    "itpm": _RATE,
    "otpm": _RATE,
    "burst": (0, 1e9),
    "burst_tokens": (0, 1e12),
    "max_tokens": (1, 1e9),
    "stolen": (0, 0.99),
    "stolen_after": (0, 1e6),
    "concurrency": (1, 1e9),
    "slots": (1, 1e9),
    "overload": (0, 10),
    "errors": _SHARE,
    "rate_limited": _SHARE,
    "broken": _SHARE,
    "malformed": _SHARE,
    "invalid": _SHARE,
    "retry_after": (0, 1e6),
    "tokens": (1, 1e5),
    "sigma": (0, 3),
    "seed": (0, 2**63),
    "batch_delay": (0, 1e6),
    "batch_fail": _SHARE,
    "batch_expire": _SHARE,
    "batch_reject": _SHARE,
    "batch_queue": (1, 1e9),
    "batch_lag": (0, 1e6),
    "cache_ttl": (0, 1e9),
    "cache_min_tokens": (1, 1e6),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "policy": tuple(POLICIES),
    "charge": ("usage", "max_tokens"),
    "headers": tuple(HEADERS),
    "cache_style": ("openai", "deepseek"),
}


def _setting(default: T, explained: str, metavar: str | None = None) -> T:
    return field(default=default, metadata={"help": explained, "metavar": metavar})


@dataclass(frozen=True, slots=True, kw_only=True)
class MockSettings:
    """One mock provider. Raises UsageError for a value out of its range.

    Rates are per second or minute as their names say, None is no limit; shares are 0 to 1 of the requests that the
    limits admit, and one request has one fault at most.
    """

    latency: float = _setting(0.05, "Mean seconds until an answer, or a range such as 2-5.")
    jitter: float = _setting(0.2, "Random variation up and down, as a share of the latency.")
    rps: float | None = _setting(None, "Requests per second; more get a 429.")
    rpm: float | None = _setting(None, "Requests per minute; more get a 429.")
    rpd: float | None = _setting(None, "Requests per day, counted from the first one; more get a 429.")
    tpm: float | None = _setting(None, "Prompt and completion tokens per minute; more get a 429.")
    itpm: float | None = _setting(None, "Prompt tokens per minute; more get a 429.")
    otpm: float | None = _setting(None, "Completion tokens per minute; more get a 429.")
    policy: str = _setting("fixed", f"How rates are enforced: {', '.join(POLICIES)}.")
    burst: int | None = _setting(
        None,
        "Requests that token-bucket holds (default: one second's, at least 1) or that leaky accepts early (0).",
    )
    burst_tokens: int | None = _setting(
        None, "Tokens that token-bucket holds (default: one minute's) or that leaky accepts early (0)."
    )
    charge: str = _setting(
        "usage", "Output that a token limit charges: usage (generated tokens) or max_tokens (the maximum)."
    )
    max_tokens: int = _setting(4096, "Output that --charge max_tokens charges for a request without a maximum.")
    stolen: float = _setting(0.0, "Share of every quota that other clients use.")
    stolen_after: float = _setting(0.0, "Seconds from the first request until other clients begin.")
    headers: str = _setting("openai", f"Rate-limit headers in replies: {', '.join(HEADERS)}.")
    tell_retry_after: bool = _setting(True, "Say in each 429 how long to wait.")
    concurrency: int | None = _setting(None, "Requests in flight; more get a 429.")
    slots: int | None = _setting(
        None, "Requests in flight that are served at full speed; with more, all become slower."
    )
    overload: float = _setting(
        0.3, "With more in flight than --slots: time grows as (in flight / slots) to the power of 1 + this."
    )
    errors: float = _setting(0.0, "Share of requests that get a 500.")
    rate_limited: float = _setting(0.0, "Share of requests that get a 429 without any limit.")
    broken: float = _setting(0.0, "Share of requests whose connection is closed without an answer.")
    malformed: float = _setting(0.0, "Share of requests that get a 200 whose body is not JSON.")
    invalid: float = _setting(
        0.0, "Share of answers whose text is broken JSON; a model that is told what was wrong does better."
    )
    unauthorized: bool = _setting(False, "Answer every request with a 401.")
    retry_after: float = _setting(1.0, "Seconds to wait that the 429s of --rate-limited name.")
    tokens: int = _setting(32, "Mean completion tokens.")
    sigma: float = _setting(0.0, "Sigma of log-normal completion tokens; 0: evenly from 0.5 to 1.5 times the mean.")
    models: str | None = _setting(
        None,
        "Names of the models, separated by commas or spaces; others get a 404. Without it any name is accepted.",
        metavar="NAMES",
    )
    seed: int = _setting(0, "Another seed gives other answers, latencies and faults.")
    batch_delay: float = _setting(1.0, "Seconds from the start of a batch to its end.")
    batch_fail: float = _setting(0.0, "Share of the requests in batches that get a 500.")
    batch_expire: float = _setting(
        0.0, "Share of the requests in each batch that are unfinished when it ends: it expires."
    )
    batch_reject: float = _setting(0.0, "Share of batches whose whole file is rejected at validation.")
    batch_queue: int | None = _setting(None, "Requests in unfinished batches; a batch that exceeds this fails.")
    batch_lag: float = _setting(0.0, "Seconds until a new batch shows up in the listing.")
    cache: bool = _setting(False, "Cache prompts by their beginning, and tell cached tokens in the usage.")
    cache_ttl: float = _setting(300.0, "Seconds for which a beginning stays in the cache without being used.")
    cache_min_tokens: int = _setting(1024, "Tokens of the shortest beginning that is cached.")
    cache_style: str = _setting("openai", "Members of a chat's usage that tell cached tokens: openai or deepseek.")
    key: str | None = _setting(None, "The only API key that is accepted; without one, any is.")
    faults: str | None = _setting(
        None,
        "TOML file of faults: [[fault]] tables with a kind and the requests that get it (share, requests, ...).",
        metavar="FILE",
    )
    ledger: str | None = _setting(
        None, "File for one JSON line about each request and one about each reply.", metavar="FILE"
    )

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"mock: {name}={value:g}: must be from {low:g} to {high:g}")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"mock: {name}={value}: unknown: {nearest(value, list(known))}")
        if self.policy == "token-bucket" and 0 in (self.burst, self.burst_tokens):
            raise UsageError("mock: burst=0: an empty token bucket admits nothing: write 1 or more")
        if self.errors + self.rate_limited + self.broken + self.malformed > 1 + 1e-9:
            raise UsageError("mock: errors, rate_limited, broken and malformed: together they must be at most 1")

    @classmethod
    def from_query(cls, query: str) -> Self:
        """Reads `rps=50&latency=0.2`, the part of `mock:?...` after the question mark. Raises UsageError."""
        texts: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name in texts:
                raise UsageError(f"mock: {name}: is given twice: leave one out")
            texts[name] = value
        return cls.from_texts(texts)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Self:
        """Reads settings that are still text; those that are missing have their defaults. Raises UsageError."""
        parsers = {entry.name: _PARSERS[entry.type] for entry in fields(cls)}
        values: dict[str, object] = {}
        for name, text in texts.items():
            if name not in parsers:
                raise UsageError(f"mock: {name}: unknown setting: {nearest(name, list(parsers))}")
            if name != "latency":
                values[name] = _parsed(name, text, parsers[name])
        if "latency" in texts:
            values.update(_latency(texts["latency"], has_jitter="jitter" in texts))
        return cls(**values)  # type: ignore[arg-type]  # each value has the type that its field's parser gives


def _parsed(name: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text.strip())
    except ValueError as error:
        raise UsageError(f"mock: {name}={text}: {error}") from None


def _latency(text: str, has_jitter: bool) -> dict[str, object]:
    """`2-5` is a mean with the jitter that reaches both ends."""
    ends = _RANGE.fullmatch(text.strip())
    if ends is None:
        return {"latency": _parsed("latency", text, _number)}
    low, high = float(ends[1]), float(ends[2])
    if has_jitter:
        raise UsageError(f"mock: latency={text}: a range has its own jitter: leave jitter out")
    if low >= high:
        raise UsageError(f"mock: latency={text}: write the smaller number first, such as 2-5")
    return {"latency": (low + high) / 2, "jitter": (high - low) / (high + low)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("is not a number: write it like 0.5") from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("is not a whole number: write it like 10") from None


def _flag(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "": True, "0": False, "false": False, "no": False}
    if text.lower() not in known:
        raise ValueError("is neither yes nor no: write 1 or 0")
    return known[text.lower()]


def _word(text: str) -> str:
    if not text:
        raise ValueError("is empty: write a value or leave it out")
    return text


_PARSERS: dict[object, Callable[[str], object]] = {
    float: _number,
    float | None: _number,
    int: _whole_number,
    int | None: _whole_number,
    bool: _flag,
    str: _word,
    str | None: _word,
}


def nearest(name: str, known: list[str]) -> str:
    """Return a hint for a name that is not known."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"

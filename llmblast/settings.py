"""Every setting with its default, and the one place that checks them.

Plain dataclasses, so that `--help` can show a default without importing pydantic; pydantic reads their annotations
when a command really has settings to check. Precedence: flag, environment variable, TOML file, default.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from math import inf
from os.path import join, split
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Lt

from llmblast.errors import UsageError

Rate = Annotated[float, Gt(0), Lt(1e12)] | None
Seconds = Annotated[float, Gt(0), Lt(1e9)]
Count = Annotated[int, Ge(1)]

MOCK_SCHEME = "mock"
OPENAI_HOST = "api.openai.com"
API_PATHS = ("chat/completions", "completions", "embeddings")
"""What a request may ask for, relative to an endpoint's base URL."""
_HINTS = {
    "url": 'Endpoints are tables: write [[endpoints]], and below it url = "http://127.0.0.1:8000/v1".',
    "api_key": "A key stands in no file of settings: name its variable or its file with key_env or key_file.",
}
"""For names that a person would expect to be known."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """Limits, which stand at both levels. Rates are per second, minute or day, as their names say."""

    rps: Rate = None
    rpm: Rate = None
    rpd: Rate = None
    tpm: Rate = None
    itpm: Rate = None
    otpm: Rate = None
    concurrency: Count | None = None

    @property
    def requests_per_s(self) -> float:
        """The lowest rate of requests that is set; infinity where none is."""
        return min(self.rps or inf, (self.rpm or inf) / 60)

    @property
    def has_rate(self) -> bool:
        """Any rate is set."""
        rates = (self.rps, self.rpm, self.rpd, self.tpm, self.itpm, self.otpm)
        return any(rate is not None for rate in rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings(RateSettings):
    """One place to send to, with its own limits.

    `charge` says what the provider charges its token limits with: what a request really used, or its `max_tokens` up
    front. Endpoints with the same `quota` share one account: a rate-limit reply to one pauses all of them.
    `key_refresh` is the interval at which the key is asked for again.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "str_strip_whitespace": True}

    url: str
    name: str = ""
    weight: Annotated[float, Gt(0), Lt(1e9)] = 1.0
    model: str | None = None
    burst: Annotated[float, Ge(0), Lt(1e9)] | None = None
    adaptive: bool | None = None
    charge: Literal["usage", "max_tokens"] = "usage"
    quota: str | None = None
    key_env: str | None = None
    key_file: str | None = None
    key_command: str | None = None
    key_refresh: Seconds | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_adaptive(self) -> bool:
        """Learns from push-back: what the setting says, else where no rate is set."""
        return not self.has_rate if self.adaptive is None else self.adaptive

    @property
    def can_refresh_key(self) -> bool:
        """Return whether the API key can be asked for again during a run; a variable keeps the key of the start."""
        return not (self.is_mock or self.key_env) and bool(self.key_file or self.key_command)

    @property
    def is_mock(self) -> bool:
        """The built-in provider answers, no server is needed."""
        return self.url.startswith(f"{MOCK_SCHEME}:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(RateSettings):
    """What one run does. Rates and concurrency are caps over all endpoints together."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    input: str = "-"
    save: str = "save.jsonl"
    errors: str = ""
    """Empty: beside the save file, see `errors_path`."""
    endpoints: tuple[EndpointSettings, ...] = ()

    format: Literal["auto", "simple", "raw", "openai-batch"] = "auto"
    model: str | None = None
    system: str | None = None
    prompt: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    media_root: str | None = None
    limit: Count | None = None

    burst: Annotated[float, Ge(0), Lt(1e9)] = 0.0
    concurrency: Annotated[int, Ge(1), Lt(1_000_000)] = 256
    route: Literal["weighted", "least-loaded", "fastest"] = "weighted"
    hedge: Annotated[str, "a quantile of latency from p50 to p99.9"] | None = None

    max_attempts: Count = 5
    timeout: Seconds = 600.0
    connect_timeout: Seconds = 10.0
    max_time: Seconds | None = None
    max_wait: Seconds = 900.0
    max_errors: Annotated[str, "a count such as 100 or a share such as 5%"] | None = None
    grace: Annotated[float, Ge(0), Lt(1e9)] = 30.0
    transport: Literal["lean", "session"] = "lean"
    processes: Annotated[int, Ge(1), Lt(1_000)] = 1

    disk_wait: Annotated[float, Ge(0), Lt(1e9)] = 60.0
    spool: str | None = None
    retry_errors: Literal["transient", "all", "none"] = "transient"
    changed_settings: Literal["stop", "ok"] = "stop"
    overwrite: bool = False
    force: bool = False
    echo: bool = True
    body: Literal["always", "auto", "never"] = "auto"

    progress: Literal["auto", "bar", "plain", "none"] = "auto"
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    timeline: str | None = None

    @property
    def errors_path(self) -> str:
        """Where records of lines without an answer go: errors.jsonl beside save.jsonl, x.errors.jsonl beside x.jsonl.

        Not one errors.jsonl for all save files of a folder: what failed with one model would be done for the next one.
        Nothing but `.jsonl` is taken off a name, lest `part.aa` and `part.ab` share a file. Of a pipe or device,
        `check_start` has set `errors`.
        """
        if self.errors:
            return self.errors
        folder, name = split(self.save)
        is_usual = name in ("save.jsonl", "-")
        return join(folder, "errors.jsonl" if is_usual else f"{name.removesuffix('.jsonl')}.errors.jsonl")

    def together(self, name: Literal["rps", "rpm", "rpd", "tpm", "itpm", "otpm"]) -> float | None:
        """The rate of all endpoints together: the run's cap, or the sum of theirs where each has one and it is less."""
        own: float | None = getattr(self, name)
        each: list[float | None] = [getattr(endpoint, name) for endpoint in self.endpoints]
        known = [rate for rate in each if rate is not None]
        theirs = sum(known) if known and len(known) == len(each) else None
        return min((rate for rate in (own, theirs) if rate is not None), default=None)


def default_of(name: str) -> Any:
    """The default of a run setting, for help texts."""
    for entry in fields(Settings):
        if entry.name == name:
            return entry.default if entry.default is not MISSING else None
    raise KeyError(name)


def load(flags: Mapping[str, Any], config: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Merges flags (None: not given) over the TOML file over the defaults, and checks the whole.

    `flags["endpoints"]` holds `--url` texts or mappings, which replace the file's endpoints. Without any of either,
    OPENAI_BASE_URL counts.
    Raises UsageError with one sentence that names the place and the fix.
    """
    merged: dict[str, Any] = _read_toml(config) if config else {}
    merged.update({name: value for name, value in flags.items() if value is not None and value != []})
    if not merged.get("endpoints") and environ and environ.get("OPENAI_BASE_URL"):
        merged["endpoints"] = [environ["OPENAI_BASE_URL"]]
    specs = merged.get("endpoints", [])
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        raise UsageError(f"{config}: endpoints: write one [[endpoints]] table for each endpoint.")
    merged["endpoints"] = [parse_endpoint(spec) if isinstance(spec, str) else spec for spec in specs]
    settings = _validate(merged, config)
    return replace(settings, endpoints=_named(settings.endpoints))


def parse_endpoint(spec: str) -> dict[str, Any]:
    """Reads `URL[,name=value...]`, the text of one `--url`. The values are checked with all the others."""
    url, *pairs = spec.split(",")
    endpoint: dict[str, Any] = {"url": url}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--url {spec!r}: {pair!r} is no setting: write name=value, such as {url},rps=50.")
        endpoint[name.strip().replace("-", "_")] = value.strip()
    return endpoint


def parse_max_errors(text: str) -> tuple[float, bool]:
    """`100` is (100, False); `5%` is (5, True). Raises UsageError."""
    number, is_share = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if value < 0 or (is_share and value > 100) or (not is_share and value != int(value)):
        raise UsageError(f"--max-errors {text!r}: write a count such as 100 or a share such as 5%.")
    return value, is_share


def parse_hedge(text: str) -> float:
    """`p95` is 0.95. Raises UsageError."""
    try:
        percent = float(text.removeprefix("p"))
    except ValueError:
        percent = 0.0
    if not (text.startswith("p") and 50 <= percent <= 99.9):
        raise UsageError(f"--hedge {text!r}: write a quantile from p50 to p99.9, such as p95.")
    return percent / 100


def base_url(url: str) -> str:
    """The base of an endpoint's URL: no trailing slash, no API path, `/v1` where the URL names a host only."""
    base = url.rstrip("/")
    for path in API_PATHS:
        base = base.removesuffix(f"/{path}")
    return base if urlsplit(base).path else f"{base}/v1"


def _read_toml(config: str) -> dict[str, Any]:
    try:
        with open(config, "rb") as file:
            return tomllib.loads(file.read().decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{config}: not TOML: {error}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{config}: not TOML: it is not UTF-8 text.") from None
    except OSError as error:
        raise UsageError(f"{config}: cannot be read: {error.strerror}. Name an existing file with --config.") from None


def _validate(merged: Mapping[str, Any], config: str | None) -> Settings:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 -- costs 50 ms, which `--help` need not wait for

    try:
        settings = TypeAdapter(Settings).validate_python(merged)
    except ValidationError as error:
        raise UsageError(_explain(error.errors()[0], merged, config)) from None
    if settings.max_errors is not None:
        parse_max_errors(settings.max_errors)
    if settings.hedge is not None:
        parse_hedge(settings.hedge)
        if len(settings.endpoints) < 2:
            raise UsageError(f"--hedge {settings.hedge}: needs a second endpoint to send to. Name two with --url.")
    for endpoint in settings.endpoints:
        _check_url(endpoint)
        _check_key_env(endpoint)
        _check_key_refresh(endpoint)
    return settings


def _check_url(endpoint: EndpointSettings) -> None:
    if endpoint.is_mock:
        if endpoint.url != f"{MOCK_SCHEME}:" and not endpoint.url.startswith(f"{MOCK_SCHEME}:?"):
            raise UsageError(f"endpoint {endpoint.url!r}: parameters follow a question mark: mock:?rps=50&latency=0.2.")
        return
    try:
        parts = urlsplit(endpoint.url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise UsageError(
            f"endpoint {endpoint.url!r}: not a URL: write http://HOST:PORT/v1, https://HOST/v1 or {MOCK_SCHEME}:."
        )
    if parts.username or parts.password:
        raise UsageError(
            f"endpoint {parts.hostname!r}: no key in a URL: put it into a variable and name it: key_env=NAME."
        )


def _check_key_env(endpoint: EndpointSettings) -> None:
    """A key in place of the variable's name is a likely slip; it must not be repeated in a log."""
    if endpoint.key_env and not _VARIABLE.fullmatch(endpoint.key_env):
        raise UsageError(
            f"endpoint {endpoint.name or endpoint.url}: key_env names a variable, and what stands there is no name of "
            "one. Put the key into a variable and write its name: key_env=NAME."
        )


def _check_key_refresh(endpoint: EndpointSettings) -> None:
    if endpoint.key_refresh is None or endpoint.is_mock or endpoint.can_refresh_key:
        return
    fix = "take key_env out, which goes before key_command and key_file" if endpoint.key_env else ""
    raise UsageError(
        f"endpoint {endpoint.name or endpoint.url}: key_refresh needs a key that can be asked for again: "
        f"{fix or 'add key_command=COMMAND or key_file=FILE'}."
    )


def _explain(error: Mapping[str, Any], merged: Mapping[str, Any], config: str | None) -> str:
    """One sentence for pydantic's first finding."""
    place = [part for part in error["loc"] if not (isinstance(part, str) and "[" in part)]
    names = [f.name for f in fields(EndpointSettings if place and place[0] == "endpoints" else Settings)]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if config and _stands_in(config, place):
        where = f"{config}: {where}"
    elif len(place) == 1:
        where = f"--{where.replace('_', '-')}"
    last = str(place[-1]) if place else ""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        from difflib import get_close_matches  # noqa: PLC0415 -- only needed for a person's typing error

        close = get_close_matches(last, names, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known are: {', '.join(names)}."
        hint = _HINTS.get(last, hint)
        return f"{where}: unknown setting. {hint}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{where}: is missing. Add it."
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{where}: {error['input']!r} will not do: it {message}."


def _stands_in(config: str, place: Sequence[Any]) -> bool:
    """Whether the offending value came from the file rather than from a flag."""
    value: Any = _read_toml(config)
    for part in place:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _named(endpoints: Sequence[EndpointSettings]) -> tuple[EndpointSettings, ...]:
    """Gives every endpoint a name of its own: what the person wrote, else host:port, else with a number behind it."""
    taken: set[str] = set()
    named = []
    for endpoint in endpoints:
        base = endpoint.name or (MOCK_SCHEME if endpoint.is_mock else urlsplit(endpoint.url).netloc)
        name, number = base, 2
        while name in taken:
            if endpoint.name:
                raise UsageError(f"endpoints: the name {name!r} stands twice. Give every endpoint its own.")
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        named.append(replace(endpoint, name=name))
    return tuple(named)

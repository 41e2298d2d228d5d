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
from llmblast.hiding import shown_url
from llmblast.setting_places import ENV_PREFIX, MAX_SHOWN_VALUE, Places, without_secrets
from llmblast.setting_values import (
    NEVER_EMPTY,
    SettingValueError,
    convert,
    did_you_mean,
    explain,
    may_be_secret,
    shown,
    shown_name,
)
from llmblast.units import UnitError, parse_count
from llmblast.urls import base_of, is_host

Rate = Annotated[float, Gt(0), Lt(1e12)] | None
Seconds = Annotated[float, Gt(0), Lt(1e9)]
_MAX_COUNT = 10**12
Count = Annotated[int, Ge(1), Lt(_MAX_COUNT)]

MOCK_SCHEME = "mock"
API_PATHS: Mapping[str, tuple[str, ...]] = {
    "chat/completions": ("messages",),
    "completions": ("prompt", "prompt_embeds"),
    "embeddings": ("input", "messages"),
    "responses": ("input", "prompt"),
    "moderations": ("input",),
    "rerank": ("query",),
    "v2/rerank": ("query",),
    "score": ("text_1", "data_1", "queries"),
    "images/generations": ("prompt",),
    "images/edits": ("prompt",),
    "videos": ("prompt",),
    "audio/transcriptions": (),
    "audio/translations": (),
    "fim/completions": ("prompt",),
    "agents/completions": ("messages",),
    "chat/moderations": ("input", "messages"),
    "classifications": ("input",),
    "classify": ("input", "messages"),
    "pooling": ("input", "messages"),
    "contextualizedembeddings": ("inputs",),
    "ocr": ("document",),
}
"""What a request may ask for, relative to an endpoint's base URL, and the members of which its body needs one.

These are the paths that the batch APIs of OpenAI, Mistral and Voyage and vLLM's run-batch take, and those of vLLM's
pooling models.
"""
_HINTS = {
    "url": 'write [[endpoints]], and below it url = "http://127.0.0.1:8000/v1"',
    "api_key": "keys are not allowed here: name the variable that holds the key with key_env, or a file with key_file",
}
"""For names that a person would expect to be known."""
_KIND_OF_PATH = {"spool": "directory", "media_root": "directory"}
_USUAL_NAMES = {"save": "save.jsonl", "errors": "errors.jsonl", "timeline": "timeline.jsonl"}
_AMOUNT = re.compile(r"[0-9.]{1,12}[a-zA-Z/%]{0,3}")
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
    `key_refresh` is the interval at which the key is asked for again. `auth` says how it is sent: `bearer`, or the name
    of the header that takes it. `proxy` is a URL, or `none` for a direct connection whatever the environment says.
    `ca_file` has certificates that are trusted beside the system's. `kind` is the API that the endpoint speaks.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "str_strip_whitespace": True}

    url: str
    name: str = ""
    kind: str | None = None
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
    auth: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    proxy: str | None = None
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None

    @property
    def names_key(self) -> bool:
        """Return whether a setting names where the API key comes from."""
        return bool(self.key_env or self.key_file or self.key_command)

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

    format: Literal["auto", "simple", "raw", "openai-batch", "anthropic-batch"] = "auto"
    model: str | None = None
    system: str | None = None
    prompt: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    own_fields: tuple[str, ...] = ()
    """Fields of a line that are never sent and go into the record."""
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
        `run_preflight_checks` has set `errors`.
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
    OPENAI_BASE_URL counts. `environ` names what stands behind a flag's value that a variable has set.
    Raises UsageError with one sentence that names the place and the fix.
    """
    environ = environ or {}
    _check_variables(environ)
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    if config is not None and (not config or "\0" in config):
        raise UsageError(f"--config: {'contains a zero byte: remove it' if config else 'is empty: name a TOML file'}")
    merged: dict[str, Any] = {**(_read_toml(config) if config else {}), **given}
    if not merged.get("endpoints") and environ.get("OPENAI_BASE_URL"):
        merged["endpoints"] = [environ["OPENAI_BASE_URL"]]
    places = Places(given, config, environ, merged)
    specs = merged.get("endpoints", [])
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        raise UsageError(f"{config}: endpoints: write one [[endpoints]] table for each endpoint")
    merged = {name: _convert(name, value, places.of([name])) for name, value in merged.items()}
    merged["endpoints"] = [_endpoint(spec, places.of(["endpoints", index])) for index, spec in enumerate(specs)]
    settings = _validate(merged, places)
    return replace(settings, endpoints=_named(settings.endpoints))


def parse_endpoint(spec: str) -> dict[str, Any]:
    """Reads `URL[,name=value...]`, the text of one `--url`. Raises UsageError.

    The values are checked with all the others. No message repeats what may be a key.
    """
    url, *pairs = spec.split(",")
    endpoint: dict[str, Any] = {"url": url}
    known = [entry.name for entry in fields(EndpointSettings) if entry.name not in ("url", "headers")]
    base = without_secrets(url)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            what = repr(pair) if name in known else "a part without a name"
            raise UsageError(f"--url {base}: {what} is not a setting: write name=value, such as {base},rps=50")
        is_amount = _AMOUNT.fullmatch(value) is not None
        may_show = is_amount or (name in known and not may_be_secret(name) and len(value) <= MAX_SHOWN_VALUE)
        place = f"--url {base},{shown_name(name)}={value if may_show else '...'}"
        if name in _HINTS and name not in known:
            raise UsageError(f"{place}: {_HINTS[name]}")
        if name not in known:
            raise UsageError(f"{place}: unknown setting {shown_name(name)}{did_you_mean(name, known)}")
        if name in endpoint:
            raise UsageError(f"{place}: {name} is given twice: leave one out")
        endpoint[name] = _convert(name, value.strip(), place)
    return endpoint


def parse_max_errors(text: str) -> tuple[float, bool]:
    """`100` is (100, False); `5%` is (5, True). Raises UsageError."""
    number, is_share = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        value = parse_count(number)
    except UnitError:
        value = -1.0
    if not 0 <= value <= (100 if is_share else _MAX_COUNT) or (not is_share and not value.is_integer()):
        raise UsageError(f"--max-errors {text!r}: write a count such as 100 or a share such as 5%")
    return value, is_share


def parse_hedge(text: str) -> float:
    """`p95` is 0.95. Raises UsageError."""
    try:
        percent = float(text.removeprefix("p"))
    except ValueError:
        percent = 0.0
    if not (text.startswith("p") and 50 <= percent <= 99.9):
        raise UsageError(f"--hedge {text!r}: write a quantile from p50 to p99.9, such as p95")
    return percent / 100


def base_url(url: str) -> str:
    """Return the base of an endpoint's URL, which API paths are appended to."""
    return base_of(url, tuple(API_PATHS))


def _read_toml(config: str) -> dict[str, Any]:
    try:
        with open(config, "rb") as file:
            return tomllib.loads(file.read().decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{config}: not TOML: {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{config}: not TOML: invalid UTF-8: save the file as UTF-8") from None
    except (ValueError, RecursionError):  # of a number of thousands of digits, or of lists in lists
        raise UsageError(
            f"{config}: cannot be read: a number is too long, or a value is nested too deep: simplify it"
        ) from None
    except OSError as error:
        raise UsageError(f"{config}: cannot be read: {error.strerror}: name an existing file with --config") from None


def _check_variables(environ: Mapping[str, str]) -> None:
    """A misspelt variable would be a limit that is not kept."""
    known = [f"{ENV_PREFIX}{name.upper()}" for name in ("config", *(entry.name for entry in fields(Settings)))]
    for variable in environ:
        if variable.startswith(ENV_PREFIX) and variable not in known:
            raise UsageError(f"{variable}: unknown variable{did_you_mean(variable, known)}")


def _convert(name: str, value: object, place: str) -> object:
    try:
        return convert(name, value)
    except (UnitError, SettingValueError) as problem:
        is_hidden = may_be_secret(name) or name in NEVER_EMPTY
        hides_value = isinstance(value, str) and (is_hidden or "\0" in value or not value.isprintable())
        raise UsageError(f"{place}: {'' if hides_value else f'{shown(value)} '}{problem}") from None


def _endpoint(spec: object, place: str) -> object:
    """Return what an endpoint's settings are made of; what is no table is refused later."""
    if isinstance(spec, str):
        return parse_endpoint(spec)
    if not isinstance(spec, Mapping):
        return spec
    return {name: _convert(str(name), value, f"{place}.{name}") for name, value in spec.items()}


def _validate(merged: Mapping[str, Any], places: Places) -> Settings:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 -- costs 50 ms, which `--help` need not wait for

    try:
        settings = TypeAdapter(Settings).validate_python(merged)
    except ValidationError as error:
        raise UsageError(_explain(error.errors()[0], places)) from None
    _check_paths(settings)
    if settings.max_errors is not None:
        parse_max_errors(settings.max_errors)
    if settings.hedge is not None:
        parse_hedge(settings.hedge)
        if len(settings.endpoints) < 2:
            raise UsageError(f"--hedge {settings.hedge}: needs a second endpoint: name two with --url")
    for endpoint in settings.endpoints:
        _check_url(endpoint)
        _check_key_env(endpoint)
        _check_key_refresh(endpoint)
    return settings


def _check_url(endpoint: EndpointSettings) -> None:
    shown = shown_url(endpoint.url)
    if endpoint.is_mock:
        if endpoint.url != f"{MOCK_SCHEME}:" and not endpoint.url.startswith(f"{MOCK_SCHEME}:?"):
            raise UsageError(f"endpoint {shown!r}: write parameters after a question mark: mock:?rps=50&latency=0.2")
        return
    try:
        parts = urlsplit(endpoint.url)
        is_usable = parts.scheme in ("http", "https") and parts.port != 0
        is_usable = is_usable and endpoint.url.isprintable() and is_host(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise UsageError(f"endpoint {shown!r}: not a URL: write http://HOST:PORT/v1, https://HOST/v1 or {MOCK_SCHEME}:")
    if "@" in parts.netloc:
        raise UsageError(
            f"endpoint {parts.hostname!r}: no key in a URL: put it into a variable and name that: key_env=NAME"
        )


def _check_key_env(endpoint: EndpointSettings) -> None:
    """A key in place of the variable's name is a likely slip; it must not be repeated in a log."""
    if endpoint.key_env and not _VARIABLE.fullmatch(endpoint.key_env):
        raise UsageError(
            f"endpoint {endpoint.name or shown_url(endpoint.url)}: key_env takes the name of a variable, and its value "
            "is not one: put the key into a variable and write its name: key_env=NAME"
        )


def _check_key_refresh(endpoint: EndpointSettings) -> None:
    if endpoint.key_refresh is None or endpoint.is_mock or endpoint.can_refresh_key:
        return
    fix = "remove key_env, which overrides key_command and key_file" if endpoint.key_env else ""
    raise UsageError(
        f"endpoint {endpoint.name or shown_url(endpoint.url)}: key_refresh needs a key that can be read again: "
        f"{fix or 'add key_command=COMMAND or key_file=FILE'}"
    )


def _check_paths(settings: Settings) -> None:
    for name in ("input", "save", "spool", "timeline", "media_root"):
        if getattr(settings, name) == "":
            raise UsageError(f"--{name.replace('_', '-')}: is empty: name a {_KIND_OF_PATH.get(name, 'file')}")
    for name in ("save", "errors", "timeline"):
        path = getattr(settings, name)
        if path and (path.endswith("/") or split(path)[1] in ("", ".", "..")):
            inside = f"{path.rstrip('/') or ''}/{_USUAL_NAMES[name]}"
            raise UsageError(f"--{name} {path}: is a directory: name a file in it, such as {inside}")


def _explain(error: Mapping[str, Any], places: Places) -> str:
    """One sentence for pydantic's first finding."""
    location = [part for part in error["loc"] if not (isinstance(part, str) and "[" in part)]
    last = str(location[-1]) if location else ""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        names = [f.name for f in fields(EndpointSettings if location[0] == "endpoints" else Settings)]
        hint = f": {_HINTS[last]}" if last in _HINTS and last not in names else did_you_mean(last, names)
        return f"{places.of_owner(location)}: unknown setting {shown_name(last)}{hint}"
    place = places.of(location)
    if error["type"] in ("missing", "missing_argument"):
        return f"{place}: is missing: add it"
    return f"{place}: {explain({**error, 'loc': location})}"


def _named(endpoints: Sequence[EndpointSettings]) -> tuple[EndpointSettings, ...]:
    """Gives every endpoint a name of its own: what the person wrote, else host:port, else with a number behind it."""
    taken: set[str] = set()
    named = []
    for endpoint in endpoints:
        base = endpoint.name or (MOCK_SCHEME if endpoint.is_mock else urlsplit(endpoint.url).netloc)
        name, number = base, 2
        while name in taken:
            if endpoint.name:
                raise UsageError(f"endpoints: the name {name!r} is used twice: give every endpoint its own name")
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        named.append(replace(endpoint, name=name))
    return tuple(named)

"""Loading of settings: merge flags, variables and the TOML file over the defaults, and check the whole.

Precedence: flag, environment variable, TOML file, default. Every error names the place where a person wrote the value.
"""

import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from os.path import split
from typing import Any
from urllib.parse import urlsplit

from llmblast.endpoint_settings import MAX_COUNT, MOCK_SCHEME, URL_SETTINGS, CustomSettings, EndpointSettings
from llmblast.errors import UsageError
from llmblast.hiding import shown_url
from llmblast.known_hosts import KNOWN_HOSTS, short_name_of, with_known_host
from llmblast.setting_files import read_texts, without_overridden, without_variables
from llmblast.setting_option import ENV_PREFIX, variable_of
from llmblast.setting_places import MAX_SHOWN_VALUE, Places, without_secrets
from llmblast.setting_values import (
    DIRECTORY,
    FILE,
    FileList,
    SettingValueError,
    Text,
    did_you_mean,
    explain,
    kind_of,
    may_be_secret,
    shown,
    shown_name,
)
from llmblast.settings import Settings
from llmblast.units import UnitError, parse_count
from llmblast.urls import is_host

HINTS = {
    "url": 'write [[endpoints]], and below it url = "http://127.0.0.1:8000/v1"',
    "stages": "write [[stage]], and below it the settings of the stage",
    "api_key": "keys are not allowed here: name the variable that holds the key with key_env, or a file with key_file",
}
"""Hints for unknown settings whose name a person may expect to work."""
_CUSTOM = "custom"
STAGES = "stage"
"""The tables of stages in a TOML file; see `stage_loading`."""
_USUAL_NAMES = {"save": "save.jsonl", "errors": "errors.jsonl", "timeline": "timeline.jsonl"}
_AMOUNT = re.compile(r"[0-9.]{1,12}[a-zA-Z/%]{0,3}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_UNIX_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Size of `sun_path` without its last zero: unix(7), and sys/un.h of BSD and macOS."""


def load(flags: Mapping[str, Any], config: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Merge flags (None: not given) over the TOML file over the defaults, check the result, and return it.

    `flags["endpoints"]` holds `--url` texts or mappings, which replace the endpoints of the file. Where neither names
    one, OPENAI_BASE_URL does. With `environ`, errors name the variable that a flag's value came from.
    Raises UsageError with one sentence that names the place and the fix.
    """
    given = read_flags(flags, environ or {})
    in_config = read_config(config)
    if STAGES in in_config:
        raise UsageError(f"{config}: [[stage]]: has no meaning here: use llmblast.run_pipeline(..., config=FILE)")
    return merge(given, in_config, config, environ or {})


def read_flags(flags: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the flags that are given. Raises UsageError for an unknown variable."""
    _check_variables(environ)
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    return without_variables(given, environ)


def read_config(config: str | None) -> dict[str, Any]:
    """Return what the TOML file holds; nothing without one. Raises UsageError."""
    if config is not None and (not config or "\0" in config):
        raise UsageError(f"--config: {'contains a zero byte: remove it' if config else 'is empty: name a TOML file'}")
    return _read_toml(config) if config else {}


def merge(
    given: Mapping[str, Any],
    in_config: Mapping[str, Any],
    config: str | None,
    environ: Mapping[str, str],
    tables: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the flags over the settings of the file over the defaults, check the result, and return it.

    `tables` names the table of the file in which a setting stands, where that is not the file itself.
    Raises UsageError.
    """
    merged: dict[str, Any] = {**without_overridden(in_config, given), **given}
    if not merged.get("endpoints") and environ.get("OPENAI_BASE_URL"):
        merged["endpoints"] = [environ["OPENAI_BASE_URL"]]
    places = Places(given, config, environ, merged, tables)
    specs = merged.get("endpoints", [])
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        table = f"{STAGES}.endpoints" if "endpoints" in (tables or {}) else "endpoints"
        raise UsageError(f"{places.of(['endpoints'])}: write one [[{table}]] table for each endpoint")
    merged = {name: _convert(Settings, name, value, places.of([name])) for name, value in merged.items()}
    endpoints = [_endpoint(spec, places.of(["endpoints", index])) for index, spec in enumerate(specs)]
    merged["endpoints"] = _with_known_hosts(endpoints, environ)
    settings = _validate({**merged, **read_texts(merged)}, places)
    return replace(settings, endpoints=_named(settings.endpoints))


def parse_endpoint(spec: str) -> dict[str, Any]:
    """Parse `URL[,name=value...]`, the text of one `--url`. Raises UsageError.

    `load` checks the ranges of the values. No message repeats a possible key.
    """
    url, *pairs = spec.split(",")
    endpoint: dict[str, Any] = {"url": url}
    base = without_secrets(url)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            what = repr(pair) if name in URL_SETTINGS else "a part without a name"
            raise UsageError(f"--url {base}: {what} is not a setting: write name=value, such as {base},rps=50")
        is_amount = _AMOUNT.fullmatch(value) is not None
        may_show = is_amount or (name in URL_SETTINGS and not may_be_secret(name) and len(value) <= MAX_SHOWN_VALUE)
        place = f"--url {base},{shown_name(name)}={value if may_show else '...'}"
        if name in HINTS and name not in URL_SETTINGS:
            raise UsageError(f"{place}: {HINTS[name]}")
        if name not in URL_SETTINGS:
            raise UsageError(f"{place}: unknown setting {shown_name(name)}{did_you_mean(name, URL_SETTINGS)}")
        if name in endpoint:
            raise UsageError(f"{place}: {name} is given twice: leave one out")
        endpoint[name] = _convert(EndpointSettings, name, value.strip(), place)
    return endpoint


def parse_max_errors(text: str) -> tuple[float, bool]:
    """Parse `100` as (100, False) and `5%` as (5, True). Raises UsageError."""
    number, is_share = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        value = parse_count(number)
    except UnitError:
        value = -1.0
    if not 0 <= value <= (100 if is_share else MAX_COUNT) or (not is_share and not value.is_integer()):
        raise UsageError(f"--max-errors {text!r}: write a count such as 100 or a share such as 5%")
    return value, is_share


def parse_hedge(text: str) -> float:
    """Parse `p95` as 0.95. Raises UsageError."""
    try:
        percent = float(text.removeprefix("p"))
    except ValueError:
        percent = 0.0
    if not (text.startswith("p") and 50 <= percent <= 99.9):
        raise UsageError(f"--hedge {text!r}: write a quantile from p50 to p99.9, such as p95")
    return percent / 100


def parse_stop_if_bad(text: str) -> float:
    """Parse `20%` as 0.2. Raises UsageError."""
    try:
        percent = parse_count(text.removesuffix("%"))
    except UnitError:
        percent = -1.0
    if not (text.endswith("%") and 0 <= percent < 100):
        raise UsageError(f"--stop-if-bad {text!r}: write a share of the answers, such as 20%")
    return percent / 100


def _read_toml(config: str) -> dict[str, Any]:
    try:
        with open(config, "rb") as file:
            return tomllib.loads(file.read().decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{config}: not TOML: {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{config}: not TOML: invalid UTF-8: save the file as UTF-8") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or deeply nested lists
        raise UsageError(
            f"{config}: cannot be read: a number is too long, or a value is nested too deep: simplify it"
        ) from None
    except OSError as error:
        raise UsageError(f"{config}: cannot be read: {error.strerror}: name an existing file with --config") from None


BUILD_VARIABLE = f"{ENV_PREFIX}COMPILE"
"""Asks for the compiled build (see `scripts/build_compiled.py`); it may still be set when that runs."""


def _check_variables(environ: Mapping[str, str]) -> None:
    """Raise UsageError for an unknown variable: a misspelt limit would not be enforced."""
    known = [variable_of(name) for name in ("config", *(entry.name for entry in fields(Settings)))]
    for variable in environ:
        if variable.startswith(ENV_PREFIX) and variable not in known and variable != BUILD_VARIABLE:
            raise UsageError(f"{variable}: unknown variable{did_you_mean(variable, known)}")


def _convert(owner: type, name: str, value: object, place: str) -> object:
    """Return the converted value of a setting of `owner`. pydantic rejects unknown settings later."""
    kind = next((kind_of(entry.type) for entry in fields(owner) if entry.name == name), Text())
    try:
        return kind.convert(value)
    except (UnitError, SettingValueError) as problem:
        is_hidden = may_be_secret(name) or (isinstance(kind, Text) and not kind.may_be_empty)
        hides_value = isinstance(value, str) and (is_hidden or "\0" in value or not value.isprintable())
        hides_value = hides_value or isinstance(kind, FileList)
        raise UsageError(f"{place}: {'' if hides_value else f'{shown(value)} '}{problem}") from None


def _endpoint(spec: object, place: str) -> object:
    """Return the converted settings of an endpoint. pydantic rejects a spec that is no table later."""
    if isinstance(spec, str):
        return parse_endpoint(spec)
    if not isinstance(spec, Mapping):
        return spec
    return {name: _convert(EndpointSettings, str(name), value, f"{place}.{name}") for name, value in spec.items()}


def _with_known_hosts(endpoints: Sequence[object], environ: Mapping[str, str]) -> list[object]:
    """Return the settings of all endpoints with those that their hosts imply."""
    taken = {name for spec in endpoints if isinstance(spec, Mapping) and isinstance(name := spec.get("name"), str)}
    completed: list[object] = []
    for spec in endpoints:
        whole = with_known_host(spec, environ, taken) if isinstance(spec, Mapping) else spec
        if isinstance(whole, Mapping):
            taken.add(str(whole.get("name", "")))
        completed.append(whole)
    return completed


def _validate(merged: Mapping[str, Any], places: Places) -> Settings:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 -- costs 50 ms, which `--help` need not wait for

    try:
        settings = TypeAdapter(Settings).validate_python(merged)
    except ValidationError as error:
        raise UsageError(_explain(error.errors()[0], places)) from None
    _check_paths(settings)
    if not settings.input and not settings.deferred:
        raise UsageError(f"{places.of(['input'])}: names no file: name one, or leave it out")
    if settings.by is not None and settings.deadline is not None:
        raise UsageError("--by and --deadline name the time twice: leave one out")
    if settings.max_errors is not None:
        parse_max_errors(settings.max_errors)
    if settings.stop_if_bad is not None:
        parse_stop_if_bad(settings.stop_if_bad)
    if settings.hedge is not None:
        parse_hedge(settings.hedge)
        if len(settings.endpoints) < 2:
            raise UsageError(f"--hedge {settings.hedge}: needs a second endpoint: name two with --url")
    for endpoint in settings.endpoints:
        _check_url(endpoint)
        _check_unix_socket(endpoint)
        _check_key_env(endpoint)
        _check_key_refresh(endpoint)
    return settings


def _check_url(endpoint: EndpointSettings) -> None:
    shown = shown_url(endpoint.url)
    if endpoint.is_mock:
        if endpoint.url != f"{MOCK_SCHEME}:" and not endpoint.url.startswith(f"{MOCK_SCHEME}:?"):
            raise UsageError(f"endpoint {shown!r}: write parameters after a question mark: mock:?rps=50&latency=0.2")
        return
    if (short := short_name_of(endpoint.url)) is not None:
        raise UsageError(
            f"endpoint {shown!r}: not a URL, and no known host{did_you_mean(short, KNOWN_HOSTS, suffix=':')}"
        )
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


def _check_unix_socket(endpoint: EndpointSettings) -> None:
    if endpoint.unix_socket is None:
        return
    name = endpoint.name or shown_url(endpoint.url)
    if not endpoint.url.lower().startswith("http://"):
        raise UsageError(f"endpoint {name}: unix_socket needs a URL with http://, such as http://localhost/v1")
    if len(os.fsencode(endpoint.unix_socket)) > MAX_UNIX_SOCKET_BYTES:
        raise UsageError(
            f"endpoint {name}: unix_socket {endpoint.unix_socket}: is longer than the {MAX_UNIX_SOCKET_BYTES} bytes "
            "that this system allows: name a shorter path, such as a link in /tmp"
        )
    if endpoint.proxy not in (None, "none"):
        raise UsageError(f"endpoint {name}: a proxy cannot reach a unix_socket: remove one of both settings")


def _check_key_env(endpoint: EndpointSettings) -> None:
    """Raise UsageError without the value: it may be a key, written in place of its variable's name."""
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
    for entry in fields(Settings):
        kind = kind_of(entry.type)
        if kind in (FILE, DIRECTORY) and getattr(settings, entry.name) == "" != entry.default:
            what = "directory" if kind is DIRECTORY else "file"
            raise UsageError(f"--{entry.name.replace('_', '-')}: is empty: name a {what}")
    for name, usual_name in _USUAL_NAMES.items():
        path = getattr(settings, name)
        if path and (path.endswith("/") or split(path)[1] in ("", ".", "..")):
            inside = f"{path.rstrip('/') or ''}/{usual_name}"
            raise UsageError(f"--{name} {path}: is a directory: name a file in it, such as {inside}")


def _explain(error: Mapping[str, Any], places: Places) -> str:
    """Return one sentence for an error of pydantic."""
    location = [part for part in error["loc"] if not (isinstance(part, str) and "[" in part)]
    last = str(location[-1]) if location else ""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        names = [f.name for f in fields(_owner_of(location))]
        hint = f": {HINTS[last]}" if last in HINTS and last not in names else did_you_mean(last, names)
        return f"{places.of_owner(location)}: unknown setting {shown_name(last)}{hint}"
    place = places.of(location)
    if error["type"] in ("missing", "missing_argument"):
        given = error.get("input")
        name = given.get("name") if last == "url" and isinstance(given, Mapping) else None
        hint = did_you_mean(name, list(KNOWN_HOSTS)) if isinstance(name, str) else ""
        return f"{place}: is missing: add it{f', or name a known host{hint}' if hint else ''}"
    return f"{place}: {explain({**error, 'loc': location})}"


def _owner_of(location: Sequence[object]) -> type[Settings | EndpointSettings | CustomSettings]:
    """Return the class of the settings among which the one at `location` is."""
    if location[0] != "endpoints":
        return Settings
    return CustomSettings if _CUSTOM in location[:-1] else EndpointSettings


def _named(endpoints: Sequence[EndpointSettings]) -> tuple[EndpointSettings, ...]:
    """Return the endpoints with unique names: the name of the settings, or host:port, numbered where needed."""
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

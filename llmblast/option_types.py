"""The keywords of `stream`, `run_async` and `run`, for type checkers: the settings of a run by their names.

Amounts may be texts, as on the command line: `rps="100/m"`, `timeout="90s"`. A test compares them with `settings`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from llmblast.endpoint_settings import Defer
from llmblast.settings import BodyMode, ChangedSettings, Expect, Format, OutputFormat, RetryErrors, Route, Transport

Number = float | str | None
Path = str | os.PathLike[str] | None


class StreamOptions(TypedDict, total=False):
    """Settings of any run; None counts as not given. `config` is a TOML file of settings."""

    config: Path
    format: Format | None
    model: str | None
    system: str | None
    prompt: str | None
    prompt_file: Path
    system_file: Path
    map: Mapping[str, str] | None
    params: Mapping[str, Any] | None
    own_fields: Sequence[str] | None
    line_headers: Sequence[str] | None
    media_root: Path
    media_max_bytes: Number
    limit: Number
    sample: Number
    seed: Number
    follow: bool | None
    expect: Expect | None
    schema: Path | Mapping[str, Any]
    expect_regex: str | None
    expect_command: str | None
    repair: Number
    escalate: str | None
    stop_if_bad: Number
    repeat: Number
    cache: Path
    dedupe: bool | None
    rps: Number
    rpm: Number
    rpd: Number
    tpm: Number
    itpm: Number
    otpm: Number
    burst: Number
    concurrency: Number
    route: Route | None
    hedge: str | None
    warm_prefix: str | None
    cache_control: bool | None
    price_in: Number
    price_out: Number
    price_cached: Number
    batch_price: Number
    flex_price: Number
    by: str | None
    deadline: Number
    defer: Defer | None
    share: Mapping[str, float] | None
    reserve: Number
    deferred_floor: Number
    max_attempts: Number
    timeout: Number
    connect_timeout: Number
    max_time: Number
    max_wait: Number
    max_errors: Number
    grace: Number
    transport: Transport | None
    processes: Number
    echo: bool | None
    body: BodyMode | None
    verbose: bool | None
    timeline: Path


class RunOptions(StreamOptions, total=False):
    """Also the settings of a run with files."""

    save: Path
    errors: Path
    output_format: OutputFormat | None
    ordered: bool | None
    disk_wait: Number
    spool: Path
    retry_errors: RetryErrors | None
    changed_settings: ChangedSettings | None
    overwrite: bool | None
    force: bool | None
    detach: bool | None

"""The options that commands share, each declared once: flag, aliases, environment variable, help, default shown.

An option that is not given is None, so that a TOML file can speak; the defaults stand in `settings` alone.
"""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmblast.cli.help_panels import panel_of
from llmblast.errors import UsageError
from llmblast.setting_places import ENV_PREFIX
from llmblast.settings import Settings, default_of, load


def _option(name: str, *flags: str, help: str, metavar: str | None = None) -> Any:
    """One typer option. Typer's own factory has no narrower type."""
    default = default_of(name)
    if isinstance(default, int | float) and not isinstance(default, bool):
        help += f" [default: {default:g}]"
    elif default and isinstance(default, str):
        help += f" [default: {default}]"
    return typer.Option(
        *flags,
        help=help,
        metavar=metavar,
        envvar=f"{ENV_PREFIX}{name.upper()}",
        show_default=False,
        show_envvar=False,
        rich_help_panel=panel_of(name),
    )


Input = Annotated[
    str | None,
    typer.Argument(metavar="INPUT", help="JSONL file of prompts; - reads standard input.", show_default=False),
]
RequestsFilepath = Annotated[
    str | None,
    _option("input", "-i", "--input", "--requests_filepath", metavar="FILE", help="The same as INPUT."),
]
Save = Annotated[
    str | None,
    _option(
        "save", "-o", "--save", "--output", "--save_filepath", metavar="FILE", help="Answers; - writes standard output."
    ),
]
Errors = Annotated[
    str | None,
    _option(
        "errors",
        "-e",
        "--errors",
        metavar="FILE",
        help="Errors of lines without an answer. [default: beside --save]",
    ),
]
Url = Annotated[
    list[str] | None,
    _option(
        "endpoints",
        "-u",
        "--url",
        "--request_url",
        metavar="URL[,name=VALUE...]",
        help="Endpoint; repeat for several. Its settings: name, kind, weight, model, rps, rpm, rpd, tpm, itpm, otpm, "
        "burst, concurrency, charge, quota, adaptive, key_env, key_file, key_command, key_refresh, auth, proxy, "
        "ca_file, client_cert, client_key. mock: is the built-in mock. "
        "[default: $OPENAI_BASE_URL]",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        help="File of settings in TOML.",
        envvar=f"{ENV_PREFIX}CONFIG",
        show_default=False,
        show_envvar=False,
        rich_help_panel=panel_of("config"),
    ),
]
Format = Annotated[
    str | None,
    _option(
        "format",
        "--format",
        metavar="FORMAT",
        help="Form of the lines: auto, simple, raw, openai-batch or anthropic-batch.",
    ),
]
Model = Annotated[
    str | None, _option("model", "-m", "--model", metavar="NAME", help="Model for lines and endpoints that name none.")
]
System = Annotated[
    str | None, _option("system", "--system", metavar="TEXT", help="System message for lines that have none.")
]
Prompt = Annotated[
    str | None,
    _option("prompt", "--prompt", metavar="TEMPLATE", help="User message made from a line's fields: 'Sum up: {text}'."),
]
Params = Annotated[
    str | None,
    _option("params", "--params", metavar="JSON", help="Sampling parameters, such as '{\"temperature\": 0}'."),
]
OwnFields = Annotated[
    str | None,
    _option(
        "own_fields",
        "--own-fields",
        metavar="NAME[,NAME...]",
        help="Fields that are not sent, only copied into the record; id always is.",
    ),
]
MediaRoot = Annotated[
    str | None,
    _option("media_root", "--media-root", metavar="DIR", help="Directory of the image files that lines may name."),
]
Limit = Annotated[str | None, _option("limit", "--limit", metavar="N", help="Read only the first N lines.")]
Rps = Annotated[
    str | None,
    _option(
        "rps", "-r", "--rps", "--max_requests_per_second", metavar="N", help="Requests per second, over all endpoints."
    ),
]
Rpm = Annotated[
    str | None,
    _option("rpm", "--rpm", "--max_requests_per_minute", metavar="N", help="Requests per minute, over all endpoints."),
]
Tpm = Annotated[
    str | None,
    _option("tpm", "--tpm", "--max_tokens_per_minute", metavar="N", help="Tokens per minute, over all endpoints."),
]
Rpd = Annotated[str | None, _option("rpd", "--rpd", metavar="N", help="Requests in any 24 hours, over all endpoints.")]
Itpm = Annotated[
    str | None, _option("itpm", "--itpm", metavar="N", help="Prompt tokens per minute, over all endpoints.")
]
Otpm = Annotated[
    str | None, _option("otpm", "--otpm", metavar="N", help="Answer tokens per minute, over all endpoints.")
]
Burst = Annotated[
    str | None,
    _option(
        "burst",
        "--burst",
        metavar="DURATION",
        help="Seconds of unused rate that may be used later; 0 spaces requests evenly.",
    ),
]
Concurrency = Annotated[
    str | None,
    _option("concurrency", "-j", "--concurrency", metavar="N", help="Requests in flight, over all endpoints."),
]
Route = Annotated[
    str | None,
    _option(
        "route", "--route", metavar="ROUTE", help="How to choose a ready endpoint: weighted, least-loaded or fastest."
    ),
]
Hedge = Annotated[
    str | None,
    _option(
        "hedge",
        "--hedge",
        metavar="QUANTILE",
        help="Send slow requests to a second endpoint, too: those above this quantile, such as p95.",
    ),
]
MaxAttempts = Annotated[
    str | None,
    _option(
        "max_attempts",
        "-a",
        "--max-attempts",
        "--max_attempts",
        metavar="N",
        help="Attempts before a line fails; fewer if an attempt may be billed.",
    ),
]
Timeout = Annotated[
    str | None,
    _option("timeout", "--timeout", metavar="DURATION", help="Seconds for one whole attempt, connecting included."),
]
ConnectTimeout = Annotated[
    str | None,
    _option("connect_timeout", "--connect-timeout", metavar="DURATION", help="Seconds for opening a connection."),
]
MaxTime = Annotated[
    str | None,
    _option("max_time", "--max-time", metavar="DURATION", help="Stop after this many seconds; run it again to go on."),
]
MaxWait = Annotated[
    str | None,
    _option(
        "max_wait",
        "--max-wait",
        metavar="DURATION",
        help="Longest wait for a rate limit; if it lasts longer, stop and say until when.",
    ),
]
MaxErrors = Annotated[
    str | None,
    _option("max_errors", "--max-errors", metavar="N|P%", help="Stop when more lines fail than this."),
]
Grace = Annotated[
    str | None,
    _option("grace", "--grace", metavar="DURATION", help="Seconds that requests in flight may take after a stop."),
]
Transport = Annotated[
    str | None,
    _option("transport", "--transport", metavar="TRANSPORT", help="lean, or session: aiohttp's client, slower."),
]
Processes = Annotated[
    str | None,
    _option("processes", "--processes", metavar="N", help="Only 1 in this version."),
]
DiskWait = Annotated[
    str | None,
    _option(
        "disk_wait",
        "--disk-wait",
        metavar="DURATION",
        help="Seconds to wait for room on a full disk; then records go to --spool.",
    ),
]
SpoolDirectory = Annotated[
    str | None,
    _option(
        "spool",
        "--spool",
        metavar="DIR",
        help="Directory for records that their file cannot take; the next run adds them. [default: $TMPDIR or /tmp]",
    ),
]
RetryErrors = Annotated[
    str | None,
    _option(
        "retry_errors",
        "--retry-errors",
        metavar="WHICH",
        help="Earlier errors to try again: transient, all or none.",
    ),
]
ChangedSettings = Annotated[
    str | None,
    _option(
        "changed_settings",
        "--changed-settings",
        metavar="WHAT",
        help="If earlier answers had another model, system message, template or params: stop or ok.",
    ),
]
Overwrite = Annotated[
    bool | None, _option("overwrite", "--overwrite", help="Empty both outputs and start over instead of going on.")
]
Force = Annotated[
    bool | None,
    _option("force", "--force", help="With --overwrite: empty also a file that llmblast has not written."),
]
Echo = Annotated[bool | None, _option("echo", "--echo/--no-echo", help="Copy the input into the records.")]
Body = Annotated[
    str | None,
    _option("body", "--body", metavar="WHEN", help="Keep the raw reply: always, never, or auto (if it says more)."),
]
Progress = Annotated[
    str | None,
    _option("progress", "--progress", metavar="HOW", help="Progress on standard error: auto, bar, plain or none."),
]
Json = Annotated[bool | None, _option("json", "--json", help="Write the summary as JSON to standard output.")]
Quiet = Annotated[bool | None, _option("quiet", "-q", "--quiet", help="Print nothing unless something is wrong.")]
Verbose = Annotated[
    bool | None, _option("verbose", "-v", "--verbose", help="Print a line for every retry, pause and failure.")
]
TimelineFile = Annotated[
    str | None,
    _option("timeline", "--timeline", metavar="FILE", help="File for plots: one JSON line of totals per second."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Validate and estimate only, as llmblast check does.",
        show_default=False,
        rich_help_panel=panel_of("dry_run"),
    ),
]


def settings_of(options: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Settings from a command's options, `url` and `config` and all. Raises UsageError."""
    flags = dict(options)
    config = flags.pop("config", None)
    flags["endpoints"] = flags.pop("url", None)
    requests_filepath = flags.pop("requests_filepath", None)
    is_variable = requests_filepath is not None and requests_filepath == environ.get(f"{ENV_PREFIX}INPUT")
    if flags.get("input") is None:
        flags["input"] = requests_filepath
    elif requests_filepath is not None and not is_variable:
        raise UsageError("INPUT and --input name the input twice: leave one out")
    if flags.get("params") is not None:
        flags["params"] = _parse_params(flags["params"])
    settings = load(flags, config, environ)
    is_unnamed = flags["input"] is None and settings.input == default_of("input")
    if is_unnamed and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("no input: pipe a JSONL file in, or name it: llmblast run prompts.jsonl")
    return settings


def _parse_params(text: str) -> dict[str, Any]:
    import orjson  # noqa: PLC0415 -- `--help` need not wait for it

    try:
        params = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--params {text!r}: not JSON: {error}.") from None
    if not isinstance(params, dict):
        raise UsageError(f"--params {text!r}: write an object, such as '{{\"temperature\": 0}}'.")
    return params

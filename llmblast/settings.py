"""Settings of a run and of its endpoints: each field declares type, range, default and option of one setting, once.

`run`, `check`, `config`, the TOML reader, variables, README's table and shell completion are made from these fields.
They are plain dataclasses, so that `--help` needs no pydantic; `setting_loading` reads and checks them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import join, split
from typing import Annotated, Any, ClassVar, Literal

from llmblast.endpoint_settings import (
    URL_SETTINGS,
    Count,
    Defer,
    Directory,
    EndpointSettings,
    File,
    Name,
    RateSettings,
    Seconds,
    SecondsOrZero,
)
from llmblast.setting_option import option
from llmblast.setting_values import (
    COMMAND,
    FILES,
    JSON_FILE,
    JSON_OBJECT,
    MOMENT,
    NAME_MAP,
    NAMES,
    SHARE,
    SHARE_OR_COUNT,
    TEXT_OR_NUMBER,
    WEIGHT_MAP,
    Ge,
    Gt,
    Lt,
)

Format = Literal[
    "auto",
    "simple",
    "raw",
    "openai-batch",
    "anthropic-batch",
    "gemini-batch",
    "gemini",
    "bedrock-batch",
    "bedrock",
    "csv",
    "tsv",
    "json",
    "text",
    "parquet",
    "arrow",
]
FILE_FORMATS = ("csv", "tsv", "json", "text", "parquet", "arrow")
"""Values of `format` that name the form of a file; the others name the form of its lines."""
OutputFormat = Literal["auto", "llmblast", "openai-batch", "anthropic-batch"]
BodyMode = Literal["always", "auto", "never"]
RetryErrors = Literal["transient", "all", "none"]
ChangedSettings = Literal["stop", "ok"]
Expect = Literal["json"]
Route = Literal["weighted", "least-loaded", "fastest"]
Transport = Literal["lean", "session"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(RateSettings):
    """Settings of one run. Rates and concurrency are caps over all endpoints together.

    An empty `errors` stands for a file beside the save file, see `errors_path`. `own_fields` are fields of a line that
    are never sent, only copied into the record.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    input: Annotated[tuple[str, ...], FILES] = option(
        ("-",), "-i --input --requests_filepath", "Input", "The same as INPUT.", shown_default="-", in_check=True
    )
    deferred: Annotated[tuple[str, ...], FILES] = option(
        (),
        "--deferred",
        "Input",
        "Further file, whose lines may wait: they use what the others leave of the limits. Repeat for several.",
        in_check=True,
    )
    follow: bool = option(
        False,
        "--follow",
        "Input",
        "Wait for more lines at the end of the last file, like tail -F; end with Ctrl-C.",
    )
    format: Format = option("auto", "--format", "Input", "Form of the lines or of the file: {choices}.", in_check=True)
    prompt: str | None = option(
        None,
        "--prompt",
        "Input",
        "User message made from a line's fields: 'Sum up: {text}'.",
        metavar="TEMPLATE",
        in_check=True,
    )
    prompt_file: File | None = option(None, "--prompt-file", "Input", "File with the text of --prompt.", in_check=True)
    system: str | None = option(
        None,
        "--system",
        "Input",
        "System message for lines that have none; may name fields, as --prompt.",
        metavar="TEMPLATE",
        in_check=True,
    )
    system_file: File | None = option(None, "--system-file", "Input", "File with the text of --system.", in_check=True)
    map: Annotated[Mapping[str, str], NAME_MAP] = option(
        {}, "--map", "Input", "Names that fields have in your file: input=question,id=row.", in_check=True
    )
    params: Annotated[Mapping[str, Any], JSON_OBJECT] = option(
        {}, "--params", "Input", "Sampling parameters, such as '{\"temperature\": 0}'.", in_check=True
    )
    own_fields: Annotated[tuple[str, ...], NAMES] = option(
        (),
        "--own-fields",
        "Input",
        "Fields that are not sent, only copied into the record; id always is.",
        in_check=True,
    )
    line_headers: Annotated[tuple[str, ...], NAMES] = option(
        (), "--line-headers", "Input", 'Request headers that lines may set in "headers".', in_check=True
    )
    media_root: Directory | None = option(
        None,
        "--media-root",
        "Input",
        "Directory of the image, PDF, audio and video files that lines may name.",
        in_check=True,
    )
    media_max_bytes: Annotated[int, Ge(1), Lt(2**31)] = option(
        64 * 1024 * 1024, "--media-max-bytes", "Input", "Bytes of all files of one line together.", in_check=True
    )
    limit: Count | None = option(
        None, "--limit", "Input", "Read only the first N lines, and the first N of --deferred.", in_check=True
    )
    sample: Count | None = option(
        None, "--sample", "Input", "Take N random lines of all inputs, by --seed, and N of --deferred.", in_check=True
    )
    seed: Annotated[int, Ge(0), Lt(2**63)] = option(
        0, "--seed", "Input", "Which random lines --sample takes; the same seed takes the same.", in_check=True
    )
    repeat: Annotated[int, Ge(1), Lt(1_000_000)] = option(
        1, "--repeat", "Input", "Answers to get for each line, with a different seed each.", in_check=True
    )

    save: File = option(
        "save.jsonl",
        "-o --save --output --save_filepath",
        "Output",
        "Answers; - writes standard output.",
        in_check=True,
    )
    errors: File = option(
        "", "-e --errors", "Output", "Errors of lines without an answer.", shown_default="beside --save", in_check=True
    )
    echo: bool = option(True, "--echo/--no-echo", "Output", "Copy the input into the records.")
    body: BodyMode = option(
        "auto", "--body", "Output", "Keep the raw reply: always, never, or auto (if it says more).", metavar="WHEN"
    )
    output_format: OutputFormat = option(
        "auto", "--output-format", "Output", "Form of the records: {choices}; auto follows the form of each line."
    )
    ordered: bool = option(
        False, "--ordered", "Output", "Write the answers in the order of the input. They wait for slow lines, on disk."
    )
    overwrite: bool = option(
        False, "--overwrite", "Output", "Empty both outputs and start over instead of going on.", in_check=True
    )
    force: bool = option(
        False, "--force", "Output", "With --overwrite: empty also a file that llmblast has not written."
    )
    retry_errors: RetryErrors = option(
        "transient",
        "--retry-errors",
        "Output",
        "Earlier errors to try again: {choices}.",
        metavar="WHICH",
        in_check=True,
    )
    cache: File | None = option(
        None, "--cache", "Output", "File of answers for this and other runs: equal requests are not sent again."
    )
    dedupe: bool = option(False, "--dedupe", "Output", "Send equal requests of this run once, and answer each line.")
    changed_settings: ChangedSettings = option(
        "stop",
        "--changed-settings",
        "Output",
        "If earlier answers had another model, system message, template or params: {choices}.",
        metavar="WHAT",
    )

    expect: Expect | None = option(
        None, "--expect", "Answers", "What each answer has to be: json.", metavar="WHAT", in_check=True
    )
    schema: Annotated[str | Mapping[str, Any] | None, JSON_FILE] = option(
        None,
        "--schema",
        "Answers",
        "JSON Schema that each answer has to fit; sent, too, where an API takes it.",
        in_check=True,
    )
    expect_regex: str | None = option(
        None,
        "--expect-regex",
        "Answers",
        "Regular expression that each answer has to contain a match of.",
        metavar="REGEX",
        in_check=True,
    )
    expect_command: Annotated[str | None, COMMAND] = option(
        None,
        "--expect-command",
        "Answers",
        "Command that reads an answer on standard input and accepts it with exit code 0.",
        in_check=True,
    )
    repair: Annotated[int, Ge(0), Lt(1_000)] = option(
        2, "--repair", "Answers", "How often to ask again, with the reason, for an answer that does not fit."
    )
    escalate: Name | None = option(
        None,
        "--escalate",
        "Answers",
        "Endpoint or model to ask once when repairs did not help; this endpoint gets no other lines.",
        in_check=True,
    )
    stop_if_bad: Annotated[str | None, TEXT_OR_NUMBER] = option(
        None,
        "--stop-if-bad",
        "Answers",
        "Stop when more of the last 200 answers are empty, invalid, refused or cut off.",
        metavar="P%",
        in_check=True,
    )

    endpoints: tuple[EndpointSettings, ...] = option(
        (),
        "-u --url --request_url",
        "Endpoints",
        f"Endpoint; repeat for several. Its settings: {', '.join(URL_SETTINGS)}. mock: is the built-in mock.",
        metavar="URL[,name=VALUE...]",
        shown_default="$OPENAI_BASE_URL",
        in_check=True,
    )
    model: Name | None = option(
        None, "-m --model", "Endpoints", "Model for lines and endpoints that name none.", in_check=True
    )
    route: Route = option("weighted", "--route", "Endpoints", "How to choose a ready endpoint: {choices}.")
    hedge: str | None = option(
        None,
        "--hedge",
        "Endpoints",
        "Send slow requests to a second endpoint, too: those above this quantile, such as p95.",
        metavar="QUANTILE",
    )

    cache_control: bool = option(
        False,
        "--cache-control",
        "Endpoints",
        "Mark system messages for the cache of Anthropic or Bedrock, which keep nothing unless told.",
    )
    warm_prefix: Name = option(
        "auto",
        "--warm-prefix",
        "Endpoints",
        "Lines with the same long start, or the same value of FIELD: send one ahead, then the others to the same "
        "endpoint, which has the start in its cache by then: auto, off or FIELD.",
        metavar="auto|off|FIELD",
    )
    defer: Defer | None = option(
        None,
        "--defer",
        "Endpoints",
        "Send lines that can wait (without --deferred: all but immediate ones) through the provider's batch API, or in "
        "its cheaper flex tier: {choices}.",
        metavar="HOW",
    )
    detach: bool = option(
        False,
        "--detach",
        "Endpoints",
        "With --defer batch: end once all batches are started; the same command collects the answers later.",
    )

    burst: SecondsOrZero = option(
        0.0, "--burst", "Limits", "Seconds of unused rate that may be used later; 0 spaces requests evenly."
    )
    concurrency: Annotated[int, Ge(1), Lt(1_000_000)] = option(
        256, "-j --concurrency", "Limits", "Requests in flight, over all endpoints."
    )
    max_time: Seconds | None = option(
        None, "--max-time", "Limits", "Stop after this many seconds; run it again to go on."
    )

    by: Annotated[str | None, MOMENT] = option(
        None,
        "--by",
        "Limits",
        "Time by which lines without a deadline of their own are due: 08:00, or 2026-12-01T08:00.",
        metavar="TIME",
    )
    deadline: Seconds | None = option(
        None, "--deadline", "Limits", "As --by, but as a duration from the start of the run, such as 6h."
    )

    share: Annotated[Mapping[str, Annotated[float, Gt(0), Lt(1e9)]], WEIGHT_MAP] = option(
        {}, "--share", "Limits", "Weights of tenants, whom lines name in the field tenant: a=1,b=2; others have 1."
    )
    reserve: Annotated[float | None, Ge(0), Lt(1_000_000), SHARE_OR_COUNT] = option(
        None,
        "--reserve",
        "Limits",
        "Slots that deferred lines leave free for immediate ones: a share or a number.",
        shown_default="learned",
    )
    deferred_floor: Annotated[float, Ge(0), Lt(1), SHARE] = option(
        0.05,
        "--deferred-floor",
        "Limits",
        "Share of all requests, or of limited tokens, that deferred lines get at least, over some minutes.",
        shown_default="5%",
    )

    max_attempts: Count = option(
        5,
        "-a --max-attempts --max_attempts",
        "Retries",
        "Attempts before a line fails; fewer if an attempt may be billed.",
    )
    timeout: Seconds = option(600.0, "--timeout", "Retries", "Seconds for one whole attempt, connecting included.")
    connect_timeout: Seconds = option(10.0, "--connect-timeout", "Retries", "Seconds for opening a connection.")
    max_wait: Seconds = option(
        900.0, "--max-wait", "Retries", "Longest wait for a rate limit; if it lasts longer, stop and say until when."
    )
    max_errors: Annotated[str | None, TEXT_OR_NUMBER] = option(
        None, "--max-errors", "Retries", "Stop when more lines fail than this.", metavar="N|P%"
    )

    progress: Literal["auto", "bar", "plain", "none"] = option(
        "auto", "--progress", "Display", "Progress on standard error: {choices}.", metavar="HOW"
    )
    json: bool = option(False, "--json", "Display", "Write the summary as JSON to standard output.", in_check=True)
    quiet: bool = option(False, "-q --quiet", "Display", "Print nothing unless something is wrong.", in_check=True)
    verbose: bool = option(False, "-v --verbose", "Display", "Print a line for every retry, pause and failure.")
    timeline: File | None = option(None, "--timeline", "Display", "File for plots: one JSON line of totals per second.")

    grace: SecondsOrZero = option(30.0, "--grace", "Advanced", "Seconds that requests in flight may take after a stop.")
    disk_wait: SecondsOrZero = option(
        60.0, "--disk-wait", "Advanced", "Seconds to wait for room on a full disk; then records go to --spool."
    )
    spool: Directory | None = option(
        None,
        "--spool",
        "Advanced",
        "Directory for records that their file cannot take; the next run adds them.",
        shown_default="$TMPDIR or /tmp",
    )
    transport: Transport = option("lean", "--transport", "Advanced", "lean, or session: aiohttp's client, slower.")
    processes: Annotated[int, Ge(1), Lt(1_000)] = option(1, "--processes", "Advanced", "Only 1 in this version.")

    @property
    def errors_path(self) -> str:
        """Return the path of the error records: errors.jsonl beside save.jsonl, x.errors.jsonl beside x.jsonl.

        Each save file has its own: a line that failed with one model is not finished for the next model. Only `.jsonl`
        is removed from a name, so that `part.aa` and `part.ab` do not share a file. For a pipe or device,
        `run_preflight_checks` has set `errors`.
        """
        if self.errors:
            return self.errors
        folder, name = split(self.save)
        is_usual = name in ("save.jsonl", "-")
        return join(folder, "errors.jsonl" if is_usual else f"{name.removesuffix('.jsonl')}.errors.jsonl")

    @property
    def all_inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs, those of lines that may wait among them."""
        return (*self.input, *self.deferred)

    @property
    def judges_answers(self) -> bool:
        """Return whether answers are checked, or bad ones end the run."""
        checks = (self.expect, self.schema, self.expect_regex, self.expect_command)
        return any(setting is not None for setting in (*checks, self.escalate, self.stop_if_bad))

    @property
    def sends_batches(self) -> bool:
        """Return whether lines may go through a batch API."""
        return "batch" in (self.defer, *(endpoint.defer for endpoint in self.endpoints))

    @property
    def chooses_ways(self) -> bool:
        """Return whether lines that can wait go the cheapest way that makes their deadline."""
        is_named = self.defer is not None or any(endpoint.defer is not None for endpoint in self.endpoints)
        has_price = any(place.price_in is not None or place.price_out is not None for place in (self, *self.endpoints))
        return not is_named and has_price and (self.by is not None or self.deadline is not None)

    @property
    def only_model(self) -> str | None:
        """Return the model of all endpoints, if they have one."""
        models = {endpoint.model or self.model for endpoint in self.endpoints} or {self.model}
        return models.pop() if len(models) == 1 else None

    @property
    def prompt_option(self) -> str:
        """Return the option that the template came from, for messages."""
        return "--prompt" if self.prompt_file is None else f"--prompt-file {self.prompt_file}"

    @property
    def system_option(self) -> str:
        """Return the option that the system message came from, for messages."""
        return "--system" if self.system_file is None else f"--system-file {self.system_file}"

    def together(self, name: Literal["rps", "rpm", "rpd", "tpm", "itpm", "otpm"]) -> float | None:
        """Return the rate of all endpoints: the run's, or the sum of theirs where all have one and it is lower."""
        own: float | None = getattr(self, name)
        each: list[float | None] = [getattr(endpoint, name) for endpoint in self.endpoints]
        known = [rate for rate in each if rate is not None]
        theirs = sum(known) if known and len(known) == len(each) else None
        return min((rate for rate in (own, theirs) if rate is not None), default=None)

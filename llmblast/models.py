"""Models: what passes between the stations: Line, Request, Attempt, Reply, Outcome.

Slotted dataclasses, not dicts. A dict exists only where bytes become JSON and back. Those that every request needs
write out their `__init__`: one that `dataclass` makes stays interpreted where this module is compiled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

Tokens = tuple[float, float, float]
"""Tokens of one request: in all, in the prompt, in the answer."""
NO_TOKENS: Tokens = (0.0, 0.0, 0.0)
MAX_MESSAGE_CHARS = 2000
"""So much of an error's message is looked at and kept."""


@dataclass(slots=True, eq=False, init=False)
class Line:
    """One line of the input that asks for one record.

    `key` is the BLAKE2b-64 of `text` in 16 hex digits, `text` the line stripped of white space and BOM.
    `id` is the line's `custom_id` or `id`, else its number. `input` is what the record echoes (anything that orjson
    can dump), `extra` are the user's own fields, carried into the record and never sent.
    """

    number: Final[int]
    key: Final[str]
    text: Final[bytes]
    id: Final[str | int]
    input: Final[object | None]
    extra: Final[Mapping[str, object] | None]
    file: str | None
    """Its input, where there are several; the parser of batches sets it."""

    def __init__(
        self,
        number: int,
        key: str,
        text: bytes,
        id: str | int,
        input: object | None = None,
        extra: Mapping[str, object] | None = None,
        file: str | None = None,
    ) -> None:
        self.number = number
        self.key = key
        self.text = text
        self.id = id
        self.input = input
        self.extra = extra
        self.file = file


@dataclass(frozen=True, slots=True)
class Rendering:
    """A request as one kind of provider takes it; see `Request` for the fields."""

    path: str
    body: bytes
    needs_model: bool
    model: str | None = None


@dataclass(slots=True, eq=False)
class Part:
    """Media of a prompt: an image, audio, a video or a document, as base64 `data` or as an http or https `url`."""

    kind: str
    """One of image, audio, video, document."""
    media_type: str
    """Such as `image/png`; that of a URL is what its name suggests, empty for nothing."""
    data: str
    url: str
    name: str
    """The file name, empty for a data URL."""


@dataclass(slots=True, eq=False, init=False)
class Prompt:
    """A simple line in a form that is neutral to APIs."""

    text: str
    system: str | None
    parts: Sequence[Part]
    params: Mapping[str, object]
    model: str | None
    """The model that the line names, if it does. Most providers leave it to the sender, as they do the endpoint's."""
    schema: Mapping[str, object] | None
    """JSON Schema that the answer has to fit, for APIs that take one."""
    caches_system: bool
    """Mark the end of the system message for the provider's cache, where the API wants that."""
    renderings: dict[str, Rendering] | None
    """By kind of provider; those that were needed so far, but for the one in the request itself."""

    def __init__(
        self,
        text: str,
        system: str | None,
        parts: Sequence[Part],
        params: Mapping[str, object],
        model: str | None = None,
        schema: Mapping[str, object] | None = None,
        caches_system: bool = False,
    ) -> None:
        self.text = text
        self.system = system
        self.parts = parts
        self.params = params
        self.model = model
        self.schema = schema
        self.caches_system = caches_system
        self.renderings = None


@dataclass(frozen=True, slots=True)
class RawBody:
    """A body that is sent as it is, to endpoints that speak its `dialect`, such as `openai.chat`."""

    dialect: str


@dataclass(frozen=True, slots=True)
class Terms:
    """Class, priority, deadline and tenant of a line. Deferred lines go in what the others leave of the limits."""

    is_deferred: bool = False
    priority: int = 0
    """Higher ones go first within the class."""
    deadline_s: float = inf
    """The time by which the answer is due, in seconds of wall clock; infinity for none."""
    tenant: str = ""
    """Whose line it is: tenants share the limits by their weights."""


IMMEDIATE: Final = Terms()
"""Terms of a line that says nothing of them."""


@dataclass(slots=True, eq=False, init=False)
class Request(Line):
    """A line that can be sent: only what it asks for. `Attempt` has what happens to it while it is sent.

    `body` is a JSON object. Where `needs_model` is set it has no `model`, and the endpoint's is put in front when the
    request is sent, since lines go to endpoints that may call the same model by different names.
    `path` is relative to the endpoint's base URL, such as `chat/completions`. `output_format` names the record format.
    Both are for endpoints whose provider is `kind`; those of another one get what it renders.
    """

    path: Final[str]
    body: Final[bytes]
    kind: Final[str]
    content: Final[Prompt | RawBody | None]
    """What other kinds of providers render, where endpoints have several kinds."""
    closed_to: Final[int]
    """Bit set of the indices of endpoints whose API cannot express it."""
    needs_model: Final[bool]
    model: Final[str | None]
    """The model that the line itself names, if it does; where `needs_model` is set, beside the body."""
    max_tokens: Final[int | None]
    image_bytes: Final[int]
    """Bytes of its body that are media as base64, and"""
    image_tokens: Final[float]
    """what these cost, as far as that is known."""
    terms: Terms
    """The parser of requests sets them."""
    output_format: Final[str]
    headers: Final[Mapping[str, str] | None]
    """Headers that the line itself sets, beside those of the endpoint."""
    repeat: Final[int]
    """Which of several answers to its line it asks for, from 1; 0 where the line needs one."""
    cache_keys: tuple[bytes, ...]
    """Keys of this request in the cache of answers, by the endpoints that may take it; empty without a cache."""
    batch: Final[str]
    """The provider's batch that its line was in, also where the answer does not come from there; empty without one."""

    def __init__(
        self,
        number: int,
        key: str,
        text: bytes,
        id: str | int,
        input: object | None = None,
        extra: Mapping[str, object] | None = None,
        path: str = "chat/completions",
        body: bytes = b"",
        kind: str = "openai",
        content: Prompt | RawBody | None = None,
        closed_to: int = 0,
        needs_model: bool = False,
        model: str | None = None,
        max_tokens: int | None = None,
        image_bytes: int = 0,
        image_tokens: float = 0.0,
        terms: Terms = IMMEDIATE,
        output_format: str = "llmblast",
        file: str | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: int = 0,
        cache_keys: tuple[bytes, ...] = (),
        batch: str = "",
    ) -> None:
        # Not by Line.__init__, which would take 0.3 us more.
        self.number = number  # type: ignore[misc]
        self.key = key  # type: ignore[misc]
        self.text = text  # type: ignore[misc]
        self.id = id  # type: ignore[misc]
        self.input = input  # type: ignore[misc]
        self.extra = extra  # type: ignore[misc]
        self.file = file
        self.path = path
        self.body = body
        self.kind = kind
        self.content = content
        self.closed_to = closed_to
        self.needs_model = needs_model
        self.model = model
        self.max_tokens = max_tokens
        self.image_bytes = image_bytes
        self.image_tokens = image_tokens
        self.terms = terms
        self.output_format = output_format
        self.headers = headers
        self.repeat = repeat
        self.cache_keys = cache_keys
        self.batch = batch


@dataclass(frozen=True, slots=True, eq=False)
class InvalidAnswers:
    """The history of a line whose answers did not fit: its request, and what these answers have taken."""

    original: Request
    """The request of the line, without an earlier answer in it."""
    repairs: int = 0
    """Number of times that the line was asked again, with the reason."""
    is_escalated: bool = False
    in_reserve: bool = False
    """The line goes to the endpoint of `--escalate`."""
    attempts: int = 0
    """Sends up to the last of these answers that count against `max_attempts`."""
    maybe_billed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Tokens of these answers."""


@dataclass(slots=True, eq=False, init=False)
class Attempt:
    """A request on its way through the run: one for each line, and one more for the hedge of a slow request."""

    request: Request
    attempts: int
    """Sends that count against `max_attempts`."""
    unusable_replies: int
    """2xx replies without a usable answer."""
    ambiguous_sends: int
    """Sends that broke off after the request went out, or were cancelled then: each may have been billed."""
    resent: bool
    """Sent again after a kept connection turned out closed; the next send uses a fresh connection."""
    failed_on: int
    """Bit set of the indices of endpoints that have failed this request."""
    refused_by: int
    """Bit set of the indices of endpoints that have refused it for good."""
    rejections: int
    """Rate-limit replies to it while other requests were accepted."""
    rejected_sent_s: float
    """When it was sent for the last rejection that counted, or for the first one; infinity before that."""
    in_flight: int
    """Requests in flight at its endpoint when it was sent, itself included."""
    key_renewed: bool
    """It was sent again with a new key after a 401."""
    tokens_paid: Tokens
    """Tokens that the last admission charged."""
    sent_s: float
    """Monotonic time of the last admission."""
    schedule_delay_s: float
    """By how much its endpoint's schedule had been moved at that time."""
    hedged: bool
    """It was sent to two endpoints at once, or is the copy that went to the second one."""
    size_bytes: int
    """Memory that it keeps, roughly; known once it is queued."""
    invalid: InvalidAnswers | None
    """Earlier answers to the line that did not fit."""
    prefix: "Prefix | None"
    """The long start of its prompt, where other lines may share that."""
    flex_at: int
    """Bit set of the endpoints whose flex tier it asks for: cheaper, slower, and not always there."""
    flex_refusals: int
    """How often that had no capacity for it."""

    def __init__(
        self,
        request: Request,
        *,
        unusable_replies: int = 0,
        resent: bool = False,
        failed_on: int = 0,
        sent_s: float = 0.0,
    ) -> None:
        self.request = request
        self.attempts = 0
        self.unusable_replies = unusable_replies
        self.ambiguous_sends = 0
        self.resent = resent
        self.failed_on = failed_on
        self.refused_by = 0
        self.rejections = 0
        self.rejected_sent_s = inf
        self.in_flight = 0
        self.key_renewed = False
        self.tokens_paid = NO_TOKENS
        self.sent_s = sent_s
        self.schedule_delay_s = 0.0
        self.hedged = False
        self.size_bytes = 0
        self.invalid = None
        self.prefix = None
        self.flex_at = 0
        self.flex_refusals = 0

    def hedge(self) -> "Attempt":
        """Return a second attempt with the same past, which goes to another endpoint."""
        hedge = Attempt(self.request, failed_on=self.failed_on, sent_s=self.sent_s)
        hedge.attempts = self.attempts
        hedge.unusable_replies = self.unusable_replies
        hedge.ambiguous_sends = self.ambiguous_sends
        hedge.refused_by = self.refused_by
        hedge.rejections = self.rejections
        hedge.rejected_sent_s = self.rejected_sent_s
        hedge.in_flight = self.in_flight
        hedge.key_renewed = self.key_renewed
        hedge.tokens_paid = self.tokens_paid
        hedge.schedule_delay_s = self.schedule_delay_s
        hedge.hedged = self.hedged
        hedge.size_bytes = self.size_bytes
        hedge.invalid = self.invalid
        hedge.prefix = self.prefix
        hedge.flex_at = self.flex_at
        return hedge

    @property
    def all_attempts(self) -> int:
        """Return the sends of its line that count, with those for answers that did not fit."""
        return self.attempts if self.invalid is None else self.attempts + self.invalid.attempts

    @property
    def all_ambiguous_sends(self) -> int:
        """Return the ambiguous sends of its line, also those before an answer that did not fit."""
        return self.ambiguous_sends if self.invalid is None else self.ambiguous_sends + self.invalid.maybe_billed


@dataclass(slots=True, eq=False, init=False)
class Prefix:
    """The long start of a prompt, which other lines may share; `scheduling.warm_prefixes` keeps its state."""

    leader: Attempt | None
    """The line that goes ahead, until its reply is there."""
    parent: "Prefix | None"
    """The longest start that the leader shared with earlier lines."""
    is_shared: bool
    """Another line has the same start."""
    key: int
    """A checksum of what they share."""
    shared_bytes: int
    """How long that is, where it was found in the prompts."""
    is_indexed: bool
    """Its blocks can be found by their hashes."""
    is_ahead: bool
    """The leader goes before all others of its class."""
    followers: list[Attempt] | None
    """Lines that wait for the reply to the leader."""
    due_s: float
    """When they go at the latest, monotonic."""
    failures: int
    """Leaders in a row without an answer."""
    warm_until_s: float
    """Until when the providers remember it, probably; minus infinity before the first answer."""
    home: int
    """Index of the endpoint that its lines go to; -1 as long as there is none."""
    sent_to: int
    """Bit set of the endpoints that it was sent to."""
    asked_s: float
    """When it was sent to another one of them last."""
    warm_at: int
    """Bit set of the endpoints that have answered a line with it."""

    def __init__(self, leader: Attempt) -> None:
        self.leader = leader
        self.parent = None
        self.is_shared = False
        self.key = 0
        self.shared_bytes = 0
        self.is_indexed = False
        self.is_ahead = False
        self.followers = None
        self.due_s = inf
        self.failures = 0
        self.warm_until_s = -inf
        self.home = -1
        self.sent_to = 0
        self.asked_s = -inf
        self.warm_at = 0


class Cause(Enum):
    """Why a send ended without an HTTP reply."""

    NOT_SENT = "not sent"
    """DNS, refused, TLS, connect timeout: the request never left."""
    STALE = "stale connection"
    """A kept connection was closed before one byte came back."""
    BROKEN = "connection broken"
    """The connection broke after the request went out."""
    TIMED_OUT = "timed out"
    """No complete reply within the timeout."""
    TOO_LARGE = "reply too large"
    """The reply exceeds the size cap and was cut off."""


@dataclass(slots=True, eq=False, init=False)
class Reply:
    """Result of one send. `status` is 0 and `cause` is set if no HTTP reply arrived.

    `headers` have their names as they came; of a repeated one the first counts. `header` finds one by its lower-case
    name. Most replies need none: `head` may be the bytes that `read_head` makes headers of when they are first asked
    for.
    """

    status: int
    head: Mapping[bytes, bytes] | bytes
    body: bytes
    cause: Cause | None
    detail: str
    """For a person: what went wrong, without secrets."""
    latency_s: float
    hide: Callable[[bytes], bytes] | None
    """Takes secrets out of a body that was decoded, or joined of pieces, after the search of the bytes received."""
    read_head: Callable[[bytes], Mapping[bytes, bytes]] | None
    via: str
    """How it came, for the record: `batch` through the provider's batch API, `flex` in its flex tier; empty for others.
    """

    def __init__(
        self,
        status: int = 0,
        head: Mapping[bytes, bytes] | bytes = b"",
        body: bytes = b"",
        cause: Cause | None = None,
        detail: str = "",
        latency_s: float = 0.0,
        hide: Callable[[bytes], bytes] | None = None,
        read_head: Callable[[bytes], Mapping[bytes, bytes]] | None = None,
    ) -> None:
        self.status = status
        self.head = head
        self.body = body
        self.cause = cause
        self.detail = detail
        self.latency_s = latency_s
        self.hide = hide
        self.read_head = read_head
        self.via = ""

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Return the headers, which are read from the head at the first call."""
        head = self.head
        if isinstance(head, bytes):
            head = {} if self.read_head is None else self.read_head(head)
            self.head = head
        return head

    @headers.setter
    def headers(self, headers: Mapping[bytes, bytes]) -> None:
        self.head = headers

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the first header with this name; None where there is none."""
        for its_name, value in self.headers.items():
            if len(its_name) == len(name) and its_name.lower() == name:
                return value
        return None


@dataclass(slots=True)
class ReplyError:
    """Content of an error reply; empty where it says nothing.

    `names` are all codes, types, statuses and reasons in it, in lower case, letters and digits only, so that
    `rate_limit_exceeded` and `rateLimitExceeded` are the same. `objects` are the JSON objects in it, outermost first.
    """

    message: str
    code: str
    names: tuple[str, ...] = ()
    status: int | None = None
    """The HTTP status that the error names, as gateways do that answer with 200."""
    objects: tuple[Mapping[str, object], ...] = ()
    has_usage: bool = False
    """The reply tells that tokens were used."""


@dataclass(frozen=True, slots=True)
class RateLimitInfo:
    """One rate limit as the headers of a reply report it; None for what they do not report.

    `kind` is one of requests, tokens, input_tokens, output_tokens. `reset_s` is the time until the quota is full again
    or until its window ends: providers differ in that.
    """

    kind: str
    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None
    resolution_s: float = 0.001
    """Unit to which the reset is rounded: some providers send whole seconds."""


@dataclass(slots=True, eq=False, init=False)
class Answer:
    """The useful part of a 2xx reply. Token counts are None where the provider gave none."""

    text: object | None
    """Text of the first choice; a list of vectors for embeddings."""
    finish_reason: str | None
    usage: Mapping[str, object] | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int
    """Those of the prompt that the provider had in its cache; 0 where it says nothing of them."""
    write_surcharge: float
    """What adding tokens to that cache costs beyond the price of the prompt, in prompt tokens."""
    model: str | None
    says_more: bool
    """The reply holds more than `text` does: tool calls, refusal, reasoning, several choices, logprobs."""

    def __init__(
        self,
        text: object | None = None,
        finish_reason: str | None = None,
        usage: Mapping[str, object] | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        model: str | None = None,
        says_more: bool = False,
    ) -> None:
        self.text = text
        self.finish_reason = finish_reason
        self.usage = usage
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cached_tokens = 0
        self.write_surcharge = 0.0
        self.model = model
        self.says_more = says_more


@dataclass(slots=True, eq=False, init=False)
class Success:
    """A request with its answer: one record in save.jsonl. `maybe_billed` counts other sends that may cost money.

    `cached` says that nothing was sent: the answer to an equal request counts for this one, too. `endpoint` is empty.
    """

    request: Request
    answer: Answer
    reply: Reply
    endpoint: str
    attempts: int
    maybe_billed: int
    parsed: bytes | None
    """The JSON value in the answer, where it had to be one."""
    invalid: InvalidAnswers | None
    """Earlier answers that did not fit."""
    cached: bool

    def __init__(
        self,
        request: Request,
        answer: Answer,
        reply: Reply,
        endpoint: str,
        attempts: int = 1,
        maybe_billed: int = 0,
        parsed: bytes | None = None,
        invalid: InvalidAnswers | None = None,
        cached: bool = False,
    ) -> None:
        self.request = request
        self.answer = answer
        self.reply = reply
        self.endpoint = endpoint
        self.attempts = attempts
        self.maybe_billed = maybe_billed
        self.parsed = parsed
        self.invalid = invalid
        self.cached = cached


@dataclass(slots=True, eq=False)
class Failure:
    """A line without an answer: one record in errors.jsonl.

    `transient` says that another run may well succeed; `--retry-errors transient` sends exactly those again.
    """

    line: Line
    error: str
    code: str
    status: int = 0
    transient: bool = False
    endpoint: str | None = None
    attempts: int = 0
    maybe_billed: int = 0
    body: bytes = b""
    """The raw reply where it may have been paid for."""
    reply: Reply | None = None
    """The last reply to the line, if any."""
    invalid: InvalidAnswers | None = None


Outcome = Success | Failure

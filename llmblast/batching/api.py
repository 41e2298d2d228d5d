"""The contract of a provider's batch API, and the values that pass through it.

The steps of a batch: render its lines into a file (`render_line`), `upload` the file, `start` the batch, ask for its
`status` until it has ended, read its `results`. Write each step down before it is taken: `start` is the only one that
must not be repeated. Where its outcome is unknown it raises MaybeStarted, and `listing.look_for` finds the batch by its
mark.

    BatchApiError            its text is for a person: what is wrong at which API, without secrets
    |-- NotHere              no batch API for this endpoint, path or model: send directly
    |   `-- NotAllowed       the key has no right to it, or is invalid
    |-- NotNow               refused for now, by a limit of requests or of enqueued tokens: try again later
    |-- Rejected             refused for good: nothing was started, another try would be refused, too
    |-- MaybeStarted         the outcome of the start is unknown: look for the mark, do not start again
    |-- Unreachable          no usable answer in several tries; nothing was started
    |-- BrokenOff            results that end too early, at the same place in several tries
    `-- BatchGone            the provider does not know this batch (any more), or its results are deleted
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, Protocol

from llmblast.models import Reply

if TYPE_CHECKING:
    from aiohttp import BaseConnector

MIN_POLL_S = 1.0
MAX_POLL_S = 60.0
_POLLS_PER_AGE = 10
"""A batch is noticed as ended after at most a tenth of the time that it took."""


@dataclass(frozen=True, slots=True)
class Access:
    """The address, headers and proxy of one endpoint's API. All are plain values."""

    name: str
    """Name of the endpoint, for messages."""
    base_url: str
    """The provider's base URL, as requests use it: `https://api.openai.com/v1`. A query in it stays."""
    headers: Callable[[], Mapping[str, str]] = field(repr=False)
    """Return the headers of a request, with the present key in them."""
    renew_key: Callable[[], Awaitable[bool]] | None = field(default=None, repr=False)
    """Ask for the key again and return whether there is one, be it the same; None where it stays the same."""
    proxy_url: str | None = None
    """An HTTP proxy, without user and password."""
    proxy_headers: Mapping[str, str] | None = field(default=None, repr=False)
    tls: SSLContext | None = None
    new_connector: "Callable[[], BaseConnector] | None" = field(default=None, repr=False)
    """Makes aiohttp's connector, with the certificates in it, where the usual one does not do: SOCKS, unix sockets."""
    hide: Callable[[bytes], bytes] = field(default=bytes, repr=False)
    """Takes secrets out of what the API sends: each line of results, and each error."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The limits of one batch: lines, bytes and the length of ids."""

    max_lines: int
    max_bytes: int
    """Maximum size of the file that is uploaded, or of the body that starts the batch."""
    max_id_chars: int = 64
    """Custom ids have letters, digits, `-` and `_` only: all APIs take these."""


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A file of rendered lines that make one batch. `path` and `model` are those that `group_of` was asked about."""

    file: Path
    mark: str
    """Unique to this batch: letters, digits, `-` and `_`. Each custom id in the file is `<mark>-<index>`."""
    lines: int
    path: str
    """API path of its requests, such as `chat/completions`."""
    model: str | None = None
    upload_id: str | None = None
    """The id that `upload` returned."""


class BatchState(Enum):
    """The state of a batch at its provider."""

    WAITING = "waiting"
    """Accepted, being checked or queued."""
    RUNNING = "running"
    """Also while it is being cancelled."""
    ENDED = "ended"
    """Its results can be read, as far as there are any."""


class BatchEnd(Enum):
    """The end of a batch. Each but FAILED may have results of all, some or none of its lines."""

    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"
    """The whole file was rejected, or the provider gave up. See `line_errors`, `message` and `is_not_now`."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Lines of a batch; None for what the API does not report (yet)."""

    total: int | None = None
    succeeded: int | None = None
    failed: int | None = None


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a line of a file was rejected. `line` counts from 1; None where the reason is that of the whole file."""

    line: int | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One batch as its API describes it."""

    id: str
    state: BatchState
    end: BatchEnd | None = None
    """Set once the state is ENDED."""
    mark: str = ""
    """Empty where the API does not tell."""
    created_at_s: float | None = None
    """Unix time, as `expires_at_s`."""
    expires_at_s: float | None = None
    counts: BatchCounts = BatchCounts()
    message: str = ""
    """The API's message about the batch, for a person."""
    line_errors: tuple[LineError, ...] = ()
    is_not_now: bool = False
    """It failed by a limit of enqueued tokens: the same file may be started later."""
    upload_id: str | None = None
    result_files: tuple[str, ...] = ()
    """The places of its results, as the API names them."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A line that the batch ended without: it was not billed and may be sent again."""

    reason: str


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Result of one line. A Reply has status and body as the direct API would have sent them."""

    custom_id: str
    reply: Reply | Unfinished


@dataclass(frozen=True, slots=True)
class Found:
    """The batch that carries the mark."""

    status: BatchStatus


@dataclass(frozen=True, slots=True)
class NotFound:
    """The listing has no batch with the mark. A listing may lag: see `listing.look_for`."""


@dataclass(frozen=True, slots=True)
class Maybe:
    """One of these batches may be the one, and only their ends will tell: wait for them, do not start again."""

    batch_ids: tuple[str, ...]


Finding = Found | NotFound | Maybe


class BatchApiError(Exception):
    """Base of what a batch API refuses or fails at. The text is one sentence for a person."""


class NotHere(BatchApiError):  # noqa: N818 -- says what the caller does about it, as the others
    """The endpoint, the path or the model has no batch API."""


class NotAllowed(NotHere):
    """The key has no right to the batch API, or is invalid."""


class NotNow(BatchApiError):  # noqa: N818
    """The API refuses for now. `retry_after_s` is the wait that it names, None for none."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Rejected(BatchApiError):  # noqa: N818
    """The API refuses for good; nothing was started."""

    def __init__(self, message: str, line_errors: tuple[LineError, ...] = ()) -> None:
        super().__init__(message)
        self.line_errors = line_errors


class MaybeStarted(BatchApiError):  # noqa: N818
    """The batch may have been started: look for its mark in the listing."""


class Unreachable(BatchApiError):  # noqa: N818
    """The API could not be reached, or gave no usable answer, in several tries."""


class BrokenOff(BatchApiError):  # noqa: N818
    """The download of results ended too early in several tries, at the same place."""


class BatchGone(BatchApiError):  # noqa: N818
    """The provider does not know the batch or its results any more."""


class BatchApi(Protocol):
    """A client of one provider's batch API. All methods but `group_of` and `render_line` may raise NotHere, NotNow,
    Rejected and Unreachable.
    """

    limits: BatchLimits
    price_factor: float
    """Price of a token in a batch, as a share of the usual price."""
    max_wait_s: float
    """Longest time that a batch takes: it expires then, or the provider promises no more."""

    def group_of(self, path: str, model: str | None) -> str | None:
        """Return a name that lines of one batch have in common; None where the API takes no such lines."""

    def render_line(self, custom_id: str, path: str, body: bytes, model: str | None) -> bytes:
        """Return one line of a batch file, with its line feed. `body` is JSON as it would be sent directly."""

    async def upload(self, batch: BatchFile) -> str | None:
        """Upload the file as a stream and return its id; None where requests go with the start. May be repeated."""

    async def start(self, batch: BatchFile) -> BatchStatus:
        """Start a batch; `batch.upload_id` is what `upload` returned. Sends one request. Raises MaybeStarted."""

    async def find(self, batch: BatchFile, since_wall_s: float, known_ids: Collection[str] = ()) -> Finding:
        """Search the listing for the batch whose first `start` was tried at `since_wall_s`.

        `known_ids` are batches that are not meant: others, and those of the same mark that failed before.
        """

    async def status(self, batch_id: str) -> BatchStatus:
        """Return the present state of a batch. Raises BatchGone."""

    def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        """Yield the results of an ended batch as they arrive, in any order, each once; some lines may have none.

        Raises BatchGone.
        """

    async def cancel(self, batch_id: str) -> None:
        """Ask for the end of a batch, which takes some time; one that has ended stays as it is. Raises BatchGone."""

    def list(self, since_wall_s: float) -> AsyncGenerator[BatchStatus, None]:
        """Yield the batches that were created since then, mostly the newest first, also those of others."""

    async def delete_upload(self, upload_id: str) -> None:
        """Delete an uploaded file, if it is still there. Best effort: never raises a BatchApiError."""

    async def close(self) -> None:
        """Close the connections."""


def poll_interval_s(age_s: float) -> float:
    """Return the seconds until the next question for a batch that was started `age_s` ago: from 1 s to a minute."""
    return min(max(age_s / _POLLS_PER_AGE, MIN_POLL_S), MAX_POLL_S)

"""Results of the Python API: one Result for each prompt, and a RunSummary at the end of a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmblast.errors import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One prompt with its answer, or with the error that it ended with.

    `index` is the position of the prompt in its input, from 0. `input`, `response`, `fields` and the rest are what the
    record in save.jsonl or errors.jsonl would hold.
    """

    index: int
    id: str | int
    """The prompt's `custom_id` or `id`; the number of its line where it has none."""
    key: str
    """The key of the line that the prompt becomes."""
    file: str | None = None
    """The input of the prompt, if there are several."""
    input: Any = None
    """None with `echo=False`."""
    response: Any = None
    """Text of the answer; a list of vectors for embeddings. None where there is no answer."""
    parsed: Any = None
    """The JSON value in the answer, with `expect="json"` or a schema."""
    usage: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    model: str | None = None
    error: str | None = None
    """What went wrong, for a person; None where there is an answer."""
    code: str | None = None
    """The kind of error, such as `bad_line` or `context_length_exceeded`."""
    status: int = 0
    """HTTP status of the last reply; 0 where there was none."""
    transient: bool = False
    """Sending the prompt again later may well succeed."""
    cached: bool = False
    """Nothing was sent for this prompt: it has the answer to an equal request."""
    via: str | None = None
    """How the reply came: `batch` through the provider's batch API; None for a direct one."""
    batch: str | None = None
    """The provider's batch that the prompt was in, if it was in one."""
    repeat: int = 0
    """Which of several answers to the prompt this is, from 1; 0 without `repeat`."""
    attempts: int = 0
    maybe_billed: int = 0
    """Sends without a usable answer that the provider may charge for."""
    repairs: int = 0
    """How often the prompt was asked again after an answer that did not fit."""
    invalid_tokens: int = 0
    """Tokens of the answers that did not fit; `usage` has none of them."""
    latency_s: float = 0.0
    endpoint: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The prompt's own fields, which were not sent."""
    body: bytes = b""
    """The raw reply, under the rule of the setting `body`."""
    stage: str | None = None
    """The stage that it came from, in a pipeline: the last one, or the one that the prompt failed in."""

    @property
    def ok(self) -> bool:
        """Return whether there is an answer."""
        return self.error is None

    def json(self) -> Any:
        """Return the raw reply as Python values; None where it was not kept. Raises ValueError where it is not JSON."""
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSummary:
    """Figures of one endpoint in a run."""

    name: str
    sent: int
    answered: int
    errors: int
    rate_limited: int
    tokens: int
    state: str
    """Empty when all is well, else such as `off: HTTP 401`."""
    latency_p50_s: float | None
    latency_p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run ended, and what it did. `exit_code` is the one that the command line would end with."""

    exit_code: ExitCode
    verdict: str
    duration_s: float
    read: int
    skipped: int
    """Finished by an earlier run."""
    answered: int
    failed: int
    malformed: int
    """Prompts that no request can be made of; they are among `failed`."""
    late: int = 0
    """Answered after their deadline; they are among `answered`."""
    batched: int = 0
    """Answered through a batch API; they are among `answered`."""
    pending: int
    """Read, but neither answered nor failed."""
    sent: int
    retries: int
    rate_limited: int
    maybe_billed: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that the provider had in its cache."""
    cost: float | None = None
    """By the prices in the settings; None without any."""
    saved: float | None = None
    """Amount that batches, the flex tier and the provider's cache have saved, at these prices."""
    invalid: int = 0
    """Answers that did not fit."""
    repairs: int = 0
    escalated: int = 0
    invalid_tokens: int = 0
    """Tokens of these answers; they are not among the others."""
    endpoints: Sequence[EndpointSummary] = ()
    results: Sequence[Result] = ()
    """In the order of the prompts; empty where they went to a file."""

    @property
    def ok(self) -> bool:
        """Return whether every prompt has its answer."""
        return self.exit_code is ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSummary:
    """How a run with stages ended: as a whole, and each stage by its name."""

    exit_code: ExitCode
    stages: Mapping[str, RunSummary]

    @property
    def ok(self) -> bool:
        """Return whether every prompt has its answers."""
        return self.exit_code is ExitCode.OK

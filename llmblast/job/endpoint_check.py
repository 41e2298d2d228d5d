"""Endpoint check: send one tiny request to each endpoint, and tell whether it is reachable, authorised and well set.

Nothing is sent twice: not after a 429, and not with another key.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import Enum

import orjson

from llmblast.errors import ExitCode, UsageError
from llmblast.hiding import hide_user, secrets_in_query
from llmblast.job.pipeline import start_mocks
from llmblast.job.redacting_channel import RedactingChannel, secrets_of
from llmblast.job.start import NO_ENDPOINT
from llmblast.models import Answer, Attempt, Cause, Prompt, Provider, RateLimitInfo, Reply, Request, UnsupportedError
from llmblast.providers import provider_of, provider_of_key
from llmblast.sending import TRANSPORTS, Action, Blame, EndpointKey, Verdict, judge, make_target
from llmblast.settings import EndpointSettings, Settings
from llmblast.watching import sanitize_text

PROMPT = "Say ok."
MAX_TOKENS = 16
"""The Responses API takes no less."""
MAX_WAIT_S = 60.0
_MAX_TOKENS_NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_MAX_SHOWN = 300


class State(Enum):
    """Result of the check of one endpoint."""

    OK = "ok"
    BUSY = "rate limited"
    REFUSED = "refused the request"
    NO_MODEL = "model or path unknown"
    UNAUTHORISED = "not authorised"
    UNREACHABLE = "not reachable"
    FAILED = "server error"
    NO_ANSWER = "no usable answer"
    BAD_SETTINGS = "not usable as set"


_FIXES = {
    State.BUSY: "wait, or ask the provider for more quota",
    State.REFUSED: "change the model, or the parameters with --params",
    State.NO_MODEL: "correct model=NAME, and the path of the URL",
    State.UNAUTHORISED: "check the key, and what it may be used for; key_env=NAME names its variable",
    State.UNREACHABLE: "correct the URL, start the server, or check proxy and certificates",
    State.FAILED: "try again later, or look for the cause at the server",
    State.NO_ANSWER: "check that the URL and kind=NAME are those of an LLM API",
    State.BAD_SETTINGS: "correct the settings of the endpoint",
}


@dataclass(slots=True)
class Finding:
    """What is known about one endpoint; None where the reply does not show it."""

    name: str
    state: State
    kind: str = ""
    model: str | None = None
    reachable: bool | None = None
    authorised: bool | None = None
    model_known: bool | None = None
    status: int = 0
    latency_s: float | None = None
    limits: Sequence[RateLimitInfo] = field(default_factory=tuple)
    reason: str = ""
    """The reason in words, where the state is not OK."""

    @property
    def fix(self) -> str:
        """Return what to do."""
        return _FIXES.get(self.state, "")

    def as_json(self) -> dict[str, object]:
        """Return the members of a JSON object."""
        limits = [{"kind": info.kind, "limit": info.limit, "remaining": info.remaining} for info in self.limits]
        return {
            "endpoint": self.name,
            "state": self.state.value,
            "kind": self.kind,
            "model": self.model,
            "reachable": self.reachable,
            "authorised": self.authorised,
            "model_known": self.model_known,
            "status": self.status,
            "latency": None if self.latency_s is None else round(self.latency_s, 3),
            "limits": limits,
            "reason": self.reason,
            "fix": self.fix,
        }

    def as_lines(self, width: int) -> list[str]:
        """Return lines for a person."""
        latency = "" if self.latency_s is None else f", {self.latency_s:.2f} s"
        model = f", model {self.model}" if self.model else ""
        lines = [f"{self.name:<{width}}  {self.state.value}{latency}{model}"]
        told = [_limit_as_text(info) for info in self.limits if info.limit is not None]
        if told:
            lines.append(f"{'':<{width}}  reports limits: {', '.join(told)}")
        if self.reason:
            lines.append(f"{'':<{width}}  {self.reason}: {self.fix}")
        return [sanitize_text(line, _MAX_SHOWN * 2) for line in lines]


async def check_endpoints(settings: Settings) -> ExitCode:
    """Write one finding for each endpoint to standard output. OK if all can be used, REFUSED if none can, else
    SOME_FAILED. Raises UsageError.
    """
    if not settings.endpoints:
        raise UsageError(NO_ENDPOINT)
    async with AsyncExitStack() as stack:
        endpoints = await start_mocks(settings.endpoints, stack)
        pairs = zip(settings.endpoints, endpoints, strict=True)
        findings = await asyncio.gather(*[_check(own, endpoint, settings, os.environ) for own, endpoint in pairs])
    usable = [finding.state in (State.OK, State.BUSY) for finding in findings]
    exit_code = ExitCode.OK if all(usable) else ExitCode.SOME_FAILED if any(usable) else ExitCode.REFUSED
    if settings.json:
        told = {"exit_code": int(exit_code), "endpoints": [finding.as_json() for finding in findings]}
        sys.stdout.write(f"{orjson.dumps(told).decode()}\n")
    elif not (settings.quiet and exit_code is ExitCode.OK):
        width = max(len(finding.name) for finding in findings)
        lines = [line for finding in findings for line in finding.as_lines(width)]
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return exit_code


async def _check(
    own: EndpointSettings, endpoint: EndpointSettings, settings: Settings, environ: Mapping[str, str]
) -> Finding:
    """Return the finding for an endpoint; `own` are its settings, `endpoint` those with the URL of a mock."""
    try:
        provider = provider_of(own, settings.model)
        key = await asyncio.to_thread(EndpointKey, own, environ, time.monotonic, provider_of_key(own, settings.model))
        target = make_target(endpoint, settings.model, key.value, provider, environ, is_mock=own.is_mock)
        path, body = provider.render(_prompt(provider, settings))
    except (UsageError, UnsupportedError) as error:
        reason = str(error).removeprefix(f"endpoint {own.name}: ")
        return Finding(own.name, State.BAD_SETTINGS, own.kind or "", reason=reason)
    request = Request(1, "", b"", 1, path=path, body=body, kind=provider.kind, needs_model=True)
    others = (*(target.proxy.secrets if target.proxy else ()), *secrets_in_query(endpoint.url))
    secrets = secrets_of(key.value, endpoint.headers, others)
    timeout_s = min(settings.timeout, MAX_WAIT_S)
    channel = RedactingChannel(TRANSPORTS[settings.transport](target, timeout_s, settings.connect_timeout), secrets)
    attempt = Attempt(request, sent_s=time.monotonic())
    sending = asyncio.ensure_future(channel.send(attempt))
    try:
        while not (await asyncio.wait([sending], timeout=0.5))[0]:
            channel.sweep(time.monotonic())
        reply = sending.result()
    finally:
        await channel.close()
    finding = _read(own.name, provider, attempt, reply)
    finding.model = own.model or settings.model
    return finding


def _prompt(provider: Provider, settings: Settings) -> Prompt:
    """Return a prompt with a short answer, unless the API or the parameters of the run say otherwise."""
    params = dict(settings.params)
    if not any(name in params for name in _MAX_TOKENS_NAMES):
        params[_MAX_TOKENS_NAMES[0]] = MAX_TOKENS
    prompt = Prompt(PROMPT, None, (), params)
    return prompt if provider.unsupported_in(prompt) is None else Prompt(PROMPT, None, (), settings.params)


def _read(name: str, provider: Provider, attempt: Attempt, reply: Reply) -> Finding:
    verdict = judge(attempt, reply, time.time(), provider)
    finding = Finding(name, State.OK, provider.kind, status=reply.status)
    if reply.cause is not None:
        finding.state, finding.reason = State.UNREACHABLE, _cleaned(reply.detail)
        finding.reachable = reply.cause is not Cause.NOT_SENT
        return finding
    finding.reachable, finding.latency_s = True, reply.latency_s or time.monotonic() - attempt.sent_s
    finding.limits = provider.read_limits(reply.headers.items(), time.time())
    if isinstance(verdict, Answer):
        finding.authorised = finding.model_known = True
        return finding
    message = verdict.message
    finding.reason = _cleaned(message if message.startswith("HTTP ") else f"HTTP {reply.status}: {message}")
    finding.state = _state_of(reply.status, verdict)
    finding.authorised = None if finding.state is State.FAILED else finding.state is not State.UNAUTHORISED
    finding.model_known = {State.NO_MODEL: False, State.REFUSED: None}.get(finding.state)
    return finding


def _state_of(status: int, verdict: Verdict) -> State:
    if status in (401, 402, 403) or (verdict.blame is Blame.ENDPOINT and not verdict.is_not_found and status < 500):
        return State.UNAUTHORISED
    if verdict.is_not_found or status in (501, 505):
        return State.NO_MODEL
    if status in (429, 529, 503):
        return State.BUSY
    if status >= 400:
        return State.REFUSED if verdict.action is Action.REFUSED else State.FAILED
    return State.NO_ANSWER


def _limit_as_text(info: RateLimitInfo) -> str:
    left = "" if info.remaining is None else f" ({info.remaining:,.0f} left)"
    return f"{info.limit or 0:,.0f} {info.kind.replace('_', ' ')}{left}"


def _cleaned(text: str) -> str:
    return sanitize_text(hide_user(text), _MAX_SHOWN).rstrip(". ")

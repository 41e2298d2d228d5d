"""Endpoint findings: what one reply to a tiny request tells about its endpoint, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus

from llmblast.endpoint_settings import EndpointSettings
from llmblast.hiding import hide_user
from llmblast.job.closing_words import how_to_name_key
from llmblast.models import Cause, RateLimitInfo, Reply
from llmblast.sending import Action, Blame, Verdict
from llmblast.watching import sanitize_text

_MAX_SHOWN = 300


class State(Enum):
    """Result of the check of one endpoint."""

    OK = "ok"
    BUSY = "rate limited"
    REFUSED = "refused the request"
    NO_MODEL = "model or path unknown"
    MOVED = "redirected"
    UNAUTHORISED = "not authorised"
    NO_CREDIT = "no credit or quota"
    UNREACHABLE = "not reachable"
    NO_ANSWER = "no usable answer"
    SERVER_ERROR = "server error"
    BAD_SETTINGS = "invalid settings"


_FIXES = {
    State.BUSY: "wait, or ask the provider for more quota",
    State.REFUSED: "change the model, or the parameters with --params",
    State.NO_MODEL: "correct model=NAME, or the path of the URL",
    State.MOVED: "write the URL that it redirects to",
    State.UNAUTHORISED: "check the key, and what it may be used for; key_env=NAME names its variable",
    State.NO_CREDIT: "check credit, billing and quota of the account",
    State.UNREACHABLE: "correct the URL, start the server, or check proxy and certificates",
    State.NO_ANSWER: "check that the URL and kind=NAME are those of an LLM API",
    State.SERVER_ERROR: "try again later, or look into the log of the server",
    State.BAD_SETTINGS: "correct the settings of the endpoint",
}
_NO_MODEL_NAMED = "name a model with model=NAME or -m NAME"
_FIXES_WITHOUT_REPLY = {
    Cause.TIMED_OUT: "look into the log of the server; a proxy in between may hold the request, too",
    Cause.BROKEN: "check that an LLM API listens there; if it speaks TLS, write https://",
}
_BROKEN_WITH_TLS = "check that an LLM API listens there; if it asks for a client certificate, name it with client_cert"
_NOT_SERVED = (501, 505)
"""Statuses of servers that do not know the method or the path."""
_STATUSES = {
    401: State.UNAUTHORISED,
    402: State.NO_CREDIT,
    403: State.UNAUTHORISED,
    407: State.UNAUTHORISED,
    429: State.BUSY,
    529: State.BUSY,
}


@dataclass(slots=True)
class Finding:
    """Result of the check of one endpoint; None where the reply does not show it."""

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
    fix: str = ""
    """What to do, where the reason does not say it."""

    @property
    def is_usable(self) -> bool:
        """Return whether a run can use the endpoint."""
        return self.state in (State.OK, State.BUSY)

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
            "fix": self.fix or _FIXES.get(self.state, ""),
        }

    def as_lines(self, width: int) -> list[str]:
        """Return lines for a person."""
        latency = "" if self.latency_s is None else f", {self.latency_s:.2f} s"
        model = f", model {self.model}" if self.model else ""
        lines = [f"{self.state.value}{latency}{model}"]
        told = [_limit_as_text(info) for info in self.limits if info.limit is not None]
        if told:
            lines.append(f"reports limits: {', '.join(told)}")
        if self.reason:
            lines.append(f"{self.reason}: {self.fix}" if self.fix else self.reason)
        names = [sanitize_text(self.name, _MAX_SHOWN), *[""] * len(lines)]
        texts = [sanitize_text(line, _MAX_SHOWN * 2) for line in lines]
        return [f"{name:<{width}}  {text}" for name, text in zip(names, texts, strict=False)]


def unusable(endpoint: EndpointSettings, error: Exception) -> Finding:
    """Return the finding for settings that are invalid; the error tells what to do."""
    reason = str(error).removeprefix(f"endpoint {endpoint.name}: ")
    return Finding(endpoint.name, State.BAD_SETTINGS, endpoint.kind or "", reason=reason)


def on_no_reply(finding: Finding, reply: Reply, endpoint: EndpointSettings) -> None:
    """Fill in a finding for an endpoint that sent no whole reply."""
    finding.state, finding.reason = State.UNREACHABLE, _cleaned(reply.detail)
    finding.reachable = reply.cause is not Cause.NOT_SENT
    if ": " in finding.reason or reply.cause is None:  # with a colon, it tells what to do
        return
    finding.fix = _FIXES_WITHOUT_REPLY.get(reply.cause, _FIXES[State.UNREACHABLE])
    if reply.cause is Cause.BROKEN and endpoint.url.startswith("https:"):
        finding.fix = _BROKEN_WITH_TLS


def on_refusal(finding: Finding, reply: Reply, verdict: Verdict, endpoint: EndpointSettings, *, has_key: bool) -> None:
    """Fill in a finding for a reply that is no answer. `finding.model` is the model that was asked for."""
    message = verdict.message or f"HTTP {reply.status}"
    finding.reason = _cleaned(message if message.startswith("HTTP ") else f"HTTP {reply.status}: {message}")
    finding.state = state = _state_of(reply.status, verdict)
    finding.fix = _FIXES[state]
    if state is State.MOVED and (target := reply.header(b"location")):
        finding.reason = _cleaned(f"HTTP {reply.status}, redirects to {_without_query(target.decode('latin-1'))}")
    elif state is State.UNAUTHORISED and not has_key:
        finding.fix = f"no API key was sent: {how_to_name_key(endpoint)}"
    elif state in (State.NO_MODEL, State.REFUSED) and not finding.model:
        finding.fix = f"{_NO_MODEL_NAMED}, or correct the path of the URL"
    elif state is State.NO_ANSWER and endpoint.custom is not None:
        finding.fix = "correct the JSON pointers in endpoints.custom"
    is_told = state not in (State.UNAUTHORISED, State.MOVED, State.NO_ANSWER, State.SERVER_ERROR)
    finding.authorised = False if state is State.UNAUTHORISED else is_told or None
    finding.model_known = False if state is State.NO_MODEL and finding.model else None


def _state_of(status: int, verdict: Verdict) -> State:
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return State.MOVED
    if verdict.blame is Blame.ENDPOINT and status not in (401, 403, 407):
        return State.NO_CREDIT if status in (402, 429) else State.UNAUTHORISED
    if verdict.is_not_found or status in _NOT_SERVED:
        return State.NO_MODEL
    if verdict.action is Action.PUSH_BACK:
        return State.BUSY
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
        return State.SERVER_ERROR
    return _STATUSES.get(status, State.REFUSED if status >= HTTPStatus.BAD_REQUEST else State.NO_ANSWER)


def _without_query(url: str) -> str:
    return url.partition("?")[0]


def _limit_as_text(info: RateLimitInfo) -> str:
    left = "" if info.remaining is None else f" ({info.remaining:,.0f} left)"
    return f"{info.limit or 0:,.0f} {info.kind.replace('_', ' ')}{left}"


def _cleaned(text: str) -> str:
    return sanitize_text(hide_user(text), _MAX_SHOWN).rstrip(". ")

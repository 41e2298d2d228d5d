"""The mock provider's decisions: what the answer to a request will be, and what its headers say of the limits.

Everything about a reply is decided in one synchronous step after the body has come.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from secrets import token_hex

import orjson

from llmblast.mocking.answers import Answer, Answers
from llmblast.mocking.anthropic_messages import OPERATION, PATH, error_in_its_form
from llmblast.mocking.batch_routes import Found, Upload, answer_call, find_call
from llmblast.mocking.batch_store import BatchStore
from llmblast.mocking.cached_usage import tell_cached
from llmblast.mocking.capacity import slowdown
from llmblast.mocking.cloud_calls import REQUEST_ID_HEADERS, SILENT_ABOUT_LIMITS, CloudCall, cloud_call
from llmblast.mocking.cloud_errors import cloud_error
from llmblast.mocking.cloud_keys import has_key, is_allowed
from llmblast.mocking.error_replies import error_body
from llmblast.mocking.fault_file import read_rules
from llmblast.mocking.fault_statuses import STATUSES
from llmblast.mocking.faults import FAULTS, Faults
from llmblast.mocking.headers import retry_headers
from llmblast.mocking.incident import Incident
from llmblast.mocking.prompt_cache import CacheUse, PromptCache
from llmblast.mocking.prompt_parts import ASKED_FOR, PARTS
from llmblast.mocking.quick import Incoming
from llmblast.mocking.quota import Quota
from llmblast.mocking.replies import Decision, ScriptedReply
from llmblast.mocking.routes import OPERATIONS, needs_key, read_only_reply, refusal
from llmblast.mocking.settings import MockSettings
from llmblast.mocking.streaming import FIRST_SHARE, pace

Script = Callable[[int, bytes], ScriptedReply | None]
"""Takes a request's index in order of arrival, from 0, and its body; None leaves the answer to the provider."""


class MockProvider:
    """Decide about requests. `script` overrides answers. Raises UsageError for a file of faults that is not valid."""

    def __init__(
        self,
        settings: MockSettings,
        script: Script | None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        record_batch_event: Callable[[Mapping[str, object]], None],
    ) -> None:
        self._settings = settings
        self._script = script
        self._clock = clock
        self._wall_clock = wall_clock
        self._answers = Answers(settings, wall_clock)
        self.batches = BatchStore(settings, self._answer_in_batch, record_batch_event, wall_clock)
        self._faults = Faults(settings, read_rules(settings.faults) if settings.faults else ())
        self._quota = Quota(settings)
        self._cache = PromptCache(settings, clock) if settings.cache else None
        self._authorization = f"Bearer {settings.key}"
        self._request_prefix = f"req_{token_hex(6)}"

    @property
    def is_plain(self) -> bool:
        """No reply is scripted, and none has a fault."""
        return not self._faults.are_any and self._script is None

    def scripted(self, incoming: Incoming) -> Decision | None:
        reply = self._script(incoming.number - 1, incoming.body) if self._script else None
        return None if reply is None else Decision(reply, is_ours=False)

    def decide(self, incoming: Incoming) -> Decision:
        return self._in_form_of_api(incoming, self._decide_in_openai_form(incoming))

    def decide_upload(self, incoming: Incoming, found: Found, upload: Upload) -> Decision:
        """Decide about a request whose body is stored in a file."""
        return self._in_form_of_api(incoming, self._decide_batch_call(incoming, found, upload))

    def _in_form_of_api(self, incoming: Incoming, decision: Decision) -> Decision:
        """Return the decision with an error in the form of the API that was called."""
        reply = decision.reply
        if reply.status >= 400 and reply.steps is None and _is_for_messages(incoming):
            reply = replace(reply, body=error_in_its_form(reply.status, reply.body, self._request_id(incoming)))
            return replace(decision, reply=reply)
        if reply.status >= 400 and reply.steps is None and incoming.cloud is not None:
            return replace(decision, reply=cloud_error(incoming.cloud.api, reply, self._request_id(incoming)))
        return decision

    def _decide_in_openai_form(self, incoming: Incoming) -> Decision:
        path = incoming.path.partition("?")[0]
        operation, model = OPERATIONS.get(path), ""
        if operation is None and (call := cloud_call(path)) is not None:
            incoming.cloud, operation, model = call, call.operation, call.model
        if operation is None or incoming.method != "POST":
            found = find_call(incoming)
            return self._decide_batch_call(incoming, found) if found else Decision(self._read_only(incoming, path))
        if not self._is_authorized(incoming, operation):
            return Decision(_UNAUTHORIZED)
        answer = self._answers.answer(operation, incoming.body, model)
        if answer.status != 200:
            return Decision(ScriptedReply(answer.status, answer.body))
        if self._cache is not None and operation in PARTS:
            return self._decide_with_cache(self._cache, incoming, answer, operation, model)
        return self._reject(incoming, answer) or self._with_fault(incoming, answer)

    def _decide_with_cache(
        self, cache: PromptCache, incoming: Incoming, answer: Answer, operation: str, model: str
    ) -> Decision:
        """Decide about a prompt that may be cached: it has its first token sooner, by the share that is."""
        use = self._look_up(cache, incoming.body, answer, operation, model)
        decision = self._reject(incoming, answer) or self._with_fault(incoming, answer)
        if decision.reply.status == 200:
            decision.prefixes = use.prefixes
            share = min(1.0, use.read / answer.prompt_tokens)
            decision.reply.delay_s *= 1 - share * (1.0 if answer.events else FIRST_SHARE)
        return decision

    def _look_up(self, cache: PromptCache, body: bytes, answer: Answer, operation: str, model: str) -> CacheUse:
        """Return what a prompt has in the cache; its answer tells it."""
        asked = orjson.loads(body)
        is_asked_for = operation in ASKED_FOR
        use = cache.look_up(model or str(asked.get("model")), PARTS[operation](asked), is_asked_for=is_asked_for)
        tell_cached(operation, self._settings.cache_style, answer, use)
        return use

    def _answer_in_batch(self, operation: str, body: bytes, model: str) -> Answer:
        """Answer a line of a batch: those before it count for the cache, too."""
        answer = self._answers.answer(operation, body, model)
        if self._cache is not None and operation in PARTS and answer.status == 200 and not answer.events:
            self._cache.remember(self._look_up(self._cache, body, answer, operation, model).prefixes)
        return answer

    def _decide_batch_call(self, incoming: Incoming, found: Found, upload: Upload | None = None) -> Decision:
        """Decide about a call of a files or batches API, which no limit counts; what has no reply may be done."""
        settings = self._settings
        if found.route.api in REQUEST_ID_HEADERS:
            incoming.cloud = CloudCall(found.route.api, "", "")
        if not found.route.is_open and (settings.unauthorized or not has_key(incoming, settings.key)):
            return Decision(_UNAUTHORIZED)
        drawn_from = f"{incoming.method} {incoming.path}\n".encode() + incoming.body
        rule, latency_s = self._faults.draw(drawn_from, incoming.number, incoming.arrived_s)
        if rule is not None and rule.kind in STATUSES:
            incident = Incident(Answer(b""), self._wall_clock(), incoming.is_kept, rule.seconds)
            return _befallen(rule.kind, incident, latency_s)
        reply = answer_call(self.batches, found, incoming, upload)
        reply.delay_s = latency_s
        if rule is None or reply.status >= 300 or reply.events is not None:
            return Decision(reply)
        incident = Incident(Answer(reply.body), self._wall_clock(), incoming.is_kept, rule.seconds)
        return _befallen(rule.kind, incident, latency_s)

    def _read_only(self, incoming: Incoming, path: str) -> ScriptedReply:
        reply = read_only_reply(incoming.method, path, self._answers.models)
        is_open = reply.status != 200 or not needs_key(path) or self._is_authorized(incoming)
        return reply if is_open else _UNAUTHORIZED

    def _is_authorized(self, incoming: Incoming, operation: str = "") -> bool:
        settings = self._settings
        if incoming.cloud is not None and settings.key:
            return not settings.unauthorized and is_allowed(incoming.cloud.api, incoming, settings.key)
        if operation == OPERATION and incoming.api_key is not None:
            return not (settings.unauthorized or (settings.key and incoming.api_key != settings.key))
        return not (settings.unauthorized or (settings.key and incoming.authorization != self._authorization))

    def _reject(self, incoming: Incoming, answer: Answer) -> Decision | None:
        settings = self._settings
        if settings.concurrency is not None and incoming.in_flight > settings.concurrency:
            message = f"Too many requests in flight: Limit {settings.concurrency}."
            # Nobody knows when a slot frees; the mean latency is when it is likely.
            return self._too_many(message, "requests", settings.latency)
        if not self._quota.has_limits:
            return None
        rejection = self._quota.admit(answer.prompt_tokens, answer.most_output_tokens, incoming.arrived_s)
        if rejection is None:
            return None
        return self._too_many(rejection.message, rejection.kind, rejection.wait_s)

    def _with_fault(self, incoming: Incoming, answer: Answer) -> Decision:
        rule, latency_s = self._faults.draw(incoming.body, incoming.number, incoming.arrived_s)
        latency_s *= slowdown(incoming.in_flight, self._settings.slots, self._settings.overload)
        if rule is None:
            reply = ScriptedReply(body=answer.body, delay_s=latency_s, text=answer.text)
            return Decision(_streamed(reply, answer) if answer.events else reply, answer.output_tokens)
        identity = self._request_id(incoming)
        incident = Incident(answer, self._wall_clock(), incoming.is_kept, rule.seconds, identity)
        return _befallen(rule.kind, incident, latency_s)

    def _too_many(self, message: str, kind: str, wait_s: float) -> Decision:
        is_told = self._settings.tell_retry_after and wait_s < math.inf
        # Errors know two types of rate limits; input and output are both tokens.
        body = error_body(message, "requests" if kind == "requests" else "tokens", None, "rate_limit_exceeded")
        return Decision(ScriptedReply(429, body, retry_headers(wait_s) if is_told else {}))

    def charge(self, incoming: Incoming, decision: Decision) -> Mapping[str, str]:
        """Charge the output of a reply that goes out now. Return the headers that tell what is left."""
        if not decision.is_ours:
            return decision.reply.headers
        if decision.prefixes and self._cache is not None:
            self._cache.remember(decision.prefixes)
        reply = decision.reply
        headers = {
            "x-request-id": self._request_id(incoming),
            "openai-processing-ms": str(int(reply.delay_s * 1000)),
        }
        if _is_for_messages(incoming):
            headers = {"request-id": self._request_id(incoming)}
        cloud = incoming.cloud
        if cloud is not None and cloud.api in REQUEST_ID_HEADERS:
            headers = {REQUEST_ID_HEADERS[cloud.api]: self._request_id(incoming)}
        if self._quota.has_limits:
            now = self._clock()
            self._quota.settle(decision.output_tokens, now)
            if cloud is None or cloud.api not in SILENT_ABOUT_LIMITS:
                headers.update(self._quota.headers(now, self._wall_clock()))
        headers.update(reply.headers)
        return headers

    def charge_stream(self, decision: Decision) -> None:
        """Charge the output of a stream at its end."""
        self._quota.settle(decision.output_tokens, self._clock())

    def _request_id(self, incoming: Incoming) -> str:
        return f"{self._request_prefix}{incoming.number:08x}"


def _befallen(kind: str, incident: Incident, latency_s: float) -> Decision:
    """Decide by a fault. The output tokens are charged even where the client gets no reply."""
    reply = FAULTS[kind](incident)
    if reply.status != 429:
        reply.delay_s = latency_s
    was_made = reply.status in (0, 200)
    if reply.status == 200 and incident.answer.events:
        reply.headers = {"Content-Type": incident.answer.content_type, **reply.headers}
    return Decision(reply, incident.answer.output_tokens if was_made else 0, fault=kind)


def _streamed(reply: ScriptedReply, answer: Answer) -> ScriptedReply:
    """The same in parts, of which the last one has the whole latency."""
    latency_s = reply.delay_s
    reply.delay_s = FIRST_SHARE * latency_s
    reply.events = pace(answer.events, latency_s - reply.delay_s)
    reply.headers = {"Content-Type": answer.content_type, "Cache-Control": "no-cache"}
    return reply


def _is_for_messages(incoming: Incoming) -> bool:
    path = incoming.path
    return path.startswith(PATH) and path.partition("?")[0].partition("/batches")[0] == PATH


_UNAUTHORIZED = refusal(401, "Incorrect API key provided.", "invalid_api_key")

"""Endpoint check: send one tiny request to each endpoint, and tell whether it is reachable, authorised and well set.

Nothing is sent twice: not after a 429, and not with another key.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

import orjson

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import ExitCode, UsageError
from llmblast.hiding import may_hold_key, secrets_in_query
from llmblast.job.endpoint_channels import start_mocks
from llmblast.job.endpoint_findings import Finding, State, on_no_reply, on_refusal, unusable
from llmblast.job.redacting_channel import RedactingChannel, secrets_of
from llmblast.job.start import NO_ENDPOINT
from llmblast.models import Answer, Attempt, Prompt, Request
from llmblast.provider_contract import Provider, UnsupportedError
from llmblast.providers import provider_of, provider_of_key
from llmblast.sending import TRANSPORTS, EndpointKey, judge, make_target
from llmblast.settings import Settings

PROMPT = "Say ok."
MAX_TOKENS = 16
"""The Responses API takes no less."""
MAX_WAIT_S = 60.0
_MAX_TOKENS_NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens")


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
    usable = [finding.is_usable for finding in findings]
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
        return unusable(own, error)
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
    finding = Finding(own.name, State.OK, provider.kind, own.model or settings.model, status=reply.status)
    if reply.cause is not None:
        on_no_reply(finding, reply, own)
        return finding
    finding.reachable, finding.latency_s = True, reply.latency_s or time.monotonic() - attempt.sent_s
    finding.limits = provider.read_limits(reply.headers.items(), time.time())
    verdict = judge(attempt, reply, time.time(), provider)
    if isinstance(verdict, Answer):
        finding.authorised = finding.model_known = True
    else:
        has_key = key.value is not None or any(map(may_hold_key, endpoint.headers))
        on_refusal(finding, reply, verdict, own, has_key=has_key)
    return finding


def _prompt(provider: Provider, settings: Settings) -> Prompt:
    """Return a prompt with a short answer, unless the API or the parameters of the run say otherwise."""
    params = dict(settings.params)
    if not any(name in params for name in _MAX_TOKENS_NAMES):
        params[_MAX_TOKENS_NAMES[0]] = MAX_TOKENS
    prompt = Prompt(PROMPT, None, (), params)
    return prompt if provider.unsupported_in(prompt) is None else Prompt(PROMPT, None, (), settings.params)

"""What takes a provider, with the OpenAI API's: most tests are about endpoints that speak it."""

from collections.abc import Callable, Mapping

from llmblast import reading, sending
from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import Answer, Attempt, Reply, Request
from llmblast.providers import DEFAULT_PROVIDER
from llmblast.sending import Target, Verdict
from llmblast.settings import Settings


def RequestParser(settings: Settings) -> reading.RequestParser:  # noqa: N802 -- stands for the class
    return reading.RequestParser(settings, [DEFAULT_PROVIDER])


class EndpointKey(sending.EndpointKey):
    def __init__(self, endpoint: EndpointSettings, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        super().__init__(endpoint, environ, clock, DEFAULT_PROVIDER)


def find_key(endpoint: EndpointSettings, environ: Mapping[str, str]) -> str | None:
    return sending.find_key(endpoint, environ, DEFAULT_PROVIDER)


def judge(sent: Attempt | Request, reply: Reply, wall_now_s: float) -> Answer | Verdict:
    attempt = sent if isinstance(sent, Attempt) else Attempt(sent)
    return sending.judge(attempt, reply, wall_now_s, DEFAULT_PROVIDER)


def make_target(
    endpoint: EndpointSettings, model: str | None, key: str | None, environ: Mapping[str, str] | None = None
) -> Target:
    return sending.make_target(endpoint, model, key, DEFAULT_PROVIDER, environ)

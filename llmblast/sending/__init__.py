"""Sending: HTTP exchanges with endpoints, and verdicts on their replies."""

from llmblast.sending.backoff import Backoff
from llmblast.sending.channels import TRANSPORTS, Channel
from llmblast.sending.credentials import find_key, goes_unprotected
from llmblast.sending.judging import judge
from llmblast.sending.keys import EndpointKey
from llmblast.sending.listener import NO_LISTENER, ChannelListener
from llmblast.sending.network import connection_notes
from llmblast.sending.proxies import NO_PROXY
from llmblast.sending.target import Target, check_model, make_target, rendering_for
from llmblast.sending.verdict import Action, Blame, Verdict

__all__ = [
    "NO_LISTENER",
    "NO_PROXY",
    "TRANSPORTS",
    "Action",
    "Backoff",
    "Blame",
    "Channel",
    "ChannelListener",
    "EndpointKey",
    "Target",
    "Verdict",
    "check_model",
    "connection_notes",
    "find_key",
    "goes_unprotected",
    "judge",
    "make_target",
    "rendering_for",
]

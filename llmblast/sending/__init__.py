"""Sending: one HTTP exchange and what it means."""

from llmblast.sending.backoff import Backoff
from llmblast.sending.channels import TRANSPORTS, Channel
from llmblast.sending.credentials import DEFAULT_KEY_ENV, find_key, goes_unprotected
from llmblast.sending.finish_reasons import is_flagged
from llmblast.sending.keys import EndpointKey
from llmblast.sending.listener import NO_LISTENER, ChannelListener
from llmblast.sending.network import connection_notes
from llmblast.sending.openai import Target, make_target
from llmblast.sending.proxies import NO_PROXY
from llmblast.sending.rate_limit_headers import read_rate_limits
from llmblast.sending.verdict import Action, Blame, Verdict, judge

__all__ = [
    "DEFAULT_KEY_ENV",
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
    "connection_notes",
    "find_key",
    "goes_unprotected",
    "is_flagged",
    "judge",
    "make_target",
    "read_rate_limits",
]

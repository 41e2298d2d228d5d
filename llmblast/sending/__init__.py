"""Sending: one HTTP exchange and what it means."""

from llmblast.sending.backoff import Backoff
from llmblast.sending.channels import TRANSPORTS, Channel
from llmblast.sending.credentials import find_key, goes_unprotected
from llmblast.sending.exchange import Leave, leave_now
from llmblast.sending.keys import EndpointKey
from llmblast.sending.network import connection_notes
from llmblast.sending.proxies import NO_PROXY
from llmblast.sending.target import Target, make_target
from llmblast.sending.verdict import Action, Blame, Verdict, judge

__all__ = [
    "NO_PROXY",
    "TRANSPORTS",
    "Action",
    "Backoff",
    "Blame",
    "Channel",
    "EndpointKey",
    "Leave",
    "Target",
    "Verdict",
    "connection_notes",
    "find_key",
    "goes_unprotected",
    "judge",
    "leave_now",
    "make_target",
]

"""Sending: one HTTP exchange and what it means."""

from llmblast.sending.backoff import Backoff
from llmblast.sending.channels import TRANSPORTS, Channel
from llmblast.sending.credentials import find_key
from llmblast.sending.keys import EndpointKey
from llmblast.sending.openai import Target, make_target
from llmblast.sending.quota_headers import read_quotas
from llmblast.sending.verdict import Action, Blame, Verdict, judge

__all__ = [
    "TRANSPORTS",
    "Action",
    "Backoff",
    "Blame",
    "Channel",
    "EndpointKey",
    "Target",
    "Verdict",
    "find_key",
    "judge",
    "make_target",
    "read_quotas",
]

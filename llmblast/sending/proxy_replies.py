"""Proxy replies: explain a proxy's own status, which must not be mistaken for the endpoint's."""

from llmblast.models import Cause, Reply
from llmblast.sending.proxies import Proxy

PROXY_AUTHENTICATION_REQUIRED = 407
_REASONS = {
    403: "this host or port is not allowed",
    405: "CONNECT is not allowed",
    429: "too many connections",
    500: "it failed",
    502: "the host cannot be reached",
    503: "the host cannot be reached",
    504: "the host does not reply",
}


def explain_proxy_status(proxy: Proxy, status: int, target: str) -> str:
    """Explain to a person the status with which a proxy refuses to connect to `target`."""
    if status == PROXY_AUTHENTICATION_REQUIRED:
        user = "proxy user or password is wrong" if proxy.authorization else "a user and a password are needed"
        reason = f"{user}: write them into the URL of the proxy, http://USER:PASSWORD@HOST:PORT"
    else:
        reason = _REASONS.get(status, "")
    return f"the proxy {proxy} refuses {target}: HTTP {status}{': ' if reason else ''}{reason}"


def without_proxy_refusal(reply: Reply, proxy: Proxy, target: str) -> Reply:
    """Return the reply to a forwarded request, or NOT_SENT where the proxy itself requires a password."""
    if reply.status != PROXY_AUTHENTICATION_REQUIRED:
        return reply
    return Reply(cause=Cause.NOT_SENT, detail=explain_proxy_status(proxy, reply.status, target))

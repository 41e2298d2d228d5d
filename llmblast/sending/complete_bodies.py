"""Complete bodies: recognise a reply that is complete, although its framing announces more.

Servers and proxies leave out the last chunk, or name the length that a body had before they rewrote it. curl prints
such a body; to send the request again would cost twice. A cut JSON object is not valid, so that no part is mistaken
for the whole. Only replies that have broken off are checked.
"""

import orjson

from llmblast.models import Cause, Reply

MAY_BE_COMPLETE = (Cause.BROKEN, Cause.TIMED_OUT)
_WHITE_SPACE = b" \t\r\n"
_END_OF_STREAM = b"data: [DONE]", b"data:[DONE]"


def is_complete(reply: Reply) -> bool:
    """Return whether the body is a whole object or list of JSON, or a stream up to its last event."""
    if reply.cause is not None or reply.detail:
        return False
    body = reply.body.strip(_WHITE_SPACE)
    if body[:1] not in (b"{", b"["):
        return body.endswith(_END_OF_STREAM)
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True

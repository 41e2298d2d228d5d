"""Content codings: find out whether a reply is compressed.

No coding is requested: answers are small, and unpacking 64 KB costs 150 us of CPU, where a whole exchange costs 10.
Some gateways compress all the same, and an endpoint's own `headers` may ask (`Accept-Encoding = "gzip"`) where the line
is slow. Of a repeated Content-Encoding the first one counts. Transfer codings other than `chunked` count as well.
"""

from typing import Final

from llmblast.models import Cause, Reply

_BRACE: Final = b"{"
_NONE: Final = ("", "identity", "chunked")


def without_coding(reply: Reply, max_bytes: int) -> Reply:
    """Return the reply with its body decompressed.

    A body that cannot be read is dropped, and the Reply's `detail` says why; its status and headers still count. A body
    that grows beyond `max_bytes` is TOO_LARGE, and no more than that is ever unpacked.
    """
    if reply.body[:1] == _BRACE:  # JSON already, whatever its headers say: nearly all replies cost no look at them
        return reply
    coding = _coding_of(reply)
    if not coding or not reply.body:
        return reply
    from llmblast.sending.decompression import (  # noqa: PLC0415 -- 3 ms, which most runs never need
        TooLargeError,
        UnreadableError,
        decompress,
    )

    try:
        reply.body = decompress(coding, reply.body, max_bytes)
    except TooLargeError:
        return Reply(cause=Cause.TOO_LARGE, detail=f"the reply unpacks to more than {max_bytes} bytes and was cut off")
    except UnreadableError as error:
        reply.body, reply.detail = b"", f"the body of the reply {error}"
    return reply


def _coding_of(reply: Reply) -> str:
    values = [reply.header(b"content-encoding") or b"", reply.header(b"transfer-encoding") or b""]
    codings = (coding.strip().lower() for coding in b",".join(values).decode("latin-1").split(","))
    return ", ".join(coding for coding in codings if coding not in _NONE)

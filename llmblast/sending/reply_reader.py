"""Reply reader: parse the replies of one connection, one at a time, with httptools (llhttp).

Message framing follows RFC 9112 section 6.3. A reply that llhttp refuses is parsed once more, rewritten by
`lenient_http`.
"""

from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

import httptools

from llmblast.models import Reply
from llmblast.sending.codings import without_coding
from llmblast.sending.complete_bodies import is_complete

if TYPE_CHECKING:
    from llmblast.sending.lenient_http import ReplyRewriter

MAX_HEAD_BYTES: Final = 256 * 1024
MAX_HEADERS: Final = 2000
"""A header in memory costs forty times its bytes: a reply at its cap could fill gigabytes."""
_FRAMING = _LENGTH, _CODING = b"content-length", b"transfer-encoding"
_MAX_REPARSED_BYTES: Final = 64 * 1024
"""Maximum length of the beginning of a reply that is kept for a second, lenient parser."""


class ReplyState(Enum):
    """Progress of the present reply."""

    HEAD = "head awaited"
    BODY = "in its body"

    def __repr__(self) -> str:
        return self.value


_HEAD: Final = ReplyState.HEAD
_BODY: Final = ReplyState.BODY


class _Parser(Protocol):
    """The part of httptools that is used."""

    def feed_data(self, data: bytes, /) -> None: ...

    def get_status_code(self) -> int: ...

    def should_keep_alive(self) -> bool: ...


class ReplyReader:
    """Hold the state of the reply that is received; httptools calls the methods `on_...`.

    `reply` is set when the reply is complete. `keeps_alive` turns False with the last reply of the connection.
    """

    __slots__ = (
        "_chunks",
        "_headers",
        "_max_reply_bytes",
        "_packets",
        "_parser",
        "keeps_alive",
        "on_body",
        "on_header",
        "received_bytes",
        "reply",
        "state",
    )
    __deletable__ = ("_parser",)

    def __init__(self, max_reply_bytes: int) -> None:
        self.state = _HEAD
        self.reply: Reply | None = None
        self.keeps_alive = True
        self.received_bytes = 0
        """Bytes of the present reply as received, counted by the exchange: endless headers and interim replies, too."""
        self._max_reply_bytes = max_reply_bytes
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._packets: list[bytes] = []
        """The beginning of a reply that is not complete yet, for a second parser."""
        # llhttp calls both for each header and each piece of a body without a line of Python. Of a header that is
        # repeated the first one counts.
        self.on_header = self._headers.setdefault
        self.on_body = self._chunks.append
        self._parser: _Parser = _new_parser(self)

    def __repr__(self) -> str:
        return f"<ReplyReader: {self.state!r}, {self.received_bytes} bytes received>"

    def feed(self, data: bytes) -> Exception | None:
        """Parse the next bytes. Return why they are not HTTP/1.1; None where they are."""
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 -- `_on_error` raises it again unless it is expected
            return self._on_error(error, data)
        if self.reply is None:
            self._keep_for_second_parser(data)
        return None

    def reset(self) -> None:
        """Await the next reply. An idle connection keeps no body alive."""
        self.state = _HEAD
        self.reply = None
        self.received_bytes = 0
        self._headers.clear()
        self._packets.clear()
        self._chunks.clear()

    def close(self) -> None:
        """Drop the parser: parser and reader refer to each other, and would live until the next garbage collection."""
        del self._parser

    @property
    def has_too_much_head(self) -> bool:
        """Return whether the headers are larger or more than any server needs."""
        is_over = self.state is _HEAD and self.received_bytes > MAX_HEAD_BYTES
        return is_over or len(self._headers) > MAX_HEADERS

    @property
    def ends_with_connection(self) -> bool:
        """Return whether the end of the connection is the end of the reply: it names neither length nor chunks."""
        framing = {name.lower(): value for name, value in self._headers.items() if name.lower() in _FRAMING}
        is_chunked = framing.get(_CODING, b"").lower().rstrip().endswith(b"chunked")
        return self.state is _BODY and _LENGTH not in framing and not is_chunked

    def received(self) -> Reply:
        """Return the reply as received so far, decompressed."""
        return self._received(self._parser.get_status_code())

    def complete_body(self) -> Reply | None:
        """Return the reply where its body is complete and only its framing has no end."""
        if not self._chunks or self.state is not _BODY:
            return None
        reply = self.received()
        return reply if is_complete(reply) else None

    def on_message_begin(self) -> None:
        """Note a second reply: RFC 9112 section 9.2, the client must close then, since it asked for one only."""
        if self.reply is not None:
            self.keeps_alive = False

    def on_headers_complete(self) -> None:
        """Note that status and headers are known."""
        self.state = _BODY

    def on_message_complete(self) -> None:
        """Complete the reply; an interim one (100 Continue, 103) only precedes it."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self.state = _HEAD
            self._headers.clear()
        elif self.reply is None:
            self.keeps_alive = self.keeps_alive and self._parser.should_keep_alive()
            self.reply = self._received(status)

    def _received(self, status: int) -> Reply:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return without_coding(Reply(status, self._headers.copy(), body), self._max_reply_bytes)

    def _on_error(self, error: Exception, data: bytes) -> Exception | None:
        """Parse the reply again with lenient rules. Return why the bytes are not HTTP/1.1; None where they are."""
        from llmblast.sending.lenient_http import ReplyRewriter, UnreadableHttpError  # noqa: PLC0415 -- on errors only

        if isinstance(error, httptools.HttpParserCallbackError):
            raise error.__context__ or error from None  # a defect of this program, not of the server
        if not isinstance(error, (httptools.HttpParserError, httptools.HttpParserUpgrade, UnreadableHttpError)):
            raise error
        self.keeps_alive = False
        if self.reply is not None:
            return None
        received = b"".join((*self._packets, data))
        is_final = isinstance(self._parser, _RewritingParser) or not isinstance(error, httptools.HttpParserError)
        if is_final or len(received) < self.received_bytes:
            return error
        self._headers.clear()
        self._chunks.clear()
        self._packets.clear()
        self.state = _HEAD
        self._parser = _RewritingParser(self, ReplyRewriter())
        return self.feed(received)

    def _keep_for_second_parser(self, data: bytes) -> None:
        if self.received_bytes <= _MAX_REPARSED_BYTES or self.state is _HEAD:
            self._packets.append(data)
        else:
            self._packets.clear()


class _RewritingParser:
    """Parse one reply that the strict parser has refused. Its connection ends with it."""

    def __init__(self, reader: ReplyReader, rewriter: "ReplyRewriter") -> None:
        self._rewriter = rewriter
        self._parser = _new_parser(reader)

    def feed_data(self, data: bytes, /) -> None:
        self._parser.feed_data(self._rewriter.feed(data))

    def get_status_code(self) -> int:
        return self._parser.get_status_code()

    def should_keep_alive(self) -> bool:
        return False


def _new_parser(reader: ReplyReader) -> _Parser:
    parser = httptools.HttpResponseParser(reader)
    parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
    return parser

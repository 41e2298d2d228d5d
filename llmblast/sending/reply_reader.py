"""Reply reader: parse the replies of one connection, one at a time, with httptools (llhttp).

Message framing follows RFC 9112 section 6.3. A reply that llhttp refuses is parsed once more, rewritten by
`lenient_http`. llhttp checks every header but makes no object of it, which takes 0.8 us for a reply with 16 headers
where 2.1 us are needed with them; `reply_head` reads them from the bytes of the head once one is needed.
"""

from enum import Enum
from typing import TYPE_CHECKING, Final

import httptools

from llmblast.models import Reply
from llmblast.sending.codings import without_coding
from llmblast.sending.complete_bodies import is_complete
from llmblast.sending.reply_head import Parser, ends_with_connection, new_parser, read_head

if TYPE_CHECKING:
    from llmblast.sending.lenient_http import ReplyRewriter

MAX_HEAD_BYTES: Final = 256 * 1024
MAX_HEADERS: Final = 2000
"""No server sends so many headers and trailers; in memory each costs forty times its bytes."""
_MIN_HEADER_BYTES: Final = 3
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


class ReplyReader:
    """Hold the state of the reply that is received; httptools calls the methods `on_...`.

    `reply` is set when the reply is complete. `keeps_alive` turns False with the last reply of the connection.
    """

    __slots__ = (
        "_chunks",
        "_counted_chunks",
        "_data",
        "_head",
        "_head_lines",
        "_max_reply_bytes",
        "_packets",
        "_parser",
        "keeps_alive",
        "on_body",
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
        self._data = b""
        """The bytes that are parsed now."""
        self._head = b""
        """The beginning of a reply with all its headers, once they have come and the end of the reply has not."""
        self._head_lines = 0
        """Lines in packets that hardly bring any body: headers or trailers."""
        self._counted_chunks = 0
        self._chunks: list[bytes] = []
        self._packets: list[bytes] = []
        """The beginning of a reply that is not complete yet, for a second parser."""
        self.on_body = self._chunks.append  # called for each piece of a body without a line of Python
        self._parser: Parser = new_parser(self)

    def __repr__(self) -> str:
        return f"<ReplyReader: {self.state!r}, {self.received_bytes} bytes received>"

    def feed(self, data: bytes) -> Exception | None:
        """Parse the next bytes. Return why they are not HTTP/1.1; None where they are."""
        self._data = data
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 -- `_on_error` raises it again unless it is expected
            return self._on_error(error, data)
        if self.reply is None:
            self._count_head_lines(data)
            if self.state is _BODY and not self._head:
                self._head = self._begin_of_reply(sum(map(len, self._chunks)))
            self._keep_for_second_parser(data)
            self._data = b""  # a large body is in memory once, not its last packet twice
        return None

    def reset(self) -> None:
        """Await the next reply. An idle connection keeps no body alive."""
        self.state = _HEAD
        self.reply = None
        self.received_bytes = 0
        self._data = b""
        self._chunks.clear()
        if self._packets or self._head:  # a reply in one packet has neither
            self._packets.clear()
            self._clear_head()

    def close(self) -> None:
        """Drop the parser: parser and reader refer to each other, and would live until the next garbage collection."""
        del self._parser

    @property
    def has_too_much_head(self) -> bool:
        """Return whether the headers are larger or more than any server needs."""
        is_over = self.state is _HEAD and self.received_bytes > MAX_HEAD_BYTES
        return is_over or self._head_lines > MAX_HEADERS

    @property
    def ends_with_connection(self) -> bool:
        """Return whether the end of the connection is the end of the reply: it names neither length nor chunks."""
        return self.state is _BODY and ends_with_connection(self._head)

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

    def on_rewritten(self, data: bytes) -> None:
        """Keep the rewritten head, which comes in one piece, instead of the original one."""
        self._head = self._head or data

    def on_headers_complete(self) -> None:
        """Note that status and headers are known."""
        self.state = _BODY

    def on_message_complete(self) -> None:
        """Complete the reply; an interim one (100 Continue, 103) only precedes it."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self.state = _HEAD
        elif self.reply is None:
            self.keeps_alive = self.keeps_alive and self._parser.should_keep_alive()
            self.reply = self._received(status)

    def _received(self, status: int) -> Reply:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        head = self._head or (self._begin_of_reply(len(body)) if self._packets else self._data)
        return without_coding(Reply(status, head, body, read_head=read_head), self._max_reply_bytes)

    def _begin_of_reply(self, body_bytes: int) -> bytes:
        """Return the beginning of the reply with all its headers, where the packets so far have them.

        As many bytes as its body has are cut off at the end: no search for the end of the headers is needed.
        """
        data = b"".join((*self._packets, self._data)) if self._packets else self._data
        return data[: len(data) - body_bytes]

    def _clear_head(self) -> None:
        self._head = b""
        self._head_lines = self._counted_chunks = 0

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
        self._chunks.clear()
        self._packets.clear()
        self._clear_head()
        self.state = _HEAD
        self._parser = _RewritingParser(self, ReplyRewriter())
        return self.feed(received)

    def _count_head_lines(self, data: bytes) -> None:
        """Count the lines of headers and trailers; each chunk of a body has two lines as well."""
        chunks = self._chunks[self._counted_chunks :]
        self._counted_chunks += len(chunks)
        if len(data) - sum(map(len, chunks)) > MAX_HEADERS * _MIN_HEADER_BYTES:
            body_lines = sum(chunk.count(b"\n") for chunk in chunks)
            self._head_lines += data.count(b"\n") - body_lines - 2 * len(chunks)

    def _keep_for_second_parser(self, data: bytes) -> None:
        if self.received_bytes <= _MAX_REPARSED_BYTES or self.state is _HEAD:
            self._packets.append(data)
        else:
            self._packets.clear()


class _RewritingParser:
    """Parse one reply that the strict parser has refused. Its connection ends with it."""

    def __init__(self, reader: ReplyReader, rewriter: "ReplyRewriter") -> None:
        self._reader = reader
        self._rewriter = rewriter
        self._parser = new_parser(reader)

    def feed_data(self, data: bytes, /) -> None:
        rewritten = self._rewriter.feed(data)
        self._reader.on_rewritten(rewritten)
        self._parser.feed_data(rewritten)

    def get_status_code(self) -> int:
        return self._parser.get_status_code()

    def should_keep_alive(self) -> bool:
        return False

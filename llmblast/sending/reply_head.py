"""Reply head: read the headers of a reply from the bytes of its head, when one of them is needed.

Twenty objects for ten headers cost more than all else in parsing a reply, and nine in ten replies need no header.
"""

from collections.abc import Mapping
from typing import Protocol

import httptools

LENGTH, CODING = b"content-length", b"transfer-encoding"


class Parser(Protocol):
    """The part of httptools that is used."""

    def feed_data(self, data: bytes, /) -> None: ...

    def get_status_code(self) -> int: ...

    def should_keep_alive(self) -> bool: ...


def new_parser(protocol: object) -> Parser:
    """Return a parser of replies that calls the methods `on_...` of `protocol`."""
    parser = httptools.HttpResponseParser(protocol)
    parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
    return parser


def read_head(head: bytes) -> Mapping[bytes, bytes]:
    """Return the headers of a reply by their names as they came; of a repeated one the first counts.

    `head` is the beginning of a reply that a parser has accepted, up to the end of its headers or beyond; interim
    replies may precede it. Trailers are not headers (RFC 9110 section 6.5.1).
    """
    return _HeaderReader().read(head) or {}


def ends_with_connection(head: bytes) -> bool:
    """Return whether the end of the connection is the end of the reply: it names neither length nor chunks."""
    headers = _HeaderReader().read(head)
    if headers is None:
        return False
    framing = {name.lower(): value for name, value in headers.items() if name.lower() in (LENGTH, CODING)}
    is_chunked = framing.get(CODING, b"").lower().rstrip().endswith(b"chunked")
    return LENGTH not in framing and not is_chunked


class _HeaderReader:
    """Collect the headers of one reply, and not those of interim replies before it."""

    def __init__(self) -> None:
        self._collected: dict[bytes, bytes] = {}
        self._headers: dict[bytes, bytes] | None = None
        self._is_final = False
        self.on_header = self._collected.setdefault
        self._parser: Parser | None = None

    def read(self, head: bytes) -> Mapping[bytes, bytes] | None:
        """Return the headers; None where the head has no end."""
        self._parser = new_parser(self)
        try:
            self._parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                raise error.__context__ or error from None  # a defect of this program, not of the server
        finally:
            self._parser = None  # parser and reader refer to each other, and would live until a garbage collection
        return self._headers

    def on_headers_complete(self) -> None:
        """Keep the headers; those of the final reply for good."""
        if self._parser is not None and not self._is_final:
            self._headers = self._collected.copy()
            self._is_final = not 100 <= self._parser.get_status_code() < 200

    def on_message_complete(self) -> None:
        """Forget the headers of an interim reply; one without an end counts as the reply."""
        if not self._is_final:
            self._headers = None
            self._collected.clear()

"""The reader, which makes no objects of headers, never reads another reply than httptools with all of them."""

from dataclasses import dataclass, field
from random import Random

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.models import Reply
from llmblast.sending.codings import without_coding
from llmblast.sending.complete_bodies import is_complete
from llmblast.sending.lenient_http import ReplyRewriter, UnreadableHttpError
from llmblast.sending.reply_reader import ReplyReader, ReplyState
from tests.sending.reply_mutations import REPLIES, changed, split

MAX_BYTES = 1 << 20
LONG_FORM_INPUTS = 1_000_000

Outcome = tuple[object, ...]
"""Status, headers, body, cause and detail of a reply, whether its connection is kept, the kind of an error."""


@dataclass
class Reference:
    """Read one reply after the other with httptools as plainly as possible, each header an object at once."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    received: bytes = b""
    is_in_body: bool = False
    is_header: bool = True
    keeps_alive: bool = True
    reply: Reply | None = None
    rewriter: ReplyRewriter | None = None

    def __post_init__(self) -> None:
        self.parser = self.new_parser()

    def new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        return parser

    def feed(self, data: bytes) -> Exception | None:
        self.received += data
        try:
            self.parser.feed_data(data if self.rewriter is None else self.rewriter.feed(data))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnreadableHttpError) as error:
            self.keeps_alive = False
            if self.reply is not None:
                return None
            if self.rewriter is not None or not isinstance(error, httptools.HttpParserError):
                return error
            received, self.received = self.received, b""
            self.forget()
            self.parser, self.rewriter = self.new_parser(), ReplyRewriter()
            return self.feed(received)
        return None

    def forget(self) -> None:
        """Await another reply."""
        self.headers, self.pieces, self.received, self.reply = {}, [], b"", None
        self.is_in_body, self.is_header = False, True

    def read(self) -> Reply:
        reply = Reply(self.parser.get_status_code(), self.headers.copy(), b"".join(self.pieces))
        return without_coding(reply, MAX_BYTES)

    def ends_with_connection(self) -> bool:
        names = {name.lower(): value.lower().rstrip() for name, value in self.headers.items()}
        has_end = b"content-length" in names or names.get(b"transfer-encoding", b"").endswith(b"chunked")
        return self.is_in_body and not has_end

    def complete_body(self) -> Reply | None:
        if not self.pieces or not self.is_in_body:
            return None
        reply = self.read()
        return reply if is_complete(reply) else None

    def on_message_begin(self) -> None:
        if self.reply is not None:
            self.keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_header:
            self.headers.setdefault(name, value)

    def on_headers_complete(self) -> None:
        self.is_in_body, self.is_header = True, False

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if 100 <= status < 200:
            self.is_in_body, self.is_header = False, True
            self.headers.clear()
        elif self.reply is None:
            self.keeps_alive = self.keeps_alive and self.rewriter is None and self.parser.should_keep_alive()
            self.reply = self.read()


def outcome_of(reply: Reply | None, keeps_alive: bool, error: Exception | None = None) -> Outcome:
    if reply is None:
        return type(error), str(error), keeps_alive
    return reply.status, dict(reply.headers), reply.body, reply.cause, reply.detail, keeps_alive


def outcomes_of_reader(replies: list[list[bytes]]) -> list[Outcome]:
    """Return what is read of replies that come in these packets, on one connection as long as it is kept."""
    reader, outcomes = ReplyReader(MAX_BYTES), list[Outcome]()
    for packets in replies:
        error = None
        for packet in packets:
            reader.received_bytes += len(packet)
            error = reader.feed(packet)
            if error is not None or reader.reply is not None:
                break
        reply = reader.reply
        if reply is None and error is None:
            at_the_end = reader.received() if reader.ends_with_connection else None
            outcomes.append(outcome_of(at_the_end, reader.keeps_alive))
        if reply is None:
            reply = reader.complete_body()
        outcomes.append(outcome_of(reply, reader.keeps_alive, error))
        if reader.reply is None or not reader.keeps_alive:
            break
        reader.reset()
    assert reader.state in ReplyState
    reader.close()
    return outcomes


def outcomes_of_reference(replies: list[list[bytes]]) -> list[Outcome]:
    """Return the same of the reference."""
    reference, outcomes = Reference(), list[Outcome]()
    for packets in replies:
        error = None
        for packet in packets:
            error = reference.feed(packet)
            if error is not None or reference.reply is not None:
                break
        reply = reference.reply
        if reply is None and error is None:
            at_the_end = reference.read() if reference.ends_with_connection() else None
            outcomes.append(outcome_of(at_the_end, reference.keeps_alive))
        if reply is None:
            reply = reference.complete_body()
        outcomes.append(outcome_of(reply, reference.keeps_alive, error))
        if reference.reply is None or not reference.keeps_alive:
            break
        reference.forget()
    del reference.parser
    return outcomes


def compare(random: Random) -> None:
    names = list(REPLIES)
    replies = [
        split(changed(REPLIES[random.choice(names)], random), random) for _ in range(random.choice((1, 1, 1, 3)))
    ]

    assert outcomes_of_reader(replies) == outcomes_of_reference(replies), replies


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_split_at_every_byte_is_the_same(name: str) -> None:
    """In two packets, and in packets of one byte; the next reply on the connection, too."""
    reply = REPLIES[name]
    whole = outcomes_of_reader([[reply]])
    splits = [[reply[:at], reply[at:]] for at in range(1, len(reply))]
    splits.append([reply[at : at + 1] for at in range(len(reply))])

    for packets in splits:
        replies = [packets, [REPLIES["nginx"]]]
        assert outcomes_of_reader(replies) == outcomes_of_reference(replies), packets
    assert whole == outcomes_of_reference([[reply]])


@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 2**63))
def test_a_changed_reply_is_the_same(seed: int) -> None:
    """Status, headers, body, whether the connection is kept, and the kind of an error."""
    compare(Random(seed))


@pytest.mark.long
def test_a_million_changed_replies_are_the_same() -> None:
    """The long form."""
    for number in range(LONG_FORM_INPUTS):
        compare(Random(number))

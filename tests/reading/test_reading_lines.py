"""Lines, their numbers and their keys, whatever the blocks."""

from hashlib import blake2b
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmblast.reading import LineSplitter, OversizedLine, key_of

BOM = b"\xef\xbb\xbf"
CAP = 12

pieces = st.sampled_from(
    [
        b"\n",
        b"\n\n",
        b"\r\n",
        b" ",
        b"\t",
        b"\x0b",
        b"\xef",
        b"\xbb",
        b"\xbf",
        BOM,
        b"a",
        b"{}",
        b"long" * 4,
        "\u2028".encode(),
    ]
)
files = st.lists(pieces, max_size=30).map(b"".join)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def split(blocks: list[bytes], cap: int = 1 << 20) -> list[tuple[int, bytes]]:
    splitter = LineSplitter(cap)
    lines = [line for block in blocks for line in splitter.feed(block)]
    return lines + splitter.finish()


def reference(data: bytes) -> list[tuple[int, bytes, int]]:
    """(number, stripped text, length before stripping)."""
    raw = data.removeprefix(BOM).split(b"\n")
    return [(number, text.strip(), len(text)) for number, text in enumerate(raw, 1) if text.strip()]


@settings(deadline=None)
@given(files, st.lists(st.integers(min_value=0), max_size=40))
def test_any_partition_into_blocks_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    """Lines, numbers and the BOM do not depend on where blocks end."""
    assert split(cut(data, cuts)) == [(number, text) for number, text, _ in reference(data)]


@settings(deadline=None)
@given(files, st.lists(st.integers(min_value=0), max_size=40))
def test_oversized_lines_keep_number_and_key_in_any_partition(data: bytes, cuts: list[int]) -> None:
    """Exactly the lines beyond the cap are replaced, and each keeps the key of its whole stripped text."""
    lines = split(cut(data, cuts), CAP)

    found = [(number, key_of(text), type(text) is OversizedLine) for number, text in lines]

    assert found == [(number, key_of(text), size > CAP) for number, text, size in reference(data)]


def test_lines_end_at_newlines_only() -> None:
    """U+2028, U+0085 and a bare carriage return within a line are text."""
    text = '{"input": "a\u2028b\u0085c"}'.encode() + b"\r{}"

    assert split([text + b"\r\n{}"]) == [(1, text), (2, b"{}")]


def test_blank_lines_are_counted_and_left_out() -> None:
    """Line numbers are those of an editor."""
    assert split([b"\n \r\n{}\n\n1"]) == [(3, b"{}"), (5, b"1")]


def test_a_bom_comes_off_at_the_start_of_the_file_only() -> None:
    """A BOM in a later line is that line's mistake."""
    assert split([BOM[:1], BOM[1:] + b"{}\n" + BOM + b"{}"]) == [(1, b"{}"), (2, BOM + b"{}")]


def test_a_file_of_half_a_bom_is_a_line() -> None:
    """What looked like a BOM at the end of the file is delivered."""
    assert split([BOM[:2]]) == [(1, BOM[:2])]


def test_a_line_is_delivered_by_the_block_that_ends_it() -> None:
    """Nothing waits for the next block."""
    splitter = LineSplitter()

    assert splitter.feed(b'{"a"') == []
    assert splitter.feed(b":1}\n{") == [(1, b'{"a":1}')]
    assert splitter.finish() == [(2, b"{")]


def test_an_oversized_line_shows_its_start_and_its_size() -> None:
    """A person can find the line again; the rest of it is not kept."""
    splitter = LineSplitter(max_line_bytes=5000)
    for _ in range(1000):
        assert splitter.feed(b"x" * 100) == []

    (number, line), after = splitter.feed(b"\n{}\n")

    assert isinstance(line, OversizedLine)
    assert (number, line, line.size_bytes) == (1, b"x" * 1024, 100_000)
    assert after == (2, b"{}")


def test_a_line_of_exactly_the_cap_is_whole() -> None:
    """Within a block, and across two."""
    text = b"x" * CAP

    lines = split([text + b"\n" + text, b"\n" + text + b"x\n"], CAP)

    assert [type(line) is OversizedLine for _, line in lines] == [False, False, True]


def test_an_endless_line_of_white_space_is_a_blank_line() -> None:
    """Beyond the cap, too."""
    assert split([b" " * 100, b" " * 100 + b"\n{}"], CAP) == [(2, b"{}")]


@pytest.mark.parametrize("text", [b"", b'{"input":"hello"}'])
def test_a_key_is_blake2b_64_in_hex(text: bytes) -> None:
    """Sixteen hex digits, as the record files have them."""
    assert key_of(text) == blake2b(text, digest_size=8).hexdigest()
    assert len(key_of(text)) == 16

"""Text from outside cannot give orders to a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.watching.sanitize import sanitize_text

HOSTILE = st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x9b\x9d[]0;m\x07\\\n\u202e\u2066\u200b")))


@given(HOSTILE, st.integers(1, 50))
def test_whatever_comes_in_one_printable_line_of_bounded_length_comes_out(text: str, max_length: int) -> None:
    """No control character, no line break, nothing that cannot be encoded."""
    cleaned = sanitize_text(text, max_length)

    assert cleaned.isprintable()
    assert len(cleaned) <= max_length
    cleaned.encode()


@given(HOSTILE)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    """What one pass leaves never makes a new sequence."""
    once = sanitize_text(text)

    assert sanitize_text(once) == once


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=200))
def test_harmless_text_stays_as_it_is(text: str) -> None:
    """Endpoint names and messages in any script can be read."""
    assert sanitize_text(text) == text


@pytest.mark.parametrize(
    ("hostile", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b2Jwiped", "wiped"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1;2qsixel\x1b\\after", "after"),
        ("\x1bcreset", "reset"),
        ("\x1b]0;never ended", "]0;never ended"),
        ("\x1b\x1b[31m[31mred", "[31mred"),
        ("one\r\n\ttwo", "one   two"),
        ("user\u202etxt.exe", "usertxt.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("lone\ud800surrogate", "lonesurrogate"),
        ("  spaces  inside  ", "spaces  inside"),
    ],
)
def test_an_escape_sequence_goes_as_a_whole(hostile: str, expected: str) -> None:
    """Its parameters would be litter in the text."""
    assert sanitize_text(hostile) == expected


def test_what_was_cut_off_leaves_an_ellipsis() -> None:
    """A reader sees that there was more."""
    assert sanitize_text("abcdefghij", 5) == "abcd…"
    assert sanitize_text("abcde", 5) == "abcde"


def test_escape_codes_do_not_count_as_length() -> None:
    """A coloured message is no shorter than a plain one."""
    assert sanitize_text("\x1b[1m\x1b[31m" * 5 + "abcde", 5) == "abcde"


def test_only_the_head_of_a_huge_text_is_looked_at() -> None:
    """A reply of many megabytes costs no more than a short one, and still says that it was longer."""
    assert sanitize_text("\x00" * 10_000_000 + "tail", 20) == "…"


def test_many_beginnings_without_an_end_are_looked_at_once() -> None:
    """Each of them in search of its end through all of the text would take hours."""
    assert sanitize_text("\x9d" * 2_000_000, 100_000) == ""

"""Long arrays, read member by member: what comes does not depend on where blocks end."""

import pytest

from llmblast.mocking import json_items
from llmblast.mocking.json_items import read_items

TEXT = '{"a": {"b": [1]}, "requests" : [ 12, -3.5e2 ,"x]\\"ä💡", [], {"c": null}, true ], "z": 7 } '.encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_members_are_read_from_blocks_of_any_size(size: int) -> None:
    """Numbers, texts and escapes that are cut in the middle, too."""
    blocks = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]

    assert list(read_items(blocks, "requests")) == [12, -350.0, 'x]"ä💡', [], {"c": None}, True]


@pytest.mark.parametrize("text", [b"{}", b'{"requests": []}', b'{"other": [1]}'])
def test_an_array_may_be_empty_or_missing(text: bytes) -> None:
    """Nothing comes."""
    assert list(read_items([text], "requests")) == []


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"requests": [1', b'{"requests": [1 2]}', b'{"requests": [x]}', b'{"requests": 1', b"\xff"]
)
def test_what_is_no_json_is_an_error(text: bytes) -> None:
    """Wherever it breaks off."""
    with pytest.raises(ValueError, match=r"."):
        list(read_items([text], "requests"))


def test_a_member_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is bounded."""
    monkeypatch.setattr(json_items, "MAX_ITEM_CHARACTERS", 1000)
    blocks = iter([b'{"requests": ["', *[b"x" * 100] * 1_000_000])

    with pytest.raises(ValueError, match="Unterminated"):
        list(read_items(blocks, "requests"))

    assert next(blocks)

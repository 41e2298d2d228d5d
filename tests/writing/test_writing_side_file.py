"""Side files are files: links are not followed, pipes and devices are not waited for."""

import os
from pathlib import Path

import pytest

from llmblast.errors import OutputBlockedError
from llmblast.writing import OutputFile
from llmblast.writing.side_file import check_side_file, read_side_file, write_side_file

RECORD = b'{"key":"00000000000000aa","line":1}\n'


def test_a_link_is_not_read(tmp_path: Path) -> None:
    """It may lead to anything."""
    (tmp_path / "other").write_text('{"a":1}')
    (tmp_path / "side").symlink_to(tmp_path / "other")

    assert read_side_file(str(tmp_path / "side")) is None


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    """What it leads to stays as it is."""
    (tmp_path / "other").write_text('{"a":1}')
    (tmp_path / "side").symlink_to(tmp_path / "other")

    write_side_file(str(tmp_path / "side"), {"b": 2})

    assert read_side_file(str(tmp_path / "side")) == {"b": 2}
    assert (tmp_path / "other").read_text() == '{"a":1}'


@pytest.mark.parametrize("name", ["side", "side.new"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """Nobody may ever write to it, or read it."""
    os.mkfifo(tmp_path / name)

    assert read_side_file(str(tmp_path / "side")) is None
    if name == "side.new":
        with pytest.raises(OSError, match=r"side\.new"):
            write_side_file(str(tmp_path / "side"), {"b": 2})


def test_a_pipe_in_its_place_is_told(tmp_path: Path) -> None:
    """Links, folders and what is not there are not: a run goes on without."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")

    for name in ("folder", "link", "missing"):
        check_side_file(str(tmp_path / name))
    with pytest.raises(
        OutputBlockedError, match=r"pipe: is a pipe or device, but llmblast needs a file there: remove it"
    ):
        check_side_file(str(tmp_path / "pipe"))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_a_crash_tore_goes_through_no_link_and_into_no_pipe(tmp_path: Path, kind: str) -> None:
    """Rather no run than that."""
    save, torn = tmp_path / "save.jsonl", tmp_path / "save.jsonl.torn"
    save.write_bytes(RECORD + RECORD[:20])
    if kind == "link":
        (tmp_path / "other").write_text("mine")
        torn.symlink_to(tmp_path / "other")
    else:
        os.mkfifo(torn)

    with pytest.raises(OutputBlockedError, match=r"cannot be moved to .*save\.jsonl\.torn"):
        OutputFile(str(save))

    assert save.read_bytes() == RECORD + RECORD[:20]
    assert kind == "pipe" or (tmp_path / "other").read_text() == "mine"

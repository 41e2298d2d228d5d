"""Pipes, devices and descriptors are told from files, whatever they are called."""

import os
from pathlib import Path

import pytest

from llmblast.errors import OutputBlockedError
from llmblast.pipes import check_place, descriptor_of, is_pipe


@pytest.mark.parametrize(
    ("path", "descriptor"),
    [
        ("-", 1),
        ("/dev/stdout", 1),
        ("/dev/stderr", 2),
        ("/dev/fd/63", 63),
        ("/proc/self/fd/7", 7),
        ("/dev/null", None),
        ("./-", None),
        ("fd/1", None),
        ("/dev/fd/x", None),
    ],
)
def test_descriptors_have_many_names(path: str, descriptor: int | None) -> None:
    """Shells and people spell them differently."""
    assert descriptor_of(path) == descriptor


def test_what_is_no_file_is_a_pipe(tmp_path: Path) -> None:
    """By its kind, also behind a link."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "file").touch()

    assert is_pipe("-")
    assert is_pipe("/dev/null")
    assert is_pipe(str(tmp_path / "fifo"))
    assert is_pipe(str(tmp_path / "link"))
    assert not is_pipe(str(tmp_path / "file"))
    assert not is_pipe(str(tmp_path / "missing"))
    assert not is_pipe(str(tmp_path))
    assert not is_pipe("a\0b")


def test_a_mistyped_device_does_not_become_a_file() -> None:
    """Where root may write to /dev."""
    with pytest.raises(OutputBlockedError, match=r"^/dev/nul: there is no such device: .* --save"):
        check_place("/dev/nul", "--save")

    check_place("/dev/shm/save.jsonl", "--save")

"""What a start comes to is told in the order in which a person mends it: settings first, then files."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from llmblast.errors import OutputBlockedError, UsageError
from llmblast.job.start import run_preflight_checks
from llmblast.setting_loading import load
from llmblast.settings import Settings

ENDPOINTS = ["http://127.0.0.1:9/v1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**more: Any) -> Settings:
    return load({"input": "prompts.jsonl", "endpoints": ENDPOINTS, **more})


@pytest.mark.parametrize("name", ["save.jsonl", "errors.jsonl"])
def test_either_output_may_be_locked(folder: Path, name: str) -> None:
    """The sentence names it, and the option that names another."""
    (folder / "save.jsonl").touch()
    (folder / "errors.jsonl").touch()
    run_preflight_checks(settings())

    with (folder / name).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        with pytest.raises(OutputBlockedError, match=rf"{name}: another run .* --{name.split('.', maxsplit=1)[0]}"):
            run_preflight_checks(settings())


@pytest.mark.parametrize(
    "more",
    [
        {"endpoints": []},
        {"errors": "save.jsonl"},
        {"input": "save.jsonl"},
        {"spool": "nowhere"},
        {"save": "-", "errors": "save.jsonl", "json": True},
        {"save": "/dev/stdout", "errors": "save.jsonl", "json": True},
        {"save": "-", "errors": "/dev/fd/1"},
        {"errors": "-", "json": True},
        {"errors": "save.link"},
        {"errors": "save.hard"},
        {"errors": "save.jsonl.settings"},
        {"force": True},
    ],
)
def test_a_wrong_setting_is_told_before_a_lock(folder: Path, more: dict[str, Any]) -> None:
    """It will be wrong when the other run has ended, too."""
    with (folder / "save.jsonl").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        (folder / "save.link").symlink_to("save.jsonl")
        (folder / "save.hard").hardlink_to(folder / "save.jsonl")

        with pytest.raises(UsageError):
            run_preflight_checks(settings(**more))


def test_a_file_whose_name_is_that_of_standard_output_does_not_count(folder: Path) -> None:
    """`-` is no file to a run."""
    with (folder / "-").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        run_preflight_checks(settings(save="-"))

    assert os.listdir(folder) == ["-"]


@pytest.mark.parametrize(
    ("save", "errors", "resolved"),
    [
        ("/dev/stdout", "", ("-", "errors.jsonl")),
        ("/dev/null", "", ("/dev/null", "errors.jsonl")),
        ("/dev/null", "/dev/null", ("/dev/null", "/dev/null")),
        ("out/pipe", "", ("out/pipe", "errors.jsonl")),
        ("out/pipe", "mine.jsonl", ("out/pipe", "mine.jsonl")),
        ("out/a.jsonl", "/proc/self/fd/1", ("out/a.jsonl", "-")),
        ("out/a.jsonl", "", ("out/a.jsonl", "out/a.errors.jsonl")),
    ],
)
def test_errors_of_a_pipe_are_in_the_current_directory(
    folder: Path, save: str, errors: str, resolved: tuple[str, str]
) -> None:
    """Whatever the pipe is called; standard output has one name from then on."""
    (folder / "out").mkdir()
    os.mkfifo(folder / "out" / "pipe")

    checked = run_preflight_checks(settings(save=save, errors=errors))

    assert (checked.save, checked.errors_path) == resolved


def test_errors_that_pipes_share_are_not_asked_for_their_lock(folder: Path) -> None:
    """Others hold it for moments only."""
    with (folder / "errors.jsonl").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        run_preflight_checks(settings(save="-"))


@pytest.mark.parametrize(
    ("reserve", "of_endpoints", "message"),
    [
        (8, (None, 4), "--reserve 8: must be less than the 8 of --concurrency"),
        (6, (2, 4), "--reserve 6: must be less than the 6 of the endpoints' concurrency"),
        (5, (2, 4), None),
        ("90%", (2, 4), None),
    ],
)
def test_a_reserve_of_all_slots_is_an_error(
    folder: Path, reserve: float | str, of_endpoints: tuple[int | None, ...], message: str | None
) -> None:
    """It would leave none to deferred lines."""
    endpoints = [
        {"url": f"http://127.0.0.1:{port}/v1", **({} if slots is None else {"concurrency": slots})}
        for port, slots in enumerate(of_endpoints, 9)
    ]
    checked = settings(endpoints=endpoints, reserve=reserve, concurrency=8)

    if message is None:
        run_preflight_checks(checked)
    else:
        with pytest.raises(UsageError, match=message):
            run_preflight_checks(checked)

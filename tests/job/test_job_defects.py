"""Reports of defects: where they are written, and what must not be in them."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmblast.job.defects import MAX_FILE_BYTES, MAX_REPORTS, Defects
from llmblast.setting_loading import load
from llmblast.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a run whose endpoint is described with secrets."""
    endpoint = {
        "url": "https://gpu.example/v1?token=in-the-query",
        "name": "gpu",
        "headers": {"api-key": "in-a-header"},
        "key_command": "print in-a-command",
    }
    return load({"endpoints": [endpoint], "save": str(tmp_path / "save.jsonl"), "rps": 5, "system": "between-us"})


def details(tmp_path: Path) -> str:
    return (tmp_path / "save.jsonl.defect.txt").read_text()


def defect(message: str = "a bug") -> Exception:
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        return error


def test_the_details_say_what_was_where(tmp_path: Path, settings: Settings) -> None:
    """Enough to find the defect without the run."""
    defects = Defects(settings, {})
    defects.on_run_built(list, lambda: {"sent": 17})

    sentence = defects.report(defect())

    text = details(tmp_path)
    assert sentence.startswith("a defect in llmblast: RuntimeError: a bug")
    assert sentence.endswith(f"details: {tmp_path}/save.jsonl.defect.txt")
    for part in ("llmblast ", "Python 3", "setting rps = 5.0", "so far sent = 17", "Traceback", "in defect\n"):
        assert part in text


@pytest.mark.parametrize(
    "secret",
    [
        "in-the-query",
        "in-a-header",
        "in-a-command",
        "between-us",
        "in-the-environment",
        "known-to-a-channel",
        "sk-looks-like-one",
        "user:password@",
    ],
)
def test_no_secret_is_in_a_report(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str], secret: str
) -> None:
    """Neither from the settings nor from the message of the defect."""
    defects = Defects(settings, {"GATEWAY_TOKEN": "in-the-environment", "HOME": "/root"})
    defects.on_run_built(lambda: [b"known-to-a-channel"], dict)
    message = (
        "in-the-environment, known-to-a-channel, sk-looks-like-one, https://user:password@gpu.example, "
        "https://gpu.example?token=in-the-query"
    )

    sentence = defects.report(defect(message))
    defects.report_advice("a part", defect(message))

    assert secret not in sentence + details(tmp_path) + capsys.readouterr().err


def test_without_known_secrets_nothing_is_written(tmp_path: Path, settings: Settings) -> None:
    """Text in which they could not be hidden goes nowhere, and the sentence says so."""

    def fail() -> Iterator[bytes]:
        raise RuntimeError("secrets cannot be found")

    defects = Defects(settings, {})
    defects.on_run_built(fail, dict)

    sentence = defects.report(defect("in plain text"))

    assert sentence == ("a defect in llmblast: RuntimeError; its details could not be written: secrets cannot be found")
    assert list(tmp_path.iterdir()) == []


def test_reports_are_appended_until_the_file_is_long(tmp_path: Path, settings: Settings) -> None:
    """Those of an earlier run are evidence, too; a defect in every reply must not fill the disk."""
    Defects(settings, {}).report(defect("first"))
    defects = Defects(settings, {})
    for _ in range(2 * MAX_REPORTS):
        defects.report(defect("second"))
    appended = details(tmp_path)
    (tmp_path / "save.jsonl.defect.txt").write_text("x" * (MAX_FILE_BYTES + 1))

    Defects(settings, {}).report(defect("third"))

    assert (appended.count("first"), appended.count("RuntimeError: second")) == (1, MAX_REPORTS)
    assert details(tmp_path).startswith("2")


@pytest.mark.parametrize("kind", ["folder", "hard link", "pipe"])
def test_what_is_no_file_of_ours_is_left_alone(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The details go to a temporary file instead."""
    path = tmp_path / "save.jsonl.defect.txt"
    (tmp_path / "precious").write_text("precious")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.hardlink_to(tmp_path / "precious")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    sentence = Defects(settings, {}).report(defect())

    (written,) = tmp_path.glob("llmblast.*.defect.txt")
    assert (tmp_path / "precious").read_text() == "precious"
    assert str(written) in sentence
    assert written.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("save", ["-", "/dev/null"])
def test_where_the_output_is_no_file_the_current_folder_has_the_details(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str
) -> None:
    """Beside a device there is no place for them."""
    monkeypatch.chdir(tmp_path)

    sentence = Defects(load({"save": save}), {}).report(defect())

    assert sentence.endswith("details: llmblast.defect.txt")
    assert (tmp_path / "llmblast.defect.txt").exists()


def test_a_message_with_escape_codes_is_one_printable_line(settings: Settings) -> None:
    """It may quote what a provider has sent."""
    sentence = Defects(settings, {}).report(defect("\x1b[31mred\nsecond line"))

    assert sentence.isprintable()

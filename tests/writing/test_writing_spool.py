"""What an output did not take waits in a second place, and the next run takes it in exactly once."""

import os
import resource
import stat
from pathlib import Path

import pytest

from llmblast.errors import OutputBlockedError
from llmblast.writing import OutputFile, Spool
from tests.writing.writing_samples import parsed


def records(*numbers: int, text: str = "x") -> bytes:
    """A file's content with these records."""
    return b"".join(b'{"key":"%016x","line":%d,"response":"%s"}\n' % (n, n, text.encode()) for n in numbers)


def lines_of(path: Path) -> list[int]:
    return [record["line"] for record in parsed(path)]


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "save.jsonl"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (place := tmp_path / "place").mkdir()
    return place


def store(save: Path, place: Path, data: bytes) -> Path:
    """Stores records for an output as a run does, and ends that run."""
    output = OutputFile(str(save))
    file, _ = Spool(output, str(place)).store(data)
    file.close()
    output.close()
    return Path(file.path)


def take_in(save: Path, place: Path) -> list[str]:
    """Opens the output as the next run does."""
    output = OutputFile(str(save))
    try:
        Spool(output, str(place)).take_in(output)
    finally:
        output.close()
    return output.repaired


@pytest.mark.parametrize("name", ["\udcff.jsonl", "文" * 80 + ".jsonl", "x" * 250], ids=["no text", "wide", "long"])
def test_an_output_of_any_name_has_a_spool(tmp_path: Path, place: Path, name: str) -> None:
    """File systems count the bytes of a name, and any will do."""
    save = tmp_path / name

    store(save, place, records(1))
    take_in(save, place)

    assert lines_of(save) == [1]
    assert list(place.iterdir()) == []


def test_a_spool_is_for_its_owner_and_named_after_its_output(save: Path, place: Path) -> None:
    """A person has to see whose it is, and nobody else what is in it."""
    path = store(save, place, records(1))

    assert path.parent == place
    assert path.name.startswith("save.jsonl.")
    assert path.name.endswith(".spool.jsonl")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert lines_of(path) == [1]


def test_the_next_run_takes_it_in(save: Path, place: Path) -> None:
    """Appended, said, removed."""
    save.write_bytes(records(1))
    path = store(save, place, records(2, 3))

    notes = take_in(save, place)

    assert lines_of(save) == [1, 2, 3]
    assert notes == [f"{save}: 2 records of an earlier run were added from {path}, which was removed"]
    assert list(place.iterdir()) == []
    assert take_in(save, place) == []


def test_a_line_that_has_its_record_gets_no_second_one(save: Path, place: Path) -> None:
    """Be it the same record, which a failed sync did write, or one of a run that did not know of the spool."""
    save.write_bytes(records(1, 2) + records(3, text="another answer"))
    store(save, place, records(2, 3, 4))
    store(save, place, records(4, 5))

    take_in(save, place)

    assert lines_of(save) == [1, 2, 3, 4, 5]


def test_records_of_other_repeats_and_files_are_other_records(save: Path, place: Path) -> None:
    """The same line may be in two files, and be asked several times."""
    head = b'{"key":"%016x","line":1' % 1
    file = b',"file":"a, \\"b\\".jsonl"'
    kept = head + b',"repeat":1' + file + b',"response":"x"}\n'
    new = [head + b',"repeat":2' + file + b',"response":"x"}\n', head + b',"repeat":1,"file":"c","id":1}\n']
    save.write_bytes(kept)

    store(save, place, b"".join([kept, *new]))
    take_in(save, place)

    assert save.read_bytes() == b"".join([kept, *new])


def test_equal_lines_each_get_their_record(save: Path, place: Path) -> None:
    """The line's number tells them apart, where the key is the same."""
    save.write_bytes(b'{"key":"00000000000000aa","line":1,"response":"x"}\n')
    store(save, place, b'{"key":"00000000000000aa","line":2,"response":"x"}\n')

    take_in(save, place)

    assert lines_of(save) == [1, 2]


def test_a_torn_spool_gives_what_is_whole(save: Path, place: Path) -> None:
    """The process may have been killed while it wrote there."""
    save.write_bytes(records(1))
    path = store(save, place, records(2, 3))
    path.write_bytes(path.read_bytes()[:-5])

    take_in(save, place)

    assert lines_of(save) == [1, 2]
    assert Path(f"{path}.torn").exists()


def test_the_spool_of_another_output_is_left_alone(save: Path, place: Path) -> None:
    """Even of one with the same name in another directory."""
    other = save.parent / "other" / "save.jsonl"
    other.parent.mkdir()
    path = store(other, place, records(1))

    assert take_in(save, place) == []
    assert path.exists()


def test_what_somebody_else_put_there_is_not_taken_in(save: Path, place: Path) -> None:
    """Everybody may write to the system's temporary directory."""
    path = store(save, place, records(1))
    target = save.with_name("target.jsonl")
    path.rename(target)
    path.symlink_to(target)
    foreign = store(save, place, records(2))
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    else:
        foreign.unlink()

    assert take_in(save, place) == []
    assert lines_of(save) == []


def test_a_spool_that_is_still_written_is_left_alone(save: Path, place: Path) -> None:
    """Its run goes on under a name that the output no longer has."""
    output = OutputFile(str(save))
    file, _ = Spool(output, str(place)).store(records(1))
    output.close()

    notes = take_in(save, place)

    assert "records of an earlier run were not added: " in notes[0]
    assert "another run is writing to it" in notes[0]
    file.close()
    take_in(save, place)
    assert lines_of(save) == [1]


def test_a_place_that_does_not_take_all_is_left_for_the_next(
    save: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays behind in the first; the current directory is the second."""
    (current := tmp_path / "current").mkdir()
    monkeypatch.chdir(current)
    place.rmdir()

    path = store(save, place, records(1))

    assert path.parent == current


def test_without_a_directory_the_systems_own_is_taken(save: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TMPDIR says."""
    monkeypatch.setattr("tempfile.tempdir", str(place))
    output = OutputFile(str(save))

    file, count = Spool(output, None).store(records(1, 2))

    assert (Path(file.path).parent, count) == (place, 2)
    file.close()
    output.close()


def test_a_disk_that_is_still_full_changes_nothing(save: Path, place: Path) -> None:
    """The spool stays, the file is as it was, and nothing is sent."""
    save.write_bytes(records(1))
    path = store(save, place, records(2, 3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(records(1)) + 10, hard))
    try:
        with pytest.raises(OutputBlockedError, match=r"cannot add the records that wait in .*: File too large"):
            take_in(save, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert save.read_bytes() == records(1)
    assert lines_of(path) == [2, 3]


def test_starting_anew_discards_what_waits(save: Path, place: Path) -> None:
    """Old answers must not come back into a file that was emptied."""
    store(save, place, records(1))
    output = OutputFile(str(save))

    Spool(output, str(place)).discard()
    output.close()

    assert list(place.iterdir()) == []


def test_standard_output_takes_nothing_in(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What an earlier pipe did not take is not this one's."""
    output = OutputFile("-")
    file, _ = Spool(output, str(place)).store(records(1))
    file.close()

    Spool(output, str(place)).take_in(output)
    output.close()

    assert Path(file.path).name.startswith("stdout.")
    assert capfd.readouterr().out == ""


def test_the_next_run_finds_it_by_the_link_beside_the_output(save: Path, place: Path, tmp_path: Path) -> None:
    """Whatever second place that run has; the link goes with the spool."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    first, second = store(save, place, records(1)), store(save, place, records(2))
    links = [Path(f"{save}.spool"), Path(f"{save}.spool.2")]
    assert [link.readlink() for link in links] == [first, second]

    take_in(save, elsewhere)

    assert lines_of(save) == [1, 2]
    assert list(place.iterdir()) == []
    assert not any(link.is_symlink() for link in links)


def test_an_output_that_was_moved_finds_its_spool(save: Path, place: Path, tmp_path: Path) -> None:
    """With the link, as a whole folder is moved."""
    store(save, place, records(1))
    (moved := tmp_path / "moved").mkdir()
    save.rename(moved / save.name)
    Path(f"{save}.spool").rename(moved / f"{save.name}.spool")

    take_in(moved / save.name, tmp_path)

    assert lines_of(moved / save.name) == [1]


def test_a_spool_that_is_gone_is_told(save: Path, place: Path) -> None:
    """The lines are paid for again: a person should know why."""
    path = store(save, place, records(1))
    path.unlink()

    assert take_in(save, place) == [f"{save}: its spool {path} is gone; lines without a record are sent again"]
    assert take_in(save, place) == []


@pytest.mark.parametrize("name", ["victim", "other.jsonl.0123456789ab.x.spool.jsonl", "save.jsonl.x.spool.jsonl"])
def test_a_link_to_anything_else_is_not_followed(save: Path, place: Path, name: str) -> None:
    """It is told, and what it leads to stays."""
    victim = place / name
    victim.write_bytes(records(1))
    Path(f"{save}.spool").symlink_to(victim)

    notes = take_in(save, place)

    assert notes == [f"{save}.spool: is a link to {victim}, which is not a spool of this output; it was not changed"]
    assert victim.read_bytes() == records(1)
    assert lines_of(save) == []


def test_a_pipe_has_no_link_beside_it(tmp_path: Path, place: Path) -> None:
    """No later run takes it in."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    output = OutputFile(str(tmp_path / "pipe"))

    file, _ = Spool(output, str(place)).store(records(1))

    file.close()
    output.close()
    os.close(reader)
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "place"}

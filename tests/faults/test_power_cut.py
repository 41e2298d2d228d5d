"""A power cut takes pages that were not synced: what was synced survives, and the next run completes the files.

The real writer writes two files; what had been flushed and what had been synced is noted as it goes. Then states of
the disk are made up as a power cut may leave them: every page of 4 KiB that was not synced, each for itself, is there,
zero, or cut in the middle, and the file may end before any of them. Bytes that were synced keep their place in a page
that was to be written again.
"""

import asyncio
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest.mock import patch

import orjson
import pytest

from llmblast.reading import CompletedKeys
from llmblast.writing import OutputFile, Timing, Writer, output_file, render
from tests.writing.writing_samples import a_failure, a_success, parsed

PAGE_BYTES = 4096
LINES = 60
STATES_PER_RUN = 50


@dataclass(frozen=True)
class Moment:
    """One point of a run, in bytes of one file: written, synced, and promised, since their flush had come back."""

    written: int
    synced: int
    promised: int


@dataclass
class Written:
    """What one run wrote to one file, and the moments on the way."""

    content: bytes
    moments: list[Moment]


async def write(paths: list[Path], random: Random) -> list[Written]:
    """A run of the real writer: answers and failures of up to some pages, flushed now and then."""
    files = [OutputFile(str(path)) for path in paths]
    synced = {path.stat().st_ino: 0 for path in paths}
    promised = dict(synced)
    moments: list[list[Moment]] = [[] for _ in paths]

    def note_sync(fd: int) -> None:
        status = os.fstat(fd)  # more may be written while this runs
        os.fsync(fd)
        synced[status.st_ino] = status.st_size

    with patch.object(output_file, "_sync_data", note_sync):
        writer = Writer(
            *files,
            echo=True,
            body="auto",
            notice=print,
            timing=Timing(gather_s=0, sync_after_s=3600),
        )
        running = asyncio.ensure_future(writer.run())
        for number in range(LINES):
            text = "x" * random.choice((10, 300, 3000, 9000))
            writer.put(a_success(number, text) if number % 3 else a_failure(number, text.encode()))
            if random.random() < 0.1:
                await writer.flush()
                promised = {os.stat(file.path).st_ino: os.stat(file.path).st_size for file in files}
            await asyncio.sleep(random.choice((0, 0.001)))
            for its_moments, file in zip(moments, files, strict=True):
                status = os.stat(file.path)
                its_moments.append(Moment(status.st_size, synced[status.st_ino], promised[status.st_ino]))
        await writer.close()
        await running
    return [Written(path.read_bytes(), its) for path, its in zip(paths, moments, strict=True)]


def after_the_cut(written: Written, moment: Moment, random: Random) -> bytes:
    """One of the states in which the disk may be found."""
    content = bytearray(written.content[: moment.written])
    for page in range(moment.synced // PAGE_BYTES * PAGE_BYTES, moment.written, PAGE_BYTES):
        start, end = max(page, moment.synced), min(page + PAGE_BYTES, moment.written)
        survives = random.choice((start, end, end, random.randint(start, end)))
        content[survives:end] = bytes(end - survives)
    ends = (moment.written, moment.written, random.randint(moment.synced, moment.written))
    return bytes(content[: random.choice(ends)])


def lines_in(paths: list[Path]) -> Counter[int]:
    return Counter(record["line"] for path in paths for record in parsed(path))


def resume(paths: list[Path]) -> None:
    """What the next run does: mend, see what is finished, do the rest."""
    files = [OutputFile(str(path)) for path in paths]
    finished = CompletedKeys.scan(map(str, paths))
    for number in range(LINES):
        outcome = a_success(number) if number % 3 else a_failure(number)
        if not finished.consume(f"{number:016x}"):
            files[number % 3 == 0].append(render(outcome))
    for file in files:
        file.close()


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 200))])
def test_what_was_synced_survives_a_power_cut(tmp_path: Path, seed: int) -> None:
    """Nothing that was synced is lost, nothing is there twice, nothing broken stays in a file."""
    random = Random(seed)
    paths = [tmp_path / "save.jsonl", tmp_path / "errors.jsonl"]
    run = asyncio.run(write(paths, random))
    originals = {line for written in run for line in written.content.splitlines()}
    for _ in range(STATES_PER_RUN):
        at = random.randrange(LINES)
        promised = set()
        for path, written in zip(paths, run, strict=True):
            moment = written.moments[at]
            path.write_bytes(after_the_cut(written, moment, random))
            promised.update(written.content[: moment.promised].splitlines())

        for path in paths:
            OutputFile(str(path)).close()
        found = [line for path in paths for line in path.read_bytes().splitlines()]
        resume(paths)

        assert promised <= set(found) <= originals
        assert len(found) == len(set(found))
        assert lines_in(paths) == Counter(range(LINES))


def test_zeros_in_the_middle_take_only_the_records_that_they_hit(tmp_path: Path) -> None:
    """A later page may reach the disk and an earlier one not; what is whole on both sides stays."""
    path = tmp_path / "save.jsonl"
    records = [orjson.dumps({"key": f"{number:016x}", "line": number, "response": "x" * 1000}) for number in range(20)]
    content = b"\n".join(records) + b"\n"
    path.write_bytes(content[:PAGE_BYTES] + bytes(PAGE_BYTES) + content[2 * PAGE_BYTES :])

    file = OutputFile(str(path))
    file.close()

    hit = range(PAGE_BYTES // (len(records[0]) + 1), 2 * PAGE_BYTES // (len(records[0]) + 1) + 1)
    assert [record["line"] for record in parsed(path)] == [number for number in range(20) if number not in hit]
    assert len(file.repaired) == 1
    assert "1 line was damaged" in file.repaired[0]

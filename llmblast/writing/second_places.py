"""Second places: move the records of one output to spools, and describe its failure."""

import asyncio

from llmblast.errors import OutputFailedError, ReaderGoneError
from llmblast.writing.output_file import ChangedError, OutputFile
from llmblast.writing.record_buffer import RecordBuffer
from llmblast.writing.spool import Spool


class SecondPlaces:
    """Move records of `output` to places of `spool`, one after the other.

    `current` is the file that takes records now, `names` are the spools in order, `count` the records in them.
    """

    def __init__(self, output: OutputFile, spool: Spool) -> None:
        self.current = output
        self.names: list[str] = []
        self.count = 0
        self.problem = ""
        """The first trouble of the output itself, in words."""
        self.is_reader_gone = False
        self.has_failed_over = False
        """Records went to a second place."""
        self._output = output
        self._spool = spool

    def record_problem(self, error: OSError, *, is_synced: bool) -> None:
        """Record the trouble of the output. `is_synced`: a sync failed, not a write."""
        self.is_reader_gone = isinstance(error, BrokenPipeError)
        if self.is_reader_gone:
            self.problem = "its reader has closed it"
        elif isinstance(error, FileNotFoundError | ChangedError):
            self.problem = str(error.strerror)
        else:
            self.problem = f"cannot be {'synced to its device' if is_synced else 'written'}: {error.strerror}"

    @property
    def has_moved(self) -> bool:
        """Records go to a second place now."""
        return self.current is not self._output

    def record_write(self, written: bytes) -> None:
        """Count records that were written to the current file, if that is a second place."""
        if self.has_moved:
            self.count += written.count(b"\n")

    async def move(self, buffer: RecordBuffer, error: OSError) -> bool:
        """Make all records that are not durable in the current file durable in another one, which is current then.

        Return False if no place takes them. `error` is the trouble of the current file.
        """
        written, old = buffer.written, self.current
        lost = old if isinstance(error, FileNotFoundError) else None
        try:
            place, count = await asyncio.to_thread(self._spool.store, written + buffer.unwritten, lost, len(written))
        except OSError:
            return False
        if not isinstance(error, ChangedError):
            await asyncio.to_thread(old.take_back, len(written))
        if self.has_moved:
            await asyncio.to_thread(old.close)
            self.count -= written.count(b"\n")
        self.current = place
        self.names.append(place.name)
        self.count += count
        self.has_failed_over = True
        return True

    async def close(self) -> None:
        """Close the files, and remove the places that took no record after all."""
        for file in {self.current, self._output}:
            await asyncio.to_thread(file.close)
        if self.names and not self.count:
            await asyncio.to_thread(self._spool.discard_empty, self.names)
            self.names = []

    def explain(self, missing: int) -> OutputFailedError:
        """Return the failure of the output: the problem, the places of the records, the number of lost ones, a fix."""
        sentence = f"{self._output.name}: {self.problem}"
        if self.count:
            sentence += f"; {_number(self.count)} in {' and '.join(self.names)}"
        if missing:
            sentence += f"; {_number(missing)} lost: they could not be written anywhere else"
        if self.is_reader_gone:
            go_on = f"; to go on from there: --save {self.names[-1]}" if self.count else ""
            return ReaderGoneError(f"{sentence} (only a run with --save FILE can be resumed{go_on})")
        return OutputFailedError(f"{sentence}: {self._advice()}")

    def _advice(self) -> str:
        if not self._output.is_resumable:
            if self.count:
                return "move this file if you need it, no later run reads it"
            return "write to a file with --save"
        if "another process" in self.problem:
            advice = "stop that process and run the same command again; it sends lines without a record again"
            return f"{advice} and adds these records" if self.count else advice
        fix = "" if "removed" in self.problem else "free some space or solve the problem, and "
        return f"{fix}run the same command again to go on{'; it adds these records' if self.count else ''}"


def _number(count: int) -> str:
    return "1 record is" if count == 1 else f"{count:,} records are"

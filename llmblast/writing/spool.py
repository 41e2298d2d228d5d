"""Spool: store records that their output cannot take, and add them to it in the next run.

A spool is a file of records like an output: only for its owner, locked while it is written, repaired when it is opened.
Its name is that of the output with a hash of its whole path and a random end, so that no other user can create it
before us.

`OUTPUT.spool` beside the output is a symbolic link to the spool, so that the next run finds it: a link needs no room on
a full disk. The link is only read: its target must have the name of a spool and belong to us.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from glob import escape, glob
from hashlib import blake2b
from itertools import chain

from llmblast.errors import OutputBlockedError
from llmblast.pipes import STDOUT
from llmblast.writing.merging import append, append_missing, batches_of
from llmblast.writing.output_file import OutputFile
from llmblast.writing.rewriting import sync_directory_of
from llmblast.writing.side_file import is_own_file

SUFFIX = ".spool.jsonl"
POINTER = ".spool"
_MAX_POINTERS = 9


class Spool:
    """Choose the place for records of `output`: `directory` or the system's temporary directory, then the current one,
    then that of the output.
    """

    def __init__(self, output: OutputFile, directory: str | None) -> None:
        self._is_resumable = output.is_resumable
        self._output_path = output.path
        path = os.fsencode(output.path)  # a name need not be UTF-8, and its longest is counted in bytes
        name = os.path.basename(path) if output.path != STDOUT else b"stdout"
        self._name = f"{name[:100].decode(errors='ignore')}."
        self._prefix = f"{self._name}{blake2b(path, digest_size=6).hexdigest()}."
        self._directories = list(_directories(output, directory))
        self._taken_in: set[str] = set()

    def store(self, records: bytes, lost: OutputFile | None = None, leave_out_bytes: int = 0) -> tuple[OutputFile, int]:
        """Make `records` durable in the first place that takes them all. Return it, open, and how many it holds.

        A `lost` file has no name any more: its content without the last `leave_out_bytes` is stored before the records,
        and the places are tried in reverse order, since its own directory had room for it. Blocks. Raises OSError.
        """
        problem: OSError = FileNotFoundError("no directory for a spool")
        for directory in reversed(self._directories) if lost else self._directories:
            try:
                return self._store_in(directory, records, lost, leave_out_bytes)
            except OSError as error:
                problem = error
        raise problem

    def find(self) -> list[str]:
        """Return our waiting spools of this output, oldest first; none for an output that cannot be resumed."""
        if not self._is_resumable:
            return []
        pattern = f"{escape(self._prefix)}*{SUFFIX}"
        found = [path for directory in self._directories for path in glob(os.path.join(escape(directory), pattern))]
        found += (path for _, path in self._pointers() if self._is_spool_name(path) and os.path.lexists(path))
        ours = {os.path.realpath(path) for path in found if is_own_file(path)}
        return sorted(ours, key=os.path.getmtime)

    def discard(self) -> None:
        """Remove the waiting spools, since the output is started anew."""
        for path in self.find():
            os.unlink(path)
        self._remove_pointers()

    def discard_empty(self, paths: Iterable[str]) -> None:
        """Remove places that took no record after all. Blocks."""
        for path in paths:
            _remove(path)
        self._remove_pointers()

    def take_in(self, output: OutputFile) -> None:
        """Append the records of waiting spools that the output does not have, remove the spools, and note that in
        `repaired`. Blocks. Raises OutputBlockedError, and changes nothing then.
        """
        for path in self.find():
            try:
                spool = OutputFile(path)
            except OutputBlockedError as error:
                output.repaired.append(f"{output.name}: records of an earlier run were not added: {error}")
                continue
            try:
                count = append_missing(output, [spool])
            finally:
                spool.close()
            os.unlink(path)
            self._taken_in.add(path)
            output.repaired.append(
                f"{output.name}: {count:,} records of an earlier run were added from {path}, which was removed"
            )
        output.repaired += self._remove_pointers()

    def _store_in(
        self, directory: str, records: bytes, lost: OutputFile | None, leave_out_bytes: int
    ) -> tuple[OutputFile, int]:
        fd, path = tempfile.mkstemp(SUFFIX, self._prefix, directory)
        os.close(fd)
        with contextlib.ExitStack() as undo:
            undo.callback(_remove, path)
            file = _open(path)
            undo.callback(file.close)
            count = 0
            for batch in chain(batches_of(lost.lines(leave_out_bytes) if lost else ()), [records]):
                append(file, batch)
                count += batch.count(b"\n")
            file.sync()
            sync_directory_of(path)
            undo.pop_all()
        self._point_to(file.path)
        return file, count

    def _point_to(self, path: str) -> None:
        """Create the link beside the output, if that is possible."""
        if not self._is_resumable:
            return
        for name in self._pointer_names():
            try:
                os.symlink(path, name)
            except FileExistsError:
                continue
            except OSError:  # the message names the spool, too
                return
            sync_directory_of(name)
            return

    def _pointers(self) -> Iterator[tuple[str, str]]:
        """Yield the links beside the output with their targets."""
        for name in self._pointer_names() if self._is_resumable else ():
            with contextlib.suppress(OSError):
                yield name, os.readlink(name)

    def _pointer_names(self) -> Iterator[str]:
        yield f"{self._output_path}{POINTER}"
        yield from (f"{self._output_path}{POINTER}.{number}" for number in range(2, _MAX_POINTERS + 1))

    def _remove_pointers(self) -> list[str]:
        """Remove links to spools that are gone. Return notes about those that another program has removed."""
        notes = []
        for name, path in self._pointers():
            if not self._is_spool_name(path):
                notes.append(f"{name}: is a link to {path}, which is not a spool of this output; it was not changed")
            elif not os.path.lexists(path):
                if os.path.realpath(path) not in self._taken_in:
                    notes.append(
                        f"{self._output_path}: its spool {path} is gone; lines without a record are sent again"
                    )
                _remove(name)
        return notes

    def _is_spool_name(self, path: str) -> bool:
        """Return whether a path is named like a spool of this output; its folder may have been moved."""
        pattern = rf"{re.escape(self._name)}[0-9a-f]{{12}}\.[^.]+{re.escape(SUFFIX)}"
        return os.path.isabs(path) and re.fullmatch(pattern, os.path.basename(path)) is not None


def _directories(output: OutputFile, first: str | None) -> Iterator[str]:
    if first is not None:
        yield os.path.realpath(first)
    with contextlib.suppress(FileNotFoundError):  # nothing can be written there now, or the current one was removed
        if first is None:
            yield tempfile.gettempdir()
        yield os.getcwd()
    if output.is_resumable:
        yield os.path.dirname(output.path)


def _open(path: str) -> OutputFile:
    try:
        return OutputFile(path)
    except OutputBlockedError as error:
        raise OSError(str(error)) from None


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)

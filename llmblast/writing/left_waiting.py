"""Records that a killed run has left in its waiting files (`waiting_file`): the next run adds or removes them."""

import contextlib
import os
import re
from glob import escape, glob

from llmblast.errors import OutputBlockedError
from llmblast.writing.merging import append_missing
from llmblast.writing.output_file import OutputFile
from llmblast.writing.side_file import is_own_file

SUFFIX = ".waiting"


def take_in_waiting(output: OutputFile) -> None:
    """Append the records that a killed run has left waiting, in the order of their lines, and note that in `repaired`.

    Blocks. Raises OutputBlockedError, and changes nothing then.
    """
    paths = _left_for(output)
    if not paths:
        return
    with contextlib.ExitStack() as stack:
        files: list[OutputFile] = []
        for path in paths:
            try:
                files.append(OutputFile(path))
            except OutputBlockedError as error:
                output.repaired.append(f"{output.name}: records of an earlier run were not added: {error}")
            else:
                stack.callback(files[-1].close)
        count = append_missing(output, files, by_line=True)
    for file in files:
        os.unlink(file.path)
    if count:
        output.repaired.append(f"{output.name}: {count:,} records of an earlier run that waited for others were added")


def discard_waiting(output: OutputFile) -> None:
    """Remove what a killed run has left waiting, since the output is started anew."""
    for path in _left_for(output):
        os.unlink(path)


def _left_for(output: OutputFile) -> list[str]:
    """Return the segments of this output, oldest first; never links, or files of other users."""
    if not output.is_resumable:
        return []
    found = (
        (int(number[1]), path)
        for path in glob(f"{escape(output.path)}{SUFFIX}.*")
        if (number := re.fullmatch(r".*\.(\d{1,9})", path)) is not None
    )
    return [path for _, path in sorted(found) if is_own_file(path)]

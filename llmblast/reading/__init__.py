"""Reading: bytes -> lines -> Requests, and what an earlier run has finished.

1. `open_source` opens a file or standard input; `Source.blocks` delivers its bytes as they come.
2. `LineSplitter` makes numbered lines of the blocks, whatever their boundaries.
3. `key_of` names a line; `Finished.take` says whether an earlier run has its record.
4. `Shaper.shape` makes a Request of a line by way of the format that claims it, or a Failure that says what is wrong.

A new format is one class in one file plus one line in `formats.FORMATS`.
"""

from llmblast.reading.finished import Finished
from llmblast.reading.lines import LineSplitter, OversizedLine, key_of
from llmblast.reading.shaping import Shaper
from llmblast.reading.source import Source, open_source

__all__ = ["Finished", "LineSplitter", "OversizedLine", "Shaper", "Source", "key_of", "open_source"]

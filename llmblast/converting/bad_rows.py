"""Bad rows of a conversion: each becomes one record of an error file, as in a run, so that none is lost."""

import contextlib
from os.path import splitext
from types import TracebackType
from typing import BinaryIO

from llmblast.converting.atomic_file import STDOUT, check_free, open_atomic
from llmblast.errors import InputDamagedError
from llmblast.models import Failure
from llmblast.settings import Settings
from llmblast.writing.formats import error_record


class BadRows:
    """Write the error file beside the output, once there is a bad row. It has its name only once all is converted."""

    def __init__(self, output: str, settings: Settings) -> None:
        beside = "errors.jsonl" if output == STDOUT else f"{splitext(output)[0]}.errors.jsonl"
        self.path = settings.errors or beside
        self.count = 0
        self._overwrite = settings.overwrite
        self._stack = contextlib.ExitStack()
        self._file: BinaryIO | None = None
        self._first = ""

    def __enter__(self) -> "BadRows":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, failure: Failure) -> None:
        """Write one record. Raises OutputBlockedError and OutputFailedError."""
        if self._file is None:
            self._first = failure.error
            check_free(self.path, overwrite=self._overwrite)
            self._file = self._stack.enter_context(open_atomic(self.path, overwrite=self._overwrite))
        self._file.write(error_record(failure))
        self.count += 1

    def check_any_good(self, good: int) -> None:
        """Raise InputDamagedError, with the first bad row, where all rows are bad: no file is written then."""
        if self.count and not good:
            others = f" ({self.count - 1:,} more rows are bad, none is good)" if self.count > 1 else ""
            raise InputDamagedError(f"{self._first}{others}")

"""Errors that reach a person, each with its exit code.

    LlmblastError
    |-- UsageError          2   wrong usage or settings; nothing was sent
    |-- GaveUpError         4   too many lines failed
    |-- StoppedError        5   a time limit or a long rate limit ended the run; lines are pending
    |-- InputDamagedError  65   the input broke off part-way
    |-- InputMissingError  66   the input cannot be opened
    |-- DefectError        70   a defect in llmblast
    |-- OutputBlockedError 73   an output is locked or cannot be created
    |-- OutputFailedError  74   an output failed during the run
    |   `-- ReaderGoneError 141 the reader of a pipe has closed it
    `-- RefusedError       77   no endpoint accepts requests; lines are pending

The message is one sentence that names the place, what is wrong and the fix. `cli` prints it without a traceback.
Codes from 64 to 78 are those of BSD's sysexits.h. Codes above 128 are 128 plus the number of a signal, as shells report
it; 141 stands for SIGPIPE, which ends other programs when the reader of their pipe closes it.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of the process; a test compares the table in README with this one."""

    OK = 0
    USAGE = 2
    SOME_FAILED = 3
    GAVE_UP = 4
    STOPPED = 5
    INPUT_DAMAGED = 65
    INPUT_MISSING = 66
    DEFECT = 70
    OUTPUT_BLOCKED = 73
    OUTPUT_FAILED = 74
    REFUSED = 77
    HUNG_UP = 129
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


class LlmblastError(Exception):
    """Base of all errors that a person has to fix. The message is for that person."""

    exit_code: ExitCode = ExitCode.USAGE


class UsageError(LlmblastError):
    """A flag, a setting or a combination of them is wrong; nothing was sent."""


class GaveUpError(LlmblastError):
    """More lines failed than `max_errors` allows."""

    exit_code = ExitCode.GAVE_UP


class StoppedError(LlmblastError):
    """A time limit ended the run, or a rate limit that lasts longer than `max_wait`; lines are pending."""

    exit_code = ExitCode.STOPPED


class InputDamagedError(LlmblastError):
    """The input could be opened but not read to its end."""

    exit_code = ExitCode.INPUT_DAMAGED


class InputMissingError(LlmblastError):
    """The input does not exist or cannot be opened."""

    exit_code = ExitCode.INPUT_MISSING


class DefectError(LlmblastError):
    """llmblast has a defect. The message names the file with the details."""

    exit_code = ExitCode.DEFECT


class OutputBlockedError(LlmblastError):
    """An output file is locked by another run, belongs to something else, or cannot be created."""

    exit_code = ExitCode.OUTPUT_BLOCKED


class OutputFailedError(LlmblastError):
    """Writing to an output file failed."""

    exit_code = ExitCode.OUTPUT_FAILED


class ReaderGoneError(OutputFailedError):
    """The reader of a pipe has closed it, as `head` does once it has enough lines."""

    exit_code = ExitCode.READER_GONE


class RefusedError(LlmblastError):
    """All endpoints rejected the requests, or none can be reached; lines are pending."""

    exit_code = ExitCode.REFUSED

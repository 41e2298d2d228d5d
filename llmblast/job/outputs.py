"""Outputs: open the two files of a run, and prepare them for what an earlier run has left in them."""

from llmblast.job.batch_folders import has_batches
from llmblast.job.fingerprint import SUFFIX as SETTINGS
from llmblast.job.learned_limits import SUFFIX as LIMITS
from llmblast.pipes import is_pipe
from llmblast.reading import CompletedKeys
from llmblast.settings import Settings
from llmblast.writing import OutputFile, SharedFile, Spool, discard_waiting, should_retry, take_in_waiting
from llmblast.writing.side_file import check_side_file
from llmblast.writing.spool import POINTER


def open_outputs(settings: Settings) -> tuple[OutputFile, OutputFile]:
    """Open and lock the files of answers and of errors. Raises OutputBlockedError or OutputFailedError."""
    save = OutputFile(settings.save, overwrite=settings.overwrite, force=settings.force, flag="--save")
    try:
        errors = _open_errors(settings, save)
    except BaseException:
        save.close()
        raise
    try:
        _check_side_files(save, errors)
        if settings.overwrite and has_batches(settings.save):
            from llmblast.job.batch_journal import discard_batches  # noqa: PLC0415 -- most outputs have none

            discard_batches(settings.save)
        for output in (save, errors):
            _begin(output, settings)
    except BaseException:
        save.close()
        errors.close()
        raise
    return save, errors


def _check_side_files(save: OutputFile, errors: OutputFile) -> None:
    """Raise OutputBlockedError where a pipe or a device has the name of a side file, before anything is changed."""
    for output, suffix in ((save, SETTINGS), (save, LIMITS), (save, POINTER), (errors, POINTER)):
        if output.is_resumable:
            check_side_file(f"{output.path}{suffix}")


def _open_errors(settings: Settings, save: OutputFile) -> OutputFile:
    """Open the file of errors. Where the answers go to a pipe, several runs may share it."""
    path = settings.errors_path
    if not save.is_resumable and not is_pipe(path):
        return SharedFile(path)
    options = {"overwrite": settings.overwrite, "force": settings.force, "waits_for_reader": False}
    return OutputFile(path, flag="--errors", **options)


def _begin(output: OutputFile, settings: Settings) -> None:
    """Empty an output with --overwrite; else append what an earlier run has left in a spool or waiting."""
    spool = Spool(output, settings.spool)
    if settings.overwrite:
        output.empty()
        spool.discard()
        discard_waiting(output)
    else:
        spool.take_in(output)
        take_in_waiting(output)


def find_finished_in(settings: Settings, save: OutputFile, errors: OutputFile) -> tuple[CompletedKeys, CompletedKeys]:
    """Return the keys that earlier runs answered, and those that they failed at.

    Remove from the errors file what is tried again: the errors that `--retry-errors` names, and those of lines that
    have an answer, too.
    """
    answered = CompletedKeys.scan([settings.save] if save.is_resumable else [])
    errors.keep_only(lambda record: not (should_retry(record, settings.retry_errors) or answered.has_key_of(record)))
    return answered, CompletedKeys.scan([settings.errors_path] if errors.is_resumable else [])

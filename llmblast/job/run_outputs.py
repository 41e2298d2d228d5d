"""Run outputs: the writer of the records, and the timeline."""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from llmblast.errors import LlmblastError
from llmblast.fence import Fence
from llmblast.job.defects import Defects
from llmblast.job.fingerprint import keep_settings
from llmblast.job.messages import say
from llmblast.models import Success
from llmblast.settings import Settings
from llmblast.watching import Counters, Timeline
from llmblast.writing import FORMATS, OutputFile, Timing, Writer

if TYPE_CHECKING:
    from llmblast.writing.ordered_writer import OrderedWriter


def make_writer(settings: Settings, outputs: Sequence[OutputFile], defects: Defects) -> "Writer | OrderedWriter":
    """Return the writer of the records to the files of answers and of errors."""
    save, errors = outputs
    timing = Timing(disk_wait_s=settings.disk_wait)
    writer = Writer(
        save,
        errors,
        echo=settings.echo,
        body=settings.body,
        output_format=settings.output_format,
        notice=partial(say, defects),
        spool_directory=settings.spool,
        timing=timing,
        before_first_answer=partial(_keep_settings, settings, defects) if save.is_resumable else None,
        before_render=_translation(settings.output_format),
    )
    if not settings.ordered:
        return writer
    from llmblast.writing.ordered_writer import OrderedWriter  # noqa: PLC0415 -- most runs keep no order
    from llmblast.writing.waiting_file import WaitingFile  # noqa: PLC0415

    return OrderedWriter(writer, WaitingFile(save, settings.spool), notice=partial(say, defects), timing=timing)


def _translation(output_format: str) -> Callable[[Success], None] | None:
    """Return what puts replies into the form that a batch format has, where another API may have answered."""
    kind = FORMATS[output_format].api if output_format in FORMATS else None
    if kind is None:
        return None
    from llmblast.providers.answers_as_chats import translate_answer  # noqa: PLC0415 -- most runs need none

    def translate(success: Success) -> None:
        success.reply.body = translate_answer(success.reply.body, success.answer, kind)

    return translate


def open_timeline(path: str | None, counters: Counters, stack: AsyncExitStack, fence: Fence) -> Timeline | None:
    """Open the file of the timeline, if one is named; `stack` closes it. A defect in it does not end the run."""
    if not path:
        return None
    try:
        timeline = Timeline(path, counters, time.monotonic, time.time)
    except LlmblastError:
        raise
    except Exception as error:  # noqa: BLE001 -- the run does not depend on it
        fence.switch_off("the timeline", error)
        return None
    stack.callback(timeline.close)
    return timeline


def _keep_settings(settings: Settings, defects: Defects) -> None:
    with defects.fence.around("saving the settings"):
        if (problem := keep_settings(settings)) is not None:
            say(defects, problem)

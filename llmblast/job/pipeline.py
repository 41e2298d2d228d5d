"""The pipeline: all parts of one run, connected, as `build_pipeline` hands them over and `run` lets them work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmblast.job.deadlines import Deadlines, Forecast
from llmblast.job.defects import Defects
from llmblast.job.engine import Engine
from llmblast.job.feeds import Feed
from llmblast.job.read_ahead import ReadAhead
from llmblast.job.result_queue import ResultQueue
from llmblast.sending import Channel, EndpointKey
from llmblast.watching import Counters, LimitsView, Timeline
from llmblast.writing import Writer

if TYPE_CHECKING:
    from llmblast.job.batch_sends import BatchSends
    from llmblast.writing.ordered_writer import OrderedWriter


@dataclass(slots=True)
class Pipeline:
    """All parts of one run, connected."""

    counters: Counters
    feeds: Sequence[Feed]
    """What is read at the same time."""
    waiting: Feed
    """Lines that were read ahead, when it is their turn."""
    returned: Feed | None
    """Lines that came back from batches; None where nothing goes by batch."""
    read_ahead: ReadAhead
    deadlines: Deadlines
    forecast: Forecast
    engine: Engine
    writer: "Writer | OrderedWriter | ResultQueue"
    channels: Sequence[Channel]
    keys: Sequence[EndpointKey]
    """One for each channel; `renew_key` replaces both."""
    connections_ahead: Sequence[int]
    """How many connections each channel opens before the first request."""
    limits: LimitsView
    keep_limits: Callable[[], None]
    """Save the limits that the run has learned, for the next run; blocks."""
    timeline: Timeline | None
    notes: Sequence[str]
    """Messages about repaired outputs and the ways to the endpoints."""
    records_before: tuple[int, int]
    """Numbers of answers and of errors that earlier runs have left in the outputs."""
    defects: Defects
    can_resume: bool
    """Whether the answers go to a file, so that the same command can go on."""
    has_files: bool
    """Whether the outcomes go to files or pipes, not to a caller in this process."""
    batch_sends: "BatchSends | None"
    """What goes by batch; None where nothing does."""
    failed_elsewhere: Callable[[], int]
    """Return how many records of the errors file belong to no line of this input, as far as it has been read."""
    tell_unused: Callable[[], None]
    """Tell of settings that no line has used, once all lines were read."""

    @property
    def goes_on_by_same_command(self) -> bool:
        """Return whether the same command can do what is left."""
        return self.can_resume and not (self.batch_sends is not None and self.batch_sends.lacks_endpoints)

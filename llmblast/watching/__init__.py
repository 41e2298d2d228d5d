"""Watching: counters that the stations add to, and the displays and the summary that read them from the side."""

from llmblast.watching.counters import Counters, EndpointCounters
from llmblast.watching.figures import duration
from llmblast.watching.progress import Display, LimitsView, NoDisplay, drive, make_display
from llmblast.watching.sanitize import clean
from llmblast.watching.summary import Summary
from llmblast.watching.timeline import Timeline

__all__ = [
    "Counters",
    "Display",
    "EndpointCounters",
    "LimitsView",
    "NoDisplay",
    "Summary",
    "Timeline",
    "clean",
    "drive",
    "duration",
    "make_display",
]

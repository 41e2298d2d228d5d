"""Watching: counters that the stations add to, and the displays and the summary that read them from the side."""

from llmblast.watching.costs import BATCH, FLEX, Cost, Prices, TokenCounts, money, prices_of
from llmblast.watching.counters import Counters, EndpointCounters
from llmblast.watching.display import Display, NoDisplay
from llmblast.watching.formatting import duration, rate
from llmblast.watching.limit_names import limit_in_words
from llmblast.watching.limits_view import LimitsView
from llmblast.watching.progress import Mode, drive, make_display
from llmblast.watching.rates import total_lines
from llmblast.watching.sanitize import sanitize_text
from llmblast.watching.stage_display import StageLines, StageView, make_stage_display
from llmblast.watching.summary import OutputFiles, Summary
from llmblast.watching.time_left import Allowance, TimeLeft
from llmblast.watching.timeline import Timeline

__all__ = [
    "BATCH",
    "FLEX",
    "Allowance",
    "Cost",
    "Counters",
    "Display",
    "EndpointCounters",
    "LimitsView",
    "Mode",
    "NoDisplay",
    "OutputFiles",
    "Prices",
    "StageLines",
    "StageView",
    "Summary",
    "TimeLeft",
    "Timeline",
    "TokenCounts",
    "drive",
    "duration",
    "limit_in_words",
    "make_display",
    "make_stage_display",
    "money",
    "prices_of",
    "rate",
    "sanitize_text",
    "total_lines",
]

"""Unused settings: tell once that lines with whole requests get no prompt template, system message and parameters, and
at the end that no line is of a tenant with a weight.
"""

from collections.abc import Sequence

from llmblast.job.batch_parser import Batch
from llmblast.models import Request
from llmblast.reading.terms import LineTerms
from llmblast.settings import Settings


class UnusedSettings:
    """Look for the first whole request, where the settings have what only simple lines get."""

    def __init__(self, settings: Settings) -> None:
        named = {
            settings.prompt_option: settings.prompt is not None,
            settings.system_option: bool(settings.system),
            "--params": bool(settings.params),
        }
        self._options: Sequence[str] = [option for option, is_set in named.items() if is_set]

    def note_on(self, batch: Batch) -> str | None:
        """Return the message on the first batch that has a whole request; None for all others."""
        if not self._options:
            return None
        first = next((item for item in batch if isinstance(item, Request) and not isinstance(item.input, str)), None)
        if first is None:
            return None
        place = f"line {first.number}" if first.file is None else f"{first.file}:{first.number}"
        *others, last = self._options
        options = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        self._options = ()
        return (
            f"{place}: is a whole request, as others may be: {options} not used for such lines: "
            "write what they need into them"
        )


def note_on_weights(settings: Settings, terms: Sequence[LineTerms]) -> str | None:
    """Return the message on weights of tenants none of which any line names; None where all is well. `terms` are those
    of all inputs, which were read to their ends.
    """
    if not settings.share or any(each.has_read_weighted for each in terms):
        return None
    names = ", ".join(settings.share)
    return f"--share: no line has the tenant {names}: write the names as the field tenant of your lines has them"

"""Parts of a prompt, as lines name them."""

from collections.abc import Sequence

from llmblast.models import Part
from llmblast.reading.media import Media
from llmblast.settings import Settings


def parts_of(urls: Sequence[str]) -> Sequence[Part]:
    """Return the parts that a line with these `files` has."""
    return Media(Settings()).parts({"files": list(urls)})

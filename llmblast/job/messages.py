"""Messages: what a run tells a person, without secrets and control characters."""

from llmblast.fence import Fence
from llmblast.hiding import hide_user
from llmblast.job.defects import Defects
from llmblast.watching import sanitize_text


def say(defects: Defects, text: str) -> None:
    """Tell a person a text, cut to what is worth reading."""
    defects.tell(shown(text, 500, defects.fence))


def shown(text: str, max_length: int, fence: Fence) -> str:
    """Return text from outside without secrets and control characters, cut to `max_length`."""
    text = hide_user(text)
    with fence.around("cleaning messages"):
        return sanitize_text(text, max_length)
    return "".join(character for character in text[:max_length] if character.isprintable())

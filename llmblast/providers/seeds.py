"""Seeds: the member of a body that makes an API give another answer to the same prompt, for `--repeat`.

An API without one is asked with the same body again, and chooses at random. Sources: the API references of the
providers; OpenAI's has `seed` for chats and completions only.
"""

from collections.abc import Mapping
from typing import Final

_OPENAI: Final = {"chat/completions": "seed", "completions": "seed"}
SEED_MEMBERS: Final[Mapping[str, Mapping[str, str]]] = {"openai": _OPENAI, "azure": _OPENAI}
"""Names of members at the top of a body, by the kind of provider and the path."""


def seed_member(kind: str, path: str) -> str | None:
    """Return the name of the member; None where the API has none."""
    return SEED_MEMBERS.get(kind, {}).get(path)

"""Seeds: the member of a body that makes an API give another answer to the same prompt, for `--repeat`.

An API without one is asked with the same body again, and chooses at random. Sources: the API references of the
providers. OpenAI has `seed` for chats and completions only; Mistral calls it `random_seed` and rejects `seed`; Google
has it in `generationConfig`; Anthropic, the Responses API and Converse have none.
"""

from collections.abc import Collection, Mapping
from typing import Final

Place = tuple[str, ...]
"""Names of members from the outside in."""
_SEED: Final = ("seed",)
_IN_CONFIG: Final = ("generationConfig", "seed")
_CHATS: Final[Mapping[str, Place]] = {"chat/completions": _SEED, "completions": _SEED}
SEED_PLACES: Final[Mapping[str, Mapping[str, Place]]] = {"openai": _CHATS, "azure": _CHATS}
"""By the kind of provider and the path."""
SEED_PLACES_IN_ALL: Final[Mapping[str, Place]] = {"gemini": _IN_CONFIG, "vertex": _IN_CONFIG}
"""By kinds of which all paths have it."""
_MISTRAL: Final = ".mistral.ai"
_RANDOM_SEED: Final = ("random_seed",)
_OF_MISTRAL: Final = frozenset(("chat/completions", "fim/completions", "agents/completions"))


def seed_place(kind: str, path: str, hosts: Collection[str]) -> Place | None:
    """Return where the seed stands; None where the API has none, or where the `hosts` of this kind differ in it."""
    places = {
        (_RANDOM_SEED if path in _OF_MISTRAL else None)
        if host.endswith(_MISTRAL)
        else SEED_PLACES_IN_ALL.get(kind) or SEED_PLACES.get(kind, {}).get(path)
        for host in hosts
    }
    return places.pop() if len(places) == 1 else None

"""Recent: a table of bounded size that forgets what was not asked for in a long time."""

from llmblast.models import Prefix


class Recent:
    """The `size` prefixes that were used last, and at most as many older ones, by their keys.

    Two dicts take turns, so that neither a lookup nor a new entry moves the others: what is found in the older one goes
    into the younger one, and when that is full, the older one is forgotten.
    """

    __slots__ = ("_old", "_size", "_young")

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[object, Prefix] = {}
        self._old: dict[object, Prefix] = {}

    @property
    def known(self) -> int:
        """Return how many keys are known."""
        return len(self._young) + len(self._old)

    def get(self, key: object) -> Prefix | None:
        """Return the prefix with a key, if it is known."""
        prefix = self._young.get(key)
        if prefix is None and (prefix := self._old.get(key)) is not None:
            self.put(key, prefix)
        return prefix

    def put(self, key: object, prefix: Prefix) -> None:
        """Remember a prefix."""
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = prefix

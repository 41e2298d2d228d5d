"""Head wait: which limit holds back the head of the queue, and since when."""

import math


class Holder:
    """A limit, or the output files where nothing can be written for now. `name` is for people; `waited_s` is how long
    the head of the queue waited for it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited_s = 0.0


class HeadWait:
    """Counts the time of each wait for its holder. At most one holder counts at a time; None: nothing is held back."""

    __slots__ = ("holder", "output", "paced_until_s", "since_s")

    def __init__(self) -> None:
        self.output = Holder("output")
        self.holder: Holder | None = None
        self.since_s = 0.0
        self.paced_until_s = -math.inf
        """Until this moment a pace holds back every request: nothing has to be asked."""

    def __repr__(self) -> str:
        return f"HeadWait({self.holder.name if self.holder is not None else 'for nothing'})"

    def hold(self, holder: Holder | None, now: float) -> None:
        """Add the present wait to its holder, and begin the next one."""
        if self.holder is not None:
            self.holder.waited_s += now - self.since_s
        self.holder, self.since_s = holder, now

"""Terms of lines: read `priority`, `deadline` and `tenant`, which stand beside the request in lines of every format.

They are not sent. Only in a line that is a request body, a `priority` that is no word of ours is the API's, as in vLLM.
Lines with equal terms share one object.

Each tenant needs memory, so beyond the first `MAX_TENANTS` a tenant is one of a fixed number of groups, by its hash:
stochastic fairness queueing (McKenney, INFOCOM 1990).
"""

import json
from collections.abc import Collection, Mapping
from typing import Final

from llmblast.models import IMMEDIATE, Terms
from llmblast.moments import HOW_TO, moment_after, parse_moment
from llmblast.reading.fields import BadLine
from llmblast.units import UnitError

PRIORITY: Final = "priority"
DEADLINE: Final = "deadline"
TENANT: Final = "tenant"
TERMS: Final = frozenset((PRIORITY, DEADLINE, TENANT))
NEVER_SENT: Final = frozenset((DEADLINE, TENANT))
"""Those that no API has; records keep them as the user's own fields."""
DEFERRED: Final = "deferred"
CLASSES: Final = ("immediate", DEFERRED)
MAX_PRIORITY: Final = 10**9
MAX_TENANT_CHARACTERS: Final = 64
MAX_SHOWN_CHARACTERS: Final = 40
"""Maximum length of a wrong value in the message."""
MAX_TENANTS: Final = 10_000
"""Tenants that share the limits each for itself, beside those that have a weight."""
TENANT_GROUPS: Final = 1024
MAX_SHARED: Final = 4096
"""Terms that are remembered to be shared: some inputs have another deadline in each line."""

_Value = str | int | float | None


class LineTerms:
    """Read the terms of lines. `defaults` are those of lines that say nothing of them.

    Deadlines count from `now_s`, in Unix seconds: the start of the run, or the arrival of lines that come while it goes
    on. `own_fields` are the user's own and have no meaning here. `weighted` are tenants that are never in a group.
    """

    def __init__(
        self,
        now_s: float,
        own_fields: Collection[str] = (),
        defaults: Terms = IMMEDIATE,
        weighted: Collection[str] = (),
    ) -> None:
        self.defaults = defaults
        self.has_read_others = False
        """Some line had other terms than the defaults."""
        self.has_read_weighted = False
        """Some line was of a tenant with a weight."""
        self._weighted = frozenset(weighted)
        self._now_s = now_s
        self._names = TERMS - frozenset(own_fields)
        self._tenants = {"", *weighted}
        self._max_tenants = len(self._tenants) + MAX_TENANTS
        self._shared: dict[tuple[_Value, _Value, _Value], Terms] = {}

    def count_from(self, now_s: float) -> None:
        """Let the deadlines of the next lines count from this moment."""
        if now_s != self._now_s:
            self._now_s = now_s
            self._shared.clear()

    def read(self, fields: Mapping[str, object], *, sends_priority: bool) -> Terms:
        """Return the terms of a line. `sends_priority` tells that a `priority` that is no word of ours is sent.

        Null and the empty text, as of an empty cell, count as left out. Raises BadLine.
        """
        names = self._names
        priority = fields.get(PRIORITY) if PRIORITY in names else None
        if sends_priority and priority not in CLASSES:
            priority = None
        values = (
            _checked_priority(priority),
            _checked_deadline(fields.get(DEADLINE) if DEADLINE in names else None),
            self._tenant_or_group(_checked_tenant(fields.get(TENANT) if TENANT in names else None)),
        )
        terms = self._shared.get(values)
        if terms is None:
            terms = self._make(*values)
            if len(self._shared) >= MAX_SHARED:
                self._shared.clear()
            self._shared[values] = terms
        if terms is not self.defaults:
            self.has_read_others = True
        return terms

    def is_word(self, fields: Mapping[str, object]) -> bool:
        """Return whether the `priority` of a line is a word of ours."""
        return PRIORITY in self._names and fields.get(PRIORITY) in CLASSES

    def _make(self, priority: str | int | None, deadline: str | float | None, tenant: str) -> Terms:
        defaults = self.defaults
        is_deferred, rank = defaults.is_deferred, 0
        if isinstance(priority, str):
            is_deferred = priority == DEFERRED
        elif priority is not None:
            is_deferred, rank = is_deferred or priority < 0, priority
        if tenant in self._weighted:
            self.has_read_weighted = True
        deadline_s = defaults.deadline_s if deadline is None else self._moment(deadline)
        terms = Terms(is_deferred, rank, deadline_s, tenant)
        return defaults if terms == defaults else terms

    def _tenant_or_group(self, tenant: str) -> str:
        tenants = self._tenants
        if tenant in tenants:
            return tenant
        if len(tenants) >= self._max_tenants:
            return f"\0{hash(tenant) % TENANT_GROUPS}"
        tenants.add(tenant)
        return tenant

    def _moment(self, deadline: str | float) -> float:
        try:
            if isinstance(deadline, str):
                return parse_moment(deadline, self._now_s)
            return moment_after(deadline, self._now_s)
        except UnitError:
            raise _bad(DEADLINE, deadline, f"is not a time: {HOW_TO}") from None


def _checked_priority(value: object) -> str | int | None:
    if value is None or value == "":
        return None
    if value in CLASSES:
        return str(value)
    if type(value) is float and value.is_integer():  # as tables have whole numbers, where some rows have none
        value = int(value)
    if type(value) is int and -MAX_PRIORITY <= value <= MAX_PRIORITY:
        return value
    raise _bad(PRIORITY, value, 'must be "immediate", "deferred" or an integer of at most 9 digits (below 0: deferred)')


def _checked_deadline(value: object) -> str | float | None:
    if value is None or value == "":
        return None
    if type(value) is str or type(value) is int or type(value) is float:
        return value
    raise _bad(DEADLINE, value, f"is not a time: {HOW_TO}")


def _checked_tenant(value: object) -> str:
    if value is None:
        return ""
    if type(value) is int:
        value = str(value)
    if type(value) is not str or len(value) > MAX_TENANT_CHARACTERS:
        raise _bad(TENANT, value, f"must be a text of at most {MAX_TENANT_CHARACTERS} characters")
    return value


def _bad(name: str, value: object, what: str) -> BadLine:
    shown = json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace").decode()
    if len(shown) > MAX_SHOWN_CHARACTERS:
        shown = f"{shown[:MAX_SHOWN_CHARACTERS]}..."
    return BadLine(f'"{name}" {what}, not {shown}; a field of your own stays one with --own-fields {name}')

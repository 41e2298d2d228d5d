"""Places: name where a person wrote a value, which every error names first. No place repeats a possible key."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmblast.setting_option import variable_of

MAX_SHOWN_VALUE = 16
"""Longer values may be misplaced keys."""
_MOCK = "mock:"


class Places:
    """Find the place of a value: a flag, a variable, or an entry of the TOML file."""

    def __init__(
        self,
        flags: Mapping[str, Any],
        config: str | None,
        environ: Mapping[str, str],
        merged: Mapping[str, Any],
        tables: Mapping[str, str] | None = None,
    ) -> None:
        self._flags = flags
        self._config = config
        self._environ = environ
        self._merged = merged
        self._tables = tables or {}
        """The table of the file that a setting stands in, where that is not the file itself."""

    def of(self, location: Sequence[Any]) -> str:
        """Return the place of the value at `location`, such as `["endpoints", 0, "rps"]`."""
        name = str(location[0])
        if name == "endpoints" and len(location) > 1:
            spec = self._merged["endpoints"][location[1]]
            if isinstance(spec, str):
                return _place_in_url(spec, [str(part) for part in location[2:]])
        inside = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        if name not in self._flags:
            table = self._table_of(name)
            inside = f"{table}.{inside}" if table else inside
            return f"{self._config}: {inside}" if self._config else inside
        variable = variable_of(name)
        if self._environ.get(variable) == self._flags[name]:
            return variable
        return f"--{name.replace('_', '-')}" if len(location) == 1 else inside

    def of_owner(self, location: Sequence[Any]) -> str:
        """Return the place of the table, or the file, that contains the value at `location`."""
        if len(location) > 1:
            return self.of(location[:-1])
        name = str(location[0])
        table = self._table_of(name)
        if table and name not in self._flags:
            return f"{self._config}: {table}" if self._config else table
        return self._config if self._config and name not in self._flags else self.of(location)

    def _table_of(self, name: str) -> str:
        return self._tables.get(name, "")


def _place_in_url(spec: str, location: Sequence[str]) -> str:
    """Return the text of one `--url`, with only the wrong setting after the URL."""
    url, *pairs = spec.split(",")
    place = f"--url {without_secrets(url)}"
    if not location:
        return place
    value = next((value for name, _, value in (pair.partition("=") for pair in pairs) if name == location[0]), None)
    is_shown = value is not None and len(value) <= MAX_SHOWN_VALUE
    return f"{place},{location[0]}={value}" if is_shown else f"{place}: {location[0]}"


def without_secrets(url: str) -> str:
    """Return a URL without user, password and query, which may hold a key; a `mock:` URL stays whole."""
    if url.startswith(_MOCK):
        return url
    scheme, colon, rest = url.partition("://")
    return scheme.partition("?")[0] + colon + rest.partition("?")[0].rpartition("@")[2]

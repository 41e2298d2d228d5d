"""JSON pointers: find a value in JSON by a path such as `/choices/0/text` (RFC 6901)."""

import re
from typing import Final

_VALID: Final = re.compile(r"(?:/(?:[^~/]|~[01])*)*")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")


class JsonPointer:
    """A checked pointer. Raises ValueError for a text that is none."""

    def __init__(self, text: str) -> None:
        if not _VALID.fullmatch(text):
            raise ValueError("a JSON pointer starts with / and writes ~ as ~0 and a / in a name as ~1")
        self.text = text
        self._names = [name.replace("~1", "/").replace("~0", "~") for name in text.split("/")[1:]]

    def find(self, data: object) -> object | None:
        """Return the value at the pointer; None where there is nothing, or null."""
        for name in self._names:
            if type(data) is dict:
                data = data.get(name)
            elif type(data) is list and _INDEX.fullmatch(name) and int(name) < len(data):
                data = data[int(name)]
            else:
                return None
        return data

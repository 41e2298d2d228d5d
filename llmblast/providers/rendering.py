"""Rendering: what the writers of requests have in common."""

from collections.abc import Callable, Iterable, Mapping

from llmblast.models import Prompt


class SharedTail:
    """The end of a body, behind the user message, which prompts with the same objects as system message, parameters and
    schema share: it is encoded once.
    """

    def __init__(self, make: Callable[[Prompt], bytes]) -> None:
        self._make = make
        self._system: str | None = None
        self._params: Mapping[str, object] | None = None
        self._schema: Mapping[str, object] | None = None
        self._tail = b""

    def of(self, prompt: Prompt) -> bytes:
        """Return the end of the body for a prompt. Raises JSONEncodeError for what is no JSON."""
        is_other = prompt.params is not self._params or prompt.system is not self._system
        if is_other or prompt.schema is not self._schema:
            self._tail = self._make(prompt)
            self._system, self._params, self._schema = prompt.system, prompt.params, prompt.schema
        return self._tail


def unsupported_param(params: Mapping[str, object], names: Iterable[str], api: str) -> str | None:
    """Return what is wrong with a parameter that the API does not have, if one is set. One answer needs no `n`."""
    for name in names:
        value = params.get(name)
        if value is not None and not (name == "n" and value == 1):
            return f'{api} has no parameter like "{name}": take it out'
    return None

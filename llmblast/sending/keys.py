"""Keys: an endpoint's API key, which is refreshed during a run, since many tokens are valid for an hour only."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.provider_contract import Provider
from llmblast.sending.credentials import find_key, read_key_file


@dataclass(slots=True, eq=False)
class _Query:
    """One query for the key, and the number of callers that wait for it."""

    task: asyncio.Task[str | UsageError]
    waiters: int = 0


class EndpointKey:
    """The key of one endpoint; `value` is None where it needs none.

    `since_s` is the moment, on `clock`, at which the present key was obtained. `problem` is one sentence without a
    secret, the reason why the last refresh gave no key; it is empty after a refresh that did. `provider` names the
    variable with the default key.
    Raises UsageError where the settings name a key and there is none. Blocks, since no request is sent without a key.
    """

    def __init__(
        self,
        endpoint: EndpointSettings,
        environ: Mapping[str, str],
        clock: Callable[[], float],
        provider: Provider,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._query: _Query | None = None
        self.value = find_key(endpoint, environ, provider)
        self.since_s = clock()
        self.problem = ""

    @property
    def can_refresh(self) -> bool:
        """Return whether the key comes from a command or a file, which can be read again."""
        return self._endpoint.can_refresh_key

    async def refresh(self) -> bool:
        """Refresh the key and return whether one was obtained, be it the same; a failure keeps the present key.

        Concurrent calls share one query. The value changes when the first of them resumes. A caller that passes it on
        without an `await` in between can rely on this: requests sent at `since_s` or later carry the present key.
        """
        if self._query is None:
            self._query = _Query(asyncio.create_task(self._ask()))
        query = self._query
        query.waiters += 1
        try:
            outcome = await asyncio.shield(query.task)
        finally:
            query.waiters -= 1
            if not query.task.done() and not query.waiters:
                await self._cancel(query)
        if query is self._query:
            self._query = None
            self._adopt(outcome)
        return isinstance(outcome, str)

    def _adopt(self, outcome: str | UsageError) -> None:
        if isinstance(outcome, str):
            self.value, self.since_s, self.problem = outcome, self._clock(), ""
        else:
            self.problem = str(outcome)

    async def _cancel(self, query: _Query) -> None:
        if query is self._query:
            self._query = None
        query.task.cancel()
        await asyncio.gather(query.task, return_exceptions=True)

    async def _ask(self) -> str | UsageError:
        endpoint = self._endpoint
        try:
            if not endpoint.can_refresh_key:
                return UsageError(f"endpoint {endpoint.name}: only key_command and key_file can be read again")
            if endpoint.key_file:
                return await asyncio.to_thread(_read_again, endpoint, endpoint.key_file)
            from llmblast.sending.key_command import run_key_command  # noqa: PLC0415 -- few endpoints have one

            return await run_key_command(endpoint, endpoint.key_command or "")
        except UsageError as error:
            return error


def _read_again(endpoint: EndpointSettings, path: str) -> str:
    """Return the key in a regular file. A pipe is refused: no timeout would end the wait for its writer."""
    file = Path(path).expanduser()
    if file.exists() and not file.is_file():
        raise UsageError(f"endpoint {endpoint.name}: key_file {path} is not a regular file and cannot be read again")
    return read_key_file(endpoint, path)

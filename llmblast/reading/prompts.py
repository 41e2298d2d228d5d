"""Prompts in memory as a source: each string or mapping becomes one line of JSON, numbered from 1.

So they have the same formats, keys and errors as the lines of a file. A separate task reads an asynchronous iterable:
prompts that are ready are returned together, and a slow iterable does not delay requests.
"""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sized

import orjson

from llmblast.errors import UsageError
from llmblast.reading.source import Source

PROMPTS = "the prompts"
MAX_BATCH = 64
"""Maximum of prompts read ahead; low, since making a prompt may be costly for the caller."""
MAX_BATCH_BYTES = 256 * 1024


class PromptsError(Exception):
    """The caller's iterable raised `error`, or yielded an invalid prompt."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"reading the prompts failed: {type(error).__name__}")
        self.error = error


def open_prompts(prompts: Iterable[object] | AsyncIterable[object]) -> Source:
    """Return a source of lines made from prompts. Call this in the running event loop."""
    reader = _AsyncReader(aiter(prompts)) if isinstance(prompts, AsyncIterable) else _Reader(iter(prompts))
    source = Source(PROMPTS, None, reader.read, reader.close)
    source.is_live = not isinstance(prompts, Sized)
    return source


def line_of(index: int, prompt: object) -> bytes:
    """Return the line of a prompt. Raises UsageError for another type."""
    if isinstance(prompt, str):
        prompt = {"input": prompt}
    elif isinstance(prompt, Mapping):
        prompt = dict(prompt)
    else:
        raise UsageError(
            f"prompts[{index}]: {type(prompt).__name__} is not a prompt: give a string, or a dict such as "
            '{"input": "..."} or {"messages": [...]}'
        )
    try:
        return orjson.dumps(prompt) + b"\n"
    except TypeError:
        return _unusual_line(index, prompt)


def _unusual_line(index: int, prompt: object) -> bytes:
    """Return the line of a prompt that orjson rejects, for its large integers or lone surrogates (a bad line)."""
    try:
        return json.dumps(prompt).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"prompts[{index}]: cannot be written as JSON: {error}") from None


def _tell_loop(error: Exception) -> None:
    """Pass an error of a closed generator to the event loop's handler, as asyncio does."""
    context = {"message": "closing the prompts failed", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


class _Reader:
    """Read a synchronous iterable in the event loop; callers with slow iterables use asynchronous ones."""

    def __init__(self, prompts: Iterator[object]) -> None:
        self._prompts = prompts
        self._index = 0
        self._problem: BaseException | None = None

    async def read(self) -> bytes:
        """Return the next lines; empty bytes at the end."""
        if self._problem is not None:
            raise PromptsError(self._problem)
        lines: list[bytes] = []
        size_bytes = 0
        while len(lines) < MAX_BATCH and size_bytes < MAX_BATCH_BYTES:
            try:
                line = line_of(self._index, next(self._prompts))
            except StopIteration:
                break
            except Exception as error:
                if not lines:
                    raise PromptsError(error) from error
                self._problem = error
                break
            self._index += 1
            lines.append(line)
            size_bytes += len(line)
        return b"".join(lines)

    async def close(self) -> None:
        """Close a generator, since some of its prompts were read ahead."""
        if (close := getattr(self._prompts, "close", None)) is not None:
            try:
                close()
            except Exception as error:  # noqa: BLE001 -- an error of the caller's generator
                _tell_loop(error)


class _AsyncReader:
    """Read an asynchronous iterable in a task, which waits while enough prompts are ready."""

    def __init__(self, prompts: AsyncIterator[object]) -> None:
        self._prompts = prompts
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_ended = False
        self._has_raised = False
        self._problem: BaseException | None = None
        self._task = asyncio.create_task(self._take_all())

    async def read(self) -> bytes:
        """Return the next lines; empty bytes at the end."""
        while not self._ready and not self._has_ended:
            self._arrived.clear()
            await self._arrived.wait()
        if not self._ready and self._problem is not None:
            self._has_raised = True
            raise PromptsError(self._problem) from self._problem
        block = b"".join(self._ready)
        self._ready.clear()
        self._ready_bytes = 0
        self._has_room.set()
        return block

    async def close(self) -> None:
        """Cancel the task, and with it a generator in which it waits."""
        self._task.cancel()
        await asyncio.wait([self._task])
        problem = self._problem if self._task.cancelled() else self._task.exception() or self._problem
        if isinstance(problem, Exception) and not self._has_raised:
            _tell_loop(problem)

    async def _take_all(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._take_each()
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            self._problem = error
        except Exception as error:  # noqa: BLE001 -- an error of the caller's generator, which `read` raises
            self._problem = error
        finally:
            self._has_ended = True
            self._arrived.set()
            if (aclose := getattr(self._prompts, "aclose", None)) is not None:
                await aclose()

    async def _take_each(self) -> None:
        index = 0
        async for prompt in self._prompts:
            line = line_of(index, prompt)
            index += 1
            self._ready.append(line)
            self._ready_bytes += len(line)
            self._arrived.set()
            while len(self._ready) >= MAX_BATCH or self._ready_bytes >= MAX_BATCH_BYTES:
                self._has_room.clear()
                await self._has_room.wait()

"""What tests of several rooms share: a mock provider on a thread of its own, and the command as a real process."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings

ROOT = Path(__file__).parent.parent
LLMBLAST = (sys.executable, "-m", "llmblast")

StartMock = Callable[..., MockServer]
RunLlmblast = Callable[..., "subprocess.CompletedProcess[str]"]


class _Loop:
    """An event loop on a thread of its own."""

    def __enter__(self) -> "_Loop":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, coroutine: Any) -> Any:
        """Runs a coroutine there and waits for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)


@pytest.fixture
def start_mock() -> Iterator[StartMock]:
    """Starts a mock provider that keeps a ledger: `start_mock("rps=50&latency=0.2", script=...)`."""
    with ExitStack() as stack:
        loop = stack.enter_context(_Loop())

        def start(query: str = "latency=0", **options: Any) -> MockServer:
            server = MockServer(MockSettings.from_query(query), keep_ledger=True, **options)
            loop.call(server.__aenter__())
            stack.callback(lambda: loop.call(server.__aexit__(None, None, None)))
            return server

        yield start


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a person without any llmblast settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMBLAST_", "OPENAI_"))}
    return {**kept, "PYTHONWARNINGS": "error::ResourceWarning", "COLUMNS": "100"}


@pytest.fixture
def llmblast(tmp_path: Path, environment: dict[str, str]) -> RunLlmblast:
    """Runs the command in `tmp_path`: `llmblast("run", "prompts.jsonl", "-u", url)`."""

    def run(*arguments: str, stdin: str | None = None, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*LLMBLAST, *arguments],
            cwd=tmp_path,
            env={**environment, **more},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def write_prompts(path: Path, count: int, start: int = 0) -> Path:
    """A file of simple lines, each with its own id and text."""
    lines = (orjson.dumps({"id": f"row-{n}", "input": f"Question {n}?"}) for n in range(start, start + count))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def records(path: Path) -> list[dict[str, Any]]:
    """All records of an output file; each line must be whole JSON."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]

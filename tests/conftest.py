"""What tests of several rooms share: a mock provider on a thread of its own, the command as a real process, and a
canary: the key that all of them use, which must be found nowhere when they are over.
"""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast import models
from llmblast.mocking.server import MockServer, ScriptedReply
from llmblast.mocking.settings import MockSettings

ROOT = Path(__file__).parent.parent
LLMBLAST = (sys.executable, "-m", "llmblast")
CANARY = f"sk-canary-{secrets.token_hex(12)}"
LONG_PLACES = {"faults", "end_to_end", "test_readme", "test_bench_pairs"}
NOT_OURS = (".git", ".venv", ".mypy_cache", ".ruff_cache")

StartMock = Callable[..., MockServer]
RunLlmblast = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def _processes_hear_signals() -> None:
    """Whoever runs the tests may have switched signals off, as `nohup` does: every process below would inherit that."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _temporary_files_are_pytests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Spools of tests and of the processes below go where all their other files are, and with them."""
    place = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", place)
        patch.setattr(tempfile, "tempdir", place)
        yield


@pytest.fixture(scope="session", autouse=True)
def _the_canary_is_found_nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In no file that a test has written, no text that one has printed and no command line."""
    started_s = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", CANARY)
        yield
    ours = [path for path in ROOT.iterdir() if path.name not in NOT_OURS]
    assert canary_places([tmp_path_factory.getbasetemp(), *ours], started_s) == []
    assert not _REPORTS_WITH_CANARY


@pytest.fixture(scope="session", autouse=True)
def _coverage_of_processes() -> Iterator[dict[str, str]]:
    """Take what makes processes measure their coverage out of the environment: their start takes twice the time."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    with pytest.MonkeyPatch.context() as patch:
        for name in settings:
            patch.delenv(name)
        yield settings


@pytest.fixture
def _processes_are_measured(_coverage_of_processes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the coverage of the processes of a test."""
    for name, value in _coverage_of_processes.items():
        monkeypatch.setenv(name, value)


_REPORTS_WITH_CANARY: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first, and skips tests that change classes of the program where these are compiled."""
    # All workers but one would wait for a long file that comes last.
    items.sort(key=lambda item: LONG_PLACES.isdisjoint((item.path.parent.name, item.path.stem)))
    if (models.__file__ or "").endswith(".py"):
        return
    for item in items:
        if item.get_closest_marker("pure"):
            item.add_marker(pytest.mark.skip(reason="compiled classes cannot be changed"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Looks at what a test printed and logged. Not at how it failed: there pytest shows the environment itself."""
    if any(CANARY in text for _, text in report.sections):
        _REPORTS_WITH_CANARY.append(report.nodeid)


def canary_places(folders: Iterable[Path], since_s: float = 0.0) -> list[str]:
    """The files changed since then, and the processes, that show the canary."""
    found = [path for folder in folders for path in _files_below(folder)]
    places = [path for path in found if path.is_file() and _has_canary(path, since_s)]
    places += [path for path in Path("/proc").glob("[0-9]*/cmdline") if _has_canary(path)]
    return [str(path) for path in places]


def _files_below(path: Path) -> Iterator[Path]:
    """With itself; `rglob` would raise where a folder goes meanwhile, of tests that run beside these."""
    yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _has_canary(path: Path, since_s: float = 0.0) -> bool:
    canary, end = CANARY.encode(), b""
    try:
        if path.stat().st_mtime < since_s:
            return False
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                if canary in end + block:
                    return True
                end = block[-len(canary) :]
    except OSError:  # a process that has ended, a file that is not to be read
        return False
    return False


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


def used_up_for_a_second(after: int = 20) -> Callable[[int, bytes], ScriptedReply | None]:
    """A script of a mock that rejects all for a second from its n-th request on, and says when that is over."""
    until_s: list[float] = []

    def reply(index: int, body: bytes) -> ScriptedReply | None:
        now = time.monotonic()
        if index >= after and not until_s:
            until_s.append(now + 1.0)
        if not until_s or now >= until_s[0]:
            return None
        return ScriptedReply(429, b"{}", {"retry-after": f"{until_s[0] - now:.3f}"})

    return reply


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
    """The environment of a person who has a key, a terminal, no proxy and no llmblast settings, also where CI runs."""
    others = ("LLMBLAST_", "OPENAI_", "ANTHROPIC_", "AZURE_", "AWS_", "GEMINI_", "GOOGLE_", "VERTEX_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith(others) or name.lower().endswith("_proxy") or name == "CI")
    }
    keys = {"OPENAI_API_KEY": CANARY, "CANARY_KEY": CANARY}
    return {**kept, **keys, "PYTHONWARNINGS": "error::ResourceWarning", "COLUMNS": "100", "TERM": "xterm"}


@pytest.fixture
def llmblast(tmp_path: Path, environment: dict[str, str]) -> RunLlmblast:
    """Runs the command in `tmp_path`: `llmblast("run", "prompts.jsonl", "-u", url)`."""

    def run(*arguments: str, stdin: str | None = None, **more: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
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
        assert CANARY not in done.stdout + done.stderr
        return done

    return run


def unmeasured(environment: dict[str, str]) -> dict[str, str]:
    """The same for a process whose coverage is not measured: that catches signals and writes files of its own."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_")}


def write_prompts(path: Path, count: int, start: int = 0) -> Path:
    """A file of simple lines, each with its own id and text."""
    lines = (orjson.dumps({"id": f"row-{n}", "input": f"Question {n}?"}) for n in range(start, start + count))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_requests(path: Path, texts: Iterable[str]) -> Path:
    """A file of raw requests, one for each text; a raw line is sent byte for byte, so that ledgers can be compared."""
    lines = (orjson.dumps({"messages": [{"role": "user", "content": text}]}) for text in texts)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def records(path: Path) -> list[dict[str, Any]]:
    """All records of an output file; each line must be whole JSON."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]

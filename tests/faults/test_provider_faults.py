"""Every fault that a provider can commit, each alone and all mixed: the run ends, and every line has what it should.

A real process blasts at a mock provider with faults; the checker judges its files and the provider's ledger. Each
fault is met in two ways: by the first send of some lines, so that what may be tried again is answered in the end, and
by every send of some poisonous lines, which give up without harm to the others. What refuses or is not there meets all.

Runs wait for most of their time, for timeouts and for their turn to try again: some go at the same time, each with a
provider of its own, and every test looks at what its run has left.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest

from llmblast.mocking.faults import FAULTS
from llmblast.mocking.server import MockServer
from llmblast.mocking.settings import MockSettings
from tests.conftest import CANARY, LLMBLAST, records, write_requests
from tests.faults.checker import Ledger, check, read_ledger

SHORT, LONG = 36, 500
TIMEOUT_S = 2.0
"""Where only the timeout ends an attempt; what is answered must not be late on a slow machine all the same."""
PATIENT_S = 20.0
"""The timeout where nothing waits for it: an answer is not late on a slow machine, and what hangs is found."""
OVERTIME_S = 1.0
ATTEMPTS = 2
AT_ONCE = 6
HANG_S = 300
BEAT_S = 0.02
POISON = "poison"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the verdict table makes of a fault: `exit_code` and `sends` of a line that meets it at its first send, and
    the same where it meets it always.
    """

    exit_code: int = 0
    sends: int = 1
    always_exit_code: int | None = 0
    """0: no harm; None: it would be tried for ever."""
    always_sends: int = 1
    lines: float = 1.0
    """Share of the lines that a test has otherwise: some faults take much memory or time."""
    concurrency: int = 64
    hangs: bool = False
    """Only the timeout ends an attempt."""
    rule: str = "share = 0.3\nsends = 1"
    is_mixable: bool = True
    is_heavy: bool = False
    """It keeps the provider busy: nobody else's answers are to be late for it."""


ANSWERED = Expected()
RETRIED = Expected(sends=2, always_exit_code=3, always_sends=ATTEMPTS)
TIMED_OUT = replace(RETRIED, hangs=True)
BROKEN_OFF = replace(RETRIED, always_sends=3)
"""A kept connection may have been stale: it is sent again once more, at once."""
COOLED_DOWN = Expected(sends=2, always_exit_code=None)
FAILED = Expected(exit_code=3, always_exit_code=3)
REFUSED = Expected(exit_code=77, always_exit_code=3, rule="", is_mixable=False)
"""Where all lines meet it the endpoint is to blame, where others are answered in between the line is."""
NOTHING_THERE = replace(REFUSED, always_sends=ATTEMPTS)
"""The same, but where others are answered the line is tried again first."""
MUCH = replace(FAILED, lines=0.25, concurrency=4, is_heavy=True)

EXPECTED: dict[str, Expected] = {
    "301": NOTHING_THERE,
    "400": FAILED,
    "400-should-retry": RETRIED,
    "401": REFUSED,
    "402": REFUSED,
    "403": REFUSED,
    "404": NOTHING_THERE,
    "408": RETRIED,
    "409": RETRIED,
    "413": FAILED,
    "422": FAILED,
    "429": COOLED_DOWN,
    "429-date": COOLED_DOWN,
    "429-ms": COOLED_DOWN,
    "429-silent": COOLED_DOWN,
    "429-no-quota": REFUSED,
    "429-too-large": FAILED,
    "500": RETRIED,
    "500-should-not-retry": FAILED,
    "502": RETRIED,
    "503": COOLED_DOWN,
    "503-retry-after": COOLED_DOWN,
    "504": RETRIED,
    "529": COOLED_DOWN,
    "empty": RETRIED,
    "html": RETRIED,
    "no-json": RETRIED,
    "error-object": RETRIED,
    "error-status": RETRIED,
    "no-choices": RETRIED,
    "half": RETRIED,
    "invalid-utf8": ANSWERED,
    "nul-bytes": ANSWERED,
    "lone-surrogate": ANSWERED,
    "deep-nesting": RETRIED,
    "nan": ANSWERED,
    "huge-number": ANSWERED,
    "escapes": ANSWERED,
    "bidi": ANSWERED,
    "slow-headers": ANSWERED,
    "slow-body": ANSWERED,
    "drip": TIMED_OUT,
    "endless-body": TIMED_OUT,
    "large-headers": FAILED,
    "large-reply": MUCH,
    "truncated": RETRIED,
    "length-too-small": RETRIED,
    "bad-length": RETRIED,
    "chunked-trailers": ANSWERED,
    "broken-chunk": RETRIED,
    "bad-chunk-size": RETRIED,
    "gzip": ANSWERED,
    "deflate": ANSWERED,
    "zstd": ANSWERED,
    "bomb": MUCH,
    "continue-first": ANSWERED,
    "early-hints": ANSWERED,
    "close-after": ANSWERED,
    "stale": replace(ANSWERED, sends=2, concurrency=8),
    "closed": BROKEN_OFF,
    "closed-in-headers": RETRIED,
    "http10": ANSWERED,
    "reset": BROKEN_OFF,
    "reset-in-body": RETRIED,
    "black-hole": TIMED_OUT,
    "duplicate": ANSWERED,
    "garbage": RETRIED,
    "tls": replace(REFUSED, sends=3, always_exit_code=None),
    "broken-json": ANSWERED,  # what the text of an answer is good for is asked by --schema alone
    "other-json": ANSWERED,
    "fenced": ANSWERED,
    "blank": ANSWERED,
    "restart": replace(RETRIED, rule="requests = [12]\nseconds = 0.3", always_exit_code=None, concurrency=8),
}
HARMFUL = [kind for kind, expected in EXPECTED.items() if expected.always_exit_code]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: so many lines, some of them poisonous, against a provider with these faults."""

    kind: str
    lines: int
    rules: str
    concurrency: int
    hangs: bool
    is_heavy: bool
    attempts: int = ATTEMPTS
    poisonous: frozenset[int] = frozenset()

    @property
    def timeout_s(self) -> float:
        return TIMEOUT_S if self.hangs else PATIENT_S

    @property
    def texts(self) -> list[str]:
        return [f"{POISON if number in self.poisonous else 'Question'} {number}?" for number in range(self.lines)]

    @property
    def arguments(self) -> list[str]:
        return ["-v", "--timeout", str(self.timeout_s), "-a", str(self.attempts), "-j", str(self.concurrency)]


def some_lines_meet_it_once(kind: str, count: int) -> Plan:
    expected = EXPECTED[kind]
    return Plan(
        kind=kind,
        lines=int(count * expected.lines),
        rules=f'[[fault]]\nkind = "{kind}"\n{expected.rule}\n',
        concurrency=expected.concurrency,
        hangs=expected.hangs,
        is_heavy=expected.is_heavy,
    )


def some_lines_always_meet_it(kind: str, count: int) -> Plan:
    plan = some_lines_meet_it_once(kind, count)
    concurrency = min(plan.concurrency, plan.lines // 4)
    # By the time of the first poison the endpoint has answered.
    poisonous = frozenset(number for number in range(2 * concurrency, plan.lines) if number % 4 == 0)
    rules = f'[[fault]]\nkind = "{kind}"\ncontaining = "{POISON}"\n'
    return replace(plan, rules=rules, concurrency=concurrency, poisonous=poisonous)


def one_in_twenty_meets_any(count: int) -> Plan:
    kinds = [kind for kind, expected in EXPECTED.items() if expected.is_mixable]
    rules = "".join(f'[[fault]]\nkind = "{kind}"\nshare = {0.05 / len(kinds)}\nseconds = 0.2\n' for kind in kinds)
    return Plan(kind="mixed", lines=count, rules=rules, concurrency=64, hangs=True, is_heavy=True, attempts=5)


@dataclass
class Heartbeat:
    """How late an event loop gets to run, which nobody on this machine can be blamed for."""

    late_s: float = 0.0

    async def beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self.late_s = max(self.late_s, loop.time() - due_s)


@dataclass
class Blast:
    """What is left of one run."""

    plan: Plan
    folder: Path
    exit_code: int
    stderr: str
    late_s: float

    @cached_property
    def ledger(self) -> Ledger:
        return read_ledger(self.folder / "ledger.jsonl")

    @property
    def longest_s(self) -> float:
        """Of all attempts: as the provider saw them, and as the client says of those that brought an answer."""
        latencies: Iterator[float] = (record["latency"] for record in records(self.folder / "save.jsonl"))
        return max([self.ledger.longest_s, *latencies])

    @property
    def most_s(self) -> float:
        """What an attempt may take. Both sides run on this machine, so the client's loop may be as late as the
        provider's.
        """
        return self.plan.timeout_s + OVERTIME_S + 2 * self.late_s

    @property
    def has_timed_out(self) -> bool:
        """Whether the client ended an attempt by its timeout, as it says of each: the provider may have been done."""
        return "no complete reply within" in self.stderr

    def complaints(self, most_sends: int, is_finished: bool = True) -> list[str]:
        paths = (self.folder / f"{name}.jsonl" for name in ("prompts", "save", "errors", "ledger"))
        return check(*paths, most_sends=most_sends, is_finished=is_finished)

    def records(self, name: str) -> int:
        return len(records(self.folder / f"{name}.jsonl"))


class Turns:
    """Some runs at once, or a heavy one alone; in their order."""

    def __init__(self) -> None:
        self._line = asyncio.Lock()
        self._places = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def turn(self, is_heavy: bool) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            async with self._line:
                for _ in range(AT_ONCE if is_heavy else 1):
                    await held.enter_async_context(self._places)
            yield


async def run_in_turn(plan: Plan, folder: Path, turns: Turns) -> Blast:
    async with turns.turn(plan.is_heavy):
        return await run_against_faults(plan, folder)


async def run_against_faults(plan: Plan, folder: Path) -> Blast:
    """The command against a provider of its own."""
    write_requests(folder / "prompts.jsonl", plan.texts)
    (folder / "faults.toml").write_text(plan.rules)
    query = f"latency=0&faults={folder / 'faults.toml'}&ledger={folder / 'ledger.jsonl'}"
    async with MockServer(MockSettings.from_query(query)) as server, heartbeat() as heart:
        exit_code, stderr = await run_llmblast(plan, server.url, folder)
        async with asyncio.timeout(HANG_S):
            while server.in_flight:  # noqa: ASYNC110 -- the server has no event for this
                await asyncio.sleep(BEAT_S)
    return Blast(plan, folder, exit_code, stderr, heart.late_s)


@asynccontextmanager
async def heartbeat() -> AsyncIterator[Heartbeat]:
    heart = Heartbeat()
    beating = asyncio.create_task(heart.beat())
    try:
        yield heart
    finally:
        beating.cancel()


async def run_llmblast(plan: Plan, url: str, folder: Path) -> tuple[int, str]:
    """The exit code, and what was said on standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMBLAST_")}
    process = await asyncio.create_subprocess_exec(
        # How fast a rate is learned is no business of these tests.
        *(*LLMBLAST, "run", "prompts.jsonl", "-u", f"{url},adaptive=false", *plan.arguments),
        cwd=folder,
        env={**environment, "PYTHONWARNINGS": "error::ResourceWarning"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(HANG_S):
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = stderr.decode()
    assert "Traceback" not in said
    assert CANARY not in said
    assert process.returncode is not None
    return process.returncode, said


Blasts = Callable[[Plan], Blast]


@pytest.fixture(scope="module")
def blasts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blasts]:
    """The runs of all tests that were asked for, on an event loop that does nothing else."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    plans: list[Plan] = [test.callspec.params["plan"] for test in tests if "blasts" in test.fixturenames]  # type: ignore[misc] # a parameter may be anything
    turns = Turns()
    loop = new_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    started: dict[Plan, Future[Blast]] = {
        plan: asyncio.run_coroutine_threadsafe(run_in_turn(plan, tmp_path_factory.mktemp(plan.kind), turns), loop)
        for plan in sorted(plans, key=lambda plan: plan.is_heavy)  # each heavy one between others would hold them up
    }
    yield lambda plan: started[plan].result()
    asyncio.run_coroutine_threadsafe(cancel_all(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def new_loop() -> asyncio.AbstractEventLoop:
    """Of the kind that `llmblast mock` has: asyncio's own loses a connection that it accepts while a provider goes
    down, and Python warns of a leak (https://github.com/python/cpython/issues/109564).
    """
    with suppress(ImportError):  # not on every platform
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


async def cancel_all() -> None:
    """Ends what nobody waits for any more, as after a test that failed."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def lengths(make: Callable[[str, int], Plan], kinds: list[str]) -> pytest.MarkDecorator:
    """Each kind with some dozens of lines, and in the long form with 500."""
    short = [pytest.param(make(kind, SHORT), id=kind) for kind in kinds]
    long = [pytest.param(make(kind, LONG), id=f"{kind}-long", marks=pytest.mark.long) for kind in kinds]
    return pytest.mark.parametrize("plan", [*short, *long])


def test_every_fault_has_its_expectation() -> None:
    """A new one cannot be forgotten here."""
    assert EXPECTED.keys() == FAULTS.keys()


@lengths(some_lines_meet_it_once, list(EXPECTED))
def test_a_fault_that_some_lines_meet_once(blasts: Blasts, plan: Plan) -> None:
    """The exit code is the verdict table's, every line has its record, and no attempt outlives its timeout."""
    expected = EXPECTED[plan.kind]

    blast = blasts(plan)

    assert blast.exit_code == expected.exit_code, blast.stderr
    assert blast.complaints(expected.sends, is_finished=blast.exit_code != 77) == []
    assert blast.has_timed_out == expected.hangs
    failed = blast.ledger.faults[plan.kind] if blast.exit_code == 3 else 0
    assert blast.records("errors") == failed
    assert blast.records("save") == (0 if blast.exit_code == 77 else plan.lines - failed)
    assert blast.ledger.faults[plan.kind] > 0
    assert blast.longest_s < blast.most_s


@lengths(some_lines_always_meet_it, HARMFUL)
def test_a_fault_that_some_lines_always_meet(blasts: Blasts, plan: Plan) -> None:
    """Poisonous lines give up after their attempts and do not stop the others."""
    expected = EXPECTED[plan.kind]

    blast = blasts(plan)

    assert blast.exit_code == expected.always_exit_code, blast.stderr
    assert blast.complaints(expected.always_sends, is_finished=blast.exit_code != 77) == []
    assert blast.has_timed_out == expected.hangs
    assert blast.records("errors") == (len(plan.poisonous) if blast.exit_code == 3 else 0)
    assert blast.longest_s < blast.most_s


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(one_in_twenty_meets_any(1500), id="1500"),
        pytest.param(one_in_twenty_meets_any(20_000), id="20000", marks=pytest.mark.long),
    ],
)
def test_all_faults_mixed(blasts: Blasts, plan: Plan) -> None:
    """One request in twenty meets one of them; a line that can be answered has its answer in the end."""
    blast = blasts(plan)

    assert blast.exit_code == 3, blast.stderr
    assert blast.complaints(most_sends=6) == []
    assert blast.longest_s < blast.most_s
    assert 0 < blast.records("errors") < 0.01 * plan.lines

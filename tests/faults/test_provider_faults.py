"""Every fault that a provider can commit, each alone and all mixed: the run ends, and every line has what it should.

A real process blasts at a mock provider with faults; the checker judges its files and the provider's ledger. Each
fault is met in two ways: by the first send of some lines, so that what may be tried again is answered in the end, and
by every send of some poisonous lines, which give up without harm to the others. What refuses or is not there meets all.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llmblast.mocking.faults import FAULTS
from tests.conftest import RunLlmblast, StartMock, records, write_requests
from tests.faults.checker import Ledger, check, read_ledger

SHORT, LONG = 36, 500
TIMEOUT_S = 1.0
ATTEMPTS = 2
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
    timeout_s: float = TIMEOUT_S
    rule: str = "share = 0.3\nsends = 1"
    is_mixable: bool = True


ANSWERED = Expected()
RETRIED = Expected(sends=2, always_exit_code=3, always_sends=ATTEMPTS)
BROKEN_OFF = replace(RETRIED, always_sends=3)
"""A kept connection may have been stale: it is sent again once more, at once."""
COOLED_DOWN = Expected(sends=2, always_exit_code=None)
FAILED = Expected(exit_code=3, always_exit_code=3)
REFUSED = Expected(exit_code=77, always_exit_code=77, rule="", is_mixable=False)
NOTHING_THERE = replace(REFUSED, always_exit_code=3)
"""An endpoint that never answered is to blame, later the line is."""
MUCH = replace(FAILED, lines=0.25, concurrency=4, timeout_s=20.0)

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
    "503": RETRIED,
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
    "invalid-utf8": RETRIED,
    "nul-bytes": RETRIED,
    "lone-surrogate": RETRIED,
    "deep-nesting": RETRIED,
    "nan": RETRIED,
    "huge-number": ANSWERED,
    "escapes": ANSWERED,
    "bidi": ANSWERED,
    "slow-headers": ANSWERED,
    "slow-body": ANSWERED,
    "endless-body": RETRIED,
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
    "black-hole": RETRIED,
    "duplicate": ANSWERED,
    "garbage": RETRIED,
    "tls": replace(REFUSED, sends=3, always_exit_code=None),
    "restart": replace(RETRIED, rule="requests = [12]\nseconds = 0.3", always_exit_code=None, concurrency=8),
}
HARMFUL = [kind for kind, expected in EXPECTED.items() if expected.always_exit_code]


@dataclass
class Blast:
    """One run against one provider with faults, and what is left of it."""

    folder: Path
    start_mock: StartMock
    llmblast: RunLlmblast

    def __call__(self, texts: list[str], rules: str, *arguments: str) -> tuple[int, str]:
        """Sends one raw line for each text; the exit code, and what was said on standard error."""
        write_requests(self.folder / "prompts.jsonl", texts)
        (self.folder / "faults.toml").write_text(rules)
        query = f"latency=0&faults={self.folder / 'faults.toml'}&ledger={self.folder / 'ledger.jsonl'}"
        url = self.start_mock(query).url
        # How fast a rate is learned is no business of these tests.
        done = self.llmblast("run", "prompts.jsonl", "-u", f"{url},adaptive=false", *arguments)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    def complaints(self, most_sends: int, is_finished: bool = True) -> list[str]:
        paths = (self.folder / f"{name}.jsonl" for name in ("prompts", "save", "errors", "ledger"))
        return check(*paths, most_sends=most_sends, is_finished=is_finished)

    @property
    def ledger(self) -> Ledger:
        return read_ledger(self.folder / "ledger.jsonl")

    def records(self, name: str) -> int:
        return len(records(self.folder / f"{name}.jsonl"))


@pytest.fixture
def blast(tmp_path: Path, start_mock: StartMock, llmblast: RunLlmblast) -> Blast:
    return Blast(tmp_path, start_mock, llmblast)


def lengths(kinds: list[str]) -> pytest.MarkDecorator:
    """Each kind with some dozens of lines, and in the long form with 500."""
    short = [pytest.param(kind, SHORT, id=kind) for kind in kinds]
    long = [pytest.param(kind, LONG, id=f"{kind}-long", marks=pytest.mark.long) for kind in kinds]
    return pytest.mark.parametrize(("kind", "count"), [*short, *long])


def limits(expected: Expected) -> tuple[str, ...]:
    return ("--timeout", str(expected.timeout_s), "-a", str(ATTEMPTS), "-j", str(expected.concurrency))


def test_every_fault_has_its_expectation() -> None:
    """A new one cannot be forgotten here."""
    assert EXPECTED.keys() == FAULTS.keys()


@lengths(list(EXPECTED))
def test_a_fault_that_some_lines_meet_once(blast: Blast, kind: str, count: int) -> None:
    """The exit code is the verdict table's, every line has its record, and no attempt outlives its timeout."""
    expected = EXPECTED[kind]
    texts = [f"Question {number}?" for number in range(int(count * expected.lines))]

    exit_code, stderr = blast(texts, f'[[fault]]\nkind = "{kind}"\n{expected.rule}\n', *limits(expected))

    assert exit_code == expected.exit_code, stderr
    assert blast.complaints(expected.sends, is_finished=exit_code != 77) == []
    ledger = blast.ledger
    failed = ledger.faults[kind] if exit_code == 3 else 0
    assert blast.records("errors") == failed
    assert blast.records("save") == (0 if exit_code == 77 else len(texts) - failed)
    assert ledger.faults[kind] > 0
    assert ledger.longest_s <= expected.timeout_s + 1


@lengths(HARMFUL)
def test_a_fault_that_some_lines_always_meet(blast: Blast, kind: str, count: int) -> None:
    """Poisonous lines give up after their attempts and do not stop the others."""
    expected = EXPECTED[kind]
    lines = int(count * expected.lines)
    concurrency = min(expected.concurrency, lines // 4)
    # By the time of the first poison the endpoint has answered.
    poisonous = {number for number in range(2 * concurrency, lines) if number % 4 == 0}
    texts = [f"{POISON if number in poisonous else 'Question'} {number}?" for number in range(lines)]

    exit_code, stderr = blast(
        texts,
        f'[[fault]]\nkind = "{kind}"\ncontaining = "{POISON}"\n',
        *limits(replace(expected, concurrency=concurrency)),
    )

    assert exit_code == expected.always_exit_code, stderr
    assert blast.complaints(expected.always_sends, is_finished=exit_code != 77) == []
    assert blast.records("errors") == (len(poisonous) if exit_code == 3 else 0)
    assert blast.ledger.longest_s <= expected.timeout_s + 1


@pytest.mark.parametrize("count", [1500, pytest.param(20_000, marks=pytest.mark.long)])
def test_all_faults_mixed(blast: Blast, count: int) -> None:
    """One request in twenty meets one of them; a line that can be answered has its answer in the end."""
    kinds = [kind for kind, expected in EXPECTED.items() if expected.is_mixable]
    rules = "".join(f'[[fault]]\nkind = "{kind}"\nshare = {0.05 / len(kinds)}\nseconds = 0.2\n' for kind in kinds)

    exit_code, stderr = blast(
        [f"Question {number}?" for number in range(count)], rules, "--timeout", str(TIMEOUT_S), "-j", "64"
    )

    assert exit_code == 3, stderr
    assert blast.complaints(most_sends=6) == []
    assert blast.ledger.longest_s <= TIMEOUT_S + 1
    assert 0 < blast.records("errors") < 0.01 * count

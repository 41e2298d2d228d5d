"""The checker: judges a run by what it left behind, and by what the mock provider's ledger says of it.

It shares no code with llmblast, so that a mistake there cannot excuse itself here: keys are computed anew, records and
ledgers are read by the standard library. The prompts are raw requests, which are sent byte for byte: so a line and the
body of its request have the same key, the BLAKE2b-64 of these bytes in 16 hex digits.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

_MOST_TOLD = 20


@dataclass(slots=True)
class Ledger:
    """What the servers saw, by the key of the body."""

    sends: Counter[str] = field(default_factory=Counter)
    answers: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Keys of the texts that were sent back, each in a whole reply."""
    sent_after: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Sends by the number of whole answers that there had been before."""
    faults: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    """From the arrival of a request to its answer, or to the moment when its connection was gone."""

    @property
    def received(self) -> int:
        """All requests."""
        return self.sends.total()

    def sent_again(self, key: str, lines: int) -> int:
        """Sends that came when each of so many lines with this key had its answer."""
        return sum(count for answers, count in self.sent_after[key].items() if answers >= lines)


def read_ledger(*paths: Path) -> Ledger:
    """One ledger of several files; in each an answer belongs to the last request of its number before it."""
    ledger = Ledger()
    for path in paths:
        open_requests: dict[int, tuple[str, float]] = {}
        for entry in map(json.loads, path.read_bytes().splitlines()):
            if entry["event"] == "received":
                open_requests[entry["number"]] = (entry["key"], entry["at"])
                ledger.sends[entry["key"]] += 1
                ledger.sent_after[entry["key"]][ledger.answers[entry["key"]].total()] += 1
                ledger.faults[entry["fault"]] += entry["fault"] is not None
            else:
                key, arrived_s = open_requests.pop(entry["number"])
                ledger.longest_s = max(ledger.longest_s, entry["at"] - arrived_s)
                if entry["complete"] and entry["text"] is not None:
                    ledger.answers[key][entry["text"]] += 1
    return ledger


def check(
    prompts: Path,
    save: Path,
    errors: Path,
    *ledgers: Path,
    most_sends: int = 1,
    lost: int = 0,
    is_finished: bool = True,
) -> list[str]:
    """What is wrong, in words; empty where nothing is.

    A line may be sent `most_sends` times, and not after it was answered; `lost` is how many sends there may be beyond
    all that, since a killed client does not know what it was told. A run that is not finished may leave lines without a
    record.
    """
    wanted = Counter(map(key_of, _lines(prompts)))
    found: list[str] = []
    saved = _records(save, found)
    failed = _records(errors, found)
    found += _compare(wanted, saved, failed, is_finished)
    ledger = read_ledger(*ledgers)
    found += _compare_sends(wanted, ledger, most_sends, lost)
    found += _compare_answers(saved, failed, ledger)
    return [*found[:_MOST_TOLD], f"and {len(found) - _MOST_TOLD} more"] if len(found) > _MOST_TOLD else found


def key_of(data: bytes) -> str:
    """The name that a line, a body or a text has in records and ledgers."""
    return blake2b(data, digest_size=8).hexdigest()


def _lines(path: Path) -> Iterator[bytes]:
    for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if stripped := line.strip():
            yield stripped


def _records(path: Path, found: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Records by key; what is none is added to what was found."""
    records: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        found.append(f"{path.name}: the last line has no end")
    for number, line in enumerate(data.split(b"\n")[: data.count(b"\n")], 1):
        try:
            record = json.loads(line)
            records[record["key"]].append(record)
        except (ValueError, KeyError, TypeError):
            found.append(f"{path.name}:{number}: no record: {line[:60]!r}")
    return dict(records)


def _compare(
    wanted: Counter[str],
    saved: dict[str, list[dict[str, Any]]],
    failed: dict[str, list[dict[str, Any]]],
    is_finished: bool,
) -> Iterator[str]:
    """Every line has exactly one record, and every record a line."""
    for key, count in wanted.items():
        has, has_failed = len(saved.get(key, ())), len(failed.get(key, ()))
        if has + has_failed < count and is_finished:
            yield f"{key}: missing: {has + has_failed} of {count} records"
        elif has + has_failed > count and has and has_failed:
            yield f"{key}: in both files"
        elif has + has_failed > count:
            yield f"{key}: {has + has_failed} records of {count} lines"
    for key in saved.keys() | failed.keys():
        if key not in wanted:
            yield f"{key}: a record that belongs to no line"


def _compare_sends(wanted: Counter[str], ledger: Ledger, most_sends: int, lost: int) -> Iterator[str]:
    """Nothing was sent that is no line, too often, or again after its answer."""
    for key in ledger.sends.keys() - wanted.keys():
        yield f"{key}: a request that belongs to no line"
    beyond = {key: sends - most_sends * wanted[key] for key, sends in ledger.sends.items() if key in wanted}
    too_often = {key: count for key, count in beyond.items() if count > 0}
    if sum(too_often.values()) > lost:
        yield from (f"{key}: sent {ledger.sends[key]} times" for key in islice(too_often, _MOST_TOLD))
    again = {key: count for key in wanted if (count := ledger.sent_again(key, wanted[key]))}
    if sum(again.values()) > lost:
        yield from (f"{key}: sent again after a complete answer" for key in islice(again, _MOST_TOLD))


def _compare_answers(
    saved: dict[str, list[dict[str, Any]]], failed: dict[str, list[dict[str, Any]]], ledger: Ledger
) -> Iterator[str]:
    """Every saved answer is one that the provider gave to this line; no line failed that it has answered."""
    for key, records in saved.items():
        texts = Counter(_text_key(record.get("response")) for record in records)
        for text in texts - ledger.answers[key]:
            yield f"{key}: an answer that the ledger does not know: {text}"
    for key in failed:
        if ledger.answers[key].total() > len(saved.get(key, ())):
            yield f"{key}: failed although it was answered"


def _text_key(response: object) -> str:
    return key_of(response.encode()) if isinstance(response, str) else f"no text: {response!r:.40}"

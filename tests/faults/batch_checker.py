"""Judge a run through a batch API by its records and by the ledger of the mock provider.

Lines are raw requests, which are sent as they are, so a line and the body of its request have the same key.
"""

import json
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any


def write_batch_lines(path: Path, count: int, copies: int = 1) -> None:
    """Write raw requests with a model; each text stands `copies` times in the file."""
    lines = [
        json.dumps({"model": "m", "messages": [{"role": "user", "content": f"Question {n}?"}]}, separators=(",", ":"))
        for n in range(count)
    ]
    path.write_text("".join(f"{line}\n" for _ in range(copies) for line in lines))


def complaints(folder: Path, ledger: Path, *, lost: int = 0, save: str = "save.jsonl") -> list[str]:
    """Return what is wrong, in words: lines that are lost or recorded twice, batches started twice, lines paid twice.

    `lost` is how many direct requests may be sent again, since a killed client does not know what it was told.
    """
    lines = (folder / "prompts.jsonl").read_bytes().splitlines()
    wanted = Counter(_key(line) for line in lines)
    saved = _records(folder / save)
    failed = _records(folder / (save.removesuffix("save.jsonl") + "errors.jsonl"))
    numbers = Counter(record["line"] for record in (*saved, *failed))
    entries = [json.loads(line) for line in ledger.read_bytes().splitlines()]
    rejected = {e["batch"] for e in entries if e["event"] == "batch_ended" and e["state"] == "failed"}
    starts = Counter(
        str(entry["metadata"] or entry["name"])
        for entry in entries
        if entry["event"] == "batch_started" and entry["batch"] not in rejected
    )
    paid = Counter(entry["key"] for entry in entries if entry["event"] == "batch_line" and entry["billed"])
    directly = _paid_directly(entries)
    found = []
    if numbers != Counter(range(1, len(lines) + 1)):
        missing = [n for n in range(1, len(lines) + 1) if n not in numbers]
        doubled = [n for n, count in numbers.items() if count > 1]
        found.append(f"lines lost: {missing[:9]} ({len(missing)}), recorded twice: {doubled[:9]} ({len(doubled)})")
    if twice_started := {name: count for name, count in starts.items() if count > 1}:
        found.append(f"started twice: {twice_started}")
    if twice := [key for key, count in paid.items() if count > wanted[key]]:
        found.append(f"paid twice by batch: {len(twice)}")
    if again := [key for key in directly if paid[key] >= wanted[key]]:
        found.append(f"sent directly, though a batch has answered: {len(again)}")
    if (more := (paid + directly - wanted).total()) > lost:
        found.append(f"sent directly again: {more}")
    if not_paid := [key for key, count in (wanted - paid - directly).items() if count and not failed]:
        found.append(f"answered but not paid: {len(not_paid)}")
    return found


def ledger_events(ledger: Path, name: str) -> list[dict[str, Any]]:
    """Return the entries of a ledger with this event."""
    return [entry for line in ledger.read_bytes().splitlines() if (entry := json.loads(line))["event"] == name]


def _paid_directly(entries: list[dict[str, Any]]) -> Counter[str]:
    keys = {entry["number"]: entry["key"] for entry in entries if entry["event"] == "received"}
    return Counter(
        keys[entry["number"]] for entry in entries if entry["event"] == "answered" and entry["text"] is not None
    )


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _key(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()

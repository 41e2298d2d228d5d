"""File formats: find that of an input by its name, its first bytes, or the setting `format` (`splitters` reads it)."""

import os

from llmblast.reading.lines import BOM
from llmblast.settings import FILE_FORMATS

_BY_ENDING = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_PACKED = (".gz", ".zst", ".bz2", ".xz")
_MAGIC = {b"PAR1": "parquet", b"PARE": "parquet", b"ARROW1": "arrow", b"FEA1": "arrow"}
_MAX_START_BYTES = 64 * 1024


def forced_format(setting: str) -> str | None:
    """Return the format of files that the setting `format` forces; None if it is one of lines."""
    return setting if setting in FILE_FORMATS else None


def detect(name: str, start: bytes, *, is_whole: bool) -> str | None:
    """Return the format of a file by its name and first bytes; None if more bytes are needed to tell."""
    for magic, found in _MAGIC.items():
        if start.startswith(magic):
            return found
        if magic.startswith(start) and not is_whole:
            return None
    base, ending = os.path.splitext(name.lower())
    if ending in _PACKED:
        ending = os.path.splitext(base)[1]
    if ending in _BY_ENDING:
        return _BY_ENDING[ending]
    return _by_start(start.removeprefix(BOM), is_json=ending == ".json", is_whole=is_whole)


def _by_start(start: bytes, *, is_json: bool, is_whole: bool) -> str | None:
    """Tell an array or spread objects from lines: the first line is no object, only the start of one."""
    text = start.lstrip()
    bracket, behind = text[:1], text[1:].lstrip()
    is_decided = is_whole or len(start) > _MAX_START_BYTES
    if bracket not in (b"{", b"["):
        return "jsonl" if bracket or is_decided else None
    if is_json and bracket == b"{" and b"\n" not in text and not is_decided:
        return None
    if not behind and not is_decided:
        return None
    gap = text[1 : len(text) - len(behind)]
    if bracket == b"[":
        is_array = behind[:1] in (b"{", b"]") or b"\n" in gap or is_json
        return "json" if is_array else "jsonl"
    first_line = text.partition(b"\n")[0].rstrip()
    is_spread = b"\n" in gap or (is_json and not first_line.endswith(b"}"))
    return "json" if is_spread else "jsonl"

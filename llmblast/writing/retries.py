"""Retries of earlier errors: which records of errors.jsonl a resumed run removes, to send their lines again."""

import json

import orjson

_TRANSIENT = b'"transient":true'


def should_retry(record: bytes, mode: str) -> bool:
    """Return whether `--retry-errors` (transient, all, none) selects a record. A damaged one is not transient."""
    if mode != "transient":
        return mode == "all"
    if _TRANSIENT not in record:
        return False
    failure = _parse(record)
    return isinstance(failure, dict) and failure.get("transient") is True


def _parse(record: bytes) -> object:
    """Return the record, or None for a damaged one. orjson reads no number that is larger than any float."""
    try:
        return orjson.loads(record)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(record, parse_int=str)
    except (ValueError, RecursionError):
        return None

"""Which records of errors.jsonl a resumed run takes back, to send their lines again."""

import orjson

_TRANSIENT = b'"transient":true'


def should_retry(record: bytes, mode: str) -> bool:
    """What `--retry-errors` (transient, all, none) says about one record; damaged ones count as not transient."""
    if mode != "transient":
        return mode == "all"
    if _TRANSIENT not in record:
        return False
    try:
        failure = orjson.loads(record)
    except orjson.JSONDecodeError:
        return False
    return isinstance(failure, dict) and failure.get("transient") is True

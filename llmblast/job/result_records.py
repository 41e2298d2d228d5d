"""Result records: the record that a result would have in a file, for a later stage that reads it in memory."""

from typing import Any

from llmblast.results import Result
from llmblast.writing import OUR_NAMES


def record_of(result: Result) -> dict[str, Any]:
    """Return the record of a result with an answer; see `writing.formats` for its members."""
    record: dict[str, Any] = {"key": result.key, "line": result.index + 1}
    if result.repeat:
        record["repeat"] = result.repeat
    if result.file is not None:
        record["file"] = result.file
    record["id"] = result.id
    if result.input is not None:
        record["input"] = result.input
    record |= {
        "response": result.response,
        "finish_reason": result.finish_reason,
        "usage": result.usage,
        "model": result.model,
        "endpoint": result.endpoint,
        "attempts": result.attempts,
        "latency": result.latency_s,
    }
    if result.parsed is not None:
        record["parsed"] = result.parsed
    if result.body:
        record["body"] = result.json()
    ours = OUR_NAMES if result.file is None else OUR_NAMES | {"file"}
    record |= {name: value for name, value in result.fields.items() if name not in ours}
    hidden = {name: value for name, value in result.fields.items() if name in ours}
    return {**record, "fields": hidden} if hidden else record

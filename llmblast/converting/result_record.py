"""Result record: what a result says, whichever form it is written in.

It has the names of an llmblast record. A member that a form does not have is absent, which is not the same as null.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmblast.converting.rows import Row
from llmblast.writing.formats import OUR_NAMES

FIRST = ("key", "line", "id", "input")
OF_ANSWERS = ("response", "finish_reason", "usage", "model", "endpoint", "attempts", "latency", "maybe_billed")
OF_ERRORS = (
    "error",
    "status",
    "code",
    "transient",
    "attempts",
    "endpoint",
    "maybe_billed",
    "body",
    "request",
    "request_base64",
)
NEEDED_IN_ANSWERS = ("response", "finish_reason", "usage", "model")
KNOWN = frozenset((*FIRST, *OF_ANSWERS, *OF_ERRORS))


@dataclass(slots=True)
class ResultRecord:
    """`members` are those of an llmblast record, `fields` the user's own. `body` is the raw reply, if it is known.

    `keeps_body`: the reply says more than the members do.
    """

    members: Row
    fields: Row = field(default_factory=dict)
    body: Any = None
    keeps_body: bool = False
    reply_id: str | None = None
    """Name of the result in its batch."""
    request_id: str | None = None

    @property
    def error(self) -> str | None:
        """Return what went wrong; None for an answer."""
        error = self.members.get("error")
        return None if error is None else str(error)

    @property
    def id(self) -> str:
        """Return the line's id as a text."""
        return str(self.members.get("id", self.members.get("line", "")))


def read_record(row: Row) -> ResultRecord:
    """Read a record of llmblast's default format."""
    aside = row.get("fields")
    fields = {name: value for name, value in row.items() if name not in KNOWN and name != "fields"}
    if isinstance(aside, dict):
        fields.update(aside)
    elif "fields" in row:
        fields["fields"] = aside
    members = {name: value for name, value in row.items() if name in KNOWN and name != "body"}
    return ResultRecord(members, fields, row.get("body"), keeps_body="body" in row)


def write_record(record: ResultRecord) -> Row:
    """Write a record of llmblast's default format."""
    members, is_error = record.members, record.error is not None
    row: Row = {name: members[name] for name in FIRST if name in members}
    if is_error:
        with_body = {**members, "body": record.body} if record.keeps_body else members
        row.update({name: with_body[name] for name in OF_ERRORS if name in with_body})
    else:
        row.update(dict.fromkeys(NEEDED_IN_ANSWERS))
        row.update({name: members[name] for name in OF_ANSWERS if name in members})
    add_fields(row, record.fields)
    if record.keeps_body and not is_error:
        row["body"] = record.body
    return row


def add_fields(row: Row, fields: Row) -> None:
    """Add the user's own fields to a row; those with a name of ours are members of `fields`."""
    row.update({name: value for name, value in fields.items() if name not in OUR_NAMES})
    if aside := {name: value for name, value in fields.items() if name in OUR_NAMES}:
        row["fields"] = aside


def claims(row: Mapping[str, object]) -> bool:
    """Return whether a row is a record of llmblast's default format."""
    return "key" in row and "line" in row and ("response" in row or "error" in row)

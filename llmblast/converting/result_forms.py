"""Table of the forms of results: how each is recognised, read and written."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from llmblast.converting import batch_results, result_record
from llmblast.converting.result_record import ResultRecord
from llmblast.converting.rows import Row


class ResultForm(NamedTuple):
    """`claims` says whether a row has this form; forms before it in the table are asked first."""

    claims: Callable[[Mapping[str, object]], bool]
    read: Callable[[Row], ResultRecord]
    write: Callable[[ResultRecord], Row]


RESULT_FORMS: Mapping[str, ResultForm] = {
    "anthropic-batch": ResultForm(
        batch_results.is_anthropic, batch_results.read_anthropic, batch_results.write_anthropic
    ),
    "openai-batch": ResultForm(batch_results.is_openai, batch_results.read_openai, batch_results.write_openai),
    "llmblast": ResultForm(result_record.claims, result_record.read_record, result_record.write_record),
}


def read_result(row: Row) -> ResultRecord | None:
    """Return the result in a row; None where it is no result."""
    for form in RESULT_FORMS.values():
        if form.claims(row):
            return form.read(row)
    return None

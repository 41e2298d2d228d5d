"""Naming: read the values of `--to` and `--fields`."""

from collections.abc import Sequence

from llmblast.converting.conversion import FORMS
from llmblast.converting.file_kinds import FILE_KINDS
from llmblast.errors import UsageError


def form_and_kind(names: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the form and the kind of file that `--to` names. Raises UsageError."""
    form: str | None = None
    kind: str | None = None
    for name in names:
        if name in FORMS and form is None:
            form = name
        elif name in FILE_KINDS and kind is None:
            kind = name
        elif name in FORMS or name in FILE_KINDS:
            raise UsageError(f"--to {name}: one form and one kind of file are enough: leave one out")
        else:
            raise UsageError(f"--to {name}: is not a form: write one of {', '.join((*FORMS, *FILE_KINDS))}")
    return form, kind


def chosen_fields(text: str | None) -> Sequence[str]:
    """Return the fields in a list with commas. Raises UsageError for one that stands there twice."""
    fields = [field.strip() for field in (text or "").split(",") if field.strip()]
    if text is not None and not fields:
        raise UsageError("--fields: names no field: write such as --fields id,response")
    for field in fields:
        if fields.count(field) > 1:
            raise UsageError(f"--fields {field}: stands there twice: leave one out")
    return fields

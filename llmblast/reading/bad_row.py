"""Bad row: what stands for a row that cannot become a line."""


class BadRow(bytes):
    """The text of a row that does not fit its file, with the `reason`, which says what to do.

    `RequestParser` makes a failure of it; code between treats it as any line.
    """

    reason: str


def bad_row(text: bytes, reason: str) -> BadRow:
    """Return a bad row with its reason."""
    row = BadRow(text)
    row.reason = reason
    return row

"""Oversized line: what stands for the text of a line above the maximal length."""


class OversizedLine(bytes):
    """The first bytes of a line above the maximal length, in place of its text.

    `key` is the key of the whole line, so that a resumed run recognises it; `size_bytes` is the length of the line.
    `key_of` and `RequestParser` handle this class; code between them treats it as any line.
    """

    key: str
    size_bytes: int

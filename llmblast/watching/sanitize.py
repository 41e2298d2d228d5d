"""Sanitizing: make text from outside safe to show. Terminals obey escape codes, bidi overrides reorder a text.

Sequences as in ECMA-48: CSI, the strings OSC, DCS, SOS, PM and APC, and the short escapes, in their 7 and 8 bit forms.
None of them may hold the start of another, so that the search for their ends is linear, whatever the text.
"""

import re

_MAX_INPUT_RATIO = 20
"""Maximum length of the text that is read, in multiples of `max_length`: a body may have megabytes."""
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-Z\\^-~]"
)


def sanitize_text(text: str, max_length: int = 200) -> str:
    """Return one printable line of at most `max_length` characters, with an ellipsis if the text was cut.

    Remove escape sequences as a whole, so that `ESC[31mred` is `red`, then all other characters that are not printable
    (control, format and bidi characters, lone surrogates). White space becomes spaces.
    """
    head = text[: max_length * _MAX_INPUT_RATIO]
    kept = _ESCAPE_SEQUENCE.sub("", head)
    if not kept.isprintable():
        kept = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in kept)
    kept = kept.strip()
    if len(kept) <= max_length and len(head) == len(text):
        return kept
    return kept[: max_length - 1].rstrip() + "…"

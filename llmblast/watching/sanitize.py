"""Makes text that came from outside safe to show: terminals obey escape codes, bidi overrides reorder what is read.

Sequences as in ECMA-48: CSI, the strings OSC, DCS, SOS, PM and APC, and the short escapes, in their 7 and 8 bit forms.
None of them may hold the start of another, so that the search for their ends is linear, whatever the text.
"""

import re

_MARGIN = 20
"""So many times the wanted length is looked at: enough for escape codes, and bounded for a body of megabytes."""
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-Z\\^-~]"
)


def sanitize_text(text: str, max_length: int = 200) -> str:
    """One printable line of at most `max_length` characters; what was cut off leaves an ellipsis.

    Whole escape sequences go first, so that `ESC[31mred` is `red`. Whatever is still not printable (control, format
    and bidi characters, lone surrogates) goes too, line breaks and other white space become spaces.
    """
    head = text[: max_length * _MARGIN]
    kept = _ESCAPE_SEQUENCE.sub("", head)
    if not kept.isprintable():
        kept = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in kept)
    kept = kept.strip()
    if len(kept) <= max_length and len(head) == len(text):
        return kept
    return kept[: max_length - 1].rstrip() + "…"

"""Signature: a text that is equal for equal refusals of different lines."""

import re

from llmblast.models import MAX_MESSAGE_CHARS

MAX_SIGNATURE_CHARS = 200
_MAX_CODE_CHARS = 60
_MAX_WORD_CHARS = 40

_QUOTED = r'"[^"]{0,200}"|`[^`]{0,200}`|“[^”]{0,200}”|‘[^’]{0,200}’|(?<!\w)\'[^\']{0,200}\'(?!\w)'  # noqa: RUF001 -- quotes
_ID = r"\W*(?:org|proj|req|key|sk|user|team|acct|chatcmpl|gen|msg|run)[-_]"


def signature_of(status: int, code: str, message: str) -> str:
    """Return the common part of the refusals of different lines for the same reason, in at most 200 characters.

    Quotations, numbers, ids and links differ between lines, and are left out.
    """
    text = re.sub(_QUOTED, " ", message[:MAX_MESSAGE_CHARS]).casefold()
    words = " ".join(word for word in text.split() if _is_shared(word))
    return f"{status} {code[:_MAX_CODE_CHARS]} {words}"[:MAX_SIGNATURE_CHARS].rstrip()


def _is_shared(word: str) -> bool:
    is_individual = len(word) > _MAX_WORD_CHARS or "://" in word or re.match(_ID, word) or any(map(str.isdigit, word))
    return not is_individual

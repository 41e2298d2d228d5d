"""HTML text: the words of the HTML error pages that gateways and proxies send instead of JSON."""

import html
import re

MAX_READ_CHARS = 20_000
MAX_WORDS_CHARS = 300
_IS_HTML = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|title|h1|center|p)\b", re.I | re.S
)
_TITLE = re.compile(r"<title\b[^>]*>([^<]*)", re.I)
_UNSEEN = re.compile(r"<(script|style|head|svg)\b[^>]*>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.I | re.S)
_TAG = re.compile(r"<[^<>]*(?:>|\Z)")
_SPACE = re.compile(r"\s+")


def words_of_page(text: str) -> str | None:
    """Return title and first words of an HTML page in one line; None where the text is no HTML.

    At most `MAX_READ_CHARS` are read.
    """
    text = text[:MAX_READ_CHARS]
    if not _IS_HTML.match(text):
        return None
    title = _TITLE.search(text)
    words = _plain(_TAG.sub(" ", _UNSEEN.sub(" ", text)))
    name = _plain(title[1]) if title else ""
    if name and words.lower().startswith(name.lower()):
        return _bounded(words)
    return _bounded(": ".join(part for part in (name, words) if part)) or "an HTML page without text"


def _plain(text: str) -> str:
    return _SPACE.sub(" ", html.unescape(text)).strip()


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_WORDS_CHARS else f"{text[: MAX_WORDS_CHARS - 1].rstrip()}…"

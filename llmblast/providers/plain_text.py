"""Plain text: the readable words of a body that is not JSON."""

from llmblast.providers.html_text import words_of_page

MAX_PLAIN_BODY_BYTES = 300
MAX_PAGE_BYTES = 20_000


def text_of(body: bytes) -> str:
    """Return the words of an HTML page, or the beginning of any other body."""
    if body[:MAX_PLAIN_BODY_BYTES].lstrip()[:1] == b"<":
        words = words_of_page(body[:MAX_PAGE_BYTES].decode("utf-8", "replace"))
        if words is not None:
            return words
    return body[:MAX_PLAIN_BODY_BYTES].decode("utf-8", "replace").strip()


def words_of(body: bytes) -> str:
    """Return the words of a page or of a short printable text; empty for a long text, which may be an answer."""
    is_page = body.lstrip()[:1] == b"<"
    words = " ".join(text_of(body).split()) if is_page or len(body) <= MAX_PLAIN_BODY_BYTES else ""
    return words if "\ufffd" not in words and words.isprintable() else ""

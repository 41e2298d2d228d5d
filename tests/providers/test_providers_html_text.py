"""An HTML error page is told by its title and first words."""

import pytest

from llmblast.models import Reply
from llmblast.providers.html_text import MAX_WORDS_CHARS, words_of_page
from llmblast.providers.reply_errors import read_error

NGINX = "<html>\r\n<head><title>502 Bad Gateway</title></head>\n<body>\n<center><h1>502 Bad Gateway</h1></center>\n"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (f"{NGINX}<hr><center>nginx/1.27</center></body></html>", "502 Bad Gateway nginx/1.27"),
        ("<!DOCTYPE html><title>Just a moment...</title><p>Checking", "Just a moment... Checking"),
        ("<html><head><title>Oops</title></head><body>Not here", "Oops: Not here"),
        ("<html><head><style>p { x }</style><script>1 < 2</script></head><body>Not here", "Not here"),
        ("<HTML><BODY>R&amp;D is&nbsp;&lt;down&gt;</BODY>", "R&D is <down>"),
        ("<?xml version='1.0'?>\n<!-- a --><html><body>Away</body>", "Away"),
        ("<h1>Service Unavailable</h1>", "Service Unavailable"),
        ("<html><title>\n  A\n  B </title>", "A B"),
        ("<html></html>", "an HTML page without text"),
        ("<html><script>never closed", "an HTML page without text"),
        ("<error>not HTML</error>", None),
        ("plain < text", None),
    ],
)
def test_words_of_a_page(page: str, words: str | None) -> None:
    """In one line, without tags, scripts and styles."""
    assert words_of_page(page) == words


def test_words_are_bounded() -> None:
    """As for all other bodies."""
    words = words_of_page("<html><body>" + "word " * 10_000)

    assert words is not None
    assert len(words) <= MAX_WORDS_CHARS
    assert words.endswith("…")


@pytest.mark.parametrize("piece", ["<", "<!--", "<script>", "<title>", "< ", "<p ", "&lt;", " ", "<!-- -->"])
def test_any_page_is_read(piece: str) -> None:
    """A hostile server's, too: what is looked at is bounded."""
    assert words_of_page("<html>" + piece * 1_000_000) is not None


def test_an_error_reply_with_a_page() -> None:
    """The message has no tags."""
    error = read_error(Reply(502, body=f"{NGINX}</body></html>".encode()))

    assert error.message == "502 Bad Gateway"

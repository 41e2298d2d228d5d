"""A secret is found in text however it is escaped or encoded, and what stands around it is left."""

import base64
import html
import json
import urllib.parse
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.job.secret_search import SecretSearch

KEY = "sk-proj_Ab/9+zQ=x7Kd~0.w&y"
SEARCH = SecretSearch([KEY.encode()])


def percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def unicode_escapes(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def entities(text: str) -> str:
    return "".join(f"&#{ord(character)};" for character in text)


def some(escape: Callable[[str], str], every: int) -> Callable[[str], str]:
    """Escapes each n-th character."""
    return lambda text: "".join(c if i % every else escape(c) for i, c in enumerate(text))


FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "json": lambda text: json.dumps(text)[1:-1],
    "json with slashes": lambda text: text.replace("/", "\\/"),
    "unicode escapes": unicode_escapes,
    "upper unicode escapes": lambda text: "".join(f"\\u{ord(c):04X}" for c in text),
    "some unicode escapes": some(unicode_escapes, 3),
    "hyphens": lambda text: text.replace("-", "\\u002d"),
    "json in json": lambda text: json.dumps(unicode_escapes(text))[1:-1],
    "json in json in json": lambda text: json.dumps(json.dumps(unicode_escapes(text))[1:-1])[1:-1],
    "percent": percent,
    "lower percent": lambda text: percent(text).lower(),
    "some percent": some(percent, 2),
    "quoted": lambda text: urllib.parse.quote(text, safe=""),
    "quoted twice": lambda text: urllib.parse.quote(urllib.parse.quote(text, safe=""), safe=""),
    "entities": entities,
    "hex entities": lambda text: "".join(f"&#x{ord(c):X};" for c in text),
    "entities with zeros": lambda text: "".join(f"&#0{ord(c)};" for c in text),
    "named entities": html.escape,
    "entities twice": lambda text: html.escape(html.escape(text)),
    "more named entities": lambda text: text.replace("&", "&amp;").replace("=", "&equals;").replace("/", "&sol;"),
    "percent in json": lambda text: unicode_escapes(percent(text)),
    "entities in json": lambda text: json.dumps(entities(text)).replace("&", "\\u0026")[1:-1],
    "python": lambda text: "".join(f"\\x{ord(c):02x}" for c in text),
    "javascript": lambda text: "".join(f"\\u{{{ord(c):x}}}" for c in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of a header": lambda text: base64.b64encode(f"Bearer {text}".encode()).decode(),
    "base64 of a login": lambda text: base64.b64encode(f"me:{text}".encode()).decode(),
    "base64 within more": lambda text: base64.b64encode(f"api-key: {text}\r\nHost: x".encode()).decode(),
    "url-safe base64": lambda text: base64.urlsafe_b64encode(f"ü:{text}".encode()).decode().rstrip("="),
    "base64 in json": lambda text: base64.b64encode(f"x{text}".encode()).decode().replace("/", "\\/"),
    "base64 in a url": lambda text: urllib.parse.quote(base64.b64encode(text.encode()).decode(), safe=""),
    "hex": lambda text: text.encode().hex(),
    "upper hex": lambda text: text.encode().hex().upper(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_in_any_form(form: str) -> None:
    """Nothing of it is left, and the words around it are."""
    text = f'{{"error":"wrong key {FORMS[form](KEY)} given, \\u00e9 50% &lt;b&gt; \\n"}}'

    hidden = SEARCH.hide(text)

    assert hidden == '{"error":"wrong key (hidden) given, \\u00e9 50% &lt;b&gt; \\n"}'
    assert SEARCH.may_show(text.encode()) is (form not in ("python", "javascript"))


def test_several_secrets_and_several_places() -> None:
    """The longer one goes whole."""
    search = SecretSearch([b"abcdefgh", b"abcdefgh-ijkl"])

    assert search.hide("abcdefgh abcdefgh-ijkl\\u0020abcdefg\\u0068-ijkl.") == "(hidden) (hidden)\\u0020(hidden)."


def test_nothing_to_hide() -> None:
    """The same object comes back."""
    for text in ("", "an answer \\u00e9 100% &amp; \\\\ \\", "sk-proj_Ab/9+zQ=x7Kd~0.w"):
        assert SEARCH.hide(text) == text
    body = b"\xff\xfe 100%"
    assert SEARCH.hide_bytes(body) is body
    assert SecretSearch([]).hide("text") == "text"


@pytest.mark.parametrize("answer", ["Paris is the capital.", "100 % of R&D", "caf\\u00e9 \\u4e2d\\n", "a\\\\b"])
def test_what_cannot_hold_a_secret_is_not_searched(answer: str) -> None:
    """Most answers cost a look only."""
    assert not SEARCH.may_show(answer.encode())


@given(
    st.text(
        st.characters(codec="ascii", categories=["L", "N", "P", "S"], exclude_characters="\\%&"),
        min_size=8,
        max_size=40,
    ),
    st.data(),
)
def test_escapes_of_all_kinds_at_random(secret: str, data: st.DataObject) -> None:
    """Each character in one of its escapes, and all of it in JSON of JSON."""
    kinds = [lambda c: c, unicode_escapes, percent, entities]
    escaped = "".join(data.draw(st.sampled_from(kinds))(character) for character in secret)
    text = f"key {escaped} end"
    for _ in range(data.draw(st.integers(0, 3))):
        text = orjson.dumps(text).decode()[1:-1]

    hidden = SecretSearch([secret.encode()]).hide(text)

    assert hidden.startswith("key ")
    assert hidden.endswith(" end")
    assert "(hidden)" in hidden
    assert len(hidden) < 30


@given(st.binary(max_size=300))
def test_any_bytes(body: bytes) -> None:
    """Nothing is raised."""
    SEARCH.hide_bytes(body)

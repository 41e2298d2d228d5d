"""Secret search: find secrets in replies, however they are escaped or encoded, and hide them.

The text is unescaped and searched repeatedly, with the original position of each character: this covers JSON in JSON, a
URL in HTML and mixtures of them. Base64 (RFC 4648) of a secret depends on its offset modulo 3; all three forms are
searched, so that `Bearer KEY` and `user:password` are found by the secret in them.

The cost grows with the escapes in a text; for answers, the cheap `may_show` decides whether a search is needed.
"""

import re
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from llmblast.hiding import HIDDEN

MAX_STEPS = 5
"""Maximum depth of nested escapes."""
SEARCHED_CHARS = 16
MIN_ENCODED_CHARS = 8
"""Shorter secrets are not searched in base64 and hex, which may contain them by chance."""
_ESCAPE = (
    r"\\+u[0-9A-Fa-f]{4}|\\+U[0-9A-Fa-f]{8}|\\+x[0-9A-Fa-f]{2}|\\+u\{[0-9A-Fa-f]{1,6}\}|\\+[^A-Za-z0-9\\]|\\[bfnrt]"
    r"|%[0-9A-Fa-f]{2}|&#[0-9]{1,7};?|&#[xX][0-9A-Fa-f]{1,6};?|&[A-Za-z]{2,12};"
)
_ASCII_ESCAPE = re.compile(rb"%[2-7][0-9A-Fa-f]|&(?:#|amp;)|\\u00[2-7]")
"""Escapes of printable ASCII characters, of which secrets consist."""
_BASE64_CHARACTER = re.compile(r"[A-Za-z0-9+/=_-]")
_BASE64_WORD = re.compile(r"[A-Za-z0-9+/=_-]*")
_TO_STANDARD_BASE64 = str.maketrans("-_", "+/")

Span = tuple[int, int]


class SecretSearch:
    """Find secrets in texts, the longest first, so that no part of a secret remains."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        ordered = sorted({secret.decode("latin-1") for secret in secrets if secret}, key=len, reverse=True)
        self._plain: Sequence[str] = ordered
        long = [secret for secret in ordered if len(secret) >= MIN_ENCODED_CHARS]
        self._base64 = [core for secret in long for core in base64_cores(secret)]
        self._hex = [secret.encode("latin-1").hex() for secret in long]
        self._usual_forms = [_usual_forms(secret) for secret in long]
        self._other_forms = [form.encode("latin-1") for secret in ordered for form in _other_forms(secret)]

    def may_show(self, body: bytes) -> bool:
        """Return whether a search may find a secret; takes less than 1 us for a short answer."""
        find = body.find  # twice as fast as `in`, which tries its argument as a number first
        for plain, first, second, third, lower_hex, upper_hex in self._usual_forms:
            if find(plain) >= 0 or find(first) >= 0 or find(second) >= 0 or find(third) >= 0:
                return True
            if find(lower_hex) >= 0 or find(upper_hex) >= 0:
                return True
        for form in self._other_forms:
            if find(form) >= 0:
                return True
        has_escapes = find(b"%") >= 0 or find(b"&") >= 0 or (find(b"\\") >= 0 and find(b"\\u00") >= 0)
        return has_escapes and _ASCII_ESCAPE.search(body) is not None

    def hide(self, text: str) -> str:
        """Return the text without the secrets; each character is one byte, or above ASCII."""
        if not self._plain:
            return text
        spans: list[Span] = []
        step, places = text, _Places()
        for _ in range(MAX_STEPS):
            spans += [places.origin_of(span, len(step)) for span in self._find(step)]
            unescaped, inner = _unescape(step)
            if inner is None:
                break
            places, step = places.within(inner), unescaped
        return _cut(text, spans) if spans else text

    def hide_bytes(self, body: bytes) -> bytes:
        """Return the bytes of a text without the secrets."""
        text = body.decode("latin-1")
        hidden = self.hide(text)
        return body if hidden is text else hidden.encode("latin-1")

    def _find(self, text: str) -> list[Span]:
        spans = [span for secret in self._plain for span in _occurrences(text, secret)]
        standard = text.translate(_TO_STANDARD_BASE64)
        spans += [span for core in self._base64 for span in _whole_words(text, _occurrences(standard, core))]
        lower = text.lower() if self._hex else ""
        return spans + [span for code in self._hex for span in _occurrences(lower, code)]


class _Places:
    """Map positions in an unescaped text to the original text: one entry at each end of an escape."""

    def __init__(self, starts: Sequence[int] = (0,), originals: Sequence[int] = (0,)) -> None:
        self._starts = starts
        """Positions in the unescaped text; from each to the next, characters are adjacent in the original, too."""
        self._originals = originals

    def original(self, position: int) -> int:
        """Return the original start of the character at a position of the unescaped text."""
        index = bisect_right(self._starts, position) - 1
        return self._originals[index] + position - self._starts[index]

    def origin_of(self, span: Span, size: int) -> Span:
        """Return the span of the original for a span of the unescaped text."""
        start, end = span
        last = self.original(end - 1) + 1
        following = self.original(end) if end <= size else last
        return self.original(start), max(last, following)

    def within(self, inner: "_Places") -> "_Places":
        """Return the map for a text that was unescaped once more."""
        starts = sorted({*inner._starts, *(inner._unescaped(start) for start in self._starts)})
        return _Places(starts, [self.original(inner.original(start)) for start in starts])

    def _unescaped(self, original: int) -> int:
        """Return the first position whose character starts at `original` or later."""
        index = bisect_right(self._originals, original) - 1
        end = self._starts[index + 1] if index + 1 < len(self._starts) else original + self._starts[index]
        return min(self._starts[index] + original - self._originals[index], end)


def base64_cores(secret: str) -> list[str]:
    """Return the base64 of a secret behind 0, 1 and 2 other bytes, without the characters that these bytes change."""
    data, cores = secret.encode("latin-1"), []
    for before in range(3):
        encoded = b64encode(bytes(before) + data).decode()
        end = (before + len(data)) * 8 // 6
        cores.append(encoded[-(-before * 8 // 6) : end])
    return cores


def _usual_forms(secret: str) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
    """Return the end of the secret as plain text, in base64 at three offsets, and in hex; a short end is faster."""
    first, second, third = (core[-SEARCHED_CHARS:].encode() for core in base64_cores(secret))
    lower_hex = secret.encode("latin-1").hex()[-SEARCHED_CHARS:].encode()
    return secret[-SEARCHED_CHARS:].encode("latin-1"), first, second, third, lower_hex, lower_hex.upper()


def _other_forms(secret: str) -> set[str]:
    """Return forms that differ only for secrets with `/`, `+`, `"` and similar characters."""
    if len(secret) < MIN_ENCODED_CHARS:
        return {secret, secret.replace("/", "\\/"), secret.replace('"', '\\"')}
    cores = base64_cores(secret)
    texts = [text[-SEARCHED_CHARS:] for text in (secret, *cores)]
    url_safe = [text.replace("+", "-").replace("/", "_") for text in texts[1:]]
    escaped = [text.replace("/", "\\/").replace('"', '\\"') for text in texts]
    return {*escaped, *url_safe} - set(texts)


def _unescape(text: str) -> tuple[str, _Places | None]:
    """Return the text unescaped once, and the original positions of its characters, None if it has no escapes."""
    pieces: list[str] = []
    starts, originals = [0], [0]
    size = end = 0
    for match in re.finditer(_ESCAPE, text):
        character = _meaning_of(match[0])
        if character is None:
            continue
        pieces += [text[end : match.start()], character]
        size += match.start() - end
        starts.append(size)
        originals.append(match.start())
        size += len(character)
        end = match.end()
        starts.append(size)
        originals.append(end)
    if not pieces:
        return text, None
    pieces.append(text[end:])
    return "".join(pieces), _Places(starts, originals)


def _meaning_of(escape: str) -> str | None:
    """Return the one character that an escape means; None if it means none."""
    if escape[0] == "&":
        from html import unescape  # noqa: PLC0415 -- its table takes 1 ms

        meant = unescape(escape)
        return meant if len(meant) == 1 and meant != escape else None
    if escape[0] == "%":
        return chr(int(escape[1:], 16))
    rest = escape.lstrip("\\")
    if rest[:1] in ("u", "U", "x"):
        code = int(rest[1:].strip("{}"), 16)
        return chr(code) if code <= 0x10FFFF else None
    return {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}.get(rest, rest)


def _occurrences(text: str, needle: str) -> list[Span]:
    spans, start = [], text.find(needle)
    while start >= 0:
        spans.append((start, start + len(needle)))
        start = text.find(needle, start + len(needle))
    return spans


def _whole_words(text: str, spans: Iterable[Span]) -> list[Span]:
    """Return spans extended to whole base64 words: with the ends of the secret, and a user in front of a password."""
    words: list[Span] = []
    for start, end in spans:
        if words and start < words[-1][1]:
            continue
        while start > 0 and _BASE64_CHARACTER.match(text[start - 1]):
            start -= 1  # noqa: PLW2901 -- the span grows
        word = _BASE64_WORD.match(text, end)
        words.append((start, word.end() if word else end))
    return words


def _cut(text: str, spans: Iterable[Span]) -> str:
    pieces, end = [], 0
    for start, stop in sorted(spans):
        if start >= end:
            pieces += [text[end:start], HIDDEN]
        end = max(end, stop)
    return "".join([*pieces, text[end:]])

"""Hiding: what of a URL, of a setting and of a header's name may be shown to a person or written to a file."""

import re
from collections.abc import Iterable
from pathlib import Path

HIDDEN = "(hidden)"
MAX_SHOWN_NAME = 64
_USER_PART = re.compile(r"(?<=://)(?:[^\s/?#\"'<>@\\]*@)+")
_USER_PART_BYTES = re.compile(rb"(?:(?<=://)|(?<=:\\/\\/))(?:[^\s/?#\"'<>@\\]*@)+")
"""What stands before the host (RFC 3986 section 3.2.1): a user, and mostly a password behind a colon."""
_NAME_OF_A_SECRET = re.compile(
    r"(?:[A-Z0-9]+_)*(?:[A-Z]{0,8}KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|PAT|AUTH|CREDENTIALS?|BEARER|JWT)"
    r"(?:_[A-Z0-9]{1,12}){0,3}"
    r"|[A-Z]{1,12}(?:_[A-Z]{1,12})*"
)
"""How people name variables, above all those that hold keys. No key is made of short words in capitals."""
_FILE_SUFFIXES = (".txt", ".key", ".pem", ".json", ".secret", ".token", ".env", ".cfg", ".conf")
_LONG_WORD = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_+=-]{16,}")
_KEY_PREFIX = re.compile(r"(?:(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|pplx|fw|csk|ghp|gho|github_pat|glpat)[-_]|AIza|AKIA|eyJ)")
_SECRET_IN_QUERY = re.compile(
    r"([?&][\w-]*(?:key|token|secret|sig|signature|password|auth)=)([^&#\s,]+)", re.IGNORECASE
)
_SECRET_IN_URL_OPTION = re.compile(r"((?:key[_-]command=)|(?:proxy=(?:\w+://)?))((?<=command=)[^,]*|[^,]*(?=@))(@)?")
_TELLING = ("auth", "key", "token", "secret", "cookie", "passw", "credential")
_TELLING_NOTHING = ("idempotency-key",)


def hide_user(text: str) -> str:
    """Return the text with the user part of every URL in it hidden."""
    return _USER_PART.sub(f"{HIDDEN}@", text) if "://" in text and "@" in text else text


def hide_user_bytes(body: bytes) -> bytes:
    """Return a body with the user part of every URL in it hidden, also where its slashes are escaped as JSON may."""
    return _USER_PART_BYTES.sub(HIDDEN.encode() + b"@", body) if b"@" in body else body


def shown_url(url: str) -> str:
    """Return one URL as a person may see it. All before the last `@` goes: a password may hold any character."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        scheme, rest = "", url
    if "@" in rest:
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return f"{scheme}{colon}{rest}"


def hide_query(url: str) -> str:
    """Return one URL without the values of its query that are keys by their names: `?key=...`."""
    return _SECRET_IN_QUERY.sub(lambda found: f"{found[1]}{HIDDEN}", url)


def secrets_in_query(url: str) -> list[str]:
    """Return the values of a URL's query that are keys by their names, as they stand there."""
    return [found[2] for found in _SECRET_IN_QUERY.finditer(url)]


def shown_command(words: Iterable[str]) -> list[str]:
    """Return a command line as a person may see it: without passwords of proxies, and without key commands."""
    shown = (_SECRET_IN_URL_OPTION.sub(lambda found: f"{found[1]}{HIDDEN}{found[3] or ''}", word) for word in words)
    return [hide_query(hide_user(word)) for word in shown]


def shown_variable(name: str) -> str:
    """Return the name of a variable, or `(hidden)` where it may be a key that stands there by mistake."""
    is_name = len(name) <= MAX_SHOWN_NAME and _NAME_OF_A_SECRET.fullmatch(name)
    return name if is_name else HIDDEN


def shown_file(path: str) -> str:
    """Return the path of a file, or `(hidden)` where it may be a key that stands there by mistake."""
    try:
        if Path(path).expanduser().exists():
            return path
        is_in_a_folder = "/" in path and Path(path).expanduser().parent.is_dir()
    except (OSError, ValueError, RuntimeError):
        return HIDDEN
    name = Path(path).name
    if name.endswith(_FILE_SUFFIXES) and not _KEY_PREFIX.match(name):
        return path
    return path if is_in_a_folder and not looks_like_key(name) else HIDDEN


def looks_like_key(text: str) -> bool:
    """Return whether a word may be a key, which stands where a name is meant."""
    return bool(_KEY_PREFIX.match(text) or _LONG_WORD.search(text))


def may_hold_key(header: str) -> bool:
    """Return whether a header's name says that its value is a key, a token or a password."""
    name = header.lower()
    return name not in _TELLING_NOTHING and any(part in name for part in _TELLING)

"""Hiding: remove possible keys and passwords from URLs, settings and commands before anything shows them."""

import re
from collections.abc import Iterable
from pathlib import Path

HIDDEN = "(hidden)"
MAX_SHOWN_NAME = 64
_USER_PART = re.compile(r"(?<=://)(?:[^\s/?#\"'<>@\\]*@)+")
_USER_PART_BYTES = re.compile(rb"(?:(?<=://)|(?<=:\\/\\/))(?:[^\s/?#\"'<>@\\]*@)+")
"""User information before the host (RFC 3986 section 3.2.1): a user, mostly with a password after a colon."""
_NAME_OF_A_SECRET = re.compile(
    r"(?:[A-Z0-9]+_)*(?:[A-Z]{0,8}KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|PAT|AUTH|CREDENTIALS?|BEARER|JWT)"
    r"(?:_[A-Z0-9]{1,12}){0,3}"
    r"|[A-Z]{1,12}(?:_[A-Z]{1,12})*"
)
"""Names of variables as people write them, above all for keys. No key consists of short words in capitals."""
_FILE_SUFFIXES = (".txt", ".key", ".pem", ".json", ".secret", ".token", ".env", ".cfg", ".conf")
_LONG_WORD = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_+=-]{16,}")
_KEY_PREFIX = re.compile(r"(?:(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|pplx|fw|csk|ghp|gho|github_pat|glpat)[-_]|AIza|AKIA|eyJ)")
_SECRET_IN_QUERY = re.compile(
    r"([?&][\w-]*(?:key|token|secret|sig|signature|password|auth)=)([^&#\s,]+)", re.IGNORECASE
)
_SECRET_IN_URL_OPTION = re.compile(r"((?:key[_-]command=)|(?:proxy=(?:\w+://)?))((?<=command=)[^,]*|[^,]*(?=@))(@)?")
_PARTS_OF_SECRET_HEADERS = ("auth", "key", "token", "secret", "cookie", "passw", "credential")
_HARMLESS_HEADERS = ("idempotency-key",)


def hide_user(text: str) -> str:
    """Return the text with the user part of every URL in it hidden."""
    return _USER_PART.sub(f"{HIDDEN}@", text) if "://" in text and "@" in text else text


def hide_user_bytes(body: bytes) -> bytes:
    """Return a body with the user part of every URL in it hidden, also where JSON escapes the slashes."""
    return _USER_PART_BYTES.sub(HIDDEN.encode() + b"@", body) if b"@" in body else body


def shown_url(url: str) -> str:
    """Return a URL with its user part hidden, up to the last `@`: a password may hold any character."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        scheme, rest = "", url
    if "@" in rest:
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return f"{scheme}{colon}{rest}"


def hide_query(url: str) -> str:
    """Return a URL with the values hidden that are keys by their names in the query: `?key=...`."""
    return _SECRET_IN_QUERY.sub(lambda found: f"{found[1]}{HIDDEN}", url)


def secrets_in_query(url: str) -> list[str]:
    """Return the values that are keys by their names in the query of a URL."""
    return [found[2] for found in _SECRET_IN_QUERY.finditer(url)]


def shown_command(words: Iterable[str]) -> list[str]:
    """Return a command line with passwords, key commands and keys in queries hidden."""
    shown = (_SECRET_IN_URL_OPTION.sub(lambda found: f"{found[1]}{HIDDEN}{found[3] or ''}", word) for word in words)
    return [hide_query(hide_user(word)) for word in shown]


def shown_variable(name: str) -> str:
    """Return the name of a variable, or `(hidden)` where it may be a misplaced key."""
    is_name = len(name) <= MAX_SHOWN_NAME and _NAME_OF_A_SECRET.fullmatch(name)
    return name if is_name else HIDDEN


def shown_file(path: str) -> str:
    """Return the path of a file, or `(hidden)` where it may be a misplaced key."""
    try:
        if Path(path).expanduser().exists():
            return path
        is_in_directory = "/" in path and Path(path).expanduser().parent.is_dir()
    except (OSError, ValueError, RuntimeError):
        return HIDDEN
    name = Path(path).name
    if name.endswith(_FILE_SUFFIXES) and not _KEY_PREFIX.match(name):
        return path
    return path if is_in_directory and not looks_like_key(name) else HIDDEN


def looks_like_key(text: str) -> bool:
    """Return whether a word in place of a name may be a key."""
    return bool(_KEY_PREFIX.match(text) or _LONG_WORD.search(text))


def may_hold_key(header: str) -> bool:
    """Return whether the name of a header suggests that its value is a key, a token or a password."""
    name = header.lower()
    return name not in _HARMLESS_HEADERS and any(part in name for part in _PARTS_OF_SECRET_HEADERS)

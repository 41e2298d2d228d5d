"""What may hold a key or a password is not shown: users in URLs, keys in place of names, command lines."""

from pathlib import Path

import pytest

from llmblast.hiding import (
    HIDDEN,
    hide_query,
    hide_user,
    hide_user_bytes,
    may_hold_key,
    secrets_in_query,
    shown_command,
    shown_file,
    shown_url,
    shown_variable,
)

KEYS = [
    "sk_live_abc",
    "gsk_abcdefghijkl",
    "sk-proj-abcdefgh",
    "AKIAIOSFODNN7EXAMPLE",
    "hf_abcdefghijklmnop",
    "xai_1234",
    "A1B2C3D4E5F6A7B8C9D0E1F2A3B4C5D6",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "abcdef0123456789abcdef0123456789",
    "Zm9v/YmFy0123456789+abc==",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see http://user:secret@host:1/x.", "see http://(hidden)@host:1/x."),
        ("https://secret@h and socks5h://u:secret@[::1]:1", "https://(hidden)@h and socks5h://(hidden)@[::1]:1"),
        ("http://u:sec@ret@h/a@b", "http://(hidden)@h/a@b"),
        ("http://host/a@b me@example.com", "http://host/a@b me@example.com"),
        ("http://host?mail=a@b", "http://host?mail=a@b"),
        ("no URL", "no URL"),
    ],
)
def test_a_user_in_a_text(text: str, shown: str) -> None:
    """Only what stands before a host."""
    assert hide_user(text) == shown
    assert hide_user_bytes(text.encode()).decode() == shown


def test_a_user_in_json() -> None:
    """Whose slashes may be escaped."""
    assert hide_user_bytes(rb'{"url":"http:\/\/u:secret@h\/v1"}') == rb'{"url":"http:\/\/(hidden)@h\/v1"}'


@pytest.mark.parametrize("url", ["http://u:se/cr#et?@h:1", "u:secret@h:1", "//u:secret@h:1", "http://u:s@e@h:1"])
def test_a_url_that_is_wrong(url: str) -> None:
    """A password may hold any character."""
    assert shown_url(url).endswith("(hidden)@h:1")
    assert "s@" not in shown_url(url)
    assert "se" not in shown_url(url)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_place_of_a_name(key: str) -> None:
    """Whatever it looks like."""
    assert shown_variable(key) == HIDDEN
    assert shown_file(key) == HIDDEN


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MY_KEY", "KEY", "HF_TOKEN", "AZURE_KEY_2", "GPU1_SECRET"])
def test_a_name_of_a_variable(name: str) -> None:
    """It helps to find what is wrong."""
    assert shown_variable(name) == name


def test_a_name_of_a_file(tmp_path: Path) -> None:
    """It is shown where it exists, or where its folder does and it looks like none."""
    (tmp_path / "sk-live-0123456789abcdef").touch()

    for path in (str(tmp_path / "key"), "key.txt", str(tmp_path / "sk-live-0123456789abcdef"), "~/key"):
        assert shown_file(path) == path
    for path in (str(tmp_path / "sk-other-0123456789"), "a\0b", "x" * 5000, "none/none/key"):
        assert shown_file(path) == HIDDEN


def test_a_query() -> None:
    """Only values that are keys by their names."""
    url = "https://h/v1?api-version=2024-10-21&key=secret&sig=other#x"

    assert hide_query(url) == "https://h/v1?api-version=2024-10-21&key=(hidden)&sig=(hidden)#x"
    assert secrets_in_query(url) == ["secret", "other"]


@pytest.mark.parametrize("header", ["api-key", "X-API-KEY", "authorization", "Ocp-Apim-Subscription-Key", "X-Auth"])
def test_a_header_that_may_hold_a_key(header: str) -> None:
    """By its name."""
    assert may_hold_key(header)
    assert not may_hold_key("X-Organization")
    assert not may_hold_key("Idempotency-Key")


def test_a_command_line() -> None:
    """It can be read; what was secret has to be written anew."""
    words = ["llmblast", "-u", "http://h/v1,proxy=http://u:secret@p:1,key_command=echo secret,rps=3", "--model", "m"]

    shown = shown_command(words)

    assert shown == [
        "llmblast",
        "-u",
        "http://h/v1,proxy=http://(hidden)@p:1,key_command=(hidden),rps=3",
        "--model",
        "m",
    ]
    assert "secret" not in shown_command(["-u", "http://h/v1,key-command=echo secret"])[1]
    assert "secret" not in shown_command(["-u", "http://h/v1,proxy=u:secret@p:1"])[1]

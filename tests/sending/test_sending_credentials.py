"""Keys come from the environment, a file or a command, and show in no error."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from tests.openai_provider import find_key

KEY = "sk-do-not-show-me"
HTTPS = "https://gpu.example/v1"


def endpoint(url: str = HTTPS, **more: str) -> EndpointSettings:
    return EndpointSettings(url=url, name="gpu1", **more)  # type: ignore[arg-type] # fields of EndpointSettings


def complaint(settings: EndpointSettings, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        find_key(settings, environ or {})
    told = "".join([str(caught.value), repr(caught.value.__cause__), str(caught.value.__suppress_context__)])
    assert KEY not in told
    assert str(caught.value).startswith("endpoint gpu1: ")
    return str(caught.value)


def test_a_key_from_a_variable() -> None:
    """Spaces around it are not part of it."""
    assert find_key(endpoint(key_env="MY_KEY"), {"MY_KEY": f" {KEY}\n"}) == KEY


def test_a_key_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text(f"{KEY}\n")

    assert find_key(endpoint(key_file="~/key"), {}) == KEY


def test_a_key_from_a_command() -> None:
    """The shell runs it."""
    assert find_key(endpoint(key_command=f"echo {KEY} | tr a-z a-z"), {}) == KEY


def test_what_is_named_goes_before_the_default() -> None:
    """OPENAI_API_KEY may be another provider's."""
    assert find_key(endpoint(key_env="MY_KEY"), {"MY_KEY": KEY, "OPENAI_API_KEY": "other"}) == KEY


@pytest.mark.parametrize("environ", [{}, {"MY_KEY": ""}, {"MY_KEY": "  "}, {"OPENAI_API_KEY": KEY}])
def test_a_variable_that_is_not_set(environ: dict[str, str]) -> None:
    """The sentence names it; another key does not stand in."""
    assert "MY_KEY is not set" in complaint(endpoint(key_env="MY_KEY"), environ)


@pytest.mark.parametrize("key", ["sk_do_not_show", "gsk_do_not_show", "AKIADONOTSHOWME12345", "abc123def456abc123"])
def test_a_key_in_place_of_a_name_is_not_repeated(key: str) -> None:
    """Also one that could be the name of a variable or of a file."""
    for settings in (endpoint(key_env=key), endpoint(key_file=key), endpoint(key_file=f"{key}\0")):
        problem = complaint(settings)

        assert key not in problem
        assert "not shown, it may be a key" in problem


def test_a_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    """The sentence names it."""
    (tmp_path / "empty").touch()

    assert f"{tmp_path}/none cannot be read" in complaint(endpoint(key_file=f"{tmp_path}/none"))
    assert f"{tmp_path} cannot be read" in complaint(endpoint(key_file=str(tmp_path)))
    assert f"{tmp_path}/empty is empty" in complaint(endpoint(key_file=f"{tmp_path}/empty"))


def test_a_command_that_fails_or_says_nothing() -> None:
    """Neither what it printed nor the command itself is repeated: both may hold a secret."""
    assert "failed with exit code 3" in complaint(endpoint(key_command=f"echo {KEY}; exit 3"))
    assert "printed nothing" in complaint(endpoint(key_command="true"))


def test_a_command_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended."""
    monkeypatch.setattr("llmblast.sending.credentials.COMMAND_TIMEOUT_S", 0.05)

    assert "printed no key within 0.05 s" in complaint(endpoint(key_command=f"exec sleep 60 # {KEY}"))


def test_a_command_that_prints_no_text() -> None:
    """Bytes that are no UTF-8 are no key, and no traceback either."""
    assert "characters that are not allowed in an HTTP header" in complaint(endpoint(key_command="printf '\\377\\376'"))


def test_a_command_does_not_eat_the_prompts() -> None:
    """Standard input may be the input file: a command that reads it finds nothing."""
    code = (
        "import sys; from tests.openai_provider import find_key; from llmblast.settings import EndpointSettings as E;"
        "key = find_key(E(url='https://gpu.example/v1', key_command='cat; echo k'), {}); print(key, sys.stdin.read())"
    )

    done = subprocess.run([sys.executable, "-c", code], input="prompts", capture_output=True, text=True, check=True)

    assert done.stdout == "k prompts\n"


@pytest.mark.parametrize(
    "key", [f"{KEY}\r\nX-Admin: 1", f"{KEY}\nHost: x", f"{KEY}\x00", f"{KEY} x", f"{KEY}\x7f", f"{KEY}é"]
)
def test_a_key_cannot_bring_another_header(key: str, tmp_path: Path) -> None:
    """Wherever it comes from."""
    (tmp_path / "key").write_text(key, encoding="utf-8", newline="")

    for settings in (endpoint(key_env="MY_KEY"), endpoint(key_file=f"{tmp_path}/key"), endpoint("http://localhost")):
        problem = complaint(settings, {"MY_KEY": key, "OPENAI_API_KEY": key})

        assert "characters that are not allowed in an HTTP header" in problem


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "https://gpu.example/v1",
        "http://localhost:8000/v1",
        "http://LOCALHOST:8000/v1",
        "http://127.0.0.1:8000",
        "http://[::1]:8000/v1",
    ],
)
def test_the_default_key_serves_where_nobody_listens_in(url: str) -> None:
    """Over TLS, or on this machine."""
    assert find_key(endpoint(url), {"OPENAI_API_KEY": KEY}) == KEY


@pytest.mark.parametrize(
    "url", ["http://gpu.example:8000/v1", "http://192.168.1.2/v1", "http://localhost.example/v1", "http://[::2]/v1"]
)
def test_the_default_key_never_goes_in_the_clear_to_another_machine(url: str) -> None:
    """It goes without; a key that was named for it does go."""
    assert find_key(endpoint(url), {"OPENAI_API_KEY": KEY}) is None
    assert find_key(endpoint(url, key_env="MY_KEY"), {"MY_KEY": KEY}) == KEY


@pytest.mark.parametrize("url", ["https://gpu.example/v1", "http://localhost:8000/v1", "http://gpu.example"])
def test_a_server_without_keys_needs_none(url: str) -> None:
    """Most local servers."""
    assert find_key(endpoint(url), {}) is None


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": ""}])
def test_the_openai_api_needs_a_key(environ: dict[str, str]) -> None:
    """The sentence says how to give it one."""
    problem = complaint(endpoint("https://api.openai.com/v1"), environ)

    assert "export OPENAI_API_KEY=" in problem
    assert "key_env=NAME" in problem


def test_the_built_in_provider_gets_no_key() -> None:
    """It has no use for one."""
    assert find_key(endpoint("mock:"), {"OPENAI_API_KEY": KEY}) is None

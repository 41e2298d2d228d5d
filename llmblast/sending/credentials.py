"""API keys: from the environment, a file or a command, never from the command line; found before anything is sent."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.hiding import HIDDEN, may_hold_key, shown_file, shown_variable
from llmblast.provider_contract import Provider

COMMAND_TIMEOUT_S = 30.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def find_key(endpoint: EndpointSettings, environ: Mapping[str, str], provider: Provider) -> str | None:
    """Return the endpoint's key, or None where it needs none. Raises UsageError with endpoint and fix, never a key.

    The default is the variable of `provider`, unless the settings name another source or have a header that may hold a
    key; its key is never sent over plain http to another machine.
    """
    if endpoint.is_mock:
        return None
    if endpoint.key_env:
        return _checked(environ.get(endpoint.key_env), endpoint, _is_not_set(endpoint.key_env))
    if endpoint.key_file:
        return read_key_file(endpoint, endpoint.key_file)
    if endpoint.key_command:
        return check_printed_key(endpoint, _run(endpoint, endpoint.key_command))
    if any(may_hold_key(header) for header in endpoint.headers):
        return None  # the header may hold another provider's key
    return _default_key(endpoint, environ, provider)


def goes_unprotected(endpoint: EndpointSettings) -> bool:
    """Return whether requests go over plain http to another machine."""
    if endpoint.unix_socket is not None:
        return False
    parts = urlsplit(endpoint.url)
    return parts.scheme == "http" and parts.hostname not in _LOOPBACK


def _default_key(endpoint: EndpointSettings, environ: Mapping[str, str], provider: Provider) -> str | None:
    parts = urlsplit(endpoint.url)
    other = getattr(provider, "other_key_env", provider.key_env)
    name = provider.key_env if environ.get(provider.key_env) else other
    if parts.hostname in provider.hosts and not environ.get(name):
        raise UsageError(
            f"endpoint {endpoint.name}: the API key is missing: export {provider.key_env}=..., or name another "
            f"variable with key_env=NAME"
        )
    if goes_unprotected(endpoint):
        return None
    key = environ.get(name)
    return _checked(key, endpoint, "") if key else None


def _checked(key: str | None, endpoint: EndpointSettings, problem: str) -> str:
    key = (key or "").strip()
    if not key:
        raise UsageError(f"endpoint {endpoint.name}: the API key is missing: {problem}")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(
            f"endpoint {endpoint.name}: the API key has characters that are not allowed in an HTTP header: correct it"
        )
    return key


def _is_not_set(variable: str) -> str:
    shown = shown_variable(variable)
    if shown == HIDDEN:
        return (
            "the variable that key_env names is not set (its name is not shown, it may be a key): "
            "write the name of a variable, such as key_env=MY_API_KEY"
        )
    return f"{shown} is not set: export {shown}=..."


def read_key_file(endpoint: EndpointSettings, path: str) -> str:
    """Return the key in a file. Raises UsageError. Blocks."""
    shown = shown_file(path)
    place = path if shown != HIDDEN else "(not shown, it may be a key: key_file takes the name of a file)"
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"endpoint {endpoint.name}: key_file {place} cannot be read: {error.strerror}") from None
    except (ValueError, RuntimeError):  # a NUL in the name, or `~` of an unknown user
        raise UsageError(f"endpoint {endpoint.name}: key_file {place} cannot be read: it is not a file name") from None
    return _checked(text, endpoint, f"the file {place} is empty: write the key into it")


def check_printed_key(endpoint: EndpointSettings, printed: str) -> str:
    """Return the key in the output of the key command. Raises UsageError."""
    return _checked(printed, endpoint, "key_command printed nothing: let it print the key")


def command_failed(endpoint: EndpointSettings, exit_code: int) -> UsageError:
    """Return the error without the command itself, which may have a secret among its arguments."""
    return UsageError(f"endpoint {endpoint.name}: key_command failed with exit code {exit_code}: run it by hand")


def command_timed_out(endpoint: EndpointSettings) -> UsageError:
    """Return the error for a command that did not end in time."""
    return UsageError(
        f"endpoint {endpoint.name}: key_command printed no key within {COMMAND_TIMEOUT_S:g} s: run it by hand"
    )


def _run(endpoint: EndpointSettings, command: str) -> str:
    try:
        done = subprocess.run(
            command,
            shell=True,
            check=True,
            stdin=subprocess.DEVNULL,  # standard input may be the prompts
            stdout=subprocess.PIPE,
            timeout=COMMAND_TIMEOUT_S,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.CalledProcessError as error:
        raise command_failed(endpoint, error.returncode) from None
    except subprocess.TimeoutExpired:
        raise command_timed_out(endpoint) from None
    return done.stdout

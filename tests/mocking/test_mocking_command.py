"""`llmblast mock` as a process: it says where it listens, serves, and stops when told to."""

import inspect
import json
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from urllib.request import Request, urlopen

import pytest

from llmblast.cli.mock import mock
from llmblast.errors import UsageError
from llmblast.mocking.settings import MockSettings

COMMAND = [sys.executable, "-c", "import typer; from llmblast.cli.mock import mock; typer.run(mock)"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_runs_until_it_is_told_to_stop(number: signal.Signals) -> None:
    """It answers in between, exits 0 and says what it did."""
    arguments = ["--port", "0", "--latency", "0.001-0.002", "--rps", "1", "--policy", "token-bucket", "--burst", "2"]
    body = json.dumps({"messages": [{"role": "user", "content": "Count the ships"}]}).encode()
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.removeprefix("listening on ").strip()
        with urlopen(Request(f"{url}/chat/completions", data=body), timeout=10) as response:
            reply = json.load(response)
        process.send_signal(number)
        rest, told = process.communicate(timeout=10)

    assert line.startswith("listening on http://127.0.0.1:")
    assert line.endswith("/v1\n")
    assert "ships" in reply["choices"][0]["message"]["content"]
    assert process.returncode == 0
    assert (rest, told) == ("", "received 1 requests, rejected 0 with 429\n")


def test_a_taken_port_is_told_in_one_sentence() -> None:
    """The command raises what the command line prints without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: cannot listen there: Address already in use"):
            mock(port=port)


def test_a_wrong_value_is_told_before_anything_is_started() -> None:
    """By the settings, which know their ranges."""
    with pytest.raises(UsageError, match="mock: errors=2: must be from 0 to 1"):
        mock(errors=2)


def test_a_file_of_faults_that_is_not_there_is_told_before_anything_is_started() -> None:
    """The place and the fix."""
    with pytest.raises(
        UsageError, match=r"none\.toml: cannot be read: No such file or directory: name an existing file"
    ):
        mock(port=0, faults="none.toml")


def test_every_setting_has_an_option_with_its_default() -> None:
    """The settings are the single place of defaults."""
    options = {name: entry.default for name, entry in inspect.signature(mock).parameters.items()}
    address = {"host": options.pop("host"), "port": options.pop("port")}

    given = {name: str(value) for name, value in options.items() if value is not None}

    assert address == {"host": "127.0.0.1", "port": 8000}
    assert list(options) == [entry.name for entry in fields(MockSettings)]
    assert MockSettings.from_texts(given) == MockSettings()


def test_help_does_not_import_the_server() -> None:
    """It would cost more than all the rest of the start."""
    code = "import sys, llmblast.cli.mock; print(sorted({'aiohttp', 'uvloop'} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded == "[]\n"


def test_without_uvloop_the_usual_loop_serves() -> None:
    """Where the platform has none."""
    code = "import sys; sys.modules['uvloop'] = None; import typer; from llmblast.cli.mock import mock; typer.run(mock)"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        process.communicate(timeout=10)

    assert line.startswith("listening on http://127.0.0.1:")
    assert process.returncode == 0

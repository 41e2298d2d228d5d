"""A key is asked for again while requests are sent: from a file or a command, once for all who wait for it."""

import asyncio
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.sending.key_command import MAX_PRINTED_BYTES
from tests.openai_provider import EndpointKey
from tests.processes import is_running
from tests.sending.sending_wire import KEY, OpenChannel, Peer, Serve, a_reply, a_request, a_target, settle

NEW_KEY = "sk-a-new-one-to-hide"


@dataclass
class Clock:
    """Stands still until a test moves it."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Command:
    """A key command that a test can change: a script, and a pipe to wait for it and to let it wait."""

    script: Path
    gate: Path

    @property
    def setting(self) -> str:
        return f"exec sh {self.script}"

    def does(self, script: str) -> None:
        self.script.write_text(f"cd {self.script.parent}\n{script}\n")

    async def open_gate(self) -> None:
        """Waits until the command reads the pipe, then lets it go on."""
        await asyncio.to_thread(self.gate.write_text, "")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    os.mkfifo(tmp_path / "gate")
    command = Command(tmp_path / "key.sh", tmp_path / "gate")
    command.does(f"echo {KEY}")
    return command


def key_of(clock: Callable[[], float], environ: dict[str, str] | None = None, **settings: str) -> EndpointKey:
    endpoint = EndpointSettings(url="https://gpu.example/v1", name="gpu1", **settings)  # type: ignore[arg-type] # fields
    return EndpointKey(endpoint, environ or {}, clock)


def is_reaped(pid: str) -> bool:
    """Whether not even a zombie is left."""
    return not Path(f"/proc/{pid}").exists()


async def test_a_file_is_read_again(tmp_path: Path) -> None:
    """The moment at which the key was obtained moves with it."""
    path, clock = tmp_path / "key", Clock()
    path.write_text(KEY)
    key = key_of(clock, key_file=str(path))
    before = (key.value, key.since_s)
    path.write_text(f"{NEW_KEY}\n")
    clock.now = 200.0

    is_obtained = await key.refresh()

    assert key.can_refresh
    assert before == (KEY, 100.0)
    assert (is_obtained, key.value, key.since_s, key.problem) == (True, NEW_KEY, 200.0, "")


async def test_a_command_is_run_again(command: Command) -> None:
    """It has no terminal to ask at and none of our input; what it complains of is not shown."""
    clock = Clock()
    key = key_of(clock, key_command=command.setting)
    command.does(f"cat; (: < /dev/tty) && exit 1; echo {KEY} >&2; echo {NEW_KEY}")
    clock.now = 200.0

    is_obtained = await key.refresh()

    assert key.can_refresh
    assert (is_obtained, key.value, key.since_s, key.problem) == (True, NEW_KEY, 200.0, "")


async def test_the_same_key_was_obtained_too(command: Command) -> None:
    """Whether it is a new one is for its user to see."""
    clock = Clock()
    key = key_of(clock, key_command=command.setting)
    clock.now = 200.0

    assert await key.refresh()
    assert (key.value, key.since_s) == (KEY, 200.0)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (f"echo {NEW_KEY}; exit 3", "endpoint gpu1: key_command failed with exit code 3: run it by hand"),
        (f"echo {NEW_KEY}; kill -9 $$", "endpoint gpu1: key_command failed with exit code -9: run it by hand"),
        ("", "endpoint gpu1: the API key is missing: key_command printed nothing: let it print the key"),
        (
            f"echo {NEW_KEY} x",
            "endpoint gpu1: the API key has characters that are not allowed in an HTTP header: correct it",
        ),
        (
            "printf '\\377'",
            "endpoint gpu1: the API key has characters that are not allowed in an HTTP header: correct it",
        ),
        (
            f"yes {NEW_KEY}",
            f"endpoint gpu1: key_command printed more than {MAX_PRINTED_BYTES} bytes: print only the key",
        ),
    ],
)
async def test_a_command_that_fails_leaves_the_key(command: Command, script: str, problem: str) -> None:
    """What went wrong is one sentence without a secret, until the next success."""
    clock = Clock()
    key = key_of(clock, key_command=f"{command.setting} # {NEW_KEY}")
    command.does(script)
    clock.now = 200.0

    assert not await key.refresh()
    assert (key.value, key.since_s, key.problem) == (KEY, 100.0, problem)

    command.does(f"echo {NEW_KEY}")

    assert await key.refresh()
    assert (key.value, key.since_s, key.problem) == (NEW_KEY, 200.0, "")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.touch(), "is empty: write the key into it"),
        (os.mkfifo, "is not a regular file and cannot be read again"),
        (os.mkdir, "is not a regular file and cannot be read again"),
    ],
)
async def test_a_file_that_fails_leaves_the_key(tmp_path: Path, change: Callable[[Path], None], problem: str) -> None:
    """Nor is a pipe waited for that nobody writes to."""
    path = tmp_path / "key"
    path.write_text(KEY)
    key = key_of(Clock(), key_file=str(path))
    path.unlink()
    change(path)

    assert not await key.refresh()
    assert key.value == KEY
    assert key.problem.startswith("endpoint gpu1: ")
    assert key.problem.endswith(f"{path} {problem}")


async def test_a_variable_is_not_asked_again(command: Command) -> None:
    """A process keeps the variables that it was started with; the file and the command come after it."""
    key = key_of(Clock(), {"MY_KEY": KEY}, key_env="MY_KEY", key_command=command.setting)
    command.does(f"echo {NEW_KEY}")

    assert not key.can_refresh
    assert not await key.refresh()
    assert (key.value, key.problem) == (KEY, "endpoint gpu1: only key_command and key_file can be read again")


async def test_no_key_is_not_asked_for() -> None:
    """A server without keys needs none."""
    key = key_of(Clock())

    assert (key.value, key.can_refresh, await key.refresh()) == (None, False, False)


async def test_all_who_ask_at_the_same_time_ask_once(command: Command) -> None:
    """The loop goes on meanwhile; who asks afterwards asks anew."""
    key = key_of(Clock(), key_command=command.setting)
    command.does(f"echo asked >> log; cat gate; echo {NEW_KEY}")

    first, second = asyncio.create_task(key.refresh()), asyncio.create_task(key.refresh())
    await command.open_gate()
    outcomes = [await first, await second]
    third = asyncio.create_task(key.refresh())
    await command.open_gate()

    assert [*outcomes, await third] == [True, True, True]
    assert key.value == NEW_KEY
    assert command.script.with_name("log").read_text() == "asked\n" * 2


async def test_one_who_leaves_does_not_end_it_for_the_others(command: Command) -> None:
    """The first as little as the second."""
    key = key_of(Clock(), key_command=command.setting)
    command.does(f"cat gate; echo {NEW_KEY}")
    first, second, third = (asyncio.create_task(key.refresh()) for _ in range(3))
    await settle()

    first.cancel()
    third.cancel()
    await settle()
    await command.open_gate()

    assert await second
    assert (first.cancelled(), third.cancelled(), key.value) == (True, True, NEW_KEY)


async def test_what_nobody_waits_for_any_more_is_killed(command: Command) -> None:
    """With all that it has started, and reaped; the key can be asked for again at that very moment."""
    key = key_of(Clock(), key_command=command.setting)
    command.does("exec 9> gate; sleep 60 & echo $$ >&9; wait")
    asked = [asyncio.create_task(key.refresh()) for _ in range(2)]
    gate = await asyncio.to_thread(command.gate.open)
    shell = (await asyncio.to_thread(gate.readline)).strip()
    command.does(f"echo {NEW_KEY}")

    for task in asked:
        task.cancel()
    await asyncio.sleep(0)
    is_obtained = await key.refresh()
    await asyncio.gather(*asked, return_exceptions=True)
    rest = await asyncio.to_thread(gate.read)  # ends when nobody has it open any more
    gate.close()

    assert (is_obtained, key.value, rest) == (True, NEW_KEY, "")
    assert is_reaped(shell)


@pytest.mark.parametrize("script", ["cat gate", "cat gate | cat", "setsid -w sleep 9; exit 0"])
async def test_a_command_that_hangs_is_killed(command: Command, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another session holds the pipe open."""
    monkeypatch.setattr("llmblast.sending.credentials.COMMAND_TIMEOUT_S", 0.5)
    clock = asyncio.get_running_loop().time
    key = key_of(Clock(), key_command=command.setting)
    command.does(f"echo $$ > pid; {script}")
    begun_s = clock()

    is_obtained = await key.refresh()

    assert not is_obtained
    assert (key.value, key.problem) == (KEY, "endpoint gpu1: key_command printed no key within 0.5 s: run it by hand")
    assert clock() - begun_s < 5
    assert is_reaped(command.script.with_name("pid").read_text().strip())


@pytest.mark.parametrize("helper", ["sleep 5 > /dev/null", "sleep 5"])
async def test_a_helper_that_a_command_leaves_behind_lives_on(command: Command, helper: str) -> None:
    """An agent that keeps the credentials may be started by one command for those that follow."""
    key = key_of(Clock(), key_command=command.setting)
    command.does(f"{helper} & echo $! > pid; echo {NEW_KEY}")

    is_obtained = await key.refresh()

    assert (is_obtained, key.value) == (True, NEW_KEY)
    assert is_running(command.script.with_name("pid").read_text().strip())


async def test_a_command_that_cannot_be_started(command: Command) -> None:
    """A run may have all its files open."""
    key = key_of(Clock(), key_command=command.setting)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        is_obtained = await key.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert not is_obtained
    assert (key.value, key.problem) == (KEY, "endpoint gpu1: key_command cannot be started: Too many open files")


async def test_the_key_changes_when_its_user_has_it(command: Command) -> None:
    """At no turn of the loop is there a key with its moment that later requests would not be sent with."""
    key = key_of(Clock(), key_command=command.setting)
    command.does(f"echo {NEW_KEY}")
    used = [key.value]

    async def renew() -> None:
        await key.refresh()
        used.append(key.value)

    renewals = [asyncio.create_task(renew()) for _ in range(2)]
    seen = []
    while not all(renewal.done() for renewal in renewals):
        seen.append((key.value, used[-1]))
        await asyncio.sleep(0)

    assert used == [KEY, NEW_KEY, NEW_KEY]
    assert set(seen) <= {(KEY, KEY), (NEW_KEY, NEW_KEY)}


async def test_a_key_shows_in_no_repr() -> None:
    """Where a bug is told, objects are."""
    key = key_of(Clock(), {"MY_KEY": KEY}, key_env="MY_KEY")

    assert KEY not in repr(key) + repr(a_target("http://gpu1").with_key(KEY))


async def test_a_token_that_expires_is_replaced(serve: Serve, open_channel: OpenChannel, command: Command) -> None:
    """The server takes one for a while and then another; the line that it rejected goes through with that."""
    accepted = [KEY]

    async def script(peer: Peer) -> None:
        while await peer.request():
            is_known = peer.requests[-1].headers["Authorization"].removeprefix("Bearer ") == accepted[-1]
            await peer.say(a_reply(status="200 OK" if is_known else "401 Unauthorized"))

    server = await serve(script)
    channel, key = open_channel(server.url), key_of(Clock(), key_command=command.setting)
    statuses = [(await channel.send(a_request())).status]
    accepted.append(NEW_KEY)
    command.does(f"echo {NEW_KEY}")

    statuses.append((await channel.send(a_request())).status)
    await key.refresh()
    channel.set_key(key.value or "")
    statuses.append((await channel.send(a_request())).status)

    assert statuses == [200, 401, 200]

"""Key command: run it without blocking the event loop, and kill its processes when it fails."""

import asyncio
import os
import signal
from contextlib import suppress

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.sending import credentials
from llmblast.sending.credentials import check_printed_key, command_failed, command_timed_out

MAX_PRINTED_BYTES = 64 * 1024
"""No key is longer: servers take headers of 8 to 64 KiB."""
_DRAIN_S = 0.2
"""Time to read the output of a command after its end. Its pipe may stay open longer: uvloop leaves a second copy of the
pipe to the command, so that all helpers of the command inherit it.
"""


class _CommandProtocol(asyncio.SubprocessProtocol):
    """Collects the output of a command."""

    def __init__(self) -> None:
        self.printed = bytearray()
        self.finished = asyncio.Event()
        """Set when all output was read."""
        self.ended = asyncio.Event()
        """Set when the process is reaped and its pipe is closed."""

    @property
    def is_too_long(self) -> bool:
        return len(self.printed) > MAX_PRINTED_BYTES

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.printed += data
        if self.is_too_long:
            self.finished.set()

    def process_exited(self) -> None:
        asyncio.get_running_loop().call_later(_DRAIN_S, self.finished.set)

    def connection_lost(self, exc: Exception | None) -> None:
        self.finished.set()
        self.ended.set()


async def run_key_command(endpoint: EndpointSettings, command: str) -> str:
    """Return the key that the command prints. Raises UsageError without anything of the command or its output.

    A command that takes too long, prints too much or is cancelled is killed with its whole process group. One that ends
    by itself may leave others behind, such as an agent that holds the credentials.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.subprocess_shell(
            _CommandProtocol,
            command,
            stdin=asyncio.subprocess.DEVNULL,  # standard input may be the prompts
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # it may hold a secret, and would tear the progress bar apart
            start_new_session=True,  # one that asks for a password fails at once, without a terminal to ask at
        )
    except OSError as error:
        raise UsageError(f"endpoint {endpoint.name}: key_command cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(credentials.COMMAND_TIMEOUT_S):
            await protocol.finished.wait()
    except TimeoutError:
        raise command_timed_out(endpoint) from None
    finally:
        if transport.get_returncode() is None:
            with suppress(ProcessLookupError, PermissionError):  # PermissionError: a group of zombies on macOS
                os.killpg(transport.get_pid(), signal.SIGKILL)
        transport.close()
        await protocol.ended.wait()
    if protocol.is_too_long:
        raise UsageError(
            f"endpoint {endpoint.name}: key_command printed more than {MAX_PRINTED_BYTES} bytes: print only the key"
        )
    exit_code = transport.get_returncode()
    if exit_code:
        raise command_failed(endpoint, exit_code)
    return check_printed_key(endpoint, protocol.printed.decode("utf-8", "replace"))

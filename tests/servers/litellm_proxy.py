"""Starts LiteLLM's proxy."""

import secrets
import socket
from pathlib import Path

from tests.servers.foreign_server import ForeignServer

FILES = Path(__file__).with_name("litellm_files")


def litellm_proxy(config: str, **environ: str) -> ForeignServer:
    """Return the proxy with a file of `litellm_files`, to be started. Nothing of it looks for anything outside."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(32)}"}
    return ForeignServer(
        *("litellm", "--config", str(FILES / config), "--host", "127.0.0.1", "--port", port, "--telemetry", "False"),
        is_up=r"Uvicorn running on",
        address=r"Uvicorn running on (http://\S+)",
        environ={**quiet, **environ},
    )

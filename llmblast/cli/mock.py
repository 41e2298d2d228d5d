"""`llmblast mock`: serve the mock provider until a signal stops it."""

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmblast.cli.options import take_options
from llmblast.mocking.settings import MockSettings

if TYPE_CHECKING:
    import asyncio


def _parameter(entry: Field[Any]) -> inspect.Parameter:
    """Return the parameter from which typer makes the option of a mock setting."""
    annotation: Any = entry.type
    default, shown_default = entry.default, ""
    if entry.name == "latency":
        annotation, default = str, f"{default:g}"  # it may be a range
    elif entry.name == "jitter":
        annotation, default, shown_default = float | None, None, f"{default:g}"  # a range of --latency has its own
    name = entry.name.replace("_", "-")
    made = typer.Option(
        f"--{name}/--no-{name}" if default is True else f"--{name}",
        help=entry.metadata["help"],
        metavar=entry.metadata["metavar"],
        show_default=shown_default or True,
    )
    annotation = Annotated[annotation, made]
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def mock(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    **settings: object,
) -> None:
    """Serve the built-in mock provider: an OpenAI-compatible API with limits and faults of your choice."""
    given = {name: str(value) for name, value in settings.items() if value is not None}
    checked = MockSettings.from_texts(given)
    import asyncio  # noqa: PLC0415 -- with aiohttp and uvloop 150 ms that `--help` need not wait for

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(checked, host, port))


take_options(mock, map(_parameter, fields(MockSettings)))


async def _serve(settings: MockSettings, host: str, port: int) -> None:
    import asyncio  # noqa: PLC0415 -- see above
    import gc  # noqa: PLC0415
    import signal  # noqa: PLC0415

    from llmblast.cli.loop import shorten_logs  # noqa: PLC0415
    from llmblast.mocking.server import MockServer  # noqa: PLC0415

    shorten_logs()
    # A full garbage collection stops the server for some 10 ms; even arrivals would look uneven to its limits.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    stop_requested = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop_requested.set)
    async with MockServer(settings, host, port) as server:
        typer.echo(f"listening on {server.url}")
        await stop_requested.wait()
    typer.echo(f"received {server.received} requests, rejected {server.rejected} with 429", err=True)


def _loop_factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    try:
        import uvloop  # noqa: PLC0415 -- see above
    except ImportError:
        return None
    return uvloop.new_event_loop

"""`llmblast mock`: serve the mock provider until a signal stops it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from llmblast.mocking.settings import MockSettings, help_of

if TYPE_CHECKING:
    import asyncio

_DEFAULTS = MockSettings()


def mock(  # noqa: PLR0917 -- typer makes one option of each
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    latency: Annotated[str, typer.Option(help=help_of("latency"))] = f"{_DEFAULTS.latency:g}",
    jitter: Annotated[
        float | None, typer.Option(help=help_of("jitter"), show_default=f"{_DEFAULTS.jitter:g}")
    ] = None,  # None, because a range of --latency must not be given one
    rps: Annotated[float | None, typer.Option(help=help_of("rps"))] = _DEFAULTS.rps,
    rpm: Annotated[float | None, typer.Option(help=help_of("rpm"))] = _DEFAULTS.rpm,
    rpd: Annotated[float | None, typer.Option(help=help_of("rpd"))] = _DEFAULTS.rpd,
    tpm: Annotated[float | None, typer.Option(help=help_of("tpm"))] = _DEFAULTS.tpm,
    itpm: Annotated[float | None, typer.Option(help=help_of("itpm"))] = _DEFAULTS.itpm,
    otpm: Annotated[float | None, typer.Option(help=help_of("otpm"))] = _DEFAULTS.otpm,
    policy: Annotated[str, typer.Option(help=help_of("policy"))] = _DEFAULTS.policy,
    burst: Annotated[int | None, typer.Option(help=help_of("burst"))] = _DEFAULTS.burst,
    burst_tokens: Annotated[int | None, typer.Option(help=help_of("burst_tokens"))] = _DEFAULTS.burst_tokens,
    charge: Annotated[str, typer.Option(help=help_of("charge"))] = _DEFAULTS.charge,
    max_tokens: Annotated[int, typer.Option(help=help_of("max_tokens"))] = _DEFAULTS.max_tokens,
    stolen: Annotated[float, typer.Option(help=help_of("stolen"))] = _DEFAULTS.stolen,
    stolen_after: Annotated[float, typer.Option(help=help_of("stolen_after"))] = _DEFAULTS.stolen_after,
    headers: Annotated[str, typer.Option(help=help_of("headers"))] = _DEFAULTS.headers,
    tell_retry_after: Annotated[
        bool, typer.Option("--tell-retry-after/--no-tell-retry-after", help=help_of("tell_retry_after"))
    ] = _DEFAULTS.tell_retry_after,
    concurrency: Annotated[int | None, typer.Option(help=help_of("concurrency"))] = _DEFAULTS.concurrency,
    slots: Annotated[int | None, typer.Option(help=help_of("slots"))] = _DEFAULTS.slots,
    overload: Annotated[float, typer.Option(help=help_of("overload"))] = _DEFAULTS.overload,
    errors: Annotated[float, typer.Option(help=help_of("errors"))] = _DEFAULTS.errors,
    rate_limited: Annotated[float, typer.Option(help=help_of("rate_limited"))] = _DEFAULTS.rate_limited,
    broken: Annotated[float, typer.Option(help=help_of("broken"))] = _DEFAULTS.broken,
    malformed: Annotated[float, typer.Option(help=help_of("malformed"))] = _DEFAULTS.malformed,
    unauthorized: Annotated[
        bool, typer.Option("--unauthorized", help=help_of("unauthorized"))
    ] = _DEFAULTS.unauthorized,
    retry_after: Annotated[float, typer.Option(help=help_of("retry_after"))] = _DEFAULTS.retry_after,
    tokens: Annotated[int, typer.Option(help=help_of("tokens"))] = _DEFAULTS.tokens,
    sigma: Annotated[float, typer.Option(help=help_of("sigma"))] = _DEFAULTS.sigma,
    models: Annotated[str | None, typer.Option(help=help_of("models"), metavar="NAMES")] = _DEFAULTS.models,
    seed: Annotated[int, typer.Option(help=help_of("seed"))] = _DEFAULTS.seed,
    key: Annotated[str | None, typer.Option(help=help_of("key"))] = _DEFAULTS.key,
    faults: Annotated[str | None, typer.Option(help=help_of("faults"), metavar="FILE")] = _DEFAULTS.faults,
    ledger: Annotated[str | None, typer.Option(help=help_of("ledger"), metavar="FILE")] = _DEFAULTS.ledger,
) -> None:
    """Serve the built-in mock provider: an OpenAI-compatible API with limits and faults of your choice."""
    given = {name: str(value) for name, value in locals().items() if value is not None}
    address = given.pop("host"), int(given.pop("port"))
    settings = MockSettings.from_texts(given)
    import asyncio  # noqa: PLC0415 -- with aiohttp and uvloop 150 ms that `--help` need not wait for

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, *address))


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

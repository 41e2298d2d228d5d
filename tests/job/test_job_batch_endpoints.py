"""Clients of batch APIs reach an endpoint as its requests do."""

from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from llmblast.endpoint_settings import EndpointSettings
from llmblast.job.batch_endpoints import open_batch_endpoints
from llmblast.settings import Settings
from tests.job.test_job_key_refresh import KeyChannel, a_key


async def test_a_batch_that_is_waited_for_gets_the_key_that_its_file_has_then(tmp_path: Path) -> None:
    """The run has read another one at its start, hours before."""

    async def answer(request: web.Request) -> web.Response:
        is_known = request.headers["Authorization"] == "Bearer new"
        return web.json_response({"id": "b1", "status": "in_progress"}, status=200 if is_known else 401)

    app = web.Application()
    app.router.add_get("/v1/batches/b1", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    file = tmp_path / "key"
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        endpoint = EndpointSettings(url=url, name="gpu1", key_file=str(file), model="m")
        settings, channel = Settings(endpoints=(endpoint,)), KeyChannel()
        [opened] = open_batch_endpoints(
            settings, [endpoint], keys=[a_key(file, "old")], channels=[channel], environ={}, stack=stack
        )
        file.write_text("new")

        status = await opened.api.status("b1")

    assert status.id == "b1"
    assert channel.keys == ["new"]

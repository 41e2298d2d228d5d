"""Azure OpenAI's Batch API: OpenAI's with deployments, and with files that are checked after their upload.

| base URL | batches | path in a line |
|---|---|---|
| `/openai/v1` | `/openai/v1/batches` | `/v1/chat/completions` |
| `/openai?api-version=V` | `/openai/batches?api-version=V` | `/chat/completions` |
| `/openai/deployments/D?api-version=V` | the same | the same |

`model` in a body names the deployment, which has to be one for batches.
Sources: https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch and
https://learn.microsoft.com/azure/foundry/reference/rest/batches-create-batch
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import orjson

from llmblast.batching.api import Access, BatchFile, Rejected, Unreachable
from llmblast.batching.http import HttpRequest, Sleep
from llmblast.batching.members import text_in
from llmblast.batching.openai import OpenAIBatches

_IN_BASE = r"/deployments/([^/]+)$"
_IN_PATH = r"deployments/([^/]+)/"
_V1 = r"/v1$"
_MAX_CHECK_S = 900.0
_MAX_PAUSE_S = 10.0


class AzureBatches(OpenAIBatches):
    """Client of Azure OpenAI's Batch API."""

    def __init__(
        self, access: Access, sleep: Sleep = asyncio.sleep, wall_clock: Callable[[], float] = time.time
    ) -> None:
        base, self._deployment = _split_at_deployment(access.base_url)
        super().__init__(replace(access, base_url=base), sleep, wall_clock)
        self._has_v1 = re.search(_V1, urlsplit(base).path) is not None
        self._sleep = sleep

    def group_of(self, path: str, model: str | None) -> str | None:
        api_path, deployment = self._split(path)
        return super().group_of(api_path, deployment or model)

    def render_line(self, custom_id: str, path: str, body: bytes, model: str | None) -> bytes:
        api_path, deployment = self._split(path)
        if deployment:
            body = orjson.dumps({**orjson.loads(body), "model": deployment})
        return super().render_line(custom_id, api_path, body, model)

    async def upload(self, batch: BatchFile) -> str | None:
        """See `BatchApi`. Returns when the file has been checked: no batch starts on it before."""
        upload_id = await super().upload(batch)
        url = self._http.url("files", str(upload_id))
        pause_s, waited_s = 1.0, 0.0
        while waited_s < _MAX_CHECK_S:
            file = await self._http.json(HttpRequest("GET", url, f"ask for file {upload_id}"))
            state = text_in(file, "status").lower()
            if state in ("processed", ""):
                return upload_id
            if state in ("error", "failed", "deleted"):
                detail = self._http.shown(text_in(file, "status_details") or text_in(file, "error"))
                raise Rejected(f"the uploaded batch file {upload_id} was rejected: {detail or state}")
            await self._sleep(pause_s)
            waited_s += pause_s
            pause_s = min(pause_s * 1.5, _MAX_PAUSE_S)
        raise Unreachable(f"the uploaded batch file {upload_id} was not checked within {_MAX_CHECK_S:.0f} s")

    def _endpoint(self, path: str) -> str:
        api_path = self._split(path)[0]
        return f"/v1/{api_path}" if self._has_v1 else f"/{api_path}"

    def _split(self, path: str) -> tuple[str, str | None]:
        """Return the API path and the deployment that path or base URL name, if any."""
        found = re.match(_IN_PATH, path)
        return (path, self._deployment) if found is None else (path[found.end() :], unquote(found[1]))


def _split_at_deployment(base_url: str) -> tuple[str, str | None]:
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    found = re.search(_IN_BASE, path)
    if found is None:
        return base_url, None
    name = unquote(found[1])
    base = parts._replace(path=path[: found.start()]).geturl()
    return base, None if name.startswith("{") else name

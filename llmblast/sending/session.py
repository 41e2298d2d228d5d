"""The session transport: aiohttp's own client, for what the lean exchange does not do, such as proxies."""

from aiohttp import (
    ClientError,
    ClientOSError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    ServerDisconnectedError,
    StreamReader,
    TraceConfig,
)
from aiohttp.client_exceptions import ClientConnectorError
from yarl import URL

from llmblast.records import Cause, Reply, Request
from llmblast.sending.connections import new_tcp_connector, not_sent
from llmblast.sending.exchange import MAX_REPLY_BYTES
from llmblast.sending.openai import Target


class _Trip:
    """What aiohttp tells about the connection that one request used."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False


class SessionChannel:
    """One endpoint's `ClientSession`. Proxies are taken from the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""

    def __init__(self, target: Target, timeout_s: float, connect_timeout_s: float) -> None:
        self._target = target
        self._timeout_s = timeout_s
        tracing = TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._session = ClientSession(
            connector=new_tcp_connector(),
            timeout=ClientTimeout(total=timeout_s, sock_connect=connect_timeout_s),
            headers=target.headers,
            auto_decompress=False,
            trust_env=True,
            trace_configs=[tracing],
        )

    async def send(self, request: Request) -> Reply:
        """One `POST`, read whole."""
        url = URL(f"{self._target.base}/{request.path}")
        trip = _Trip()
        try:
            return await self._post(url, self._target.body_of(request), trip)
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            return not_sent(url, error)
        except TimeoutError:
            return Reply(cause=Cause.TIMED_OUT, detail=f"no complete reply within {self._timeout_s:g} s")
        except (ServerDisconnectedError, ClientOSError):
            if trip.reused:
                return Reply(cause=Cause.STALE, detail="the server had closed the kept connection")
            return Reply(cause=Cause.BROKEN, detail="the connection broke before a reply came")
        except ClientError as error:
            return Reply(cause=Cause.BROKEN, detail=f"the connection broke in the middle of the reply: {error}")

    async def _post(self, url: URL, body: bytes, trip: _Trip) -> Reply:
        async with self._session.post(url, data=body, allow_redirects=False, trace_request_ctx=trip) as response:
            content = await _read_capped(response.content)
            if content is None:
                return Reply(cause=Cause.TOO_LARGE, detail=f"the reply exceeds {MAX_REPLY_BYTES} bytes and was cut off")
            return Reply(response.status, response.raw_headers, content)

    def sweep(self, now: float) -> None:
        """Aiohttp keeps a timer for every request."""

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()


async def _note_reuse(session: ClientSession, context: object, params: object) -> None:
    trip = getattr(context, "trace_request_ctx", None)
    if isinstance(trip, _Trip):
        trip.reused = True


async def _read_capped(content: StreamReader) -> bytes | None:
    chunks, size = [], 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)

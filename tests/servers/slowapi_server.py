"""Serve chat completions below a limit of slowapi: `python slowapi_server.py LIMIT STRATEGY HEADERS`.

LIMIT is as slowapi reads it, such as 100/5seconds; STRATEGY is fixed-window or moving-window; HEADERS is yes or no.
Runs in the environment `.work/servers`.
"""

import socket
import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address


def build_app(limit: str, strategy: str, *, has_headers: bool) -> FastAPI:
    """Return an application as slowapi's documentation has it."""
    app = FastAPI()
    limiter = Limiter(key_func=get_remote_address, strategy=strategy, headers_enabled=has_headers)
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)

    @app.post("/v1/chat/completions")
    @limiter.limit(limit)
    async def complete(request: Request, response: Response) -> dict[str, object]:
        asked = await request.json()
        message = {"role": "assistant", "content": f"You said: {asked['messages'][-1]['content']}"}
        return {"model": asked["model"], "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}

    return app


def main(limit: str, strategy: str, headers: str) -> None:
    """Serve on a free port of the loopback interface, which it prints."""
    app = build_app(limit, strategy, has_headers=headers == "yes")
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app)).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])

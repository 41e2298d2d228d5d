"""What replies of the mock provider say, apart from what tells one reply from the next."""

from typing import Any

import orjson


def meaning(body: bytes) -> Any:
    """Return a reply without `id` and `created`; a body that is no JSON as it is."""
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    return {name: value for name, value in reply.items() if name not in ("id", "created")}

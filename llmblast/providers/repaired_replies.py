"""Repaired replies: parse 2xx replies that strict JSON refuses."""

import orjson

from llmblast.providers.lenient_json import Join, NoJsonError, UnreadableReplyError, repaired_json
from llmblast.providers.plain_text import words_of
from llmblast.providers.streams import join_chunks
from llmblast.records import Reply, ReplyError


def read_repaired(reply: Reply, join: Join = join_chunks) -> tuple[object, bytes] | ReplyError:
    """Return the parsed reply and its strict JSON, or the error."""
    if reply.detail:
        return ReplyError(reply.detail, "unusable_reply")
    try:
        body = repaired_json(reply, join)
        return orjson.loads(body), body
    except (UnreadableReplyError, orjson.JSONDecodeError) as error:
        what = error if isinstance(error, UnreadableReplyError) else "JSON that is nested too deeply"
        words = words_of(reply.body) if isinstance(error, NoJsonError) else ""
        return ReplyError(f"HTTP {reply.status} with {what}{words and f': {words}'}", "unusable_reply")

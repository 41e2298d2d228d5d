"""On demand: import the readers of errors and of odd replies at the first one, since most runs have none.

That saves 15 ms of every start.
"""

from llmblast.records import Answer, Reply, ReplyError, Request


def read_error(reply: Reply) -> ReplyError:
    """See `reply_errors.read_error`."""
    from llmblast.providers import reply_errors  # noqa: PLC0415 -- at the first error

    return reply_errors.read_error(reply)


def find_error(data: object) -> ReplyError:
    """See `reply_errors.find_error`."""
    from llmblast.providers import reply_errors  # noqa: PLC0415 -- at the first error

    return reply_errors.find_error(data)


def named_wait_s(error: ReplyError, reply: Reply, wall_now_s: float) -> float | None:
    """See `wait_hints.named_wait_s`."""
    from llmblast.providers import wait_hints  # noqa: PLC0415 -- at the first error

    return wait_hints.named_wait_s(error, reply, wall_now_s)


def read_broken_json(request: Request, reply: Reply, path: str) -> Answer | ReplyError:
    """See `odd_replies.read_broken_json`."""
    from llmblast.providers import odd_replies  # noqa: PLC0415 -- at the first reply that is not plain

    return odd_replies.read_broken_json(request, reply, path)


def read_odd_data(request: Request, reply: Reply, data: object, path: str) -> Answer | ReplyError:
    """See `odd_replies.read_data`."""
    from llmblast.providers import odd_replies  # noqa: PLC0415 -- at the first reply that is not plain

    return odd_replies.read_data(request, reply, data, path)

"""On demand: import the readers of errors at the first error, since most runs have none and start sooner so."""

from llmblast.models import Reply, ReplyError


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

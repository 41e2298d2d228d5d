"""AWS's errors: their name is in the header `x-amzn-errortype`, the body has the message only.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html, /API_runtime_Converse.html
"""

import re

from llmblast.models import Reply, ReplyError
from llmblast.providers.on_demand import read_error

_HEADER = b"x-amzn-errortype"
_NOT_IN_NAMES = r"[^a-z0-9]+"
_MAX_NAME_CHARS = 80


def read_aws_error(reply: Reply) -> ReplyError:
    """Return the error in the headers and the body of a reply that is not 2xx. Never raises."""
    error = read_error(reply)
    name = error_name(reply)
    if name:
        error.code = name
        error.names = (re.sub(_NOT_IN_NAMES, "", name.lower()), *error.names)
    return error


def error_name(reply: Reply) -> str:
    """Return the name in the header, which may have a namespace before it and a link behind it."""
    value = (reply.header(_HEADER) or b"").decode("latin-1")
    return value.partition(":")[0].rpartition("#")[2].strip()[:_MAX_NAME_CHARS]

"""Passed-through replies, of APIs other than chat, completions and embeddings: the raw reply is the answer.

The record keeps the reply as `body`. Replies of the Responses API and of transcriptions have a text, which becomes
`response`; those of rerank and score have a list of results. Formats: https://platform.openai.com/docs/api-reference/responses
"""

from collections.abc import Callable, Iterator, Mapping

from llmblast.models import Answer, ReplyError, Request
from llmblast.providers.finish_reasons import failure_in
from llmblast.providers.reply_errors import error_in_success, find_error
from llmblast.providers.scores import read_ranking, read_scores
from llmblast.providers.usage import was_generated

_FINISH_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
_CALLS = ("function_call", "custom_tool_call", "mcp_approval_request")
_PLAIN_PART = ("text", "type")
_RESULTS = ("results", "data", "pages", "embeddings")
"""Where the answers to moderations, images, classify and OCR are, and to rerank and score."""

Reader = Callable[[Request, Mapping[str, object]], Answer | ReplyError | None]
"""Returns the answer or the error in a reply; None where there is neither."""


def read_response(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    """Return the joined texts of a response's messages; None for a failed, empty or incomplete response."""
    output, status = data.get("output"), data.get("status")
    if type(output) is not list:
        return _of_chat(data)  # a reply of another API, which may be billed
    if status not in (None, "completed", "incomplete"):
        return ReplyError(f"the response is {status}", "unusable_reply")
    items = [item for item in output if type(item) is dict]
    texts = list(_texts(items))
    joined = "".join(texts) if texts else _output_text(data)
    is_plain = len(items) == len(output) and all(map(_is_plain, items))
    says_nothing = not joined and is_plain and not (items and was_generated(data))
    if says_nothing and status != "incomplete":
        return None
    answer = Answer(joined, _finish_reason(data, items))
    answer.says_more = not texts or not is_plain
    return answer


def read_text(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    """Return the text of a transcription, which has one beside its other members or nothing else."""
    text = data.get("text")
    return Answer(text, says_more=len(data) > 1) if type(text) is str else None


def read_anything(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    """Return an answer without a text, the raw reply; None for a reply whose results are empty."""
    results = [data[name] for name in _RESULTS if name in data]
    if any(type(result) is list and result for result in results):
        return Answer(says_more=True)
    error = error_in_success(data)
    if error is not None:
        return error
    if data.get("choices"):
        return _of_chat(data)
    return Answer(says_more=True) if data and (not results or any(results)) else None


def _read_ranking(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    return read_ranking(request, data) or read_anything(request, data)


def _read_scores(request: Request, data: Mapping[str, object]) -> Answer | ReplyError | None:
    return read_scores(request, data) or read_anything(request, data)


def read_list(path: str, data: object) -> Answer | None:
    """Return the answer in a reply that is a list, as some servers send it for rerank; None for other replies."""
    is_kept = PASSED_THROUGH.get(path) is read_anything and type(data) is list and bool(data)
    return Answer(says_more=True) if is_kept and not find_error(data).message else None


PASSED_THROUGH: Mapping[str, Reader] = {
    "responses": read_response,
    "audio/transcriptions": read_text,
    "audio/translations": read_text,
    "moderations": read_anything,
    "chat/moderations": read_anything,
    "rerank": _read_ranking,
    "v2/rerank": _read_ranking,
    "score": _read_scores,
    "images/generations": read_anything,
    "images/edits": read_anything,
    "videos": read_anything,
    "classifications": read_anything,
    "classify": read_anything,
    "pooling": read_anything,
    "contextualizedembeddings": read_anything,
    "ocr": read_anything,
}
"""By path, but for APIs with replies like those of chat."""


def _of_chat(data: Mapping[str, object]) -> Answer | None:
    """Return the answer in a reply of chat completions, in its raw form, or None for a generation that failed."""
    choices = data.get("choices")
    first = choices[0] if type(choices) is list and choices else None
    return Answer(says_more=True) if type(first) is dict and failure_in(first) is None else None


def _texts(items: list[dict[str, object]]) -> Iterator[str]:
    for item in items:
        content = item.get("content")
        if item.get("type") not in (None, "message"):
            continue
        if type(content) is str:
            yield content
        elif type(content) is list:
            parts = (part for part in content if type(part) is dict and part.get("type") != "refusal")
            yield from (text for part in parts if type(text := part.get("text")) is str)


def _output_text(data: Mapping[str, object]) -> str | None:
    """Return the member `output_text`, in which some servers repeat the text."""
    text = data.get("output_text")
    return text if type(text) is str and text else None


def _finish_reason(data: Mapping[str, object], items: list[dict[str, object]]) -> str | None:
    """Return the finish reason of a chat completion, so that one query finds all answers that are cut off."""
    if data.get("status") == "incomplete":
        details = data.get("incomplete_details")
        reason = details.get("reason") if type(details) is dict else None
        return _FINISH_REASONS.get(str(reason), "length")
    return "tool_calls" if any(item.get("type") in _CALLS for item in items) else "stop"


def _is_plain(item: dict[str, object]) -> bool:
    """Return whether an item of the output holds nothing but its text."""
    if item.get("type") == "reasoning":
        return not (item.get("summary") or item.get("content") or item.get("encrypted_content"))
    content = item.get("content")
    parts = content if type(content) is list else [{"text": content}] if type(content) is str else [None]
    return all(
        type(part) is dict and not any(value for name, value in part.items() if name not in _PLAIN_PART)
        for part in parts
    )

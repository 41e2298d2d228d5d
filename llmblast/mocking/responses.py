"""OpenAI's Responses API as the mock provider speaks it.

Source: https://platform.openai.com/docs/api-reference/responses/create. Tools and streams are refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llmblast.mocking.checks import Check, anything, boolean, decimal, integer, metadata, not_supported, text
from llmblast.mocking.choices import Maker
from llmblast.mocking.error_replies import invalid_type, missing
from llmblast.mocking.messages import BYTES_PER_TOKEN
from llmblast.mocking.parameters import check_parameters
from llmblast.mocking.response_format import Format
from llmblast.mocking.structured import Place
from llmblast.mocking.wording import Writer

OPERATION = "responses"
MIN_TOKENS = 16
_IMAGE_TOKENS = 765
_PARAMETERS: Mapping[str, Check] = {
    "model": anything,
    "input": anything,
    "instructions": text,
    "max_output_tokens": integer(MIN_TOKENS),
    "temperature": decimal(0, 2),
    "top_p": decimal(0, 1),
    "metadata": metadata,
    "store": boolean,
    "text": anything,
    "reasoning": anything,
    "include": anything,
    "truncation": text,
    "user": text,
    "service_tier": text,
    "parallel_tool_calls": boolean,
    "stream": not_supported,
    "tools": not_supported,
}


class ResponsesRequest:
    """One request whose members were checked; raises BadRequestError for one that is not valid."""

    def __init__(self, asked: Mapping[str, Any], writer: Writer) -> None:
        check_parameters({name: value for name, value in asked.items() if value not in (False, [])}, _PARAMETERS)
        self._asked = asked
        self.cap: int | None = asked.get("max_output_tokens")
        prompt, letters, images = _read_input(asked.get("input"))
        letters += len(asked.get("instructions") or "")
        self.prompt_tokens = max(1, letters // BYTES_PER_TOKEN + images * _IMAGE_TOKENS)
        maker, wanted = Maker(writer, prompt, (), self.cap), _format(asked.get("text"))
        self.choice = maker.say(b"") if wanted is None else maker.say_json(wanted, b"")

    def whole(self, model: str, created_s: int, make_id: Callable[[str], str]) -> dict[str, object]:
        """Return the reply, with all members that the API documents as required."""
        asked, said = self._asked, len(self.choice.pieces)
        is_cut = self.choice.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        part = {"type": "output_text", "text": self.choice.text, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": make_id("msg_"), "status": status, "role": "assistant", "content": [part]}
        return {
            "id": make_id("resp_"),
            "object": "response",
            "created_at": created_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": self.cap,
            "metadata": asked.get("metadata") or {},
            "model": model,
            "output": [message],
            "parallel_tool_calls": True,
            "temperature": _number(asked.get("temperature")),
            "tool_choice": "auto",
            "tools": [],
            "top_p": _number(asked.get("top_p")),
            "usage": {
                "input_tokens": self.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": said,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.prompt_tokens + said,
            },
        }


def _format(given: object) -> Format | None:
    """Return the form that `text.format` asks for; None for a plain text."""
    wanted = given.get("format") if isinstance(given, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") not in ("json_object", "json_schema"):
        return None
    return Format(wanted.get("schema"), Place("text.format", "text.format"))


def _number(given: float | None) -> float:
    return 1.0 if given is None else float(given)


def _read_input(given: object) -> tuple[str, int, int]:
    """Return the last text, the letters of all and the number of images."""
    if given is None:
        raise missing("input")
    if isinstance(given, str):
        return given, len(given), 0
    if not isinstance(given, list):
        raise invalid_type("input", "a string or an array of objects", given)
    said, letters, images = "", 0, 0
    for index, item in enumerate(given):
        if not isinstance(item, dict):
            raise invalid_type(f"input[{index}]", "an object", item)
        content = item.get("content")
        for part in content if isinstance(content, list) else [{"text": content}]:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                said = part["text"]
                letters += len(said)
            images += isinstance(part, dict) and part.get("type") == "input_image"
    return said, letters, images

"""Media of a prompt as parts of a chat message in OpenAI's API.

Sources: https://platform.openai.com/docs/guides/images-vision, /docs/guides/audio and /docs/guides/file-inputs: of
files, Chat Completions takes PDFs as data; the text of other files is sent as text.
"""

from base64 import b64decode
from collections.abc import Mapping, Sequence

from llmblast.models import Part, Prompt
from llmblast.provider_contract import UnsupportedError

_API = "the Chat Completions API"
_AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}
PDF = "application/pdf"
_TEXTS = ("application/json", "application/xml")


def unsupported_part(prompt: Prompt) -> str | None:
    """Return the part of a prompt that the API cannot express, if there is one."""
    return next((reason for part in prompt.parts if (reason := _reason_against(part)) is not None), None)


def parts_of(prompt: Prompt) -> Sequence[Mapping[str, object]]:
    """Return the content of a message: its text, then its media. Raises UnsupportedError."""
    if (reason := unsupported_part(prompt)) is not None:
        raise UnsupportedError(reason)
    return [{"type": "text", "text": prompt.text}, *map(_part, prompt.parts)]


def image_part(url: str) -> Part:
    """Return the part of an image with an http, https or data URL."""
    start, comma, data = url.partition(",")
    media_type, _, encoding = start.removeprefix("data:").partition(";")
    if not comma or not url.startswith("data:") or encoding != "base64":
        return Part("image", "", "", url, "")
    return Part("image", media_type, data, "", "")


def is_text(media_type: str) -> bool:
    """Return whether a document is text, which APIs without the type take as such."""
    return media_type.startswith("text/") or media_type in _TEXTS


def _reason_against(part: Part) -> str | None:
    if part.kind == "image":
        return None
    if part.kind == "video":
        return f"{_API} takes no video: for a server that does, write its own part in a raw request"
    if part.url:
        return f"{_API} takes no URL of {part.kind} files: name a local file"
    if part.kind == "audio":
        return (
            None
            if part.media_type in _AUDIO_FORMATS
            else f"{_API} takes no {part.media_type}: convert it to wav or mp3"
        )
    is_known = part.media_type == PDF or is_text(part.media_type)
    return None if is_known else f"{_API} takes no {part.media_type}: convert it to PDF or text"


def _part(part: Part) -> Mapping[str, object]:
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": part.url or data_url(part)}}
    if part.kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": _AUDIO_FORMATS[part.media_type]}}
    if is_text(part.media_type):
        return {"type": "text", "text": b64decode(part.data).decode(errors="replace")}
    return {"type": "file", "file": {"filename": part.name or "document.pdf", "file_data": data_url(part)}}


def data_url(part: Part) -> str:
    """Return media as a data URL."""
    return f"data:{part.media_type};base64,{part.data}"

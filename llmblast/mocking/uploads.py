"""Uploads to the mock provider: bodies that go to a file as they come, whole or as a part of a form."""

from collections.abc import Callable

from aiohttp import BodyPartReader, web

from llmblast.mocking.batch_calls import Reading
from llmblast.mocking.batch_routes import Upload
from llmblast.mocking.stored_files import StoredFile

MAX_UPLOAD_BYTES = 512 * 1024 * 1024
_MAX_FIELD_BYTES = 64 * 1024

NewFile = Callable[[str, str], StoredFile]


class TooLargeError(Exception):
    """The body exceeds MAX_UPLOAD_BYTES, or a field of a form is long."""


async def receive(request: web.BaseRequest, reading: Reading, new_file: NewFile) -> Upload:
    """Store the body of a request. Raises TooLargeError, ValueError for a form that is none, and ConnectionError."""
    if reading is Reading.FORM:
        return await _receive_form(request, new_file)
    file = new_file("body", "")
    async for block in request.content.iter_any():
        _append(file, block)
    return Upload(file, {})


async def _receive_form(request: web.BaseRequest, new_file: NewFile) -> Upload:
    if not request.content_type.startswith("multipart/"):
        raise ValueError(f"its content type is {request.content_type}")
    file, fields = None, dict[str, str]()
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            raise ValueError("a part of the form is a form itself")
        if part.name == "file":
            file = new_file(part.filename or "file", "")
            while block := await part.read_chunk():
                _append(file, block)
        elif part.name:
            fields[part.name] = (await _read_field(part)).decode("utf-8", "replace")
    return Upload(file, fields)


async def _read_field(part: BodyPartReader) -> bytes:
    text = b""
    while block := await part.read_chunk():
        text += block
        if len(text) > _MAX_FIELD_BYTES:
            raise TooLargeError
    return text


def _append(file: StoredFile, block: bytes) -> None:
    if file.size_bytes + len(block) > MAX_UPLOAD_BYTES:
        raise TooLargeError
    file.append(block)

"""Media of a simple line: images, documents, audio and video, as parts that each provider writes in its own form.

An http or https URL stays one; a data URL and a local file become base64 data. Prompt files may be untrusted: a local
file is read only if its path, with all links followed, is below the media root, and the size of the files of a line is
limited. Reading blocks the event loop.
"""

import os
import re
import stat
from base64 import b64encode
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes, urlsplit

from llmblast.errors import UsageError
from llmblast.models import Part
from llmblast.reading.fields import MEDIA_KINDS, BadLine
from llmblast.reading.media_types import as_kind, kind_of, type_of_content, type_of_name
from llmblast.settings import Settings

_SHOWN_CHARACTERS = 200
_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_DEFAULT_TYPE = "text/plain"
"""Of data URLs that name none: RFC 2397."""


class Media:
    """Make parts of the media that lines name. Relative paths start at the media root of the settings.

    Raises UsageError if that is no directory.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.media_max_bytes
        self._root: str | None = None
        if settings.media_root is None:
            return
        self._root = os.path.realpath(settings.media_root)
        if not os.path.isdir(self._root):
            raise UsageError(f"--media-root {settings.media_root!r}: not a directory: name the directory of the files")

    def parts(self, fields: Mapping[str, object]) -> Sequence[Part]:
        """Return one part for each name in the fields of media, in their order. Raises BadLine."""
        parts: list[Part] = []
        room_bytes = self._max_bytes
        for field in MEDIA_KINDS:
            names = fields.get(field)
            if names is None or names == "":
                continue
            for name in names if isinstance(names, list) else [names]:
                if not isinstance(name, str) or not name:
                    raise BadLine(f'"{field}" must be a list of URLs or paths{_hint(field)}')
                part, read_bytes = self._part(field, name, room_bytes)
                parts.append(part)
                room_bytes -= read_bytes
        return parts

    def _part(self, field: str, name: str, room_bytes: int) -> tuple[Part, int]:
        """Return a part, and the number of bytes that were read for it."""
        try:
            if name[:5].lower() == "data:":
                return _of_data_url(field, name), 0
            if name[:8].lower().startswith(("https://", "http://")):
                return _of_url(field, name), 0
            if "://" in name:
                raise BadLine("write an http, https or data URL, or a path")
            if self._root is None:
                raise BadLine(f"local files need --media-root: name their directory with it{_hint(field)}")
            data = self._read(os.path.join(self._root, name), self._root, room_bytes)
            media_type = type_of_content(data, name)
            if media_type is None:
                raise BadLine("its content is of no known type: convert it to a common one")
            media_type = _checked_type(field, media_type)
        except BadLine as bad:
            shown = MEDIA_KINDS[field] or "file"
            raise BadLine(f"{shown} {name[:_SHOWN_CHARACTERS]!r}: {bad.message}") from None
        part = Part(kind_of(media_type), media_type, b64encode(data).decode(), "", os.path.basename(name))
        return part, len(data)

    def _read(self, path: str, root: str, room_bytes: int) -> bytes:
        try:
            path = os.path.realpath(path)
            if os.path.commonpath((root, path)) != root:
                raise BadLine(f"it is outside --media-root {root}")
            with open(path, "rb", opener=_open_without_waiting) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise BadLine("not a file")
                if status.st_size == 0:
                    raise BadLine("is empty")
                if status.st_size > room_bytes:
                    raise BadLine(
                        f"the files of a line may have {self._max_bytes:,} bytes together: make it smaller, or raise "
                        "--media-max-bytes"
                    )
                return file.read(room_bytes)
        except OSError as error:
            raise BadLine(f"cannot be read: {error.strerror}") from None
        except ValueError:
            raise BadLine("not a path") from None


def _of_url(field: str, url: str) -> Part:
    """Return the part of a URL, whose name tells its type where the field does not."""
    try:
        path = urlsplit(url).path
    except ValueError:
        raise BadLine("not a URL") from None
    media_type = type_of_name(path)
    kind = MEDIA_KINDS[field] or kind_of(media_type)
    if media_type:
        media_type = as_kind(media_type, kind)
        if kind_of(media_type) != kind:
            media_type = ""
    return Part(kind, media_type, "", url, os.path.basename(path))


def _of_data_url(field: str, url: str) -> Part:
    found = _DATA_URL.match(url)
    if found is None:
        raise BadLine("not a data URL: write data:image/png;base64,...")
    media_type = _checked_type(field, found[1].strip().lower() or _DEFAULT_TYPE)
    data = url[found.end() :]
    if found[2].lower().endswith(";base64"):
        if not _BASE64.fullmatch(data):
            raise BadLine("its data is not base64")
    else:
        data = b64encode(unquote_to_bytes(data)).decode()
    return Part(kind_of(media_type), media_type, data, "", "")


def _checked_type(field: str, media_type: str) -> str:
    """Return the media type for a field. Raises BadLine where the field is for another kind."""
    wanted = MEDIA_KINDS[field]
    media_type = as_kind(media_type, wanted)
    if wanted and kind_of(media_type) != wanted:
        article = "a" if wanted == "video" else "an"
        what = "audio" if wanted == "audio" else f"{article} {wanted}"
        raise BadLine(f'it is {media_type}, not {what}: name it in "files"')
    return media_type


def _hint(field: str) -> str:
    """Return what to do with a field that has another meaning in the user's file."""
    return "" if field == "images" else f", or keep a field of yours with --own-fields {field}"


def _open_without_waiting(path: str, flags: int) -> int:
    """Open without waiting for the writer of a FIFO; reject a link, which was created after `realpath` followed all."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)

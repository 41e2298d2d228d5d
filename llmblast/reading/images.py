"""Images of a simple line as URLs: http, https and data URLs unchanged, local files as base64 data URLs.

Prompt files may be untrusted: a local file is read only if its path, with all links followed, is below the media root,
and the size of the images of a line is limited. Reading blocks the event loop.
"""

import os
import stat
from base64 import b64encode

from llmblast.errors import UsageError
from llmblast.reading.fields import BadLine

MAX_IMAGE_BYTES = 64 * 1024 * 1024
"""Limit for all local images of a line together: a small line could name a large file a thousand times."""
_SHOWN_CHARACTERS = 200

_MIME_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".heic": "image/heic",
    ".avif": "image/avif",
}


class Images:
    """Convert images to URLs. Relative paths start at `media_root`; raises UsageError if that is no directory."""

    def __init__(self, media_root: str | None) -> None:
        self._root: str | None = None
        if media_root is None:
            return
        self._root = os.path.realpath(media_root)
        if not os.path.isdir(self._root):
            raise UsageError(f"--media-root {media_root!r}: not a directory: name the directory of the images")

    def urls(self, images: object) -> list[str]:
        """Return one URL for each of `images`, in order. Raises BadLine."""
        if not isinstance(images, list):
            raise BadLine('"images" must be a list of URLs or paths')
        urls: list[str] = []
        room_bytes = MAX_IMAGE_BYTES
        for image in images:
            url, read_bytes = self._url_of(image, room_bytes)
            urls.append(url)
            room_bytes -= read_bytes
        return urls

    def _url_of(self, image: object, room_bytes: int) -> tuple[str, int]:
        """Return the URL to send, and the number of bytes that were read for it."""
        if type(image) is not str or not image:
            raise BadLine('"images" must be a list of URLs or paths')
        if image.startswith(("https://", "http://", "data:")):
            return image, 0
        shown = f"image {image[:_SHOWN_CHARACTERS]!r}"
        if "://" in image:
            raise BadLine(f"{shown}: write an http, https or data URL, or a path")
        if self._root is None:
            raise BadLine(f"{shown}: local files need --media-root: name their directory with it")
        mime_type = _MIME_TYPES.get(os.path.splitext(image)[1].lower())
        if mime_type is None:
            raise BadLine(f"{shown}: its type is not known: the name must end in {', '.join(_MIME_TYPES)}")
        try:
            data = _read(os.path.join(self._root, image), self._root, room_bytes)
        except BadLine as bad:
            raise BadLine(f"{shown}: {bad.message}") from None
        return f"data:{mime_type};base64,{b64encode(data).decode()}", len(data)


def _read(path: str, root: str, room_bytes: int) -> bytes:
    try:
        path = os.path.realpath(path)
        if os.path.commonpath((root, path)) != root:
            raise BadLine(f"it is outside --media-root {root}")
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadLine("not a file")
            if status.st_size > room_bytes:
                megabytes = MAX_IMAGE_BYTES >> 20
                raise BadLine(f"the images of a line may have {megabytes} MiB together: make it smaller")
            return file.read(room_bytes)
    except OSError as error:
        raise BadLine(f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadLine("not a path") from None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open without waiting for the writer of a FIFO; reject a link, which was created after `realpath` followed all."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)

"""Media types by the first bytes of a file, since names of files often lie. Types that no API takes are left out.

Sources: the magic numbers of IANA's media types; for ISO base media files the brands at https://mp4ra.org; WebM and
Matroska: RFC 8794 and RFC 9559; MPEG audio: ISO 11172-3, section 2.4.1.3; ADTS: ISO 13818-7, section 6.2.
"""

import os
from collections.abc import Mapping

_PDF_SEARCH_BYTES = 1024
"""Readers accept a PDF whose header follows white space."""
_EBML_SEARCH_BYTES = 64
_MAGIC: Mapping[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"ID3": "audio/mpeg",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
    b"FORM": "audio/aiff",
    b"FLV\1": "video/x-flv",
    b"\0\0\1\xba": "video/mpeg",
    b"\0\0\1\xb3": "video/mpeg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "video/x-ms-wmv",
}
_RIFF: Mapping[bytes, str] = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS: Mapping[bytes, str] = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx"), "image/heic"),
    **dict.fromkeys((b"mif1", b"msf1"), "image/heif"),
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"M4A ", b"M4B "), "audio/mp4"),
    b"qt  ": "video/quicktime",
}
_ZIP: Mapping[str, str] = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_OLE: Mapping[str, str] = {".doc": "application/msword", ".xls": "application/vnd.ms-excel"}
_TEXT: Mapping[str, str] = {
    ".csv": "text/csv",
    ".htm": "text/html",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".xml": "text/xml",
}
_BY_NAME: Mapping[str, str] = {
    **_ZIP,
    **_OLE,
    **_TEXT,
    ".txt": "text/plain",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".avif": "image/avif",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".aiff": "audio/aiff",
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".mpeg": "video/mpeg",
    ".mpg": "video/mpeg",
    ".avi": "video/x-msvideo",
    ".flv": "video/x-flv",
    ".wmv": "video/x-ms-wmv",
    ".3gp": "video/3gpp",
}
_OF_SOUND_OR_PICTURES = ("mp4", "webm", "ogg", "x-matroska", "3gpp")
"""Containers whose first bytes do not tell whether there are pictures in them."""


def type_of_content(data: bytes, name: str) -> str | None:
    """Return the media type of a file, None for an unknown one. The name tells types of text and of office files."""
    suffix = os.path.splitext(name)[1].lower()
    fixed = next((media_type for magic, media_type in _MAGIC.items() if data.startswith(magic)), None)
    found = fixed or _type_of_container(data, suffix) or _type_of_short_magic(data)
    return found or (_TEXT.get(suffix, "text/plain") if _is_text(data) else None)


def type_of_name(name: str) -> str:
    """Return the media type that the name of a file suggests, empty for none."""
    return _BY_NAME.get(os.path.splitext(name)[1].lower(), "")


def kind_of(media_type: str) -> str:
    """Return the kind of a part: image, audio, video or document."""
    kind = media_type.partition("/")[0]
    return kind if kind in ("image", "audio", "video") else "document"


def as_kind(media_type: str, kind: str) -> str:
    """Return the type of a container that may hold sound or pictures as that of the wanted kind."""
    container = media_type.partition("/")[2]
    if kind in ("audio", "video") and container in _OF_SOUND_OR_PICTURES:
        return f"{kind}/{container}"
    return media_type


def _type_of_container(data: bytes, suffix: str) -> str | None:
    """Return the type of a format whose first bytes are those of a container for several ones."""
    media_type = None
    if data.startswith(b"RIFF"):
        media_type = _RIFF.get(data[8:12])
    elif data[4:8] == b"ftyp":
        brand = data[8:12]
        media_type = _BRANDS.get(brand, "video/3gpp" if brand.startswith(b"3g") else "video/mp4")
    elif data.startswith(b"\x1a\x45\xdf\xa3"):
        media_type = "video/webm" if b"webm" in data[:_EBML_SEARCH_BYTES] else "video/x-matroska"
    elif data.startswith(b"PK\3\4"):
        media_type = _ZIP.get(suffix)
    elif data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        media_type = _OLE.get(suffix)
    return media_type


def _type_of_short_magic(data: bytes) -> str | None:
    """Return the type of formats with few bytes of magic; of MPEG audio only layer III, whose frames begin as no text
    does.
    """
    if data[:_PDF_SEARCH_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-"):
        return "application/pdf"
    if data.startswith(b"BM") and data[6:10] == bytes(4):
        return "image/bmp"
    if len(data) < 4 or data[0] != 0xFF:
        return None
    if data[1] & 0xF6 == 0xF0:
        return "audio/aac"
    is_frame = data[1] & 0xE6 == 0xE2 and data[2] & 0xF0 != 0xF0 and data[2] & 0x0C != 0x0C
    return "audio/mpeg" if is_frame else None


def _is_text(data: bytes) -> bool:
    if not data or b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

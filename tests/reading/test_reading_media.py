"""Media of simple lines: types by content, forms by provider; local files are read below the media root only."""

import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmblast.errors import UsageError
from llmblast.models import Failure, Request
from llmblast.settings import Settings
from tests.openai_provider import RequestParser

PNG = b"\x89PNG\r\n\x1a\n"


def result_of(image: object, media_root: Path | None, field: str = "images", **settings: Any) -> Request | Failure:
    parser = RequestParser(Settings(media_root=None if media_root is None else str(media_root), **settings))
    return parser.parse(1, "0" * 16, orjson.dumps({"input": "What is it?", field: [image]}))


def part_of(name: object, media_root: Path | None, field: str = "files") -> Any:
    request = result_of(name, media_root, field)
    assert isinstance(request, Request), request.error
    text, part = orjson.loads(request.body)["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert (request.input, request.extra) == ("What is it?", None)
    return part


def url_of(image: object, media_root: Path | None) -> object:
    part = part_of(image, media_root, "images")
    assert part["type"] == "image_url"
    return part["image_url"]["url"]


def refusal(image: object, media_root: Path | None, field: str = "images", **settings: Any) -> str:
    result = result_of(image, media_root, field, **settings)
    assert isinstance(result, Failure)
    return result.error


@pytest.mark.parametrize("url", ["https://host/a.png", "http://host/a", "data:image/png;base64,AAAA"])
def test_urls_are_sent_as_they_are(url: str) -> None:
    """No media root is needed."""
    assert url_of(url, None) == url


def test_one_image_needs_no_list() -> None:
    """As a column of a table has it; an empty one is none."""
    parser = RequestParser(Settings())
    one, none = (
        parser.parse(1, "0" * 16, b'{"input":"x","images":%b}' % image) for image in (b'"https://h/a.png"', b'""')
    )

    assert isinstance(one, Request)
    assert isinstance(none, Request)
    assert orjson.loads(one.body)["messages"][0]["content"][1]["image_url"]["url"] == "https://h/a.png"
    assert orjson.loads(none.body)["messages"][0]["content"] == "x"


IMAGES = {
    PNG: "png",
    b"\xff\xd8\xff\xe0": "jpeg",
    b"GIF89a": "gif",
    b"RIFF\0\0\0\0WEBP": "webp",
    b"BM" + bytes(12): "bmp",
    b"II*\0": "tiff",
    b"\0\0\0\x18ftypheic": "heic",
    b"\0\0\0\x18ftypavif": "avif",
}


@pytest.mark.parametrize("content", IMAGES)
def test_a_local_image_becomes_a_data_url_of_its_contents_type(tmp_path: Path, content: bytes) -> None:
    """Whatever it is called. Named relative to the media root or absolutely."""
    (tmp_path / "a.jpg").write_bytes(content)
    url = f"data:image/{IMAGES[content]};base64,{b64encode(content).decode()}"

    assert url_of("a.jpg", tmp_path) == url
    assert url_of(str(tmp_path / "a.jpg"), tmp_path) == url


SOUNDS = {
    b"RIFF\0\0\0\0WAVE": "wav",
    b"ID3\4": "mp3",
    b"\xff\xfb\x90\0": "mp3",
    b"\xff\xf3\x90\0": "mp3",
}


@pytest.mark.parametrize("field", ["audio", "files"])
@pytest.mark.parametrize("content", SOUNDS)
def test_audio_is_sent_as_data_with_its_format(tmp_path: Path, content: bytes, field: str) -> None:
    """The Chat Completions API takes two formats."""
    (tmp_path / "a").write_bytes(content)

    sound = {"data": b64encode(content).decode(), "format": SOUNDS[content]}
    assert part_of("a", tmp_path, field) == {"type": "input_audio", "input_audio": sound}


def test_a_pdf_is_sent_as_a_file_and_a_text_as_text(tmp_path: Path) -> None:
    """As the Chat Completions API takes them; a data URL, too."""
    (tmp_path / "a.bin").write_bytes(b"%PDF-1.7")
    (tmp_path / "b.csv").write_text("a,é")
    data = "data:application/pdf;base64," + b64encode(b"%PDF-1.7").decode()

    assert part_of("a.bin", tmp_path) == {"type": "file", "file": {"filename": "a.bin", "file_data": data}}
    assert part_of("b.csv", tmp_path) == {"type": "text", "text": "a,é"}
    assert part_of(data, None) == {"type": "file", "file": {"filename": "document.pdf", "file_data": data}}
    assert part_of("data:,a%20b", None) == {"type": "text", "text": "a b"}
    assert part_of("data:image/PNG;name=a;base64,AAAA", None)["image_url"]["url"] == "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        (b"fLaC", "audio", "the Chat Completions API takes no audio/flac: convert it to wav or mp3"),
        (b"OggS", "files", "takes no audio/ogg"),
        (b"\xff\xf1\x50\x80", "files", "takes no audio/aac"),
        (b"\0\0\0\x18ftypM4A ", "audio", "takes no audio/mp4"),
        (b"\x1a\x45\xdf\xa3\x42\x82\x84webm", "audio", "takes no audio/webm"),
        (b"\x1a\x45\xdf\xa3\x42\x82\x84webm", "files", "takes no video: "),
        (b"\0\0\0\x18ftypisom", "video", "takes no video: "),
        (b"PK\3\4", "files", "takes no application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (b"\0\1\2\3", "files", "file 'a.docx': its content is of no known type"),
        ("Text".encode("utf-16"), "images", "image 'a.docx': its content is of no known type"),
        (b"<html>", "images", "image 'a.docx': it is text/plain, not an image: name it in \"files\""),
        (b"%PDF-1.7", "images", "it is application/pdf, not an image"),
        (PNG, "audio", "audio 'a.docx': it is image/png, not audio"),
        (PNG, "video", "it is image/png, not a video"),
        (b"", "images", "image 'a.docx': is empty"),
    ],
)
def test_what_the_provider_or_the_field_cannot_take_makes_the_line_bad(
    tmp_path: Path, content: bytes, field: str, reason: str
) -> None:
    """Before anything is sent."""
    (tmp_path / "a.docx").write_bytes(content)

    assert reason in refusal("a.docx", tmp_path, field)


@pytest.mark.parametrize(
    ("url", "field", "reason"),
    [
        ("https://h/a.wav", "audio", "takes no URL of audio files: name a local file"),
        ("https://h/a.pdf?x=.png", "files", "takes no URL of document files"),
        ("https://h/a", "files", "takes no URL of document files"),
        ("https://h/a.mp4", "files", "takes no video"),
        ("http://[h/a.png", "images", "not a URL"),
        ("data:image/png;base64,A*", "images", "its data is not base64"),
        ("data:image/png", "images", "not a data URL"),
        ("data:video/mp4;base64,AAAA", "images", "it is video/mp4, not an image"),
        ("DATA:;base64,AAAA", "images", "it is text/plain, not an image"),
    ],
)
def test_a_url_that_cannot_be_sent_makes_the_line_bad(url: str, field: str, reason: str) -> None:
    """Its kind is that of the field, or what its name suggests."""
    assert reason in refusal(url, None, field)


def test_a_url_of_an_image_may_stand_among_files() -> None:
    """Its name tells."""
    assert part_of("https://h/a.JPG?size=5", None)["image_url"] == {"url": "https://h/a.JPG?size=5"}


def test_a_field_of_the_user_may_have_a_name_of_ours() -> None:
    """The message says how."""
    assert "or keep a field of yours with --own-fields video" in refusal("Holidays", None, "video")
    kept = RequestParser(Settings(own_fields=("video",))).parse(1, "0" * 16, b'{"input":"x","video":"Holidays"}')
    assert isinstance(kept, Request)
    assert kept.extra == {"video": "Holidays"}


def test_all_fields_of_media_count_together_and_in_their_order(tmp_path: Path) -> None:
    """Images, files, audio, video."""
    (tmp_path / "a.png").write_bytes(PNG + bytes(400))
    (tmp_path / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(400))
    line = b'{"input":"x","audio":"a.wav","images":"a.png"}'

    enough, small = (
        RequestParser(Settings(media_root=str(tmp_path), media_max_bytes=size)).parse(1, "0" * 16, line)
        for size in (1000, 600)
    )

    assert isinstance(enough, Request)
    kinds = [part["type"] for part in orjson.loads(enough.body)["messages"][0]["content"]]
    assert kinds == ["text", "image_url", "input_audio"]
    assert isinstance(small, Failure)
    assert "audio 'a.wav': the files of a line may have 600 bytes together: " in small.error


def test_media_count_as_such_not_as_text(tmp_path: Path) -> None:
    """Their base64 is no measure of their tokens."""
    (tmp_path / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(30_000))

    request = result_of("a.wav", tmp_path, "audio")

    assert isinstance(request, Request)
    assert (request.image_bytes, request.image_tokens) == (40_016, 1000.0)


def test_a_link_within_the_media_root_is_followed(tmp_path: Path) -> None:
    """The root itself may be a link, too."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.png").write_bytes(PNG)
    (tmp_path / "root" / "link.png").symlink_to("a.png")
    (tmp_path / "link").symlink_to("root")

    assert url_of("link.png", tmp_path / "link") == f"data:image/png;base64,{b64encode(PNG).decode()}"


def test_no_local_file_is_read_without_a_media_root(tmp_path: Path) -> None:
    """The message names the option."""
    (tmp_path / "a.png").write_bytes(b"a")

    assert "--media-root" in refusal(str(tmp_path / "a.png"), None)


@pytest.mark.parametrize("image", ["../secret.png", "link.png", "dir/secret.png", "{root}2/a.png", "{outside}"])
def test_a_file_outside_the_media_root_is_not_read(tmp_path: Path, image: str) -> None:
    """Neither by dots nor by links nor by a name that begins like the root's."""
    root, outside = tmp_path / "root", tmp_path / "secret.png"
    root.mkdir()
    outside.write_bytes(b"secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "a.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(outside)
    (root / "dir").symlink_to(tmp_path)

    error = refusal(image.format(root=root, outside=outside), root)

    assert f"outside --media-root {root}" in error


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("missing.png", "cannot be read: No such file"),
        ("loop.png", "cannot be read: Too many levels"),
        ("fifo.png", "not a file"),
        ("dir.png", "cannot be read: Is a directory"),
        ("a\0.png", "not a path"),
        ("file:///a.png", "write an http, https or data URL"),
        ("", "must be a list of URLs or paths"),
        (5, "must be a list of URLs or paths"),
    ],
)
def test_an_image_that_cannot_be_had_makes_the_line_bad(tmp_path: Path, image: object, reason: str) -> None:
    """Named with the reason; a FIFO does not make the run wait."""
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dir.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")

    assert reason in refusal(image, tmp_path)


def test_a_huge_image_is_not_read(tmp_path: Path) -> None:
    """A sparse file costs nothing to make and would cost all memory to send."""
    (tmp_path / "a.png").touch()
    os.truncate(tmp_path / "a.png", Settings().media_max_bytes + 1)

    assert "the files of a line may have 67,108,864 bytes together" in refusal("a.png", tmp_path)


def test_a_line_cannot_multiply_what_it_names(tmp_path: Path) -> None:
    """The images of a line count together; the next line starts anew."""
    (tmp_path / "a.png").write_bytes(PNG + bytes(400))
    parser = RequestParser(Settings(media_root=str(tmp_path), media_max_bytes=1000))

    results = [
        parser.parse(1, "0" * 16, b'{"input":"x","images":[%b]}' % b",".join([b'"a.png"'] * n)) for n in (2, 3, 2)
    ]

    assert [type(result) for result in results] == [Request, Failure, Request]


def test_the_message_does_not_repeat_megabytes(tmp_path: Path) -> None:
    """A path may be as long as a line."""
    assert len(refusal("a" * 1_000_000, tmp_path)) < 500


def test_an_empty_list_of_images_is_no_image() -> None:
    """The content stays a text."""
    request = RequestParser(Settings()).parse(1, "0" * 16, b'{"input":"x","images":[]}')

    assert isinstance(request, Request)
    assert orjson.loads(request.body)["messages"][0]["content"] == "x"


def test_a_media_root_that_is_no_directory_is_refused_at_once(tmp_path: Path) -> None:
    """Before a line is read."""
    with pytest.raises(UsageError, match=r"--media-root .*: not a directory"):
        RequestParser(Settings(media_root=str(tmp_path / "missing")))

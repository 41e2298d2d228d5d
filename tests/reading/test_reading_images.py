"""Images of simple lines, and that local files are read below the media root only."""

import os
from base64 import b64encode
from pathlib import Path

import orjson
import pytest

from llmblast.errors import UsageError
from llmblast.models import Failure, Request
from llmblast.reading import images
from llmblast.settings import Settings
from tests.openai_provider import RequestParser


def result_of(image: object, media_root: Path | None) -> Request | Failure:
    parser = RequestParser(Settings(media_root=None if media_root is None else str(media_root)))
    return parser.parse(1, "0" * 16, orjson.dumps({"input": "What is it?", "images": [image]}))


def url_of(image: object, media_root: Path | None) -> object:
    request = result_of(image, media_root)
    assert isinstance(request, Request), request.error
    text, part = orjson.loads(request.body)["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert (part["type"], request.input) == ("image_url", "What is it?")
    return part["image_url"]["url"]


def refusal(image: object, media_root: Path | None) -> str:
    result = result_of(image, media_root)
    assert isinstance(result, Failure)
    return result.error


@pytest.mark.parametrize("url", ["https://host/a.png", "http://host/a", "data:image/png;base64,AAAA"])
def test_urls_are_sent_as_they_are(url: str) -> None:
    """No media root is needed."""
    assert url_of(url, None) == url


@pytest.mark.parametrize(
    ("name", "mime_type"), [("a.png", "image/png"), ("B.JPG", "image/jpeg"), ("c.webp", "image/webp")]
)
def test_a_local_file_becomes_a_data_uri(tmp_path: Path, name: str, mime_type: str) -> None:
    """Named relative to the media root or absolutely."""
    (tmp_path / name).write_bytes(b"\x89bytes")
    encoded = b64encode(b"\x89bytes").decode()

    assert url_of(name, tmp_path) == f"data:{mime_type};base64,{encoded}"
    assert url_of(str(tmp_path / name), tmp_path) == f"data:{mime_type};base64,{encoded}"


def test_a_link_within_the_media_root_is_followed(tmp_path: Path) -> None:
    """The root itself may be a link, too."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.png").write_bytes(b"a")
    (tmp_path / "root" / "link.png").symlink_to("a.png")
    (tmp_path / "link").symlink_to("root")

    assert url_of("link.png", tmp_path / "link") == "data:image/png;base64,YQ=="


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
        ("a.txt", "its type is not known"),
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
    os.truncate(tmp_path / "a.png", images.MAX_IMAGE_BYTES + 1)

    assert "the images of a line may have 64 MiB" in refusal("a.png", tmp_path)


def test_a_line_cannot_multiply_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a line count together; the next line starts anew."""
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(bytes(400))
    parser = RequestParser(Settings(media_root=str(tmp_path)))

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

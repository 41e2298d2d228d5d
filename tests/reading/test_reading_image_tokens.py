"""Images count by their pixels, not by the length of their base64."""

import struct
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmblast.endpoint_settings import EndpointSettings
from llmblast.models import Request
from llmblast.reading.image_tokens import FLAT_TOKENS, measure
from llmblast.scheduling import TokenEstimator
from llmblast.settings import Settings
from tests.openai_provider import RequestParser

PADDING = bytes(3000)


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + PADDING


def jpeg(width: int, height: int) -> bytes:
    exif = b"\xff\xe1" + struct.pack(">H", 5002) + bytes(5000)
    return b"\xff\xd8" + exif + b"\xff\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width) + PADDING


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + PADDING


def bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(16) + struct.pack("<ii", width, -height) + PADDING


def webp(width: int, height: int, kind: bytes = b"VP8 ") -> bytes:
    head = b"RIFF" + bytes(4) + b"WEBP" + kind
    if kind == b"VP8X":
        return head + bytes(8) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + PADDING
    if kind == b"VP8L":
        return head + bytes(4) + b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + PADDING
    return head + bytes(10) + struct.pack("<HH", width, height) + PADDING


def body(picture: bytes, detail: str | None = None) -> bytes:
    image = {"url": f"data:image/png;base64,{b64encode(picture).decode()}"}
    part = {"type": "image_url", "image_url": image | ({"detail": detail} if detail else {})}
    return orjson.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]})


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o", (512, 512), None, 255),
        ("gpt-4o-2024-08-06", (100, 100), "auto", 255),
        ("openai/gpt-4o-mini", (512, 512), "low", 2833),
        ("gpt-4o-mini", (1024, 1024), "high", 25501),
        ("gpt-5", (1024, 1024), "high", 630),
        ("o1-pro", (1024, 1024), "high", 675),
        ("gpt-4.1-mini", (1024, 1024), None, 1024 * 1.62),
        ("o4-mini", (1800, 2400), None, 1452 * 1.72),
        ("llama-4-scout", (1024, 1024), "high", FLAT_TOKENS),
        ("gpt-4oxide", (1024, 1024), "high", FLAT_TOKENS),
        (None, (1024, 1024), "low", FLAT_TOKENS),
    ],
)
def test_an_image_costs_what_its_model_charges(
    model: str | None, size: tuple[int, int], detail: str | None, tokens: float
) -> None:
    """The published formulas, with the examples of the provider's page."""
    request_body = body(png(*size), detail)

    data_bytes, counted = measure(request_body, model)

    assert counted == pytest.approx(tokens)
    assert data_bytes > 3000
    assert len(request_body) - data_bytes < 200


@pytest.mark.parametrize("make", [png, jpeg, gif, bmp, webp])
@given(st.integers(1, 16000), st.integers(1, 16000))
def test_every_format_tells_its_size(make: object, width: int, height: int) -> None:
    """From its first bytes."""
    assert callable(make)

    assert measure(body(make(width, height)), "gpt-4o") == (
        len(body(make(width, height))) - len(body(b"")) + len(b"data:image/png;base64,"),
        measure(body(png(width, height)), "gpt-4o")[1],
    )


@pytest.mark.parametrize("kind", [b"VP8 ", b"VP8L", b"VP8X"])
def test_all_kinds_of_webp(kind: bytes) -> None:
    """Lossy, lossless, extended."""
    assert measure(body(webp(1024, 1024, kind)), "gpt-4o")[1] == 765


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF8", b"RIFF", b"BM"]))
def test_damaged_images_are_counted_somehow(data: bytes, start: bytes) -> None:
    """Whatever their bytes are; they cost what they cost."""
    assert measure(body(start + data), "gpt-4o")[1] > 0


def test_detail_may_stand_before_the_url_and_slashes_may_be_escaped() -> None:
    """As other writers of JSON do it."""
    data = urlsafe_b64encode(png(1024, 1024)).replace(b"_", b"\\/")
    part = b'{"type":"input_image","detail" : "low", "image_url":"data:image\\/png;base64,' + data + b'"}'

    assert measure(part, "gpt-4o")[1] == 85


URL = f"data:image/png;base64,{b64encode(png(1024, 1024)).decode()}"


@pytest.mark.parametrize("endpoints", [(), (EndpointSettings(url="mock:", model="gpt-4o"),)])
@pytest.mark.parametrize(
    "line",
    [
        orjson.loads(body(png(1024, 1024))),
        {"custom_id": "a", "body": orjson.loads(body(png(1024, 1024)))},
        {"input": "What?", "images": [URL]},
        {"model": "gpt-4o", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]},
    ],
)
def test_the_estimate_of_a_request_counts_its_images(
    endpoints: tuple[EndpointSettings, ...], line: dict[str, object]
) -> None:
    """With the model of the line, or of the run, or of its only endpoint; in all formats."""
    request = RequestParser(Settings(model="gpt-4o", endpoints=endpoints)).parse(1, "0" * 16, orjson.dumps(line))

    assert isinstance(request, Request)
    assert request.image_tokens == 765
    _, prompt, _ = TokenEstimator().estimate(request)
    assert 765 < prompt < 900


def test_replies_to_images_say_nothing_of_text() -> None:
    """The ratio of tokens to bytes is that of texts."""
    from tests.scheduling.scheduling_samples import make_answer, make_request

    estimator, text = TokenEstimator(), make_request(body=b"x" * 1000)
    image = replace(make_request(body=b"x" * 1_000_000), image_bytes=999_000, image_tokens=765.0)
    before = estimator.estimate(text)[1]

    for _ in range(100):
        estimator.learn(image, make_answer(1000, 10))

    assert estimator.estimate(text)[1] == before

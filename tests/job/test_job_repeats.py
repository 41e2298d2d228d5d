"""Repeats: the seed of each, where and as the API has it."""

import orjson
import pytest

from llmblast.job.repeats import Repeats, with_seed
from llmblast.models import Request
from llmblast.reading import CompletedKeys
from llmblast.watching import Counters


def bodies(kind: str, path: str, hosts: set[str], body: bytes) -> list[object]:
    none = CompletedKeys([])
    repeats = Repeats(2, {kind: hosts}, Counters(), none, none)
    request = Request(1, "0" * 16, b"{}", 1, path=path, body=body, kind=kind)
    return [orjson.loads(each.body) for each in repeats._repeats_of(request) if isinstance(each, Request)]


@pytest.mark.parametrize(
    ("kind", "path", "host", "member"),
    [
        ("openai", "chat/completions", "api.openai.com", "seed"),
        ("openai", "completions", "localhost", "seed"),
        ("azure", "chat/completions", "r.openai.azure.com", "seed"),
        ("openai", "chat/completions", "api.mistral.ai", "random_seed"),
        ("openai", "fim/completions", "codestral.mistral.ai", "random_seed"),
        ("openai", "responses", "api.openai.com", None),
        ("openai", "embeddings", "api.mistral.ai", None),
        ("openai-responses", "responses", "api.openai.com", None),
        ("anthropic", "v1/messages", "api.anthropic.com", None),
        ("vertex-anthropic", "p:rawPredict", "aiplatform.googleapis.com", None),
        ("bedrock", "model/m/converse", "h", None),
        ("custom e", "ask", "h", None),
    ],
)
def test_each_repeat_has_the_seed_that_the_api_knows(kind: str, path: str, host: str, member: str | None) -> None:
    """Mistral answers 422 to a parameter that it does not know."""
    found = bodies(kind, path, {host}, b'{"x":1}')

    assert found == ([{"x": 1}] * 2 if member is None else [{"x": 1, member: 1}, {"x": 1, member: 2}])


@pytest.mark.parametrize("kind", ["gemini", "vertex"])
def test_googles_seed_is_in_the_configuration(kind: str) -> None:
    """Beside what is there, in the spelling that the line has."""
    path = "models/m:generateContent"

    assert bodies(kind, path, {"h"}, b'{"contents":[]}')[1] == {"contents": [], "generationConfig": {"seed": 2}}
    assert bodies(kind, path, {"h"}, b'{"generation_config":{"topK":1,"seed":40},"contents":[]}')[1] == {
        "generation_config": {"topK": 1, "seed": 41},
        "contents": [],
    }
    assert bodies(kind, path, {"h"}, b'{"generationConfig":null,"contents":[]}')[0] == {
        "generationConfig": {"seed": 1},
        "contents": [],
    }


def test_hosts_that_differ_in_the_seed_get_none() -> None:
    """One body goes to any of them."""
    assert bodies("openai", "chat/completions", {"api.mistral.ai", "localhost"}, b"{}") == [{}, {}]


def test_other_bytes_stay() -> None:
    assert with_seed(b'{"a":1.50,"seed":7}', ("seed",), 3) == b'{"a":1.50,"seed":9}'

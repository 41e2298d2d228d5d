"""Which requests count as equal."""

from functools import partial

import pytest

from llmblast.caching import Destination, RequestKeys
from llmblast.models import Prompt, Request
from llmblast.providers import PROVIDERS
from llmblast.sending import rendering_for

BODY = b'{"messages":[{"role":"user","content":"hi"}]}'
OPENAI, ANTHROPIC = PROVIDERS["openai"], PROVIDERS["anthropic"]


def destination(base: str = "http://a/v1", model: str | None = "m", kind: str = "openai") -> Destination:
    return Destination(kind, base, model, partial(rendering_for, PROVIDERS[kind]))


def a_request(number: int = 1, body: bytes = BODY, **more: object) -> Request:
    fields: dict[str, object] = {"needs_model": True, **more}
    return Request(number, "0" * 16, b"", number, body=body, **fields)  # type: ignore[arg-type] # fields of Request


def key(place: Destination, request: Request) -> bytes:
    (made,) = RequestKeys([place]).of(request)
    return made


def test_lines_and_hosts_do_not_count() -> None:
    """The same model may be served by several hosts."""
    assert key(destination("http://a/v1"), a_request(1)) == key(destination("https://b:8443/v1"), a_request(2))


@pytest.mark.parametrize(
    ("place", "request_"),
    [
        (destination(model="other"), a_request()),
        (destination("http://a/openai/deployments/d"), a_request()),
        (destination(), a_request(body=BODY.replace(b"hi", b"ho"))),
        (destination(), a_request(path="completions")),
        (destination(), a_request(repeat=2)),
        (destination(kind="anthropic"), a_request(kind="anthropic")),
        (destination(model="om", base="http://a/v1/m"), a_request()),
    ],
)
def test_all_that_decides_on_the_answer_counts(place: Destination, request_: Request) -> None:
    """Kind of provider, path, model, body, and the number of the answer that is asked for."""
    assert key(place, request_) != key(destination(), a_request())


def test_a_first_repeat_is_the_plain_request() -> None:
    """So `--repeat` takes the answer of an earlier run without it, where the body has no seed."""
    assert key(destination(), a_request(repeat=1)) == key(destination(), a_request())


def test_where_nothing_names_a_model_the_host_counts() -> None:
    """It is the host that chooses one."""
    first, second = destination("http://a/v1", None), destination("http://b/v1", None)

    assert key(first, a_request()) != key(second, a_request())
    assert key(first, a_request(needs_model=False)) == key(second, a_request(needs_model=False))


def test_a_request_has_a_key_for_each_model_that_it_may_reach() -> None:
    """The endpoint that answers decides which of them the answer is kept under."""
    keys = RequestKeys([destination(model="x"), destination("http://b/v1", "x"), destination(model="y")])
    request = a_request()
    request.cache_keys = keys.of(request)

    assert len(request.cache_keys) == 2
    assert [keys.at(endpoint, request) for endpoint in range(3)] == [request.cache_keys[index] for index in (0, 0, 1)]


def test_endpoints_that_cannot_take_a_request_give_it_no_key() -> None:
    """Their answers are none to it."""
    keys = RequestKeys([destination(model="x"), destination(model="y")])
    request = a_request(closed_to=0b01)
    request.cache_keys = keys.of(request)

    assert request.cache_keys == (key(destination(model="y"), a_request()),)
    assert (keys.at(0, request), keys.at(1, request)) == (None, request.cache_keys[0])
    assert keys.of(a_request(closed_to=0b11)) == ()


def test_each_kind_of_provider_has_the_key_of_its_own_body() -> None:
    """A run with one kind of provider finds the answers of a run with two."""
    prompt = Prompt("hi", None, (), {})
    path, body = OPENAI.render(prompt)
    mixed = RequestKeys([destination(), destination("http://a", kind="anthropic")])
    request = a_request(path=path, body=body, content=prompt)

    its_path, its_body = ANTHROPIC.render(prompt)
    alone = key(destination("http://a", kind="anthropic"), a_request(path=its_path, body=its_body, kind="anthropic"))

    assert mixed.of(request) == (key(destination(), a_request(path=path, body=body)), alone)
    assert [mixed.kind_of(index, request) for index in range(2)] == ["openai", "anthropic"]

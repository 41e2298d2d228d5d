"""How a key is sent: in the header that the setting names, or that the provider wants."""

import pytest

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from tests.openai_provider import find_key, make_target
from tests.sending.sending_wire import KEY

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2lnbmF0dXJl"
AZURE = "https://r.openai.azure.com/openai/v1"


def an_endpoint(url: str = "https://gpu.example/v1", **settings: object) -> EndpointSettings:
    return EndpointSettings(url=url, name="gpu", **settings)  # type: ignore[arg-type] # fields of EndpointSettings


def key_headers(endpoint: EndpointSettings, key: str = KEY) -> dict[str, str]:
    """The headers that have the key in them."""
    return {name: value for name, value in make_target(endpoint, None, key).headers.items() if key in value}


@pytest.mark.parametrize(
    ("url", "auth", "key", "headers"),
    [
        ("https://gpu.example/v1", None, KEY, {"Authorization": f"Bearer {KEY}"}),
        ("https://gpu.example/v1", "bearer", KEY, {"Authorization": f"Bearer {KEY}"}),
        ("https://gpu.example/v1", "Bearer", KEY, {"Authorization": f"Bearer {KEY}"}),
        ("https://gpu.example/v1", "api-key", KEY, {"api-key": KEY}),
        ("https://gpu.example/v1", "x-api-key", KEY, {"x-api-key": KEY}),
        ("https://gpu.example/v1", "X-My-Header", KEY, {"X-My-Header": KEY}),
        ("https://gpu.example/v1", "Authorization", KEY, {"Authorization": KEY}),
        (AZURE, None, KEY, {"api-key": KEY}),
        ("https://R.OpenAI.Azure.com/openai/v1", None, KEY, {"api-key": KEY}),
        ("https://r.cognitiveservices.azure.com/openai/v1", None, KEY, {"api-key": KEY}),
        (AZURE, None, JWT, {"Authorization": f"Bearer {JWT}"}),
        (AZURE, "bearer", KEY, {"Authorization": f"Bearer {KEY}"}),
        ("https://openai.azure.com.evil.example/v1", None, KEY, {"Authorization": f"Bearer {KEY}"}),
    ],
)
def test_how_a_key_is_sent(url: str, auth: str | None, key: str, headers: dict[str, str]) -> None:
    """In one header only."""
    assert key_headers(an_endpoint(url, auth=auth), key) == headers


def test_another_key_replaces_the_first_one() -> None:
    """Also where it goes into another header."""
    target = make_target(an_endpoint(AZURE), None, KEY).with_key(JWT)

    assert KEY not in str(target.headers)
    assert target.headers["Authorization"] == f"Bearer {JWT}"
    assert target.with_key(KEY).headers["api-key"] == KEY
    assert "Authorization" not in target.with_key(KEY).headers


def test_a_header_of_the_endpoints_own_goes_first() -> None:
    """In any case, and after another key has come, too."""
    endpoint = an_endpoint(headers={"API-Key": "mine"}, auth="api-key")

    assert key_headers(endpoint) == {}
    assert make_target(endpoint, None, KEY).with_key("other").headers["API-Key"] == "mine"


@pytest.mark.parametrize("auth", ["", "two words", "a:b", "ü", "sk-proj-abcdef", "gsk_abcdef", "Host"])
def test_a_wrong_value(auth: str) -> None:
    """A key that stands there by mistake is not repeated."""
    with pytest.raises(UsageError) as caught:
        make_target(an_endpoint(auth=auth), None, KEY)

    assert str(caught.value).startswith("endpoint gpu: auth ")
    assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize(
    "header", ["api-key", "API-KEY", "x-api-key", "Authorization", "authorization", "X-Goog-Api-Key", "X-Auth-Token"]
)
def test_the_default_key_is_not_for_an_endpoint_with_a_header_of_its_own(header: str) -> None:
    """It may be another provider's; a key that is named for the endpoint does go."""
    endpoint = an_endpoint(headers={header: "mine"})
    named = an_endpoint(headers={header: "mine"}, key_env="MY_KEY")

    assert find_key(endpoint, {"OPENAI_API_KEY": KEY}) is None
    assert find_key(named, {"OPENAI_API_KEY": "other", "MY_KEY": KEY}) == KEY
    assert find_key(an_endpoint(headers={"X-Organization": "o"}), {"OPENAI_API_KEY": KEY}) == KEY

"""Settings of an endpoint, and those that a run has, too: rates and prices."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Annotated, Any, ClassVar, Literal

from llmblast.setting_option import option
from llmblast.setting_values import (
    COUNT,
    DIRECTORY,
    DURATION,
    FILE,
    JSON_OBJECT,
    NAME,
    PER_DAY,
    PER_MINUTE,
    PER_SECOND,
    RAW_NAME,
    Ge,
    Gt,
    Lt,
)

PerSecond = Annotated[float, Gt(0), Lt(1e12), PER_SECOND]
PerMinute = Annotated[float, Gt(0), Lt(1e12), PER_MINUTE]
PerDay = Annotated[float, Gt(0), Lt(1e12), PER_DAY]
Seconds = Annotated[float, Gt(0), Lt(1e9), DURATION]
SecondsOrZero = Annotated[float, Ge(0), Lt(1e9), DURATION]
Price = Annotated[float, Ge(0), Lt(1e9), COUNT]
MAX_COUNT = 10**12
Count = Annotated[int, Ge(1), Lt(MAX_COUNT)]
File = Annotated[str, FILE]
Name = Annotated[str, NAME]
RawName = Annotated[str, RAW_NAME]
Directory = Annotated[str, DIRECTORY]
Defer = Literal["batch", "flex"]

MOCK_SCHEME = "mock"
DEFAULT_DISCOUNT = 0.5
"""What OpenAI, Anthropic, Gemini and Mistral charge for a batch, and OpenAI for its flex tier, of the normal price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """Limits and prices of a run or of one endpoint. Their options set those of the run. `batch_price` and `flex_price`
    are shares of the normal price.
    """

    rps: PerSecond | None = option(
        None, "-r --rps --max_requests_per_second", "Limits", "Requests per second, over all endpoints.", in_check=True
    )
    rpm: PerMinute | None = option(
        None, "--rpm --max_requests_per_minute", "Limits", "Requests per minute, over all endpoints.", in_check=True
    )
    rpd: PerDay | None = option(None, "--rpd", "Limits", "Requests in any 24 hours, over all endpoints.", in_check=True)
    tpm: PerMinute | None = option(
        None, "--tpm --max_tokens_per_minute", "Limits", "Tokens per minute, over all endpoints.", in_check=True
    )
    itpm: PerMinute | None = option(
        None, "--itpm", "Limits", "Prompt tokens per minute, over all endpoints.", in_check=True
    )
    otpm: PerMinute | None = option(
        None, "--otpm", "Limits", "Answer tokens per minute, over all endpoints.", in_check=True
    )
    concurrency: Count | None = None
    price_in: Price | None = option(
        None, "--price-in", "Endpoints", "Price of a million prompt tokens, for the summary.", in_check=True
    )
    price_out: Price | None = option(
        None, "--price-out", "Endpoints", "Price of a million answer tokens.", in_check=True
    )
    price_cached: Price | None = option(
        None,
        "--price-cached",
        "Endpoints",
        "Price of a million prompt tokens from the provider's cache.",
        in_check=True,
    )
    batch_price: Price | None = option(
        None,
        "--batch-price",
        "Endpoints",
        "What the batch API costs, as a share of the price.",
        shown_default=f"{DEFAULT_DISCOUNT:g}",
        in_check=True,
    )
    flex_price: Price | None = option(
        None,
        "--flex-price",
        "Endpoints",
        "What the flex tier costs, as a share of the price.",
        shown_default=f"{DEFAULT_DISCOUNT:g}",
        in_check=True,
    )

    @property
    def requests_per_s(self) -> float:
        """Return the lowest rate of requests that is set; infinity where none is."""
        return min(self.rps or inf, (self.rpm or inf) / 60)

    @property
    def has_rate(self) -> bool:
        """Return whether any rate is set."""
        rates = (self.rps, self.rpm, self.rpd, self.tpm, self.itpm, self.otpm)
        return any(rate is not None for rate in rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomSettings:
    """An API in settings: the body of its requests, and JSON pointers (RFC 6901) into its replies.

    In `body`, `{prompt}`, `{system}`, `{model}`, `{images}`, `{params}` and `{params.NAME}` are filled in.
    `key_header` is a header such as `Authorization: Token {key}`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    body: Annotated[Mapping[str, Any], JSON_OBJECT]
    text: str
    finish_reason: str | None = None
    usage: str | None = None
    prompt_tokens: str | None = None
    completion_tokens: str | None = None
    model: str | None = None
    error: str | None = None
    error_code: str | None = None
    key_header: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings(RateSettings):
    """Settings of one endpoint, with its own limits.

    `charge` tells what the provider charges to its token limits: the tokens used, or `max_tokens` in advance. Endpoints
    with the same `quota` share one account: a rate-limit reply to one pauses all of them. The key is read again every
    `key_refresh` seconds. `auth` is `bearer`, or the header for the key. `proxy` is a URL, or `none` for a direct
    connection in spite of the environment. `ca_file` adds trusted certificates to the system's. `kind` is the API of
    the endpoint, `custom` describes one that llmblast does not know. `unix_socket` is the file at which a server of
    this machine listens. `defer` sends deferred lines through the endpoint's batch API, or in its flex tier.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "str_strip_whitespace": True}

    url: str
    name: Name = ""
    kind: str | None = None
    weight: Annotated[float, Gt(0), Lt(1e9), COUNT] = 1.0
    model: Name | None = None
    burst: SecondsOrZero | None = None
    adaptive: bool | None = None
    charge: Literal["usage", "max_tokens"] = "usage"
    quota: Name | None = None
    key_env: Name | None = None
    key_file: RawName | None = None
    key_command: RawName | None = None
    key_refresh: Seconds | None = None
    auth: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    proxy: str | None = None
    ca_file: RawName | None = None
    client_cert: RawName | None = None
    client_key: RawName | None = None
    custom: CustomSettings | None = None
    unix_socket: RawName | None = None
    defer: Defer | None = None

    @property
    def is_adaptive(self) -> bool:
        """Return whether limits are learned from push-back; by default they are where no rate is set."""
        return not self.has_rate if self.adaptive is None else self.adaptive

    @property
    def can_refresh_key(self) -> bool:
        """Return whether the API key can be read again during a run; a variable keeps its first value."""
        return not (self.is_mock or self.key_env) and bool(self.key_file or self.key_command)

    @property
    def is_mock(self) -> bool:
        """Return whether the built-in mock provider answers."""
        return self.url.startswith(f"{MOCK_SCHEME}:")


_TOML_ONLY = ("headers", "custom")
URL_SETTINGS = tuple(entry.name for entry in fields(EndpointSettings) if entry.name not in ("url", *_TOML_ONLY))
"""Settings that may follow the URL of an endpoint on the command line."""

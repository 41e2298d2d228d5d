"""The contract of a provider: what the rest of the program asks of an API, whichever it is."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeGuard

from llmblast.models import Answer, Prompt, RateLimitInfo, Reply, ReplyError, Request


@dataclass(frozen=True, slots=True)
class SchemaMember:
    """The member by which raw bodies of one dialect ask for answers that fit a schema.

    `names` are its spellings, the usual one first; `value` is a JSON object. A body that has one of the members `own`,
    or one of the members `own_inside` in a member of that name, has a form of its own and stays as it is.
    """

    names: tuple[str, ...]
    value: bytes
    own: frozenset[str] = frozenset()
    own_inside: frozenset[str] = frozenset()


class UnsupportedError(Exception):
    """A provider's API has no words for a part of a prompt; the text says which."""


class Provider(Protocol):
    """One API: how a request is written, what a reply, an error and a rate-limit header mean. Only `render` raises."""

    kind: str
    """The name that the setting `kind` of an endpoint has for it."""
    dialects: Mapping[str, str]
    """The raw bodies that it takes as they are: their dialects, each with the path that they go to."""
    hosts: Collection[str]
    """Hosts that speak no other API unless told."""
    key_env: str
    """The variable with its API key. A provider may have an `other_key_env` for where that is not set."""
    headers: Mapping[str, str]
    """Headers that each request needs."""

    def base_url(self, url: str) -> str:
        """Return the base of an endpoint's URL, which paths are appended to."""

    def names_path(self, url: str) -> bool:
        """Return whether the URL shows this API: by the path at its end, or by host and path."""

    def auth_header(self, url: str, key: str) -> tuple[str, str]:
        """Return name and value of the header that brings the key."""

    def unsupported_in(self, prompt: Prompt) -> str | None:
        """Return what the API has no words for, if anything."""

    def render(self, prompt: Prompt) -> tuple[str, bytes]:
        """Return path and body, without a model. Raises UnsupportedError, and JSONEncodeError for what is no JSON."""

    def read_answer(self, request: Request, reply: Reply) -> Answer | ReplyError:
        """Return the answer in a 2xx reply, or what is wrong with it."""

    def read_error(self, reply: Reply) -> ReplyError:
        """Return what the body of a reply that is not 2xx says."""

    def named_wait_s(self, error: ReplyError, reply: Reply, wall_now_s: float) -> float | None:
        """Return the seconds to wait that an error names in its body, 0 or more; None where it names none."""

    def read_limits(self, headers: Collection[tuple[bytes, bytes]], wall_now_s: float) -> list[RateLimitInfo]:
        """Return one `RateLimitInfo` for each limit that the headers of a reply report."""


class PathProvider(Provider, Protocol):
    """A provider whose URLs name the model, and whose bodies do not: `MODEL_PLACE` stands for it in paths."""

    body_prefix: bytes
    """Replaces the opening brace of a body; empty where the API wants nothing more in it."""

    def path_for(self, path: str, model: str) -> str:
        """Return the path with the model in it; a path that has one already stays."""

    def model_in(self, url: str) -> str | None:
        """Return the model that the URL of an endpoint names, if it does."""


class FlexProvider(Provider, Protocol):
    """A provider with a tier that is cheaper, slower and not always there."""

    flex_member: bytes
    """The member of a body that asks for it."""
    flex_paths: tuple[str, ...]
    """Ends of the paths whose bodies may have it."""


class Signer(Protocol):
    """Signs the requests to one endpoint, in headers that depend on the URL and the body. Never blocks for long."""

    secrets: Sequence[str]
    """What must not appear in any text, as replies may repeat it."""

    def sign(self, url: str, body: bytes) -> Mapping[str, str]:
        """Return the headers to add to a `POST` of `body`."""

    def on_renewal(self, hide: Callable[[Sequence[str]], None]) -> None:
        """Call `hide` with the secrets of each renewed credential before it is used."""


class SigningProvider(Provider, Protocol):
    """A provider whose requests are signed where the endpoint has no key."""

    def new_signer(self, name: str, url: str, environ: Mapping[str, str]) -> Signer:
        """Return the signer for the endpoint `name`. Raises UsageError where there is no credential. May block."""


MODEL_PLACE: Final = "{model}"


def writes_model(provider: Provider) -> bool:
    """Return whether a provider itself writes the model into its bodies, wherever that stands in them."""
    return getattr(provider, "writes_model", False) is True


def names_model_in_path(provider: Provider) -> TypeGuard[PathProvider]:
    """Return whether the URLs of a provider name the model."""
    return hasattr(provider, "path_for")


def has_flex(provider: Provider) -> TypeGuard[FlexProvider]:
    """Return whether a provider has a flex tier."""
    return hasattr(provider, "flex_member")


def can_sign(provider: Provider) -> TypeGuard[SigningProvider]:
    """Return whether a provider signs its requests."""
    return hasattr(provider, "new_signer")

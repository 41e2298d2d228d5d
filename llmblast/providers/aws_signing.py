"""Signatures of AWS, version 4, by botocore's signer with the credentials that its chain finds.

The chain is that of AWS's own tools: variables, `AWS_PROFILE` and its files, SSO, a process, a container, a machine.
Credentials that expire are asked for again in a thread, long before they do.
Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any

from llmblast.errors import UsageError

SERVICE = "bedrock"
RECHECK_S = 60.0
"""How long credentials are used before the chain is asked again; it renews them 10 to 15 minutes before they expire."""
MAX_UNCHECKED_S = 300.0
"""After so long without a check, such as a sleep of the machine, a request waits for the chain."""
_FIX = (
    "export AWS_BEARER_TOKEN_BEDROCK=..., or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or choose a profile with "
    "AWS_PROFILE; `aws sts get-caller-identity` shows whether they work"
)


class AwsSigner:
    """Signs the requests to one endpoint; `region` is the one in its URL, else the chain names it.

    Raises UsageError without botocore, a region or credentials.
    """

    def __init__(
        self,
        name: str,
        region: str | None,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        session: Any = None,
    ) -> None:
        try:
            from botocore import session as sessions  # noqa: PLC0415 -- an extra
            from botocore.auth import SigV4Auth  # noqa: PLC0415 -- an extra
            from botocore.awsrequest import AWSRequest  # noqa: PLC0415 -- an extra
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415 -- an extra
        except ImportError:
            raise UsageError(
                f"endpoint {name}: signatures of AWS need one more package: pip install 'llmblast[aws]' "
                "(or export AWS_BEARER_TOKEN_BEDROCK=...)"
            ) from None
        self._clock = clock
        self._new_request, self._new_auth, self._failures = AWSRequest, SigV4Auth, BotoCoreError
        self._hide: Callable[[Sequence[str]], None] | None = None
        self._renewed: Any = None
        self._check: Thread | None = None
        session = session or sessions.Session()
        try:
            self._region = region or environ.get("AWS_REGION") or session.get_config_variable("region")
            self._chain: Any = session.get_credentials()
            self._credentials: Any = None if self._chain is None else self._chain.get_frozen_credentials()
        except BotoCoreError as error:
            raise UsageError(f"endpoint {name}: no AWS credentials: {error}: {_FIX}") from None
        if self._credentials is None or not self._credentials.access_key:
            raise UsageError(f"endpoint {name}: no AWS credentials: {_FIX}")
        if not self._region:
            raise UsageError(f"endpoint {name}: no AWS region: export AWS_REGION=..., or use a URL that has one")
        self._checked_s = clock()
        self.secrets: Sequence[str] = _secrets_of(self._credentials)

    def on_renewal(self, hide: Callable[[Sequence[str]], None]) -> None:
        self._hide = hide

    def sign(self, url: str, body: bytes) -> Mapping[str, str]:
        """See `Signer`. Host and time are signed, and the session token where there is one."""
        age_s = self._clock() - self._checked_s
        if age_s > RECHECK_S:
            self._renew(may_block=age_s > MAX_UNCHECKED_S)
        if self._renewed is not None:
            self._adopt()
        request = self._new_request("POST", url, {}, body)
        self._new_auth(self._credentials, SERVICE, self._region).add_auth(request)
        return dict(request.headers.items())

    def _renew(self, *, may_block: bool) -> None:
        """Ask the chain for credentials, in a thread unless the present ones may have expired."""
        if self._check is None or not self._check.is_alive():
            self._checked_s = self._clock()
            self._check = Thread(target=self._ask, name="llmblast-credentials", daemon=True)
            self._check.start()
        if may_block:
            self._check.join()

    def _ask(self) -> None:
        try:
            self._renewed = self._chain.get_frozen_credentials()
        except self._failures:
            self._renewed = None  # the present ones stay in use; if they are expired, the provider's error says so

    def _adopt(self) -> None:
        renewed, self._renewed = self._renewed, None
        if renewed == self._credentials:
            return
        if self._hide is not None:
            self._hide(_secrets_of(renewed))
        self._credentials = renewed


def _secrets_of(credentials: Any) -> Sequence[str]:
    return [text for text in (credentials.secret_key, credentials.token) if text]

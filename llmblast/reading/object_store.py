"""Object stores: read an object from S3, Google Cloud Storage or Azure with obstore, the extra `remote`.

obstore tries again, goes on where a connection broke, and takes credentials from the environment: AWS_..., GOOGLE_...
and AZURE_STORAGE_... Its messages may repeat requests, so only their first line is shown, without queries.
"""

import os
import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from llmblast.input_paths import scheme_of
from llmblast.reading.stores import Part, RemovedError

if TYPE_CHECKING:  # these two are only for type checkers
    from obstore import GetResult
    from obstore.store import ClientConfig, RetryConfig

CHUNK_BYTES = 64 * 1024
_RETRIES: "RetryConfig" = {"max_retries": 6, "retry_timeout": timedelta(minutes=2)}
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_MAX_SHOWN = 300
_IN_A_REQUEST = re.compile(r"\?\S+|(?<=://)[^\s/@]+@")


class ObjectStore:
    """One object, by its URL: `s3://BUCKET/KEY`. The key is taken as it is written, without percent codes."""

    def __init__(self, url: str) -> None:
        scheme = scheme_of(url)
        bucket, _, self._key = url[len(scheme) + len("://") :].partition("/")
        self._variables = _VARIABLES.get(scheme[:2], _VARIABLES["az"])
        self._bucket = f"{scheme}://{bucket}"

    async def open_at(self, offset: int, tag: str | None) -> Part:
        """Open the object. Raises RemovedError: obstore has tried again."""
        if not self._key:
            raise RemovedError("it names a bucket: name an object in it")
        try:
            options: ClientConfig = {"allow_http": True} if _names_http(os.environ) else {}
            store = from_url(self._bucket, retry_config=_RETRIES, client_options=options)
            result = await obstore.get_async(store, self._key)
        except (BaseError, OSError, ValueError) as error:
            raise self._explain(error) from None
        return Part(result.meta["size"], result.meta["e_tag"], self._chunks(result), _do_nothing)

    async def close(self) -> None:
        """Do nothing: the connections belong to obstore."""

    async def _chunks(self, result: "GetResult") -> AsyncIterator[bytes]:
        try:
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except (BaseError, OSError, ValueError) as error:
            raise self._explain(error) from None

    def _explain(self, error: Exception) -> RemovedError:
        if isinstance(error, FileNotFoundError):
            has_pattern = "; patterns work for local files only" if "*" in self._key else ""
            return RemovedError(f"there is no such object: correct the URL{has_pattern}")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return RemovedError(f"it is not allowed: set {self._variables}")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return RemovedError(f"{_IN_A_REQUEST.sub('', reason)[:_MAX_SHOWN]}: credentials come from {self._variables}")


def _names_http(environ: Mapping[str, str]) -> bool:
    """Return whether a variable names a server of plain http, such as MinIO on this machine: obstore refuses these."""
    return any(
        name.startswith(("AWS_ENDPOINT", "AZURE_")) and value.startswith("http://") for name, value in environ.items()
    )


async def _do_nothing() -> None:
    """Close nothing."""

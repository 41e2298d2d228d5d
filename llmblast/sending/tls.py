"""TLS: load and check the certificates that an endpoint's settings and the environment name."""

import ssl
from collections.abc import Mapping, Sequence
from os.path import isdir
from pathlib import Path

from llmblast.endpoint_settings import EndpointSettings
from llmblast.errors import UsageError
from llmblast.hiding import shown_file

_HTTPS = "https://"


def new_tls_context(endpoint: EndpointSettings) -> ssl.SSLContext | None:
    """Return the context of an endpoint with certificates of its own, None for the default.

    Raises UsageError. Reads files.
    """
    names = [name for name in ("ca_file", "client_cert", "client_key") if getattr(endpoint, name)]
    if not names or endpoint.is_mock:
        return None
    if not endpoint.url.lower().startswith(_HTTPS):
        raise UsageError(
            f"endpoint {endpoint.name}: {names[0]} is for https:// URLs only: remove it, or write https://"
        )
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if endpoint.ca_file:
        _trust(context, endpoint, endpoint.ca_file)
    if endpoint.client_key and not endpoint.client_cert:
        raise UsageError(
            f"endpoint {endpoint.name}: client_key needs client_cert=FILE, the certificate that it belongs to"
        )
    if endpoint.client_cert:
        _load_client_certificate(context, endpoint, endpoint.client_cert)
    return context


def _trust(context: ssl.SSLContext, endpoint: EndpointSettings, path: str) -> None:
    _check_readable(endpoint, "ca_file", path)
    try:
        context.load_verify_locations(str(Path(path).expanduser()))
    except (ssl.SSLError, ValueError):
        raise UsageError(
            f"endpoint {endpoint.name}: ca_file {shown_file(path)}: has no certificate in it: name a PEM file"
        ) from None


def _load_client_certificate(context: ssl.SSLContext, endpoint: EndpointSettings, path: str) -> None:
    _check_readable(endpoint, "client_cert", path)
    if endpoint.client_key:
        _check_readable(endpoint, "client_key", endpoint.client_key)
    place = f"endpoint {endpoint.name}: client_cert {shown_file(path)}"
    key_path = Path(endpoint.client_key or path).expanduser()
    try:
        context.load_cert_chain(Path(path).expanduser(), key_path, password=lambda: "")
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "KEY_VALUES_MISMATCH" in reason or "KEY_TYPE_MISMATCH" in reason:
            raise UsageError(f"{place}: client_key belongs to another certificate: name the key of this one") from None
        if _is_encrypted(key_path):
            raise UsageError(f"{place}: its key is encrypted: name a client_key=FILE without a passphrase") from None
        missing = "" if endpoint.client_key else ", or its key is in another file: add client_key=FILE"
        what = "client_cert or client_key is not a" if endpoint.client_key else "it is not a"
        raise UsageError(f"{place}: {what} PEM file of a certificate with its key{missing}") from None
    except ValueError:
        raise UsageError(f"{place}: its key is encrypted: name a client_key=FILE without a passphrase") from None


def _is_encrypted(path: Path) -> bool:
    return b"ENCRYPTED" in path.read_bytes()


def _check_readable(endpoint: EndpointSettings, setting: str, path: str) -> None:
    try:
        with open(Path(path).expanduser(), "rb") as file:
            file.read(1)
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a file name"
        raise UsageError(f"endpoint {endpoint.name}: {setting} {shown_file(path)} cannot be read: {reason}") from None


def certificate_notes(environ: Mapping[str, str]) -> Sequence[str]:
    """Return warnings about the variables that name trusted certificates: OpenSSL silently ignores wrong ones."""
    notes = []
    paths = ssl.get_default_verify_paths()
    file, folders = environ.get(paths.openssl_cafile_env), environ.get(paths.openssl_capath_env)
    if file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except ssl.SSLError:
            notes.append(f"{paths.openssl_cafile_env} {shown_file(file)}: has no certificate in it and is not used")
        except OSError as error:
            notes.append(
                f"{paths.openssl_cafile_env} {shown_file(file)}: cannot be read and is not used: {error.strerror}"
            )
    missing = [folder for folder in (folders or "").split(":") if folder and not isdir(folder)]
    if missing:
        notes.append(f"{paths.openssl_capath_env} {shown_file(missing[0])}: is not a directory and is not used")
    return notes

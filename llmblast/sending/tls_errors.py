"""TLS errors: explain a failed handshake and its fix to a person."""

from llmblast.sending.foreign_protocols import HTTP2_ONLY

_SELF_SIGNED = (18, 19)
_UNKNOWN_ISSUER = (2, 20, 21)
_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_NAME = (62, 64)
"""X509_V_ERR_... of OpenSSL: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/"""
CUT_HANDSHAKE = (
    "the server ended the handshake: it may want a client certificate (set client_cert=FILE), or shares no cipher"
)
_PROBLEMS = (
    (
        (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
            "RECORD_LAYER_FAILURE",
            "PACKET_LENGTH_TOO_LONG",
            "UNEXPECTED_MESSAGE",
        ),
        "the server does not speak TLS: write its URL with http://",
    ),
    (
        ("CERTIFICATE_REQUIRED", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        "the server wants a client certificate: set client_cert=FILE, and client_key=FILE for a separate key",
    ),
    (
        (
            "ALERT_UNKNOWN_CA",
            "ALERT_BAD_CERTIFICATE",
            "ALERT_CERTIFICATE_UNKNOWN",
            "ALERT_CERTIFICATE_EXPIRED",
            "ALERT_CERTIFICATE_REVOKED",
            "ALERT_UNSUPPORTED_CERTIFICATE",
            "ALERT_ACCESS_DENIED",
        ),
        "the server rejects the client certificate: check client_cert",
    ),
    (
        ("NO_APPLICATION_PROTOCOL",),
        HTTP2_ONLY,
    ),
    (
        ("HANDSHAKE_FAILURE",),
        CUT_HANDSHAKE,
    ),
    (
        ("UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"),
        "the server speaks no TLS version that is allowed here: enable TLS 1.2 or 1.3 at the server",
    ),
    (("UNRECOGNIZED_NAME",), "the server does not know this host name: check the host in the URL"),
)
"""Parts of OpenSSL's reasons, and their meaning for a person."""


def explain_certificate(error: Exception, host: str | None) -> str:
    """Explain to a person why a server's certificate cannot be verified, with the fix."""
    code = getattr(error, "verify_code", 0)
    message = (getattr(error, "verify_message", "") or str(error)).rstrip(".")
    if code in _SELF_SIGNED:
        return f"{message}: if you trust it, set ca_file=FILE to the server's certificate or to its issuer's"
    if code in _UNKNOWN_ISSUER:
        return f"{message}: its issuer is not known here: set ca_file=FILE to the issuer's certificate"
    if code == _EXPIRED:
        return f"{message}: renew it at the server, or check this machine's clock"
    if code == _NOT_YET_VALID:
        return f"{message}: check this machine's clock"
    if code in _WRONG_NAME or "mismatch" in message.lower():
        return f"{message}: write the host name of the certificate in the URL instead of {host}"
    return message


def explain_tls(error: BaseException) -> str:
    """Explain to a person why a handshake failed, with the fix."""
    reason = (getattr(error, "reason", "") or "").upper()
    for parts, problem in _PROBLEMS:
        if any(part in reason for part in parts):
            return problem
    return str(getattr(error, "strerror", None) or error)

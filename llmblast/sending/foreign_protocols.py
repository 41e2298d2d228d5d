"""Foreign protocols: recognise servers that do not speak HTTP/1.1 by the first bytes that they send.

Such a server has not understood the request, which therefore counts as not sent and is not billed.
"""

HTTP2_ONLY = "the server speaks HTTP/2 only: enable HTTP/1.1 at the server, or put a proxy in front of it"
SPEAKS_TLS = "the server speaks TLS: write its URL with https://"
TLS_PORTS = (443, 4443, 8443, 9443)
"""Ports that usually have TLS."""
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
_HTTP2_SETTINGS, _HTTP2_GOAWAY = 4, 7
_HTTP2_HEAD_BYTES = 9
_MAX_FIRST_FRAME_BYTES = 1024
_GREETINGS = (
    (b"SSH-", "SSH"),
    (b"220 ", "SMTP or FTP"),
    (b"220-", "SMTP or FTP"),
    (b"421 ", "SMTP or FTP"),
    (b"554 ", "SMTP"),
    (b"500 ", "SMTP or FTP"),
    (b"502 ", "SMTP or FTP"),
    (b"+OK", "POP3"),
    (b"* OK", "IMAP"),
    (b"* BYE", "IMAP"),
    (b"-ERR", "Redis"),
    (b"RFB ", "VNC"),
    (b"AMQP", "AMQP"),
    (b"INFO {", "NATS"),
    (b"ERROR\r\n", "memcached"),
    (b"@RSYNCD:", "rsync"),
)
"""First bytes of other protocols: a greeting, or the reply to an unknown command."""
_MYSQL_PACKET = (b"\x00\x00\x00\n", b"\x00\x00\x00\xff")


def hint_at_tls(port: object) -> str:
    """Return a hint for a new connection without TLS that was closed: most TLS servers send no reply to plain HTTP."""
    return "; if it speaks TLS, write its URL with https://" if port in TLS_PORTS else ""


def explain_first_bytes(data: bytes) -> str:
    """Name the protocol of a server by its first bytes, for a person; empty where it is unknown."""
    if data.startswith(_TLS_RECORDS):
        return SPEAKS_TLS
    if _is_http2(data):
        return HTTP2_ONLY
    name = next((name for greeting, name in _GREETINGS if data.startswith(greeting)), "")
    if not name and data[1:5] in _MYSQL_PACKET:
        name = "MySQL"
    return f"the server speaks {name}, not HTTP: check the host and the port in its URL" if name else ""


def _is_http2(data: bytes) -> bool:
    """Return whether the data begin with a frame of SETTINGS or GOAWAY for the connection (RFC 9113 section 4.1)."""
    if len(data) < _HTTP2_HEAD_BYTES:
        return False
    size, kind, stream = int.from_bytes(data[:3], "big"), data[3], int.from_bytes(data[5:9], "big")
    return size <= _MAX_FIRST_FRAME_BYTES and kind in (_HTTP2_SETTINGS, _HTTP2_GOAWAY) and stream == 0

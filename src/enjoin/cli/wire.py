"""One kept HTTPS connection to the control plane."""

import http.client
import os
import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

from enjoin.cli.connection import Connection
from enjoin.cli.failure import UnreachableFailure, UsageFailure

CONNECT_TIMEOUT_S: Final = 10
KEEPALIVE: Final = (  # a peer that vanished without a word is noticed within a minute, however long a script is silent
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
)


def tls(connection: Connection) -> ssl.SSLContext:
    """Return the context that trusts what the connection file says; raise UsageFailure when its CA file is no use."""
    if connection.ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(connection.ca_file))
    except OSError as error:  # SSLError is one: a file without a certificate
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        message = f"cannot use the CA file {connection.ca_file} that {connection.path} names: {reason}"
        raise UsageFailure(message, code="InvalidConnection") from None


class Wire(http.client.HTTPSConnection):
    """An HTTPS connection that can be cut from another thread, through the proxy of the environment if there is one."""

    def __init__(self, endpoint: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname is not None  # the connection file was checked
        proxy = _proxy(parts.hostname, parts.port or 443)
        host, port = proxy or (parts.hostname, parts.port or 443)
        super().__init__(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
        if proxy is not None:
            self.set_tunnel(parts.hostname, parts.port or 443)
        self.endpoint = endpoint
        self._peer: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be written without connecting first."""
        return self.sock is not None

    def connect(self) -> None:
        """Connect; raise UnreachableFailure when what answers cannot prove that it is the control plane."""
        try:
            super().connect()
        except ssl.SSLCertVerificationError as error:
            message = (
                f"the certificate of {self.endpoint} is not trusted: {error.verify_message}; "
                "the connection file must be the one that this control plane wrote"
            )
            raise UnreachableFailure(message, code="CertificateNotTrusted") from None
        self._peer = self.sock
        for level, option, value in KEEPALIVE:
            self.sock.setsockopt(level, option, value)

    def wait_at_most(self, timeout_s: float | None) -> None:
        """Set how long one read or write may take; None for ever."""
        self.sock.settimeout(timeout_s)

    def cut(self) -> None:
        """End the connection under a reader in another thread: it sees the end of the stream."""
        if self._peer is not None:
            try:
                self._peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it was over already


def _proxy(host: str, port: int) -> tuple[str, int] | None:
    """Return the HTTPS proxy of the environment, as curl and the Azure clients use it; None when it does not apply."""
    if not any(name.lower() == "https_proxy" for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass  # rarely needed, slow to import

    proxies = getproxies()
    if "https" not in proxies or proxy_bypass(f"{host}:{port}"):
        return None
    text = proxies["https"]
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme != "http" or parts.hostname is None:
        message = f"HTTPS_PROXY must be http://HOST:PORT without a password, found a {parts.scheme} address"
        raise UsageFailure(message)
    return parts.hostname, parts.port or 80

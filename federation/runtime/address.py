"""Where the broker is and how to reach it: one URL, or its parts."""

import ssl
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from federation.errors import ConfigError

_SCHEMES: dict[str, tuple[Literal["tcp", "websockets"], bool, int]] = {
    "mqtt": ("tcp", False, 1883),
    "mqtts": ("tcp", True, 8883),
    "ws": ("websockets", False, 80),
    "wss": ("websockets", True, 443),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files; None of all three means: trust the system's authorities, present no certificate.

    Attributes:
        authority: Certificates that we trust to sign the broker's.
        certificate: Our own certificate chain.
        key: Its private key.
    """

    authority: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """A client context that checks the broker's certificate and host name.

        Raises:
            ConfigError: A file is missing or is not what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as problem:
            raise ConfigError("broker.tls", f"cannot load the certificates: {problem}") from problem
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """One broker.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: Certificates, or None for a plain connection.
        username: For the broker's password file; None is anonymous, or identified by certificate.
        password: Its password.
        transport: ``tcp``, or ``websockets`` where only HTTP passes.
        path: Path of the websocket.
    """

    host: str
    port: int = 1883
    tls: TlsFiles | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"


def parse_broker_url(url: str, *, tls: TlsFiles | None = None, source: str = "configuration") -> BrokerAddress:
    """Read ``mqtt://user:password@host:port``, ``mqtts://``, ``ws://`` or ``wss://``.

    Args:
        url: Without a port the scheme's own is taken (1883, 8883, 80, 443).
        tls: Certificates for ``mqtts`` and ``wss``.
        source: Where the URL came from, for the message of an error.

    Raises:
        ConfigError: Not such a URL, or certificates for a scheme without TLS. The password is never repeated.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise ConfigError("broker.url", f"not a URL: {problem}", source=source) from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError("broker.url", "must begin with mqtt://, mqtts://, ws:// or wss://", source=source)
    if not parts.hostname or parts.query or parts.fragment:
        raise ConfigError("broker.url", "write it as mqtt://user:password@host:port", source=source)
    transport, secure, default_port = _SCHEMES[parts.scheme]
    if transport == "tcp" and parts.path not in {"", "/"}:
        raise ConfigError("broker.url", "a path is only for ws:// and wss://", source=source)
    if tls is not None and not secure:
        raise ConfigError("broker.url", "certificates are given: use mqtts:// or wss://", source=source)
    if port == 0:
        raise ConfigError("broker.url", "port 0 is no port", source=source)
    return BrokerAddress(
        host=parts.hostname,
        port=default_port if port is None else port,
        tls=(tls or TlsFiles()) if secure else None,
        username=_decoded(parts.username),
        password=_decoded(parts.password),
        transport=transport,
        path=_websocket_path(parts),
    )


def _decoded(part: str | None) -> str | None:
    return None if part is None else unquote(part)


def _websocket_path(parts: SplitResult) -> str:
    return parts.path if parts.path not in {"", "/"} else "/mqtt"

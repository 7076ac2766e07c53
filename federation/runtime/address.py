"""Where the broker is and how to reach it: one URL, or its parts."""

import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit

from federation.documents import read_file
from federation.errors import ConfigError

_SCHEMES: dict[str, tuple[Literal["tcp", "websockets"], bool, int]] = {
    "mqtt": ("tcp", False, 1883),
    "mqtts": ("tcp", True, 8883),
    "ws": ("websockets", False, 80),
    "wss": ("websockets", True, 443),
}

PASSWORD_BYTES_MAX = 4_200
"""1,024 characters, a mark in front and a line end, in bytes."""

ALERT_S = 2.0
"""How long a broker may take to look at our certificate, in seconds."""

_ESCAPES = (
    "inside of a user name or password write / as %2F, # as %23, ? as %3F, @ as %40, : as %3A, [ as %5B, ] as %5D and "
    "% as %25, or put the password into a file and name it in broker.password_file"
)
"""A generated password often has one of these, and then the URL means something else."""


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


class TlsContexts:
    """A context for each connection, which the client library takes for one: a new one when a file has changed.

    Args:
        files: Where the certificates and the key are.

    Attributes:
        check_hostname: That each does so: the library asks.

    Raises:
        ConfigError: A file is missing or is not what it should be.
    """

    check_hostname = True

    def __init__(self, files: TlsFiles) -> None:
        self._files, self._marks = files, _marks(files)
        self._context = files.context()

    def renew(self) -> bool:
        """Read the files again if they have changed; whether they had.

        Raises:
            ConfigError: They cannot be used, as while only one of a pair is there: what was read before stays.
        """
        marks = _marks(self._files)
        if marks == self._marks:
            return False
        self._context, self._marks = self._files.context(), marks
        return True

    def wrap_socket(self, plain: socket.socket, **options: Any) -> ssl.SSLSocket:
        """As of the context that was made last."""
        return self._context.wrap_socket(plain, **options)


def _marks(files: TlsFiles) -> tuple[object, ...]:
    """What changes when one of the files does."""
    marks: list[object] = []
    for path in (files.authority, files.certificate, files.key):
        with contextlib.suppress(OSError):
            found = None if path is None else Path(path).stat()
            marks.append(found and (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return tuple(marks)


def alert_of(connect: Callable[[], socket.socket]) -> ssl.SSLError | None:
    """What a broker says over TLS once it has seen our certificate; None where it waits for us, or says nothing.

    While we say CONNECT it may close already: then the system resets the connection, and what it has said is lost.

    Args:
        connect: Makes a connection through our own context.
    """
    try:
        with connect() as secure:
            secure.settimeout(ALERT_S)
            secure.recv(1)
    except ssl.SSLError as error:
        return error
    except (OSError, ValueError):
        return None
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """One broker.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: Certificates, or None for a plain connection.
        username: For the broker's password file; None is anonymous, or identified by certificate.
        password: Its password.
        password_file: Where the password is, for a later connection: it may be changed there.
        transport: ``tcp``, or ``websockets`` where only HTTP passes.
        path: Path of the websocket.
    """

    host: str
    port: int = 1883
    tls: TlsFiles | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"

    @property
    def is_local(self) -> bool:
        """Whether what is said does not leave this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def parse_broker_url(url: str, *, tls: TlsFiles | None = None, source: str = "configuration") -> BrokerAddress:
    """Read ``mqtt://user:password@host:port``, ``mqtts://``, ``ws://`` or ``wss://``.

    Args:
        url: Without a port the scheme's own is taken (1883, 8883, 80, 443).
        tls: Certificates for ``mqtts`` and ``wss``.
        source: Where the URL came from, for the message of an error.

    Raises:
        ConfigError: Not such a URL, or certificates for a scheme without TLS. The password is never repeated.
    """
    parts, port = _split(url, source)
    if parts.scheme not in _SCHEMES:
        raise ConfigError("broker.url", "must begin with mqtt://, mqtts://, ws:// or wss://", source=source)
    transport, secure, default_port = _SCHEMES[parts.scheme]
    if transport == "tcp" and parts.path not in {"", "/"}:
        raise ConfigError("broker.url", f"a path is only for ws:// and wss://; {_ESCAPES}", source=source)
    if tls is not None and not secure:
        raise ConfigError("broker.url", "certificates are given: use mqtts:// or wss://", source=source)
    return BrokerAddress(
        host=parts.hostname or "",
        port=default_port if port is None else port,
        tls=(tls or TlsFiles()) if secure else None,
        username=_decoded(parts.username),
        password=_decoded(parts.password),
        transport=transport,
        path=_websocket_path(parts),
    )


def read_password(path: Path) -> str:
    """The password in a file, without the line end.

    Raises:
        ConfigError: The file cannot be read, or is not one short line.
    """
    try:
        text = read_file(path, bytes_max=PASSWORD_BYTES_MAX).decode("utf-8-sig").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise ConfigError("broker.password_file", f"cannot be read: {error}", source=str(path)) from error
    if not re.fullmatch(r"[^\r\n]{1,1024}", text):
        raise ConfigError("broker.password_file", "must hold one line of at most 1,024 characters", source=str(path))
    return text


def printable_url(url: str) -> str:
    """A broker's URL without its user part, for people and files; what is no such URL is not shown at all."""
    try:
        address = parse_broker_url(url)
    except ConfigError:
        return "(no broker URL)"
    host = f"[{address.host}]" if ":" in address.host else address.host
    path = address.path if address.transport == "websockets" else ""
    return f"{urlsplit(url).scheme}://{host}:{address.port}{path}"


def exposures(address: BrokerAddress, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What others may read on the way or on this machine: an event for the log, and why.

    Args:
        address: The broker's.
        arguments: The command line, which every user of this machine sees in the process list.
    """
    if address.tls is None and not address.is_local:
        why = "models, updates and passwords pass in plain text, and anybody on the way may change them: use mqtts://"
        yield "plain_text", why
    password = address.password
    if password and any(shown in argument for shown in (password, quote(password, safe="")) for argument in arguments):
        yield "password_shown", "a password on the command line is in the process list: use broker.password_file"


def _split(url: str, source: str) -> tuple[SplitResult, int | None]:
    """The parts, and the port; what is after an unescaped / # ? in a password is taken for a path, and refused.

    The library's own words are not passed on: they repeat what it took for the port.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        said = f"not a URL such as mqtt://user:password@host:port; {_ESCAPES}"
        raise ConfigError("broker.url", said, source=source) from None
    misread = bool(parts.query or parts.fragment) or "@" in parts.path
    if parts.scheme in _SCHEMES and (not parts.hostname or misread):
        raise ConfigError("broker.url", f"write it as mqtt://user:password@host:port; {_ESCAPES}", source=source)
    if port == 0:
        raise ConfigError("broker.url", "port 0 is no port", source=source)
    return parts, port


def _decoded(part: str | None) -> str | None:
    return None if part is None else unquote(part)


def _websocket_path(parts: SplitResult) -> str:
    return parts.path if parts.path not in {"", "/"} else "/mqtt"

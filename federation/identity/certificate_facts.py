"""What is wrong with a certificate of a connection, in words.

OpenSSL says that "a certificate has expired", and not which one, nor when: whoever reads that has to find both.
"""

import contextlib
import datetime as dt
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from federation.errors import ConfigError
from federation.identity.certificates import UNREADABLE, common_name
from federation.runtime.address import TlsFiles
from federation.runtime.obstacles import Obstacle

__all__ = ["CertificateFacts", "certificate_shown", "certificates_in", "presented", "rejected", "untrusted"]

PEM_BYTES_MAX = 1 << 20
"""More of a file of authorities is not looked at."""

_DATES = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NAMES = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_CLOCK = "see this machine's clock (NTP)"
_BROKERS = "renew the broker's certificate (coordinator renew FOLDER) and let the broker read it"
_FOREIGN = "see whether this is the right broker; name its authority in broker.tls_authority"
_OWN = "put a new one in its place (coordinator renew, or an enrolment file): it is read at the next attempt"
_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
_ALERT = re.compile(r"^(?:SSLV3|TLSV1|TLSV13)_ALERT_")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What people need to know of one.

    Attributes:
        name: Its common name; empty where it has none.
        issuer: Who signed it.
        begins: From when on it is valid.
        ends: Until when.
        hosts: Names and addresses of which it is.
    """

    name: str
    issuer: str
    begins: dt.datetime
    ends: dt.datetime
    hosts: tuple[str, ...]

    def wrong_date(self, now: dt.datetime) -> str:
        """What is wrong with its dates at ``now``, which has a time zone; empty when nothing is."""
        if now > self.ends:
            return f"ended on {self.ends:%Y-%m-%d %H:%M} UTC"
        if now < self.begins:
            return f"begins on {self.begins:%Y-%m-%d %H:%M} UTC, and this clock says {now:%Y-%m-%d %H:%M}"
        return ""


def certificates_in(path: str | None) -> list[CertificateFacts]:
    """Those of a PEM file, in its order; none where it cannot be read."""
    with contextlib.suppress(OSError, *UNREADABLE):
        if path is not None and Path(path).is_file():
            with Path(path).open("rb") as file:
                return [_read(one) for one in x509.load_pem_x509_certificates(file.read(PEM_BYTES_MAX))]
    return []


def certificate_shown(body: bytes | None) -> CertificateFacts | None:
    """That of a handshake, as DER; None where there is none, or it cannot be read."""
    with contextlib.suppress(*UNREADABLE):
        return None if body is None else _read(x509.load_der_x509_certificate(body))
    return None


def presented(connect: Callable[[ssl.SSLContext], ssl.SSLSocket]) -> CertificateFacts | None:
    """The certificate that a broker shows, whoever has signed it; None where it shows none. Nothing else is said to it.

    Args:
        connect: Makes a connection through this context, which checks nothing.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError, ValueError), connect(context) as secure:
        return certificate_shown(secure.getpeercert(binary_form=True))
    return None


def untrusted(
    error: ssl.SSLError, host: str, files: TlsFiles, shown: Callable[[], CertificateFacts | None], now: dt.datetime
) -> Obstacle:
    """Why a handshake has failed on our side.

    Args:
        error: What the library says.
        host: As what the broker was called.
        files: Whom we trust.
        shown: Fetches the broker's certificate.
        now: With a time zone.
    """
    if not isinstance(error, ssl.SSLCertVerificationError):
        if error.reason in _PLAIN:
            return Obstacle(reason="this port does not speak TLS", remedy="see its number, or write mqtt:// or ws://")
        return rejected(error, files, now) or Obstacle(reason=str(error))
    if error.verify_code in _DATES:
        return _outdated(error, files, shown(), now)
    found = shown()
    if error.verify_code in _NAMES:
        of = f", but for {', '.join(found.hosts) or found.name or 'nobody'}" if found is not None else ""
        remedy = "call it so in broker.url, or give the broker a certificate with this name (coordinator init --host)"
        return Obstacle(reason=f"the broker's certificate is not for {host}{of}", remedy=remedy)
    by = f" ({found.issuer or 'without a name'})" if found is not None else ""
    trusted = "broker.tls_authority" if files.authority else "this system's authorities"
    reason = f"the broker's certificate was signed by an authority{by} that is not in {trusted}: {error.verify_message}"
    return Obstacle(reason=reason, remedy=_FOREIGN)


def _outdated(
    error: ssl.SSLCertVerificationError, files: TlsFiles, shown: CertificateFacts | None, now: dt.datetime
) -> Obstacle:
    named = [(f"the authority {one.name} in broker.tls_authority", one) for one in certificates_in(files.authority)]
    named += [] if shown is None else [(f"the broker's certificate, of {shown.name or host_names(shown)},", shown)]
    for what, one in reversed(named):
        if wrong := one.wrong_date(now):
            remedy = f"{_CLOCK}; if it is right, {_BROKERS}" if wrong.startswith("ended") else _CLOCK
            return Obstacle(reason=f"{what} {wrong}", remedy=remedy)
    return Obstacle(reason=f"the broker's certificate: {error.verify_message}", remedy=f"{_CLOCK}, and {_BROKERS}")


def host_names(one: CertificateFacts) -> str:
    """For what it is, where it has no name."""
    return ", ".join(one.hosts) or "nobody"


def rejected(error: ssl.SSLError | None, files: TlsFiles, now: dt.datetime) -> Obstacle | None:
    """Why a broker may have ended a connection: what it said over TLS of our certificate, and what is wrong with that.

    Args:
        error: What was read in place of an answer; None: nothing.
        files: With our own certificate.
        now: With a time zone.

    Returns:
        None where neither says anything.
    """
    own = certificates_in(files.certificate)[:1]
    wrong = own[0].wrong_date(now) if own else ""
    if wrong:
        whose = f"our certificate broker.tls_certificate, of {own[0].name}, {wrong}"
        return Obstacle(reason=f"{whose}: the broker does not take it", remedy=_OWN if "ended" in wrong else _CLOCK)
    said = (error.reason or "") if error is not None else ""
    if not _ALERT.match(said):
        return None
    words = _ALERT.sub("", said).replace("_", " ").lower()
    ours = f" (ours, of {own[0].name}, ends on {own[0].ends:%Y-%m-%d})" if own else ""
    return Obstacle(reason=f"the broker refuses over TLS: {words}{ours}", remedy=_remedy(words, own=bool(own)))


def _remedy(words: str, *, own: bool) -> str:
    if "required" in words or not own:
        return "it wants a certificate of ours: see broker.tls_certificate and broker.tls_key"
    match words:
        case "unknown ca":
            return "it does not trust the authority of broker.tls_certificate: ask for an enrolment file of its own"
        case "certificate revoked":
            return "this certificate was revoked: ask for a new enrolment file"
        case "certificate expired":
            return f"by the broker's clock it has ended: see both clocks; {_OWN}"
    return "see broker.tls_certificate, and the broker's own log"


def _read(certificate: x509.Certificate) -> CertificateFacts:
    return CertificateFacts(
        name=_name_of(certificate),
        issuer=_text(certificate.issuer.rfc4514_string()),
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
        hosts=tuple(_hosts(certificate)),
    )


def _name_of(certificate: x509.Certificate) -> str:
    with contextlib.suppress(ConfigError):
        return _text(common_name(certificate))
    return _text(certificate.subject.rfc4514_string())


def _hosts(certificate: x509.Certificate) -> Iterator[str]:
    with contextlib.suppress(x509.ExtensionNotFound, *UNREADABLE):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        yield from map(_text, names.get_values_for_type(x509.DNSName))
        yield from map(str, names.get_values_for_type(x509.IPAddress))


def _text(said: str) -> str:
    """Whoever makes a certificate chooses its names: a line of a log, and no more."""
    return "".join(filter(str.isprintable, said))[:100]

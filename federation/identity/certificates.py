"""X.509 certificates of one federation: made and read as values, without a file and without a clock (RFC 5280).

A certificate's common name (CN) is the client's whole identity: node id, MQTT client id and topic level are the same
text. Keys are ECDSA P-256: every TLS library on every device has it.
"""

import datetime as dt
import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import DuplicateExtension, InvalidVersion
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import ConfigError

__all__ = [
    "AUTHORITY_DAYS",
    "BACKDATED",
    "CERTIFICATE_DAYS",
    "LIST_BYTES_MAX",
    "UNREADABLE",
    "Identity",
    "Purpose",
    "Revoked",
    "check_identity",
    "common_name",
    "distinguished_name",
    "issue",
    "key_text",
    "list_begin",
    "listed_serials",
    "new_authority",
    "new_identity",
    "new_key",
    "parsing",
    "read_certificate",
    "read_identity",
    "read_key",
    "revocation_list",
]

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
PEM_BYTES_MAX = 16_384
"""A certificate or key of ours has about 900 bytes; a file beyond this is not one."""

LIST_BYTES_MAX = 32 << 20
"""A revocation list has about 50 bytes for each entry."""

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, InternalError, InvalidVersion, DuplicateExtension)
"""What the library raises where it finds a certificate, a request or a key odd: one bit may make another kind of it."""

BACKDATED = dt.timedelta(days=1)
"""A device whose clock is some hours behind must not find its new certificate "not yet valid"."""


class Purpose(Enum):
    """What a certificate may be used for; the other use is refused by TLS itself."""

    BROKER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> str:
        """Public."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def key_pem(self) -> str:
        """Secret: see `key_text`."""
        return key_text(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """One entry of a revocation list."""

    serial: int
    at: dt.datetime


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key for a certificate."""
    return ec.generate_private_key(ec.SECP256R1())


def key_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Secret, PKCS #8 without a passphrase: devices start without a person."""
    kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, kind, plain).decode("ascii")


def new_authority(name: str, *, now: dt.datetime, days: int = AUTHORITY_DAYS) -> Identity:
    """A self-signed authority that may sign certificates and revocation lists, but no further authority."""
    key = new_key()
    subject = distinguished_name(name)
    builder = _builder(subject, subject, key.public_key(), now, days).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    return Identity(certificate=builder.sign(key, hashes.SHA256()), key=key)


def new_identity(
    authority: Identity,
    name: str,
    *,
    purpose: Purpose,
    now: dt.datetime,
    days: int = CERTIFICATE_DAYS,
    hosts: Sequence[str] = (),
) -> Identity:
    """A new key and a certificate for it: see `issue`."""
    key = new_key()
    made = issue(authority, name, key.public_key(), purpose=purpose, now=now, days=days, hosts=hosts)
    return Identity(certificate=made, key=key)


def issue(  # noqa: PLR0913 - what a certificate says
    authority: Identity,
    name: str,
    key: ec.EllipticCurvePublicKey,
    *,
    purpose: Purpose,
    now: dt.datetime,
    days: int = CERTIFICATE_DAYS,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """A certificate for somebody's public key.

    Args:
        authority: Signs.
        name: The common name.
        key: Whose private half only the owner of the name has.
        purpose: Broker or client.
        now: Begin of the validity, with a time zone.
        days: Its length; never beyond the authority's own.
        hosts: Names and addresses under which a broker is reached.

    Raises:
        ConfigError: The authority has expired.
    """
    issuer = authority.certificate
    if now >= issuer.not_valid_after_utc:
        raise ConfigError("authority", f"its certificate ended on {issuer.not_valid_after_utc:%Y-%m-%d}")
    builder = (
        _builder(distinguished_name(name), issuer.subject, key, now, days, latest=issuer.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose.value]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
        )
    return builder.sign(authority.key, hashes.SHA256())


def revocation_list(authority: Identity, revoked: Sequence[Revoked], *, begins: dt.datetime) -> str:
    """The authority's revocation list as PEM.

    It ``begins`` in the past and is valid as long as the authority: a broker whose list is not valid refuses every
    client, and the list is replaced at each revocation anyway.
    """
    issuer = authority.certificate
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(begins)
        .next_update(issuer.not_valid_after_utc)
    )
    for entry in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(entry.at).build()
        )
    signed = builder.sign(authority.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode("ascii")


def list_begin(pem: str) -> dt.datetime:
    """When a revocation list begins.

    Raises:
        ConfigError: It is none.
    """
    return _read_list(pem).last_update_utc


def listed_serials(pem: str) -> set[int]:
    """The serial numbers of the certificates in a revocation list.

    Raises:
        ConfigError: It is none.
    """
    return {entry.serial_number for entry in _read_list(pem)}


def _read_list(pem: str) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl(pem.encode())
    except UNREADABLE as error:
        raise ConfigError("revocation list", f"is damaged: {error}") from error


def common_name(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The one common name of a subject.

    Raises:
        ConfigError: There is none, or more than one.
    """
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise ConfigError("certificate", f"its subject has {len(names)} common names, not one")
    return str(names[0].value)


@contextmanager
def parsing(source: str) -> Iterator[None]:
    """Turn every way in which the library finds a certificate, a request or a key odd into a `ConfigError`."""
    try:
        yield
    except UNREADABLE as error:
        raise ConfigError(source, f"a certificate or key in it is damaged: {error}") from error


def read_certificate(pem: str, *, source: str = "certificate") -> x509.Certificate:
    """One certificate.

    Raises:
        ConfigError: It is not one; ``source`` says which.
    """
    try:
        return x509.load_pem_x509_certificate(_bounded(pem, source))
    except UNREADABLE as error:
        raise ConfigError(source, f"is not a PEM certificate: {error}") from error


def read_identity(certificate_pem: str, key_pem: str, *, source: str = "certificate") -> Identity:
    """A certificate with its key.

    Raises:
        ConfigError: One of them is malformed, the key is of another kind, or they do not belong together.
    """
    certificate, key = read_certificate(certificate_pem, source=source), read_key(key_pem, source=source)
    with parsing(source):
        belong = key.public_key() == certificate.public_key()
    if not belong:
        raise ConfigError(source, "certificate and private key do not belong together")
    return Identity(certificate=certificate, key=key)


def read_key(key_pem: str, *, source: str) -> ec.EllipticCurvePrivateKey:
    """The private key of a certificate.

    Raises:
        ConfigError: It is malformed or of another kind.
    """
    try:
        key = serialization.load_pem_private_key(_bounded(key_pem, source), password=None)
    except UNREADABLE as error:
        # The library's own words may repeat a part of what it was given: this was meant to be a secret.
        raise ConfigError(source, "its private key is not a PEM key without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(source, "its private key is not an elliptic curve key")
    return key


def check_identity(certificate: x509.Certificate, authority: x509.Certificate, *, name: str, now: dt.datetime) -> None:
    """Check that ``authority`` has signed this certificate for ``name``, and that both are valid now.

    Raises:
        ConfigError: Not so; says what is wrong.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (*UNREADABLE, InvalidSignature) as error:
        raise ConfigError("certificate", "was not signed by the authority beside it") from error
    if (own := common_name(certificate)) != name:
        raise ConfigError("certificate", f"is for {own!r}, not for {name!r}")
    for kind, one in (("certificate", certificate), ("authority", authority)):
        if now >= one.not_valid_after_utc:
            raise ConfigError(kind, f"ended on {one.not_valid_after_utc:%Y-%m-%d}: ask for a new enrolment file")
        if now < one.not_valid_before_utc:
            begin = f"{one.not_valid_before_utc:%Y-%m-%d}"
            raise ConfigError(kind, f"begins on {begin}, and this clock says {now:%Y-%m-%d}: set the clock")


def _bounded(pem: str, source: str) -> bytes:
    if len(pem) > PEM_BYTES_MAX:
        raise ConfigError(source, f"larger than {PEM_BYTES_MAX} bytes")
    return pem.encode()


def distinguished_name(name: str) -> x509.Name:
    """A subject with this common name, and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    days: int,
    latest: dt.datetime | None = None,
) -> x509.CertificateBuilder:
    end = now + dt.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end if latest is None else min(end, latest))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

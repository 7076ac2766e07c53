"""Certificates say who somebody is and what for, and what does not belong together is refused."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import ConfigError
from federation.identity.certificates import (
    BACKDATED,
    PEM_BYTES_MAX,
    Purpose,
    Revoked,
    check_identity,
    common_name,
    list_begin,
    new_authority,
    new_identity,
    read_certificate,
    read_identity,
    revocation_list,
)

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
AUTHORITY = new_authority("ours", now=NOW)
NODE = new_identity(AUTHORITY, "edge-01", purpose=Purpose.CLIENT, now=NOW, days=10)
DAY = dt.timedelta(days=1)


def test_a_nodes_certificate_names_it_and_is_for_clients_only() -> None:
    check_identity(NODE.certificate, AUTHORITY.certificate, name="edge-01", now=NOW)
    usage = NODE.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    constraints = NODE.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert constraints.ca is False


def test_the_brokers_certificate_has_its_names_and_addresses() -> None:
    hosts = ["broker.example", "10.0.0.2", "::1"]
    made = new_identity(AUTHORITY, "broker", purpose=Purpose.BROKER, now=NOW, hosts=hosts).certificate
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == hosts
    assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]


def test_a_certificate_is_valid_for_a_slow_clock_and_never_beyond_its_authority() -> None:
    assert NODE.certificate.not_valid_before_utc == NOW - BACKDATED
    late = new_identity(AUTHORITY, "edge-02", purpose=Purpose.CLIENT, now=NOW, days=100_000)
    assert late.certificate.not_valid_after_utc == AUTHORITY.certificate.not_valid_after_utc


def test_an_expired_authority_signs_nothing() -> None:
    with pytest.raises(ConfigError, match="ended on 2036"):
        new_identity(AUTHORITY, "edge-01", purpose=Purpose.CLIENT, now=NOW + dt.timedelta(days=4000))


def test_an_authority_may_not_make_authorities() -> None:
    constraints = AUTHORITY.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


@pytest.mark.parametrize(
    ("moment", "name", "problem"),
    [
        (NOW + 11 * DAY, "edge-01", "ended on 2026-03-11"),
        (NOW - 2 * DAY, "edge-01", "set the clock"),
        (NOW, "edge-02", "is for 'edge-01', not for 'edge-02'"),
    ],
)
def test_a_wrong_time_or_name_is_refused_and_says_why(moment: dt.datetime, name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check_identity(NODE.certificate, AUTHORITY.certificate, name=name, now=moment)


def test_a_foreign_authority_of_the_same_name_did_not_sign_it() -> None:
    with pytest.raises(ConfigError, match="not signed"):
        check_identity(NODE.certificate, new_authority("ours", now=NOW).certificate, name="edge-01", now=NOW)


def test_an_identity_is_read_as_it_was_written() -> None:
    read = read_identity(NODE.certificate_pem, NODE.key_pem)
    assert read.certificate == NODE.certificate
    assert read.key.private_numbers() == NODE.key.private_numbers()


def _rsa_pem() -> str:
    kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(serialization.Encoding.PEM, kind, plain).decode()


@pytest.mark.parametrize(
    ("certificate", "key", "problem"),
    [
        ("", NODE.key_pem, "not a PEM certificate"),
        (NODE.certificate_pem, "secret", "not a PEM key"),
        (NODE.certificate_pem, AUTHORITY.key_pem, "do not belong together"),
        (NODE.certificate_pem, _rsa_pem(), "not an elliptic curve key"),
        ("x" * (PEM_BYTES_MAX + 1), NODE.key_pem, "larger than"),
    ],
    ids=["no certificate", "no key", "another's key", "another kind of key", "too long"],
)
def test_a_wrong_pair_is_refused_without_repeating_the_key(certificate: str, key: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        read_identity(certificate, key)
    assert "secret" not in str(caught.value)


def test_a_subject_with_two_common_names_is_nobody() -> None:
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("edge-01", "edge-02")])
    forged = x509.CertificateBuilder().subject_name(names).issuer_name(AUTHORITY.certificate.subject)
    forged = forged.public_key(NODE.key.public_key()).serial_number(7).not_valid_before(NOW).not_valid_after(NOW + DAY)
    with pytest.raises(ConfigError, match="2 common names"):
        common_name(forged.sign(AUTHORITY.key, hashes.SHA256()))


def test_a_revocation_list_names_the_serials_and_lasts_as_long_as_its_authority() -> None:
    text = revocation_list(AUTHORITY, [Revoked(serial=NODE.certificate.serial_number, at=NOW)], begins=NOW - DAY)
    listed = x509.load_pem_x509_crl(text.encode())
    assert [entry.serial_number for entry in listed] == [NODE.certificate.serial_number]
    assert listed.next_update_utc == AUTHORITY.certificate.not_valid_after_utc
    assert listed.is_signature_valid(AUTHORITY.key.public_key())
    assert list_begin(text) == NOW - DAY


def test_damaged_files_are_refused() -> None:
    with pytest.raises(ConfigError, match="revocation list"):
        list_begin("no list")
    with pytest.raises(ConfigError, match="authority: is not"):
        read_certificate("no certificate", source="authority")

"""A request file proves that its sender has both keys; every other text is refused with a reason."""

import base64
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import ConfigError
from federation.identity.bundle import BUNDLE_BYTES_MAX
from federation.identity.certificates import distinguished_name, new_key
from federation.identity.request import decode_request, encode_request, new_request, request_digest
from federation.identity.signing_keys import SigningKey

KEY, SIGNING, OTHER = new_key(), SigningKey.new(), SigningKey.new()
REQUEST = new_request("edge-04", KEY, SIGNING)
TEXT = encode_request(REQUEST)


def csr_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, name: str = "edge-04") -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(distinguished_name(name))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def with_csr(csr: str) -> dict[str, object]:
    """A request whose proof is right: only the certificate request is what it should not be."""
    return {"csr": csr, "proof": SIGNING.sign(request_digest("edge-04", csr)).hex()}


def unsigned_csr() -> str:
    """One whose signature is another request's."""
    own, other = (x509.load_pem_x509_csr(csr_of(new_key()).encode()) for _ in range(2))
    der = own.public_bytes(serialization.Encoding.DER)
    forged = der.replace(own.signature, other.signature[: len(own.signature)].ljust(len(own.signature), b"\0"))
    pem = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM)
    return pem.decode()


def test_it_is_read_as_it_was_written() -> None:
    read = decode_request(TEXT)
    assert read == REQUEST
    assert read.public_key == KEY.public_key()
    assert "PRIVATE" not in TEXT


@given(st.integers(0, len(TEXT) - 2))
def test_every_prefix_is_refused(length: int) -> None:
    with pytest.raises(ConfigError):
        decode_request(TEXT[:length])


@pytest.mark.parametrize(
    "members",
    [
        {"format": "other"},
        {"version": 2},
        {"more": 1},
        {"node": "edge-05"},
        {"node": "a/b"},
        {"csr": "x"},
        {"csr": csr_of(new_key())},  # the proof is for another one
        {"signing_key": OTHER.public_hex},
        {"proof": "0" * 128},
        with_csr(csr_of(new_key(), "edge-05")),
        with_csr(csr_of(rsa.generate_private_key(65537, 2048))),
        with_csr(csr_of(ec.generate_private_key(ec.SECP384R1()))),
        with_csr(unsigned_csr()),
    ],
    ids="-".join,
)
def test_a_member_that_is_not_what_it_must_be_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        decode_request(json.dumps(json.loads(TEXT) | members))


def test_a_large_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        decode_request(" " * BUNDLE_BYTES_MAX + TEXT)


@given(st.data())
def test_a_damaged_certificate_request_is_refused_and_never_a_traceback(data: st.DataObject) -> None:
    """The library finds some damage only when it is asked for the key, and has errors of its own for that."""
    members = json.loads(TEXT)
    csr = x509.load_pem_x509_csr(members["csr"].encode()).public_bytes(serialization.Encoding.DER)
    body = bytearray(csr)
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    lines = base64.encodebytes(bytes(body)).decode()
    members["csr"] = f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(ConfigError):
        decode_request(json.dumps(members))

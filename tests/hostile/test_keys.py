"""Certificates, keys and requests with one bit turned: refused in one line, whatever the library finds in them."""

import base64
import datetime as dt
import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from federation.errors import ConfigError
from federation.identity.certificates import list_begin, new_authority, read_certificate, read_key, revocation_list
from federation.identity.request import decode_request, encode_request, new_request
from federation.identity.signing_keys import SigningKey, read_public_key, read_signing_key

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
AUTHORITY = new_authority("plant", now=NOW)
SIGNING = SigningKey.new()
REQUEST = json.loads(encode_request(new_request("edge-04", AUTHORITY.key, SIGNING)))

READERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "certificate": (AUTHORITY.certificate_pem, read_certificate),
    "key": (AUTHORITY.key_pem, partial(read_key, source="key")),
    "revocations": (revocation_list(AUTHORITY, [], begins=NOW), list_begin),
    "signing key": (SIGNING.pem, partial(read_signing_key, source="key")),
    "public key": (SIGNING.public_pem, partial(read_public_key, source="key")),
    "request": (REQUEST["csr"], lambda pem: decode_request(json.dumps({**REQUEST, "csr": pem}))),
}


def turned(pem: str) -> Iterator[str]:
    """The same text with another bit in it, for each bit of the first 100 bytes: after them come values."""
    first, *middle, last = pem.strip().splitlines()
    body = base64.b64decode("".join(middle))
    for bit in range(8 * min(len(body), 100)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << (bit % 8)
        yield f"{first}\n{base64.encodebytes(bytes(damaged)).decode()}{last}\n"


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_turned_bit_is_an_error_of_ours_or_none(name: str) -> None:
    """A version, a curve or a kind of key that nobody has: the library has another error for each."""
    pem, read = READERS[name]
    read(pem)
    refused = 0
    for damaged in turned(pem):
        try:
            read(damaged)
        except ConfigError:
            refused += 1
    assert refused > 50

"""The request file: a device asks for a certificate for keys that it has made itself and that never leave it.

Format, version 1. It MUST be UTF-8 JSON of at most 64 KiB with exactly these members: ``format`` (``fedmq-request``),
``version`` (1), ``node``, ``csr`` (PEM, PKCS #10, signed by its own P-256 key; its CN is ``node``), ``signing_key``
(64 hexadecimal digits: the Ed25519 public key) and ``proof`` (128 digits: its signature of `request_digest`). A reader
MUST refuse everything else. There is no secret in it; but whoever enrols it must know that it came from the device.
"""

from hashlib import blake2b
from typing import Annotated, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field

from federation.errors import ConfigError
from federation.identity.bundle import read_document
from federation.identity.certificates import PEM_BYTES_MAX, UNREADABLE, common_name, distinguished_name, parsing
from federation.identity.signing_keys import SigningKey

__all__ = ["NodeRequest", "decode_request", "encode_request", "new_request"]

SOURCE = "request file"


class NodeRequest(BaseModel):
    """What a request file says.

    Attributes:
        node: Who asks.
        csr: For the TLS key.
        signing_key: The public key of its messages.
        proof: That whoever asks has that key, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["fedmq-request"] = "fedmq-request"
    version: Literal[1] = 1
    node: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\z")]
    csr: Annotated[str, Field(max_length=PEM_BYTES_MAX)]
    signing_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
    proof: Annotated[str, Field(pattern=r"^[0-9a-f]{128}\z")]

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The TLS key; checked by `decode_request`."""
        key = x509.load_pem_x509_csr(self.csr.encode()).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(SOURCE, "its key is not an elliptic curve key of P-256")
        return key


def new_request(node: str, key: ec.EllipticCurvePrivateKey, signing: SigningKey) -> NodeRequest:
    """Ask for a certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(distinguished_name(node))
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")
    proof = signing.sign(request_digest(node, csr)).hex()
    return NodeRequest(node=node, csr=csr, signing_key=signing.public_hex, proof=proof)


def request_digest(node: str, csr: str) -> bytes:
    """What the signing key proves itself with: no message of the protocol has such a digest."""
    return blake2b(f"{node}\n{csr}".encode(), digest_size=64, person=b"fedmq-request-01").digest()


def encode_request(request: NodeRequest) -> str:
    """The file's text."""
    return request.model_dump_json(indent=1) + "\n"


def decode_request(text: str) -> NodeRequest:
    """Read and check a request file.

    Raises:
        ConfigError: It is not such a file, or whoever made it does not have both keys.
    """
    request = read_document(NodeRequest, text, source=SOURCE)
    try:
        csr = x509.load_pem_x509_csr(request.csr.encode())
    except UNREADABLE as error:
        raise ConfigError(SOURCE, f"csr: {error}") from error
    with parsing(SOURCE):
        _check_request(request, csr)
    return request


def _check_request(request: NodeRequest, csr: x509.CertificateSigningRequest) -> None:
    if (name := common_name(csr)) != request.node:
        raise ConfigError(SOURCE, f"its certificate would be for {name!r}, not for {request.node!r}")
    # Its kind first: the signature of another kind of key would be checked with another algorithm.
    if not request.public_key or not csr.is_signature_valid:
        raise ConfigError(SOURCE, "its certificate request is not signed by its own key")
    try:
        own = Ed25519PublicKey.from_public_bytes(bytes.fromhex(request.signing_key))
        own.verify(bytes.fromhex(request.proof), request_digest(request.node, request.csr))
    except (ValueError, InvalidSignature) as error:
        raise ConfigError(SOURCE, "its signing key is not the sender's") from error

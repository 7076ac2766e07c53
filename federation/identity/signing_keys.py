"""Ed25519 keys (RFC 8032) behind the protocol's `Signer` and `Verifier`: one's own, the coordinator's, the nodes'.

The file of the nodes' keys, version 1: UTF-8 JSON with exactly ``format`` (``fedmq-node-keys``), ``version`` (1) and
``nodes``, a map from a node's name to its public keys, 64 lower-case hexadecimal digits each. There is no secret in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.errors import ConfigError
from federation.identity.certificates import PEM_BYTES_MAX, UNREADABLE
from federation.identity.private_files import read_text
from federation.protocol.signing import Sender, Signer, Verifier
from federation.storage.folder import file_mark
from federation.types import NodeId

__all__ = [
    "CoordinatorKey",
    "NodeKeys",
    "SigningKey",
    "Trust",
    "enrolled_nodes",
    "node_keys_text",
    "read_coordinator_key",
    "read_node_keys",
    "read_public_key",
    "read_signing_key",
    "read_trust",
]

NODE_KEYS_BYTES_MAX = 64 << 20
KEYS_PER_NODE_MAX = 16

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\z")]
_Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]


class SigningKey:
    """A participant's own key: a `Signer`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def of(cls, private: bytes) -> "SigningKey":
        """The key with these 32 bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(private))

    @classmethod
    def new(cls) -> "SigningKey":
        """A key that nobody else has."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, digest: bytes) -> bytes:
        """64 bytes that nobody else can make."""
        return self._key.sign(digest)

    @property
    def pem(self) -> str:
        """Secret, PKCS #8 without a passphrase: devices start without a person."""
        kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self._key.private_bytes(serialization.Encoding.PEM, kind, plain).decode("ascii")

    @property
    def public_pem(self) -> str:
        """What others verify with."""
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode("ascii")

    @property
    def public_hex(self) -> str:
        """The same as 64 hexadecimal digits."""
        return self._key.public_key().public_bytes_raw().hex()


class CoordinatorKey:
    """The coordinator's key as a node has pinned it: a `Verifier` that knows nobody else."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        """Whether the coordinator has signed this."""
        return sender is None and _made(self._key, digest, signature)


class NodeKeys:
    """The keys of the enrolled nodes: a `Verifier` that follows its file, so that a node can be enrolled meanwhile.

    Args:
        path: The file; replaced as a whole by ``coordinator enroll`` and ``revoke``.

    Raises:
        ConfigError: It is missing or damaged. Later damage leaves the keys as they were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = _read_node_keys(path)
        self._stamp = file_mark(path)

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        """Whether a node's own key has signed this."""
        self._follow()
        return isinstance(sender, str) and any(_made(key, digest, signature) for key in self._keys.get(sender, ()))

    def knows(self, node: NodeId) -> bool:
        """Whether a node has a key here at all."""
        self._follow()
        return node in self._keys

    def _follow(self) -> None:
        stamp = file_mark(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _read_node_keys(self._path)
        except ConfigError:
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """One role's keys.

    Attributes:
        signer: Its own key; None says everything without a signature.
        verifier: Whom to believe; None believes what is not signed.
    """

    signer: Signer | None = None
    verifier: Verifier | None = None


class _NodeKeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["fedmq-node-keys"] = "fedmq-node-keys"
    version: Literal[1] = 1
    nodes: dict[_Name, Annotated[list[_Key], Field(max_length=KEYS_PER_NODE_MAX)]]


def node_keys_text(keys: Mapping[str, list[str]]) -> str:
    """The file of the nodes' keys; of each node the newest `KEYS_PER_NODE_MAX`."""
    newest = {name: listed[-KEYS_PER_NODE_MAX:] for name, listed in sorted(keys.items())}
    return _NodeKeysFile(nodes=newest).model_dump_json(indent=1) + "\n"


def read_node_keys(path: Path) -> dict[str, list[str]]:
    """The file of the nodes' keys, in hexadecimal digits.

    Raises:
        ConfigError: It is missing or damaged.
    """
    found = _read_node_keys(path)
    return {name: [key.public_bytes_raw().hex() for key in keys] for name, keys in found.items()}


def read_signing_key(pem: str, *, source: str) -> SigningKey:
    """One's own key.

    Raises:
        ConfigError: It is not a PEM Ed25519 key without a passphrase; ``source`` says which.
    """
    try:
        key = serialization.load_pem_private_key(pem[:PEM_BYTES_MAX].encode(), password=None)
    except UNREADABLE as error:
        # The library's own words may repeat a part of what it was given: this was meant to be a secret.
        raise ConfigError(source, "is not a PEM key without a passphrase") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(source, "is not an Ed25519 key")
    return SigningKey(key)


def read_public_key(pem: str, *, source: str) -> Ed25519PublicKey:
    """Somebody's public key.

    Raises:
        ConfigError: It is not a PEM Ed25519 public key; ``source`` says which.
    """
    try:
        key = serialization.load_pem_public_key(pem[:PEM_BYTES_MAX].encode())
    except UNREADABLE as error:
        raise ConfigError(source, "is not a PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(source, "is not an Ed25519 public key")
    return key


def read_coordinator_key(path: Path) -> CoordinatorKey:
    """The coordinator's key as it was pinned in a file.

    Raises:
        ConfigError: The file is missing or damaged.
    """
    return CoordinatorKey(read_public_key(read_text(path, bytes_max=PEM_BYTES_MAX), source=path.name))


def enrolled_nodes(path: Path) -> frozenset[NodeId]:
    """Who has a key in a file of the nodes' keys.

    Raises:
        ConfigError: It is missing or damaged.
    """
    return frozenset(NodeId(name) for name, keys in _read_node_keys(path).items() if keys)


def read_trust(own: Path | None, others: Path | None, read_others: Callable[[Path], Verifier]) -> Trust:
    """Read the keys from their files; None is no key.

    Raises:
        ConfigError: A file is missing or damaged.
    """
    signer = None if own is None else read_signing_key(read_text(own, bytes_max=PEM_BYTES_MAX), source=own.name)
    return Trust(signer=signer, verifier=None if others is None else read_others(others))


def _read_node_keys(path: Path) -> dict[str, tuple[Ed25519PublicKey, ...]]:
    try:
        found = _NodeKeysFile.model_validate_json(read_text(path, bytes_max=NODE_KEYS_BYTES_MAX))
        return {
            name: tuple(Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)) for key in listed)
            for name, listed in found.nodes.items()
        }
    except ValidationError as error:
        raise ConfigError(path.name, f"is damaged: {error.errors()[0]['msg']}", source=str(path)) from error
    except ValueError as error:
        raise ConfigError(path.name, "holds something that is no key", source=str(path)) from error


def _made(key: Ed25519PublicKey, digest: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, digest)
    except InvalidSignature:
        return False
    return True

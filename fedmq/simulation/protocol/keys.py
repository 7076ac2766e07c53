"""Keys for the simulator: they prove what real ones prove, and nobody in here forges."""

from dataclasses import dataclass
from hashlib import blake2b

from federation.protocol.limits import SIGNATURE_BYTES
from federation.types import NodeId

__all__ = ["SimKey", "SimKeys"]


@dataclass(frozen=True, slots=True)
class SimKey:
    """One participant's key; None is the coordinator's."""

    owner: NodeId | None

    def sign(self, digest: bytes) -> bytes:
        """64 bytes that only this owner's key makes of a digest."""
        key = b"coordinator" if self.owner is None else f"node/{self.owner}".encode("ascii")
        return blake2b(digest, digest_size=SIGNATURE_BYTES, key=blake2b(key).digest()).digest()


@dataclass(frozen=True, slots=True)
class SimKeys:
    """Everybody's keys."""

    def verify(self, sender: NodeId | None, digest: bytes, signature: bytes) -> bool:
        """Whether ``sender`` has signed this; None is the coordinator."""
        return SimKey(sender).sign(digest) == signature

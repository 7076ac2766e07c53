"""Keys for the simulator: they prove what real ones prove, and nobody in here forges."""

from dataclasses import dataclass
from hashlib import blake2b

from federation.protocol.limits import SIGNATURE_BYTES
from federation.protocol.signing import Sender
from federation.types import SumHelper

__all__ = ["SimKey", "SimKeys"]


@dataclass(frozen=True, slots=True)
class SimKey:
    """One participant's key; None is the coordinator's."""

    owner: Sender

    def sign(self, digest: bytes) -> bytes:
        """64 bytes that only this owner's key makes of a digest."""
        return blake2b(digest, digest_size=SIGNATURE_BYTES, key=blake2b(_name(self.owner)).digest()).digest()


@dataclass(frozen=True, slots=True)
class SimKeys:
    """Everybody's keys."""

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        """Whether ``sender`` has signed this; None is the coordinator."""
        return SimKey(sender).sign(digest) == signature


def _name(owner: Sender) -> bytes:
    match owner:
        case None:
            return b"coordinator"
        case SumHelper(name=name):
            return f"helper/{name}".encode("ascii")
        case _:
            return f"node/{owner}".encode("ascii")

"""What a gateway names its site's updates by: 16 bytes for each, in the offer of their sum (PROTOCOL.md, FED-271).

The coordinator keeps them, so that an update counts once, and a node once in a version, wherever the node is: names of
nodes do not leave their site.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from federation.protocol.limits import CLAIM_BYTES
from federation.types import UpdateId

__all__ = ["claim_of", "claims_in", "node_of", "number_of"]

_NODE: Final = b"fedmq-node"
_UPDATE: Final = b"fedmq-update"
_HALF: Final = CLAIM_BYTES // 2


def claim_of(update: UpdateId) -> bytes:
    """The claim on one update, 16 bytes."""
    node = update.partition("-")[2]
    halves = ((node, _NODE), (update, _UPDATE))
    return b"".join(blake2b(text.encode(), digest_size=_HALF, person=person).digest() for text, person in halves)


def node_of(claim: bytes) -> bytes:
    """Its part that all claims on updates of one node have, 8 bytes."""
    return claim[:_HALF]


def number_of(claim: bytes) -> int:
    """Its part that is of the update alone, as a number of 64 bits with sign."""
    return int.from_bytes(claim[_HALF:], "big", signed=True)


def claims_in(claims: bytes) -> Iterator[bytes]:
    """Each of them."""
    return (claims[at : at + CLAIM_BYTES] for at in range(0, len(claims), CLAIM_BYTES))

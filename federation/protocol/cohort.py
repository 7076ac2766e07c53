"""Who is asked to train: a rule of a few bytes per chosen node, or one number for a share of any fleet.

A listed cohort holds a 4-byte fingerprint per node, salted by run and round. A node that was not chosen finds itself in
a list of 600 with probability 600 / 2**32, in another round each time; the coordinator then refuses that one update.
A share asks every node whose salted hash is below a bound, known or not, in constant size.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from federation.errors import LocalProtocolError
from federation.protocol.limits import COHORT_NODES_MAX, FINGERPRINT_BYTES, INT64_MAX
from federation.protocol.messages import Cohort
from federation.types import ModelVersion, NodeId, RoundId, RunId

__all__ = [
    "COHORT_NODES_MAX",
    "EVERYONE",
    "FINGERPRINT_BYTES",
    "NOBODY",
    "cohort_of",
    "cohort_share",
    "evaluates",
    "evaluation_hash",
    "evaluation_share",
    "fingerprint",
    "includes",
    "share_hash",
]

EVERYONE: Final = Cohort(share=INT64_MAX)
"""Every node of the federation."""
NOBODY: Final = Cohort()
"""No node: the final announcement's cohort."""


def fingerprint(run: RunId, round_id: RoundId, node: NodeId) -> bytes:
    """4 bytes that name ``node`` in the cohort of this round."""
    return _hash(run, round_id, node, FINGERPRINT_BYTES, b"fedmq-cohort")


def share_hash(run: RunId, round_id: RoundId, node: NodeId) -> int:
    """64 uniform bits per node and round: below the share means asked."""
    return int.from_bytes(_hash(run, round_id, node, 8, b"fedmq-share"), "big")


def cohort_of(run: RunId, round_id: RoundId, nodes: Iterable[NodeId]) -> Cohort:
    """The cohort that lists exactly these nodes.

    Raises:
        LocalProtocolError: More than `COHORT_NODES_MAX` nodes: use a share.
    """
    listed = {fingerprint(run, round_id, node) for node in nodes}
    if len(listed) > COHORT_NODES_MAX:
        raise LocalProtocolError(f"a cohort lists at most {COHORT_NODES_MAX} nodes, not {len(listed)}: use a share")
    return Cohort(fingerprints=b"".join(sorted(listed)))


def cohort_share(fraction: float) -> Cohort:
    """The cohort of a random share of all nodes, from 0 (nobody) to 1 (everyone).

    Raises:
        LocalProtocolError: ``fraction`` is not between 0 and 1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise LocalProtocolError(f"a share is between 0 and 1, not {fraction}")
    return Cohort(share=min(int(fraction * 2**64), INT64_MAX))


def includes(cohort: Cohort, run: RunId, round_id: RoundId, node: NodeId) -> bool:
    """Whether ``node`` is asked to train in this round."""
    if cohort.share is not None:
        # The largest share is everybody: otherwise one hash in 2**64 would be left out.
        return cohort.share == INT64_MAX or share_hash(run, round_id, node) < cohort.share
    return _lists(cohort.fingerprints, fingerprint(run, round_id, node))


def evaluation_hash(run: RunId, version: ModelVersion, node: NodeId) -> int:
    """64 uniform bits per node and version: below the announced share means that it evaluates."""
    return int.from_bytes(_hash(run, version, node, 8, b"fedmq-evaluate"), "big")


def evaluates(share: int | None, run: RunId, version: ModelVersion, node: NodeId) -> bool:
    """Whether ``node`` is asked to evaluate this version."""
    if share is None:
        return False
    return share == INT64_MAX or evaluation_hash(run, version, node) < share


def evaluation_share(run: RunId, version: ModelVersion, nodes: Iterable[NodeId], count: int) -> int:
    """The share that asks exactly ``count`` of these nodes, and as large a part of those that are not known yet.

    With as many nodes as ``count`` or fewer it is everybody.
    """
    hashes = sorted(evaluation_hash(run, version, node) for node in nodes)
    return INT64_MAX if count >= len(hashes) else hashes[count]


def _lists(fingerprints: bytes, wanted: bytes) -> bool:
    low, high = 0, len(fingerprints) // FINGERPRINT_BYTES
    while low < high:
        middle = (low + high) // 2
        if fingerprints[middle * FINGERPRINT_BYTES : (middle + 1) * FINGERPRINT_BYTES] < wanted:
            low = middle + 1
        else:
            high = middle
    return fingerprints[low * FINGERPRINT_BYTES : (low + 1) * FINGERPRINT_BYTES] == wanted


def _hash(run: RunId, number: int, node: NodeId, digest_bytes: int, purpose: bytes) -> bytes:
    # None of the three can hold a slash, so the joined text is unambiguous.
    salted = f"{run}/{number}/{node}".encode()
    return hashlib.blake2b(salted, digest_size=digest_bytes, person=purpose).digest()

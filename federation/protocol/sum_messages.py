"""The messages of masked sums: what node, helper and coordinator say of seeds and sums (PROTOCOL.md, section 12).

A node's masked update is a row of random numbers. Whoever has the seeds of its masks can take them off, so each helper
gets its part of them, sealed, and later reveals only the sum of the masks of a whole batch.
"""

from dataclasses import dataclass

from federation.protocol.enumerations import HeldStatus, Presence, PrivacyUnit, SumReason
from federation.types import DIGEST_BYTES, Digest, Incarnation, ModelVersion, RunId, StateId, UpdateId

__all__ = [
    "Held",
    "HeldStatus",
    "HelperState",
    "MaskedEvaluation",
    "MaskedReport",
    "PrivacyTerms",
    "PrivacyUnit",
    "SealedSeeds",
    "SumMessage",
    "SumOffer",
    "SumReason",
    "SumRefusal",
    "SumRequest",
    "Ticket",
    "transfer_id",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyTerms:
    """What all members of one batch agree on: only updates under equal terms can be added.

    Attributes:
        scheme: How updates are masked; 1 is the one of this protocol.
        helpers: Digest of the helpers' identity keys, see `federation.privacy.terms.helpers_digest`.
        count: Helpers, h.
        threshold: Helpers without which nothing can be revealed, t; at most h.
        dimension: Parameters of the model, D.
        tail: Numbers of 32 bits that follow them.
        step: What one unit of the integers is worth.
        levels: Largest magnitude of a node's integers, L.
        members: Most updates of a batch.
        bits: k: sums are modulo 2**k, which holds every sum of the batch.
        clip: Longest update in the L2 norm, before it is made integer; None does not shorten.
        importance_cap: Examples from which on an update counts whole; None: all updates count the same.
        noise: Standard deviation of the noise that each helper adds, in units of ``clip``; None adds none.
        unit: Whom the noise hides; None without noise.
        bit_noise: Standard deviation of each helper's noise on the number of members that were within the clip; None
            does not tell that number. Without it, noise goes with no tail at all.
        bandwidth: Noise of one sum is made of so many draws, of which the sums before have the others; None draws anew.
        releases: Most sums of a run under such noise,
        separation: in two of which a node is only if they are at least so far apart,
        participations: and in so many at most; None, as the others, without ``bandwidth``.
    """

    scheme: int
    helpers: Digest
    count: int
    threshold: int
    dimension: int
    tail: int
    step: float
    levels: int
    members: int
    bits: int
    clip: float | None = None
    importance_cap: int | None = None
    noise: float | None = None
    unit: PrivacyUnit | None = None
    bit_noise: float | None = None
    bandwidth: int | None = None
    releases: int | None = None
    separation: int | None = None
    participations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedEvaluation:
    """In the announcement of a masked run: who is to evaluate the version, and which metrics are told, only as sums.

    Attributes:
        share: Nodes whose evaluation hash for this version is below it evaluate the model, whoever trains.
        metrics: Names of the metrics, each once: the order in which a report has them.
    """

    share: int
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedReport:
    """In an evaluation report: what the node has measured, under masks.

    Attributes:
        update: A name of its own for the helpers, as an update has; drawn for each report.
        metrics: Digest of the metrics' names, see `federation.privacy.metrics.names_digest`.
        payload: The masked numbers, in the bytes of a sum.
        ticket: The signed `Ticket` of ``update``, with the evaluated version as its base.
        boxes: The masks' seeds, sealed to one helper each, by the order of the helpers' keys.
    """

    update: UpdateId
    metrics: Digest
    payload: bytes
    ticket: bytes
    boxes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperState:
    """``h/{helper}/state``, retained and the helper's will: whether it is there, and the key to seal seeds to.

    Attributes:
        incarnation: Boot number.
        state_id: Drawn when the helper's store was made: another one has none of the seeds that were sent before.
        protocol_min: Oldest protocol that it reads.
        protocol_max: Newest protocol that it reads.
        kem: Number of the key encapsulation (RFC 9180).
        key: Public key of that kind.
        members_min: Fewest nodes of a sum that it reveals.
    """

    presence: Presence
    incarnation: Incarnation
    state_id: StateId
    protocol_min: int
    protocol_max: int
    kem: int
    key: bytes
    members_min: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a node signs for the helpers, since they never get its offer; it travels inside of other messages.

    Attributes:
        terms: Digest of the `PrivacyTerms` under which the update is masked.
        payload_digest: That of the offer.
        boxes: Digest of each helper's box, in the order of the helpers' keys.
    """

    run: RunId
    update: UpdateId
    base_version: ModelVersion
    base_digest: Digest
    terms: Digest
    payload_digest: Digest
    boxes: tuple[Digest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSeeds:
    """``h/{helper}/cmd``: one update's ticket, as the node signed it, and the box for this helper."""

    run: RunId
    update: UpdateId
    ticket: bytes
    box: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """``h/{helper}/evt``: the helper's word on the seeds of one update, on its disk before it is said.

    Attributes:
        ticket: BLAKE2b-128 of the ticket's bytes that it is about: by it requests name the update.
        reason: Why, for refused.
        taken: In how many noised sums of the run the update's node was; None, as the two that follow: in none,
        gap: how many there were since the newest of them, itself included,
        spent: and what they have cost it, as mu^2.
    """

    run: RunId
    update: UpdateId
    ticket: Digest
    status: HeldStatus
    reason: SumReason = SumReason.NONE
    taken: int | None = None
    gap: int | None = None
    spent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRequest:
    """``h/{helper}/cmd``: reveal the sums of the masks of one batch, one sum for each class.

    Attributes:
        version: The version that the batch will make.
        batch: Digest of all that follows but the classes, see `federation.privacy.terms.batch_digest`.
        terms: Those under which all members are masked.
        members: Joined ticket digests of the members, ascending, each once.
        classes: Numbers of the classes that this helper is asked for, ascending.
    """

    run: RunId
    version: ModelVersion
    batch: Digest
    terms: PrivacyTerms
    members: bytes
    classes: tuple[int, ...]

    @property
    def tickets(self) -> tuple[Digest, ...]:
        """The members' ticket digests, one by one."""
        cuts = range(0, len(self.members), DIGEST_BYTES)
        return tuple(Digest(self.members[cut : cut + DIGEST_BYTES]) for cut in cuts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumOffer:
    """``h/{helper}/evt``: one class's sum is ready; one that fits a chunk rides inside, another waits for a `Grant`.

    Attributes:
        part: Number of the class.
        payload_bytes: Size of the sum (PROTOCOL.md, FED-148), in bytes.
        payload_digest: BLAKE2b-128 of it.
        chunk_bytes: Body size of every chunk but the last.
        inline: The sum itself, or None.
    """

    run: RunId
    batch: Digest
    part: int
    payload_bytes: int
    payload_digest: Digest
    chunk_bytes: int
    inline: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRefusal:
    """``h/{helper}/evt``: a sum is not revealed; nothing of it was marked as used.

    Attributes:
        members: Joined ticket digests of those for which it is refused, ascending, as many as fit; b"": for the whole.
    """

    run: RunId
    batch: Digest
    reason: SumReason
    members: bytes = b""


def transfer_id(batch: Digest, part: int) -> UpdateId:
    """How grants and chunk topics name the sum of one class: ``{part}-{batch}``, the batch in hexadecimal digits."""
    return UpdateId(f"{part}-{batch.hex()}")


SumMessage = HelperState | Ticket | SealedSeeds | Held | SumRequest | SumOffer | SumRefusal
"""Everything that is said for a masked sum."""

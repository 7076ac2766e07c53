"""The values that a helper's rooms hand to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.privacy.boxes import Kem
from federation.privacy.releases import NOBODY_YET, Taking
from federation.protocol.sum_messages import PrivacyTerms, SumRequest
from federation.types import Digest, Incarnation, ModelVersion, NodeId, RunId, StateId, UpdateId

__all__ = [
    "AnsweredBatch",
    "Budget",
    "Charge",
    "HeldUpdate",
    "HelperRules",
    "Identity",
    "Keeping",
    "Member",
    "Released",
    "SumJob",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much one node's contributions may ever tell, over all runs.

    Attributes:
        epsilon: At most so much,
        delta: at this delta; the unit is the node, the adjacency its contribution against none.
    """

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperRules:
    """What a helper insists on, whatever the coordinator says.

    Attributes:
        members_min: Fewest nodes of a sum.
        parameters_max: Largest model, in parameters: memory is taken for two vectors of it.
        held_max: Most updates whose seeds are held.
        versions_back: How many versions older than the newest one of a batch an update's base may be.
        budget: Where the terms have noise; None is none.
    """

    members_min: int = 8
    parameters_max: int = 100_000_000
    held_max: int = 100_000
    versions_back: int = 1_024
    budget: Budget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How long things are kept.

    Attributes:
        keep_s: Unused seeds and replaced keys, in seconds.
        rotate_s: A new key is made when the newest one is so old, in seconds.
        kem: Of which kind.
    """

    keep_s: float = 30 * 86_400.0
    rotate_s: float = 7 * 86_400.0
    kem: Kem = Kem.X25519


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which helper this is since its store was made, and which start."""

    state_id: StateId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldUpdate:
    """One update as its ticket tells it, without its seeds.

    Attributes:
        ticket: Digest of the ticket's bytes.
        node: Who has signed it.
        terms: Digest of the terms.
        place: Of this helper among the update's helpers; then how many they are, and how many must answer.
    """

    run: RunId
    update: UpdateId
    ticket: Digest
    node: NodeId
    base_version: ModelVersion
    base_digest: Digest
    terms: Digest
    place: int
    count: int
    threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A held update when a sum is asked for.

    Attributes:
        held: What is known of it.
        batch: The batch in which it was used, for ever; None: in none.
        classes: Those of which the seed is still there.
        spent: What its node has spent in all releases so far, over all runs, as mu^2.
        taking: And its part in the noised sums of this run.
    """

    held: HeldUpdate
    batch: Digest | None
    classes: frozenset[int]
    spent: float = 0.0
    taking: Taking = NOBODY_YET


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The noised sums of a run.

    Attributes:
        releases: How many were revealed: the next one has this number.
        plan: Under which plan of correlated noise, see `federation.privacy.releases.plan_text`.
    """

    releases: int = 0
    plan: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one sum costs its members, written down with their use.

    Attributes:
        release: Number of the sum among the noised ones of its run; None without noise.
        plan: As in `Released`.
        prices: By node, what it pays as mu^2; nobody pays for a batch that has been paid for.
    """

    release: int | None
    plan: str = ""
    prices: Mapping[NodeId, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredBatch:
    """A batch of which at least one class was answered.

    Attributes:
        batch: Which.
        members: Joined ticket digests: no other set may have this name.
        classes: Answered, and the answer is still there.
        gone: Answered, and no longer there.
    """

    batch: Digest
    members: bytes
    classes: frozenset[int]
    gone: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SumJob:
    """What the adding thread needs.

    Attributes:
        request: What was asked.
        seeds: By class, the update and its seed of every member.
        release: Number of the sum among the noised ones of its run, from 0.
    """

    request: SumRequest
    seeds: Mapping[int, tuple[tuple[UpdateId, bytes], ...]] = field(repr=False)
    release: int = 0

    @property
    def terms(self) -> PrivacyTerms:
        """Those of the batch."""
        return self.request.terms

"""Masked sums in a campaign: which federations have them, and what nodes and helpers have said of them.

- no helper answers for one update in two batches, over all of its restarts
- no update's masks are all revealed in two batches, by whichever helpers: their difference would be that update
- one batch has one answer for each class, byte by byte, whoever gives it and however often
- the sum of a version is that of the integers that its members have masked, exactly
- a batch is frozen once, and ends whole: in one version, or with one verdict for all of its members
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from coordinator.engine.early_stopping import StoppingSettings
from coordinator.engine.settings import EngineSettings, MaskingSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.masked import MaskedModel
from coordinator.records import BatchRecord, Verdict
from coordinator.storage.store import CoordinatorStore
from coordinator.strategies.strategy import StrategySettings, make_strategy
from edge_node.records import FinishedTraining
from federation.errors import StorageError
from federation.privacy.classes import classes
from federation.privacy.seeds import SEED_BYTES, SeedMask
from federation.privacy.terms import helpers_digest, shape_of
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import MEMBERS_LEAST
from federation.protocol.sum_messages import SumOffer
from federation.types import DIGEST_BYTES, Digest, HelperId, ModelVersion, RunId, UpdateId
from fedmq.simulation.protocol.scenario import MaskedPlan, Scenario
from fedmq.simulation.world.faults import FaultPlan
from update_codec import CodecError, HeadroomError, Manifest
from update_codec.masking import MaskedSum, read_masked

__all__ = ["HELPERS", "FrozenBatches", "SumsWitness", "masked_scenario"]

HELPERS, THRESHOLD = 4, 3
NAMES = tuple(HelperId(f"helper-{number}") for number in range(HELPERS))


# --- which federations ------------------------------------------------------------------------------------------------


METRICS = ("loss", "accuracy")
"""What nodes tell of an evaluation, as sums."""


def masked_scenario(plain: Scenario, keys: tuple[bytes, ...]) -> Scenario:
    """The same federation with masked sums over three of four helpers, one of which leaves for ever in most of them.

    Args:
        plain: As it is drawn without masks.
        keys: The helpers' identity keys, in their order.
    """
    rng = random.Random(f"campaign/{plain.seed}/masked")  # noqa: S311 - a simulation, not a secret
    nodes, least = rng.randint(MEMBERS_LEAST + 1, MEMBERS_LEAST + 3), MEMBERS_LEAST
    engine = _masked_engine(plain.engine, nodes, least, rng)
    name = "fedavg" if engine.max_staleness == 0 else rng.choice(("fedbuff", "fedadam"))
    digest = helpers_digest(list(keys), THRESHOLD)
    model = MaskedModel(
        helpers=digest,
        count=HELPERS,
        threshold=THRESHOLD,
        members=engine.buffer,
        levels=rng.choice((1, 1, 3)),
        patience=engine.max_staleness + 1,
        importance_cap=rng.choice((None, 100)),
    )
    faults = plain.faults
    plan = MaskedPlan(
        names=NAMES,
        threshold=THRESHOLD,
        members_min=least,
        crash=rng.choice((0.0, faults.node_crash, 0.05)),
        wipe=rng.choice((0.0, 0.0, 0.2)),
        gone=rng.choice((None, *range(HELPERS))),
        gone_s=rng.uniform(0.0, 60.0),
        chunk_bytes=rng.choice((64, 1024, 61_440)),
    )
    return replace(
        plain,
        nodes=nodes,
        engine=engine,
        committer=CommitterSettings(
            strategy=make_strategy(StrategySettings(name=name)), downlink=plain.committer.downlink, masked=model
        ),
        node=replace(plain.node, helpers=dict(zip(NAMES, keys, strict=True))),
        faults=_faults(faults, lasting=plan.gone is not None),
        masked=plan,
    )


def _masked_engine(plain: EngineSettings, nodes: int, least: int, rng: random.Random) -> EngineSettings:
    """Rounds that are never smaller than a sum may be."""
    concurrency = rng.randint(least, nodes)
    synchronous = plain.max_staleness == 0
    buffer = concurrency if synchronous else rng.randint(least, concurrency)
    return replace(
        plain,
        codec_up="masked",
        concurrency=concurrency,
        buffer=buffer,
        refill=concurrency if synchronous else max(1, min(plain.refill, concurrency)),
        quorum=rng.randint(least, buffer),
        nodes_min=min(plain.nodes_min, nodes),
        per_node_quota=1,
        signed=True,
        masking=MaskingSettings(helpers=NAMES, threshold=THRESHOLD, members_min=least),
        federated_evaluation=replace(plain.federated_evaluation, nodes_min=least, metrics=METRICS),
        stopping=StoppingSettings(),
    )


def _faults(plan: FaultPlan, *, lasting: bool) -> FaultPlan:
    """Without those after which nothing can go on, and nobody promises that it does.

    A copy of a coordinator's folder burns what the first one has asked helpers for; a node that has lost its disk does
    not know the key of a helper that has left for ever, if the broker has lost it, too.
    """
    return replace(plan, stale_copy=0.0, second_run=0.0, twin=0.0, wipe=0.0 if lasting else plan.wipe)


# --- what was said ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Batch:
    """One batch as helpers have answered it."""

    members: tuple[Digest, ...]
    answers: dict[int, Digest] = field(default_factory=dict)


class SumsWitness:
    """What the nodes have masked and the helpers have revealed, over all of their restarts.

    Args:
        violations: What must not be; shared with the actors.
        plan: The helpers.
        manifest: Of the model.

    Attributes:
        sums: Answers that were said, each class of each batch once.
        dropped: Batches that made no version.
    """

    def __init__(self, violations: list[str], plan: MaskedPlan, manifest: Manifest) -> None:
        self._violations, self._plan, self._manifest = violations, plan, manifest
        self._integers: dict[Digest, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._batches: dict[Digest, _Batch] = {}
        self._used: dict[tuple[HelperId, Digest], Digest] = {}
        self._classes = len(classes(len(plan.names), plan.threshold))
        self.sums = self.dropped = 0

    def masked(self, run: RunId, update: UpdateId, made: FinishedTraining) -> None:
        """A node has masked an update, and it is on its disk."""
        if made.masked is None:
            return
        try:
            found = read_masked(made.frame, self._manifest)
        except CodecError:
            return  # spoiled on purpose: no batch may have it
        masks = MaskedSum(found.shape)
        seeds = made.masked.seeds
        for start in range(0, len(seeds), SEED_BYTES):
            masks.add_mask(SeedMask(seeds[start : start + SEED_BYTES], run, update))
        total = MaskedSum(found.shape)
        total.add(found)
        total.take_away(masks.to_bytes())
        self._integers[payload_digest(made.masked.ticket)] = total.lift(limit=1 << (found.shape.bits - 1))

    def said(self, helper: HelperId, offer: SumOffer, members: bytes) -> None:
        """A helper offers the sum of one class of a batch."""
        tickets = _tickets(members)
        batch = self._batches.setdefault(offer.batch, _Batch(tickets))
        if batch.members != tickets:
            self._say(f"{helper} answers batch {offer.batch.hex()[:8]} for other members than before")
        for ticket in tickets:
            if self._used.setdefault((helper, ticket), offer.batch) != offer.batch:
                self._say(f"{helper} answers two batches for one update")
        if batch.answers.setdefault(offer.part, offer.payload_digest) != offer.payload_digest:
            self._say(f"{helper} gives another sum of class {offer.part} than was given before")
        self.sums = sum(len(one.answers) for one in self._batches.values())

    def lost(self, helper: HelperId) -> None:
        """A helper's state folder is gone, and its keys with it: nothing that it held opens again."""
        self._used = {key: batch for key, batch in self._used.items() if key[0] != helper}

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, store: CoordinatorStore, head: ModelVersion, *, audit: bool) -> Iterator[str]:
        """What must not be, by what the store that leads in the end has."""
        whole: dict[Digest, int] = {}
        for batch in self._batches.values():
            if len(batch.answers) == self._classes:
                for ticket in batch.members:
                    whole[ticket] = whole.get(ticket, 0) + 1
        if any(count > 1 for count in whole.values()):
            yield "an update's masks are all revealed in two batches"
        for version in range(1, head + 1) if audit else ():
            made = store.batch(ModelVersion(version))
            if made is None:
                yield f"version {version} is made of no batch"
            else:
                yield from self._exact(store, made)

    def _exact(self, store: CoordinatorStore, batch: BatchRecord) -> Iterator[str]:
        shape = shape_of(batch.request.terms)
        total, parameters, tail = MaskedSum(shape), np.zeros(shape.dimension, np.int64), np.zeros(shape.tail, np.int64)
        for ticket in batch.request.tickets:
            known = self._integers.get(ticket)
            if known is None:
                yield f"version {batch.version} has a member that no node has masked"
                return
            parameters, tail = parameters + known[0], tail + known[1]
        try:
            for member in batch.members:
                total.add(read_masked(store.payload(member.update), self._manifest))
            for body in store.sums(batch.version):
                total.take_away(body)
            found = total.lift(limit=len(batch.members) * batch.request.terms.levels)
        except (CodecError, HeadroomError, StorageError) as error:
            yield f"version {batch.version} has no sum: {error}"
            return
        if not (np.array_equal(found[0], parameters) and np.array_equal(found[1], tail)):
            yield f"version {batch.version} is not the sum of what its members have masked"

    def _say(self, text: str) -> None:
        self._violations.append(text)


class FrozenBatches:
    """The batches of one coordinator's store: each is frozen once, and ends whole.

    Args:
        say: Takes what must not be.
        judged: Hears the verdicts of a batch that makes no version.
    """

    def __init__(self, say: Callable[[str], None], judged: Callable[[Verdict], None]) -> None:
        self._say, self._judged = say, judged
        self.open: BatchRecord | None = None
        self.dropped = 0

    def fork(self, say: Callable[[str], None], judged: Callable[[Verdict], None]) -> "FrozenBatches":
        """Those of a copy of the store."""
        other = FrozenBatches(say, judged)
        other.open, other.dropped = self.open, self.dropped
        return other

    def frozen(self, batch: BatchRecord) -> None:
        """A batch is on disk."""
        if self.open is not None and self.open != batch:
            self._say(f"version {batch.version} is frozen twice, with different members")
        self.open = batch

    def committed(self, version: ModelVersion, members: frozenset[UpdateId]) -> None:
        """A version is on disk."""
        if self.open is None or self.open.version != version or self.open.updates != members:
            self._say(f"version {version} is not made of the batch that was frozen")
        self.open = None

    def ended(self, verdicts: tuple[Verdict, ...]) -> None:
        """A batch makes no version."""
        members = frozenset[UpdateId]() if self.open is None else self.open.updates
        if {verdict.update for verdict in verdicts} != members:
            self._say("a batch is dropped in part")
        if len({(verdict.status, verdict.reason) for verdict in verdicts}) > 1:
            self._say("members of one batch have different verdicts")
        self.open, self.dropped = None, self.dropped + 1
        for verdict in verdicts:
            self._judged(verdict)


def _tickets(members: bytes) -> tuple[Digest, ...]:
    return tuple(Digest(members[start : start + DIGEST_BYTES]) for start in range(0, len(members), DIGEST_BYTES))

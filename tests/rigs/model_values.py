"""A small model with every role, updates of it, and a store that holds version 0."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coordinator.global_model.committer import Committer, CommitterSettings, first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.records import Member, UpdateRecord
from coordinator.storage.store import CoordinatorStore
from federation.protocol.chunking import payload_digest
from federation.types import ModelVersion, NodeId, RoundId, update_id
from update_codec import Accumulator, CodecSpec, Manifest, Role, Vectors, encode, sum_frame

ARRAYS = {
    "weight": np.linspace(-1, 1, 40, dtype=np.float32).reshape(8, 5),
    "bias": np.zeros(5, np.float32),
    "running_mean": np.ones(3, np.float32),
    "batches": np.array([2, 7]),
}
MANIFEST = Manifest.of(ARRAYS, {"running_mean": Role.STATISTIC})
INITIAL = MANIFEST.flatten(ARRAYS)
LOSSLESS = CodecSpec.parse("lossless")


def update(
    parameters: float | NDArray[np.float32], *, statistics: float = 0.0, counters: Sequence[int] = (0, 0)
) -> Vectors:
    """An update with these differences, and these absolute counters."""
    filled = np.full(MANIFEST.parameter_count, parameters, np.float32) if np.isscalar(parameters) else parameters
    return Vectors(
        np.asarray(filled, np.float32),
        np.full(MANIFEST.statistic_count, statistics, np.float32),
        np.array(counters, np.int64),
    )


@dataclass(frozen=True)
class Arrived:
    """An update with its payload."""

    record: UpdateRecord
    payload: bytes

    @property
    def member(self) -> Member:
        """It, as a member of the next version without staleness."""
        return Member(
            update=self.record.update, node=self.record.node, num_examples=self.record.num_examples, staleness=0
        )


def arrived(
    node: str, vectors: Vectors, *, round_id: int = 0, num_examples: int = 10, codec: CodecSpec = LOSSLESS
) -> Arrived:
    """What a node sends for a round."""
    frame = encode(vectors, MANIFEST, codec).frame
    record = UpdateRecord(
        update=update_id(RoundId(round_id), NodeId(node)),
        node=NodeId(node),
        round=RoundId(round_id),
        base_version=ModelVersion(0),
        num_examples=num_examples,
        codec=str(codec),
        payload_bytes=len(frame),
        payload_digest=payload_digest(frame),
    )
    return Arrived(record=record, payload=frame)


def with_codec(sent: Arrived, codec: str) -> Arrived:
    """The same bytes under another codec's name."""
    return replace(sent, record=replace(sent.record, codec=codec))


def initialised(store: CoordinatorStore, downlink: DownlinkSettings | None = None) -> None:
    """Give a store its version 0."""
    settings = DownlinkSettings() if downlink is None else downlink
    store.initialise(MANIFEST, first_commit(INITIAL, MANIFEST, settings, seed=3))


def committer(store: CoordinatorStore, settings: CommitterSettings | None = None) -> Committer:
    """A committer on the store's head."""
    return Committer(store, store.recovered(recent=1).head, CommitterSettings() if settings is None else settings)


def summed(name: str, members: Sequence[Arrived]) -> Arrived:
    """What a gateway sends for them."""
    total = Accumulator(MANIFEST)
    for member in members:
        total.add(member.payload, float(member.record.num_examples))
    examples, frame = sum(member.record.num_examples for member in members), sum_frame(total.sums(), MANIFEST)
    made = arrived(name, update(0.0), num_examples=examples)
    record = replace(made.record, codec="sum", payload_bytes=len(frame), payload_digest=payload_digest(frame))
    return replace(made, record=record, payload=frame)

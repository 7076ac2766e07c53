"""Values that the node store's tests are made of."""

import numpy as np
from numpy.typing import NDArray

from edge_node.records import OutboxEntry
from edge_node.storage.store import HeldModel
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import UpdateOffer
from federation.types import Digest, Incarnation, ModelVersion, NodeId, RoundId, RunId, update_id
from update_codec import Vectors

RUN, OTHER_RUN = RunId("00000000000000aa"), RunId("00000000000000bb")
NODE = NodeId("pi-3")


def entry(round_number: int, frame: bytes = b"frame of the update", run: RunId = RUN) -> OutboxEntry:
    offer = UpdateOffer(
        run=run,
        round=RoundId(round_number),
        update=update_id(RoundId(round_number), NODE),
        incarnation=Incarnation(1),
        base_version=ModelVersion(4),
        base_digest=Digest(bytes(16)),
        num_examples=10,
        metrics={"loss": 0.5},
        codec="edge",
        payload_bytes=len(frame),
        payload_digest=payload_digest(frame),
        chunk_bytes=61_440,
    )
    return OutboxEntry(offer=offer)


def model(version: int = 4, size: int = 8) -> HeldModel:
    vectors = Vectors(np.arange(size, dtype=np.float32) + version, np.ones(2, np.float32), np.arange(3, dtype=np.int64))
    return HeldModel(
        version=ModelVersion(version), digest=Digest(vectors.digest()), manifest_digest=bytes(16), vectors=vectors
    )


def residual(value: float) -> NDArray[np.float32]:
    return np.full(8, value, np.float32)

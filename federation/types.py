"""The identifiers and small values that both roles share."""

from dataclasses import dataclass
from typing import NewType

FederationId = NewType("FederationId", str)
"""Name of one federation: 1 to 64 characters of ``[A-Za-z0-9_-]``; a topic level."""

NodeId = NewType("NodeId", str)
"""Name of one edge node: 1 to 64 characters of ``[A-Za-z0-9_-]``; a topic level and the MQTT client id."""

HelperId = NewType("HelperId", str)
"""Name of one helper of masked sums: 1 to 64 characters of ``[A-Za-z0-9_-]``; a topic level and its MQTT client id."""

RunId = NewType("RunId", str)
"""Identity of one coordinator store: 16 hexadecimal digits, drawn when the store is made."""

RoundId = NewType("RoundId", int)
"""Number of one announcement, reserved on disk before it is announced; never used twice in a run."""

ModelVersion = NewType("ModelVersion", int)
"""Number of one committed global model: 0 is the initial model, each commit adds exactly 1."""

UpdateId = NewType("UpdateId", str)
"""Identity of one update, ``{round}-{node}``: the node's whole contribution to a round (see `update_id`)."""

Epoch = NewType("Epoch", int)
"""Fencing number of a coordinator process: counts up at every start on the same store."""

Start = NewType("Start", int)
"""Drawn at each start of a coordinator, at least 1: two starts on copies of one store differ; 0 is an older peer's."""

NO_START = Start(0)

Incarnation = NewType("Incarnation", int)
"""Boot number of an edge node: counts up at every start on the same state folder."""

StateId = NewType("StateId", int)
"""Identity of a node's store, drawn when it is made: another one is another life, whatever its incarnation."""

Digest = NewType("Digest", bytes)
"""16 bytes of BLAKE2b."""

DIGEST_BYTES = 16


def update_id(round_id: RoundId, node: NodeId) -> UpdateId:
    """The one update that ``node`` can contribute to ``round_id``: unique by construction, safe in a topic level."""
    return UpdateId(f"{round_id}-{node}")


def round_of(update: UpdateId) -> RoundId:
    """The round of an update, by its id; of an id that a message has carried."""
    return RoundId(int(update.partition("-")[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRun:
    """The newest that a node has obeyed of a run's coordinator.

    Attributes:
        run: Which run.
        epoch: Its highest epoch.
        start: The start with that epoch; of two with one epoch, the higher one.
        round: The newest round that it has announced, or None.
        version: That announcement's model version, or a newer one of which an update of the node became part, or None.
    """

    run: RunId
    epoch: Epoch
    start: Start = NO_START
    round: RoundId | None = None
    version: ModelVersion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SumHelper:
    """A helper as the owner of topics: its name alone could be a node's, too."""

    name: HelperId


COSINE_FRAMES = "cosine_frames"
"""Name of the capability to read frames of the codec's cosine kind: 1 where the node has it."""


MASKED_REPORTS = "masked_reports"
"""Name of the capability to report an evaluation under masks: 1 where the node has it."""
COLUMNS = "columns"
"""Name of the capability of a node that takes a frame's columns in their own order: a number made of their names."""
PRIVATE_EXAMPLES = "private_examples"
"""Name of the capability to keep differential privacy for each example: 1 where the node has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledSteps:
    """Steps of training with differential privacy that were taken, or are to be.

    Attributes:
        sampling_rate: Probability q with which each row was in a step's batch; 1 is no sampling.
        noise: Standard deviation of the noise, in units of the clip.
        steps: How many.
    """

    sampling_rate: float
    noise: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplePrivacy:
    """Local training with differential privacy for each example of a node's data.

    Attributes:
        clip: Most that one example's gradient may have as L2 norm.
        noise: Standard deviation of the noise on a step's sum, in units of ``clip``.
        sampling_rate: Probability with which each example is in a step's batch; the draw is the node's secret.
        epsilon: Budget of a node in this run: it declines a turn that would exceed it.
        delta: The delta of that epsilon.
    """

    clip: float
    noise: float
    sampling_rate: float
    epsilon: float
    delta: float

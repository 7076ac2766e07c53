"""What a pool is asked to train, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters
from federation.types import SampledSteps

__all__ = ["Trained", "Work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What some nodes are asked to train, from one model and with one round's settings.

    Attributes:
        nodes: Their indices.
        base: The model. Control variates are zeros: what a node adds to them is then the difference, to the bit.
        settings: How; ``seed`` is the round's.
        controls: The model's control variates.
        states: What each node keeps that is settled by receipts, by index, such as its own control variates.
    """

    nodes: tuple[int, ...]
    base: Parameters
    settings: TrainSettings
    controls: Parameters = field(default_factory=dict)
    states: Mapping[int, Parameters] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What one node's training came to.

    Attributes:
        node: Its index.
        parameters: All tensors after training, and what it adds to the control variates; empty when it failed.
        num_examples: Its weight.
        metrics: The task's own numbers.
        pending: What is added to what the node keeps when the update is applied; control variates are in the update.
        failure: Why it failed, or None.
        spent: What it took of the node's privacy budget; None where it has kept no differential privacy.
    """

    node: int
    parameters: Parameters
    num_examples: int
    metrics: Metrics
    pending: Parameters = field(default_factory=dict)
    failure: str | None = None
    spent: SampledSteps | None = None

"""Virtual nodes under differential privacy: what leaves them, what they charge, and when they decline [FED-180].

Each has the ledger of a real node, kept in memory: a virtual node never loses it. Rows and noise come from the system's
randomness, as on a real node, so that the same seed does not give the same model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edge_node.engine.budget import Budget
from edge_node.engine.settings import NodeSettings
from federation.errors import ConfigError
from federation.protocol.messages import Decline
from federation.tasks.pool.node_pool import NodePool
from federation.types import PRIVATE_EXAMPLES, NodeId
from fedmq.simulation.experiment.direct import DirectCoordinator, Question
from fedmq.simulation.training.local_trainer import TrainedUpdate

__all__ = ["PRIVATE", "PrivateNodes", "check_private", "only_the_update"]

PRIVATE: Mapping[str, float] = {PRIVATE_EXAMPLES: 1.0}
"""What these nodes announce that they can."""


def check_private(pool: NodePool) -> None:
    """Look whether the nodes can keep what ``[privacy]`` asks of them.

    Raises:
        ConfigError: They cannot.
        TaskError: Their data cannot be read.
    """
    if (objection := pool.private_objection()) is not None:
        raise ConfigError("privacy.unit", f"no node of this task can keep differential privacy: {objection}")


def only_the_update(trained: TrainedUpdate) -> TrainedUpdate:
    """Nothing leaves a node beside its update [FED-181], and nothing at all where the task has kept no privacy."""
    if trained.update is not None and trained.spent is None:
        why = "the task does not say that it has kept differential privacy: nothing of it is sent"
        return replace(trained, update=None, failure=why)
    return replace(trained, num_examples=1, metrics={})


class PrivateNodes:
    """The ledgers of all virtual nodes.

    Args:
        names: The nodes.
    """

    def __init__(self, names: Sequence[NodeId]) -> None:
        self._budgets = {name: Budget(NodeSettings(node=name, task="", private=True), {}) for name in names}

    def decline(self, question: Question) -> Decline | None:
        """Why a node takes no part in a round, or None."""
        announcement = question.announcement
        found = self._budgets[question.node].hindrance(announcement)
        if found is None:
            return None
        return Decline(
            run=announcement.run, round=announcement.round, reason=found.reason, retry_after_s=found.retry_after_s
        )

    def charge(self, question: Question, trained: TrainedUpdate, coordinator: DirectCoordinator) -> None:
        """An update leaves its node: its turn is spent, and the offer says so."""
        budget, run = self._budgets[question.node], question.announcement.run
        budget.charge(run, trained.spent)
        coordinator.spent[question.node] = budget.of(run)

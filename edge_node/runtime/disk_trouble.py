"""The executor beside what a node tells people of its disk: that it takes nothing, until it does again."""

from collections.abc import Iterable

from edge_node.engine.effects import (
    Effect,
    EnterRun,
    MarkStored,
    SaveOutbox,
    SaveProgress,
    SaveSeen,
    SaveSpent,
    SettleUpdate,
)
from edge_node.engine.events import Event, StorageFailed
from edge_node.runtime.executor import NodeExecutor
from federation.runtime.obstacles import DISK, ObstacleFile

__all__ = ["DiskTrouble"]

_SAVES = (EnterRun, MarkStored, SaveOutbox, SaveProgress, SaveSeen, SaveSpent, SettleUpdate)


class DiskTrouble:
    """An executor for the driver.

    Args:
        executor: Does.
        obstacles: Told of what the disk has not taken.
    """

    def __init__(self, executor: NodeExecutor, obstacles: ObstacleFile) -> None:
        self._executor, self._obstacles = executor, obstacles

    @property
    def stopped(self) -> bool:
        """Whether the machine asked to leave."""
        return self._executor.stopped

    def execute(self, effect: Effect) -> Iterable[Event]:
        """As `NodeExecutor.execute`.

        Raises:
            LocalProtocolError: The machine asked for something that cannot be.
        """
        answers = list(self._executor.execute(effect))
        failed = [one.detail for one in answers if isinstance(one, StorageFailed)]
        if failed:
            self._obstacles.met(DISK, failed[0])
        elif isinstance(effect, _SAVES):
            self._obstacles.gone(DISK)
        return answers

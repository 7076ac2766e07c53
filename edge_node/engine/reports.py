"""The newest evaluation report: said again, with growing pauses, until the coordinator has receipted it [FED-71].

It is kept in memory only: the announcement that still stands after a restart asks again.
"""

from collections.abc import Callable
from typing import Final

from edge_node.engine.effects import Effect, PublishEvent
from edge_node.engine.settings import NodeSettings
from federation.protocol.messages import EvaluationReceipt, EvaluationReport
from federation.types import RunId

__all__ = ["Reports"]

_DOUBLINGS_MAX: Final = 16


class Reports:
    """At most one report: an older version's, which nobody has receipted, gives way to the newest."""

    def __init__(self, settings: NodeSettings, rng: Callable[[], float]) -> None:
        self._settings, self._rng = settings, rng
        self._report: EvaluationReport | None = None
        self._connected = False
        self._present = True
        self._attempts = 0
        self._due_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing waits for a receipt."""
        return self._report is None

    def add(self, report: EvaluationReport, now: float) -> None:
        """There is something to say."""
        self._report = report
        self.again(now, at_once=True)

    def receipt(self, receipt: EvaluationReceipt) -> None:
        """The coordinator has it, whatever it makes of it."""
        report = self._report
        if report is not None and (report.run, report.version) == (receipt.run, receipt.version):
            self._report = None

    def connected(self, now: float) -> None:
        """The broker is there: what was under way may be lost."""
        self._connected = True
        self.again(now)

    def disconnected(self) -> None:
        """The broker is away: no timer runs."""
        self._connected = False

    def coordinator_is(self, *, present: bool, now: float) -> None:
        """The coordinator came or went: what is said to an absent one only fills the broker's queue."""
        came, self._present = present and not self._present, present
        if came:
            self.again(now)

    def again(self, now: float, *, at_once: bool = False) -> None:
        """Say it again; the whole fleet does not at the same moment."""
        self._attempts = 0
        self._due_at = now if at_once else now + self._rng() * self._settings.reconnect_spread_s

    def forget_others(self, run: RunId) -> None:
        """Another run has begun: nobody waits for a report of the former one."""
        if self._report is not None and self._report.run != run:
            self._report = None

    def tick(self, now: float) -> list[Effect]:
        """Everything that is due."""
        if self._report is None or not self._reachable or now < self._due_at:
            return []
        settings = self._settings
        wait_s = min(settings.reoffer_s * 2.0 ** min(self._attempts, _DOUBLINGS_MAX), settings.reoffer_max_s)
        self._due_at = now + wait_s * (1.0 + 0.25 * self._rng())
        self._attempts += 1
        return [PublishEvent(message=self._report)]

    def deadline(self) -> float | None:
        """When `tick` is due next."""
        return self._due_at if self._report is not None and self._reachable else None

    @property
    def _reachable(self) -> bool:
        return self._connected and self._present

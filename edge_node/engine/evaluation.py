"""Which version this node has evaluated, which one it is asked to evaluate, and the report that comes of it."""

from collections.abc import Callable

from edge_node.engine.assignment import Assignment
from edge_node.engine.reports import Reports
from edge_node.engine.settings import NodeSettings, other_task
from federation.protocol.cohort import evaluates
from federation.protocol.limits import fit_text
from federation.protocol.messages import EvaluationReport, ModelRef, RoundAnnouncement
from federation.types import ModelVersion

__all__ = ["Evaluations"]


class Evaluations:
    """Every version at most once [FED-71]; ``gate`` says why the device may not work now."""

    def __init__(self, settings: NodeSettings, reports: Reports, gate: Callable[[], str | None] | None) -> None:
        self._settings, self._reports, self._gate = settings, reports, gate
        self._last: ModelVersion | None = None

    def forget(self) -> None:
        """Another run: its versions have nothing to do with the former's."""
        self._last = None

    def is_due(self, announcement: RoundAnnouncement | None, model: ModelRef | None = None) -> bool:
        """Whether this node is asked to evaluate the announced version, and has not.

        Args:
            announcement: The newest one.
            model: Only when it is this one; None is whichever is announced.
        """
        if announcement is None or announcement.model.version == self._last:
            return False
        if announcement.settings.privacy is not None:
            return False  # what is measured on its own data would leave without noise [FED-181]
        share, version = announcement.evaluation, announcement.model.version
        # Versions whose updates were all zero have the same digest, and each its own hash.
        if model is not None and (model.version, model.digest) != (version, announcement.model.digest):
            return False
        return evaluates(share, announcement.run, version, self._settings.node)

    def assignment(self, announcement: RoundAnnouncement, wait: float, now: float) -> Assignment | None:
        """The work that the announcement asks for; None when it may not be done here, which is reported.

        Args:
            announcement: One that is due.
            wait: Share of its spread to wait before anything is done, 0 to 1.
            now: Monotonic seconds.
        """
        reason = other_task(announcement, self._settings)
        reason = reason if reason is not None or self._gate is None else self._gate()
        if reason is not None:
            self.refuse(announcement, reason, now)
            return None
        return Assignment(
            announcement=announcement,
            model=announcement.model,
            due_at=now + wait * min(announcement.spread_s, announcement.lease_s),
            lease_at=now + announcement.lease_s,
            trains=False,
        )

    def refuse(self, announcement: RoundAnnouncement, reason: str, now: float) -> None:
        """Say that the announced version is not evaluated here, and why."""
        model = announcement.model
        report = EvaluationReport(
            run=announcement.run, version=model.version, digest=model.digest, num_examples=0, reason=fit_text(reason)
        )
        self.done(report, now)

    def done(self, report: EvaluationReport, now: float) -> None:
        """There is a report: it is said until it is receipted."""
        self._last = report.version
        self._reports.add(report, now)

"""Which version this node has evaluated, which one it is to evaluate, and the report that comes of it.

It is to evaluate what the coordinator asks for. A node whose device uses the model takes every announced version, to
see on its own data whether it is worth using: what comes of that is reported only where it was asked for, too.
"""

from collections.abc import Callable

from edge_node.engine.assignment import Assignment
from edge_node.engine.effects import StartEvaluation
from edge_node.engine.reports import Reports
from edge_node.engine.settings import NodeSettings, other_task, unmasked
from federation.privacy.metrics import metric_terms
from federation.protocol.cohort import evaluates
from federation.protocol.limits import fit_text
from federation.protocol.messages import EvaluationReport, ModelRef, RoundAnnouncement
from federation.types import Digest, ModelVersion

__all__ = ["Evaluations"]

Version = tuple[ModelVersion, Digest]
"""Of a restored run a version may be another one than that of the same number before."""


class Evaluations:
    """Every version at most once [FED-71]; ``gate`` says why the device may not work now."""

    def __init__(self, settings: NodeSettings, reports: Reports, gate: Callable[[], str | None] | None) -> None:
        self._settings, self._reports, self._gate = settings, reports, gate
        self._last: Version | None = None  # that was reported
        self._used: Version | None = None  # that the device was offered
        self._asked = True  # for the evaluation under way
        self._next_at = 0.0  # when the device is offered a version again

    def forget(self) -> None:
        """Another run: its versions have nothing to do with the former's."""
        self._last, self._used, self._next_at = None, None, 0.0

    def is_due(
        self, announcement: RoundAnnouncement | None, now: float | None = None, model: ModelRef | None = None
    ) -> bool:
        """Whether this node is to evaluate the announced version, and has not.

        Args:
            announcement: The newest one.
            now: Monotonic seconds; None is also what is due later.
            model: Only when it is this one; None is whichever is announced.
        """
        if announcement is None:
            return False
        # Versions whose updates were all zero have the same digest, and each its own hash.
        announced = announcement.model
        if model is not None and _version_of(model) != _version_of(announced):
            return False
        return self._is_asked(announcement) or self._is_offered(announcement, now)

    def deadline(self, announcement: RoundAnnouncement | None) -> float | None:
        """When the device is offered the announced version, in monotonic seconds."""
        return self._next_at if self.is_due(announcement) else None

    def assignment(self, announcement: RoundAnnouncement, wait: float, now: float) -> Assignment | None:
        """The work that is due; None when it may not be done here, which is reported where it was asked for.

        Args:
            announcement: One that is due.
            wait: Share of its spread to wait before anything is done, 0 to 1.
            now: Monotonic seconds.
        """
        reason = other_task(announcement, self._settings)
        reason = reason if reason is not None else self._told_in_clear(announcement)
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

    def begin(self, announcement: RoundAnnouncement, now: float) -> StartEvaluation:
        """The model of an announcement that is due is here."""
        self._asked, uses = self._is_asked(announcement), self._is_offered(announcement, now)
        if uses:
            self._used, self._next_at = _version_of(announcement.model), now + self._settings.model_every_s
        hidden, terms = announcement.masked_evaluation, announcement.privacy
        told = None
        if self._asked and hidden is not None and terms is not None:
            told = metric_terms(terms, len(hidden.metrics)), hidden.metrics
        return StartEvaluation(model=announcement.model, run=announcement.run, uses=uses, hidden=told)

    def refuse(self, announcement: RoundAnnouncement, reason: str, now: float) -> None:
        """Say that the announced version is not evaluated here, and why; the device is offered it again later."""
        model, self._asked = announcement.model, self._is_asked(announcement)
        self._next_at = now + self._settings.ineligible_retry_s
        report = EvaluationReport(
            run=announcement.run, version=model.version, digest=model.digest, num_examples=0, reason=fit_text(reason)
        )
        self.done(report, now)

    def done(self, report: EvaluationReport, now: float) -> None:
        """There is a report: it is said until it is receipted, where it was asked for."""
        if self._asked:
            self._last = report.version, report.digest
            self._reports.add(report, now)

    def _is_asked(self, announcement: RoundAnnouncement) -> bool:
        version, hidden = announcement.model.version, announcement.masked_evaluation
        if _version_of(announcement.model) == self._last or announcement.settings.privacy is not None:
            return False  # with privacy, what is measured on its own data would leave without noise [FED-181]
        share = announcement.evaluation if hidden is None else hidden.share
        return evaluates(share, announcement.run, version, self._settings.node)

    def _told_in_clear(self, announcement: RoundAnnouncement) -> str | None:
        """Why this node's own numbers would not be hidden as it wants it, or None [FED-195]."""
        if not self._is_asked(announcement):
            return None
        masks = bool(self._settings.helpers) or announcement.privacy is not None
        if announcement.masked_evaluation is None:
            return "helpers: the numbers of this node would be told in clear" if masks else None
        reason = unmasked(announcement, self._settings.helpers)
        return None if reason is None else f"helpers: {reason}"

    def _is_offered(self, announcement: RoundAnnouncement, now: float | None) -> bool:
        is_new = self._settings.uses_model and _version_of(announcement.model) != self._used
        return is_new and (now is None or now >= self._next_at or announcement.final)


def _version_of(model: ModelRef) -> Version:
    return model.version, model.digest

"""Carries out what becomes of claims: looked at and written in one step, so that nothing counts twice in between."""

from collections.abc import Callable

from coordinator.engine.claims.effects import ClaimsEffect, JudgeClaimed
from coordinator.engine.claims.events import ClaimedJudged, ClaimsWithdrawn
from coordinator.engine.events import UpdateRejected
from coordinator.records import UpdateRecord, Verdict
from coordinator.storage.store import CoordinatorStore
from federation.protocol.claims import claim_of
from federation.protocol.limits import CLAIM_BYTES
from federation.protocol.messages import Reason

__all__ = ["ClaimsExecution"]


class ClaimsExecution:
    """A part of the executor.

    Args:
        store: Where everything is kept.
        judged: Counts a verdict that was saved.
    """

    def __init__(self, store: CoordinatorStore, judged: Callable[[Verdict, UpdateRecord], None]) -> None:
        self._store, self._judged = store, judged

    def elsewhere(self, record: UpdateRecord) -> UpdateRejected | None:
        """The refusal of an update of which some counts elsewhere, or waits there for the next version.

        Raises:
            StorageError: Claims cannot be read.
        """
        return _refused(record, self._store.claims.counted(record) if record.members else b"")

    def run(self, effect: ClaimsEffect) -> ClaimedJudged | ClaimsWithdrawn | UpdateRejected:
        """Run one effect.

        Raises:
            StorageError: Nothing was saved.
        """
        if isinstance(effect, JudgeClaimed):
            record = effect.record
            rejected = _refused(record, self._store.claims.taken(record.members, record.update))
            if rejected is not None:
                return rejected
            self._store.save_verdict(effect.verdict, record)
            self._judged(effect.verdict, record)
            return ClaimedJudged(verdict=effect.verdict, record=record, detail=effect.detail)
        counted = self._store.claims.taken(effect.claims)
        if not counted:
            self._store.claims.withdraw(effect.claims + claim_of(effect.update))  # nor may the sum itself come any more
        return ClaimsWithdrawn(node=effect.node, update=effect.update, claims=effect.claims, counted=counted)


def _refused(record: UpdateRecord, counted: bytes) -> UpdateRejected | None:
    if not counted:
        return None
    update, node, why = record.update, record.node, f"{len(counted) // CLAIM_BYTES} members count elsewhere"
    return UpdateRejected(update=update, node=node, reason=Reason.COUNTED, detail=why, counted=counted)

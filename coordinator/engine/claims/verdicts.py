"""Final verdicts: saved, then said, and once more where the disk has failed.

Whose update was stored has its receipt and may never ask again: it may be revoked, or gone. So what the disk has not
taken of a verdict on such an update is asked for again here, and not when its node offers it.
"""

from coordinator.engine.effects import SaveVerdict
from coordinator.engine.state import MachineState
from coordinator.records import UpdateRecord, Verdict
from federation.protocol.messages import Reason, Receipt, ReceiptStatus
from federation.types import NodeId, UpdateId

__all__ = ["Verdicts"]

Given = dict[UpdateId, tuple[Verdict, UpdateRecord, str]]


class Verdicts:
    """Gives them."""

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._given, self._failed = Given(), Given()

    def give(self, verdict: Verdict, record: UpdateRecord, detail: str, *, stored: bool) -> None:
        """Save it and say it; ``stored`` says that the disk has the update already."""
        if stored:
            self._given[verdict.update] = verdict, record, detail
        self._state.emit(SaveVerdict(verdict=verdict, record=None if stored else record))
        self.say(verdict, record, detail)

    def say(self, verdict: Verdict, record: UpdateRecord, detail: str) -> None:
        """It is saved."""
        state, node, status, reason = self._state, record.node, verdict.status, verdict.reason
        self.receipt(node, record.update, status, reason)
        state.note(f"update_{status.value}", node=node, update=record.update, reason=reason.value, detail=detail)
        if status is ReceiptStatus.REFUSED and reason is not Reason.QUOTA:
            state.registry.rest(node, state.now)
            state.fails(node, f"its update was refused: {detail or reason.value}")
        state.answered(node, record.round)

    def receipt(self, node: NodeId, update: UpdateId, status: ReceiptStatus, reason: Reason = Reason.NONE) -> None:
        """Say what is on the disk."""
        self._state.send(node, Receipt(run=self._state.run, update=update, status=status, reason=reason))

    def storage_failed(self) -> None:
        """Of what was given last nobody knows whether the disk has it; to save it twice does no harm."""
        self._failed |= self._given
        self._given = {}

    def saved(self) -> None:
        """The next message is here, and the driver hands over the disk's answers before: all of it is on the disk."""
        self._given = {}

    def give_again(self) -> None:
        """The disk is there: what it has not taken, and nobody may ask for, is given again."""
        failed, self._failed = self._failed, {}
        for verdict, record, detail in failed.values():
            # Where its node has offered it meanwhile, it is in the buffer as what the store says: stored.
            if verdict.update not in self._state.buffer.records:
                self.give(verdict, record, detail, stored=True)

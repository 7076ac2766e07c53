"""The parts of the coordinator's machine that are others at a site: it speaks of the run above, and in its words."""

from collections.abc import Iterable
from dataclasses import replace

from coordinator.engine.announcer import Announcer
from coordinator.engine.masked.holdings import Holdings
from coordinator.engine.round import WaitReason
from coordinator.engine.settings import EngineSettings
from coordinator.engine.state import MachineState
from coordinator.records import RecoveredState, RoundRecord, UpdateRecord
from federation.errors import LocalProtocolError
from federation.protocol.messages import RoundAnnouncement
from federation.types import ModelVersion, NodeId, RoundId, Start, UpdateId
from site_gateway.records import Order, RecoveredSite, SiteSum
from update_codec import CodecSpec

__all__ = ["FrozenSums", "SiteAnnouncer", "SiteState", "site_of"]


class FrozenSums(Holdings):
    """Which updates are in a sum that has no verdict: they end with it, and not before."""

    def __init__(self, sums: Iterable[SiteSum] = ()) -> None:
        super().__init__(None)
        self.sums: dict[UpdateId, SiteSum] = {one.update: one for one in sums}

    def free(self, records: Iterable[UpdateRecord]) -> list[UpdateRecord]:
        """Those that are in none."""
        frozen = frozenset[UpdateId]().union(*(one.updates for one in self.sums.values()))
        return [record for record in records if record.update not in frozen]

    def put(self, made: SiteSum) -> None:
        """A sum is frozen."""
        self.sums[made.update] = made

    def drop(self, update: UpdateId) -> None:
        """It has its verdict, or another name."""
        del self.sums[update]


class SiteState(MachineState):
    """What the parts of the machine share, and what the federation above has asked for.

    Attributes:
        gateway: Who the gateway is above.
        order: The newest order; None before the first.
        saved: It is on disk.
        done: Its sum was handed up, or it was refused: nobody is asked for it any more.
        over: The run above has made its last version.
        frozen: Sums without a verdict.
    """

    over = False

    def __init__(self, settings: EngineSettings, recovered: RecoveredState, start: Start | None = None) -> None:
        if not isinstance(recovered, RecoveredSite):
            raise LocalProtocolError("a site's machine needs what a site's store has kept")
        self.gateway: NodeId = recovered.gateway
        self.order: Order | None = recovered.order
        self.saved, self.done = recovered.order is not None, False
        super().__init__(settings, recovered, start)
        self.masked = self.frozen = FrozenSums(recovered.frozen)

    @property
    def finished(self) -> bool:
        """Whether the run above is over."""
        return self.over

    def take_order(self, order: Order) -> None:
        """This is asked for now, whatever was before."""
        self.saved = self.saved and self.order is not None and self.order.announcement == order.announcement
        self.order, self.done, self.over = order, False, False

    def keep_order(self, order: Order) -> None:
        """An order is on disk."""
        self.saved = self.saved or order == self.order

    def end_order(self) -> None:
        """It was answered, or refused."""
        self.done = True

    def end_run(self) -> None:
        """Nothing follows above."""
        self.over = True

    def know(self, version: ModelVersion | None) -> None:
        """There is such a version above: nodes that were told of it are no sign of a later coordinator here."""
        self.newest = max(self.newest, version or self.newest)

    def follow_round(self) -> None:
        """The next round here has the number of the order's, where that is still free."""
        if self.order is not None:
            self.next_round = RoundId(max(self.next_round, self.order.round))

    @property
    def ending(self) -> WaitReason:
        """Why nothing follows where the run is finished."""
        return WaitReason.FINISHED

    @property
    def waiting(self) -> list[UpdateRecord]:
        """Stored updates that could answer the order."""
        base = None if self.order is None else self.order.version
        return [record for record in self.masked.free(self.buffer.records.values()) if record.base_version == base]


def site_of(state: MachineState) -> SiteState:
    """The state as a site's.

    Raises:
        LocalProtocolError: It is another's.
    """
    if not isinstance(state, SiteState):
        raise LocalProtocolError("this part belongs to a site's machine")
    return state


class SiteAnnouncer(Announcer):
    """Announces what was announced above: the same round where that is free, and the same settings."""

    def _record(self, nodes: tuple[NodeId, ...]) -> RoundRecord:
        site_of(self._state).follow_round()
        return super()._record(nodes)

    def _announcement(self, record: RoundRecord, delta: bytes | None = None) -> RoundAnnouncement:
        made, order = super()._announcement(record, delta), site_of(self._state).order
        if order is None:
            return made
        asked = order.announcement
        # Contexts follow all versions of the run, and a site does not see them all.
        codec = replace(CodecSpec.parse(asked.codec), context=False)
        model = replace(made.model, inputs_digest=asked.model.inputs_digest)
        return replace(made, task=asked.task, settings=asked.settings, codec=str(codec), model=model)

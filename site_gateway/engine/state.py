"""The parts of the coordinator's machine that are others at a site: it speaks of the run above, and in its words."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from coordinator.engine.announcer import Announcer
from coordinator.engine.masked.holdings import Holdings
from coordinator.engine.round import WaitReason
from coordinator.engine.settings import EngineSettings
from coordinator.engine.state import MachineState
from coordinator.records import RecoveredState, RoundRecord, UpdateRecord
from federation.errors import LocalProtocolError
from federation.protocol.limits import CLAIM_BYTES
from federation.protocol.messages import RoundAnnouncement
from federation.types import ModelVersion, NodeId, RoundId, Start, UpdateId
from site_gateway.records import Order, RecoveredSite, SiteSum
from update_codec import CodecSpec
from update_codec.limits import MEMBERS_MAX

__all__ = ["ROUNDS_MAX", "FrozenSums", "SiteAnnouncer", "SiteState", "site_of"]


ROUNDS_MAX = 2**31
"""Rounds of an order are below: those of the site count on from them, and the names of questions from here."""

PASS_SEED = 0x9E3779B97F4A7C15
"""Odd, and with no pattern: seeds of rounds above count up by one."""


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
        away: Nobody above can be reached.
        doubted: The order is of a former process, nobody above has said it to this one, and nodes know more than this
            state: it may be an older copy, and the order's sum may have its verdict.
        members_max: Nodes of one sum, at most, and where the site goes on while it is away; 0: it does not go on.
        aside: Updates of earlier passes over the same order: they are in its sum, and their nodes may train again.
        handed: Updates in sums that wait above for their verdict while there is a newer order: their nodes may train
            for that.
        passes: How many such passes there were.
        elsewhere: Updates of nodes here that the federation above knows from another site.
        lifts: As in `RecoveredSite`.
    """

    over = False
    away = False
    doubted = False
    _is_told = False
    members_max = 0
    passes = 0

    def __init__(self, settings: EngineSettings, recovered: RecoveredState, start: Start | None = None) -> None:
        if not isinstance(recovered, RecoveredSite):
            raise LocalProtocolError("a site's machine needs what a site's store has kept")
        self.gateway: NodeId = recovered.gateway
        self.order: Order | None = recovered.order
        self.saved, self.done, self.lifts = recovered.order is not None, False, recovered.lifts
        self.aside: set[UpdateId] = set()
        self.handed: set[UpdateId] = set()
        super().__init__(settings, recovered, start)
        self.masked = self.frozen = FrozenSums(recovered.frozen)
        self.elsewhere: set[UpdateId] = set()

    @property
    def finished(self) -> bool:
        """Whether the run above is over."""
        return self.over

    def take_order(self, order: Order) -> None:
        """This is asked for now, whatever was before."""
        self.saved = self.saved and self.order is not None and self.order.announcement == order.announcement
        self.order, self.done, self.over, self.passes = order, False, False, 0
        self._is_told, self.doubted = True, False

    def keep_order(self, order: Order) -> None:
        """An order is on disk."""
        self.saved = self.saved or order == self.order

    def end_order(self) -> None:
        """It was answered, or refused."""
        self.done = True

    def judged(self, update: UpdateId) -> None:
        """A sum has its verdict: the order of its name is over, whoever has heard first, and so the store forgets it.

        Another sum of that name would be told the verdict of this one.
        """
        if self.order is not None and self.order.update(self.gateway) == update:
            self.done, self.saved = True, False

    def end_run(self) -> None:
        """Nothing follows above."""
        self.over, self._is_told, self.doubted = True, True, False

    def doubt(self) -> None:
        """Nodes know more than this state: an order that nobody has said to this process is not worked for.

        Another sum of its name would be told the verdict that the first one had.
        """
        if not (self._is_told or self.doubted or self.order is None):
            self.doubted = True
            self.note("order_doubted", round=self.order.round, version=self.order.version)

    def know(self, version: ModelVersion | None) -> None:
        """There is such a version above: nodes that were told of it are no sign of a later coordinator here."""
        self.newest = max(self.newest, version or self.newest)

    def counts_elsewhere(self, update: UpdateId) -> None:
        """The federation above knows this update of a node here from another site."""
        self.elsewhere.add(update)

    def is_settled(self, update: UpdateId) -> None:
        """The federation above has said what became of it."""
        self.elsewhere.discard(update)

    def follow_round(self) -> None:
        """The next round here has the number of the order's, where that is still free."""
        if self.order is not None and self.order.round < ROUNDS_MAX:
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

    @property
    def coming(self) -> list[UpdateRecord]:
        """Those of them that are of the pass that is under way."""
        return [record for record in self.waiting if record.update not in self.aside]

    def speaks_for(self, record: UpdateRecord) -> int:
        """How many nodes are in an update: those that it names; of one that names none as many as may be."""
        return len(record.members) // CLAIM_BYTES or self.settings.gateways.get(record.node, 1)

    @property
    def goes_on(self) -> bool:
        """Whether another pass of all nodes fits the sum for the order, while nobody above could be handed it."""
        most = max(
            sum(map(self.speaks_for, self.coming)),
            sum(self.settings.gateways.get(node, 1) for node in self.registry.nodes()),
        )
        return self.away and sum(map(self.speaks_for, self.waiting)) + most <= self.members_max

    def fitting(self) -> list[UpdateRecord]:
        """Of the updates that could answer the order those that one sum may have, and at least one.

        The others wait for the next order.
        """
        room, found = self.members_max or MEMBERS_MAX, list[UpdateRecord]()
        for record in self.waiting:
            nodes = self.speaks_for(record)
            if nodes <= room or not found:
                room -= nodes
                found.append(record)
        return found

    def go_on_away(self, members_max: int) -> None:
        """So large may a sum be, also where the site goes on while it is away."""
        self.members_max = members_max

    def reach(self, *, up: bool) -> None:
        """The federation above can be reached, or cannot."""
        self.away = not up

    def hand(self, sums: Collection[UpdateId]) -> None:
        """These are above, and another order has come: their nodes have done their part, whatever becomes of it.

        A gateway that waited for the verdict and was late once would be one order behind for ever, where the verdict
        comes with the next version: each would wait for its lease.
        """
        for made in [one for one in self.frozen.sums.values() if one.update in sums]:
            for update in made.updates - self.aside - self.handed:
                if (record := self.buffer.records.get(update)) is not None:
                    self.handed.add(update)
                    self.registry.give(record.node)

    def thaw(self, update: UpdateId) -> None:
        """It is none any more: what is left of it waits for the next order, and in its nodes' quota."""
        made = self.frozen.sums[update]
        self.frozen.drop(update)
        for member in made.updates & self.handed:
            self.handed.remove(member)
            self.registry.take(self.buffer.records[member].node)

    def begin_pass(self, reason: str) -> None:
        """What has come is put aside, and its nodes may be asked again; ``reason``: why nobody is waited for."""
        for record in self.coming:
            self.aside.add(record.update)
            self.registry.give(record.node)
        self.passes += 1
        self.take_out(())  # nobody leaves, and the wait begins anew
        asked = None if self.order is None else self.order.round
        self.note("site_goes_on", round=asked, updates=len(self.waiting), passes=self.passes, reason=reason)

    def discard(self, record: UpdateRecord) -> None:
        """An update is not in the buffer any more."""
        for apart in (self.aside, self.handed):
            if record.update in apart:
                apart.remove(record.update)
                self.registry.take(record.node)
        super().discard(record)


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
        # A further pass is another shuffle: the same one would give the same update.
        seed = (asked.settings.seed + PASS_SEED * site_of(self._state).passes) % 2**63
        settings = replace(asked.settings, seed=seed)
        return replace(made, task=asked.task, settings=settings, codec=str(codec), model=model)

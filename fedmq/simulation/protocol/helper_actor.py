"""A helper as an actor: machine, executor and store as in production, on a simulated network and disk."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from federation.identity.helper_keys import PinnedHelper
from federation.identity.signing_keys import SigningKey
from federation.protocol.enumerations import Presence
from federation.protocol.signing import Reader, Writer
from federation.protocol.sum_messages import SumOffer
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Will
from federation.types import HelperId, NodeId
from fedmq.simulation.protocol.actors import Actor
from fedmq.simulation.protocol.masked_sums import HELPERS, SumsWitness
from fedmq.simulation.protocol.processes import TOPICS, Life, Place
from fedmq.simulation.protocol.scenario import MaskedPlan
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.disks import Disk
from fedmq.simulation.world.keys import SimKeys
from fedmq.simulation.world.transport import SimTransport
from sum_helper.engine.events import StopRequested, SumsComputed
from sum_helper.engine.machine import HelperMachine
from sum_helper.records import HelperRules, Keeping, SumJob
from sum_helper.runtime.executor import HelperExecutor, HelperParts, helper_state, renew_key
from sum_helper.runtime.inbound import Inbound
from sum_helper.runtime.summing import Noise, add_masks, noise_from
from sum_helper.storage.store import HelperStore

__all__ = ["HelperActor", "helper_key", "pinned"]

SUM_S = 0.3
"""How long a sum takes, in virtual seconds."""

LOOK_S = 1.0

TOGETHER = 64
"""As `sum_helper.app` sets it."""


@cache
def _keys(count: int) -> tuple[SigningKey, ...]:
    made = (SigningKey.of(bytes([number + 1]) * 32) for number in range(count))
    return tuple(sorted(made, key=lambda key: key.public_hex))


def helper_key(number: int) -> SigningKey:
    """The identity key of one helper, by its place in the order of all; the same in each simulation."""
    return _keys(HELPERS)[number]


def pinned(plan: MaskedPlan) -> tuple[PinnedHelper, ...]:
    """The helpers as nodes and coordinators know them."""
    return tuple(
        PinnedHelper.from_text(f"{name}={helper_key(number).public_hex}") for number, name in enumerate(plan.names)
    )


class HelperActor(Actor):
    """One helper over its restarts.

    Args:
        place: Where it lives.
        disk: All that stays of it.
        name: Its name.
        key: Its identity key.
        plan: What the helpers insist on, and what befalls them.
        nodes: Its register.

    Attributes:
        wipes: How often its state folder was lost.
    """

    def __init__(
        self,
        place: Place,
        disk: Disk[HelperStore],
        name: HelperId,
        *,
        key: SigningKey,
        plan: MaskedPlan,
        nodes: frozenset[NodeId],
    ) -> None:
        super().__init__(name, place.surroundings, disk, crash=plan.crash)
        self._place, self.disk, self._helper, self._key = place, disk, name, key
        self._plan, self._sums, self._nodes = plan, place.sums, nodes
        self._session = SessionSettings(client_id=f"helper-{name}", perishable=TOPICS.helper_chunks(name))
        self.wipes = 0

    @property
    def _witness(self) -> SumsWitness:
        assert self._sums is not None  # noqa: S101 - where there are helpers
        return self._sums

    @property
    def connections(self) -> tuple[str, ...]:
        """Its MQTT id."""
        return (self._session.client_id,)

    def build(self) -> Life:
        """Connect, and go on where the store says."""
        place, store, helper = self._place, self.disk.store, self._helper
        rules = HelperRules(members_min=self._plan.members_min)
        renew_key(store, Keeping())
        store.sync()
        writer, topic = Writer(TOPICS, self._key), TOPICS.helper_state(helper)
        lost = helper_state(store, Presence.LOST, members_min=rules.members_min)
        receive = self.receiver()
        will = Will(topic=topic, payload=writer.encode(topic, lost))
        transport = _Mouth(place.network, self._session, receive, will=will)
        transport.speaks = self.speaks
        for topic_filter in TOPICS.helper_subscriptions(helper):
            transport.subscribe(topic_filter)
        parts = HelperParts(
            helper=helper,
            store=store,
            summing=_LaterSums(self._world, receive, noise_from(store.secret)),
            transport=transport,
            writer=writer,
            registered=lambda: self._nodes,
            rules=rules,
            chunk_bytes=self._plan.chunk_bytes,
        )
        executor, keys = HelperExecutor(parts), _Register(self._nodes)
        inbound = Inbound(TOPICS, helper, coordinator=keys, register=keys, store=store, rules=rules)
        return Life(
            machine=HelperMachine(rules),
            executor=executor,
            translate=inbound.translate,
            transports=(transport,),
            settle=executor.settle,
            batch_max=TOGETHER,
        )

    def leave(self, known: Callable[[], bool]) -> None:
        """It goes for ever, once all nodes know which key to seal to: one that never hears it takes no part at all."""
        if known():
            self.end()
        else:
            self._world.after(LOOK_S, partial(self.leave, known))

    def stop_request(self) -> object:
        """What a signal tells the process."""
        return StopRequested()

    def rests(self) -> None:
        """Its state folder may be lost now."""
        if self._dice.happens(self._plan.wipe):
            self.wipes += 1
            self._note("state lost")
            self.disk.wipe()
            self._witness.lost(self._helper)
            self._place.witness.helpers_lost = True

    def speaks(self, topic: str, payload: bytes) -> None:
        """Something leaves the process: by now all that it follows from is on the disk."""
        self.passage()
        if not self.disk.waited:
            self._place.witness.too_early(self.name, 1)
        if topic == TOPICS.helper_event(self._helper):
            message = Reader(TOPICS).decode(topic, payload)
            if isinstance(message, SumOffer):
                batch = self.disk.store.batch(message.batch)
                self._witness.said(self._helper, message, b"" if batch is None else batch.members)


class _Mouth(SimTransport):
    """The connection: what is published here is said."""

    speaks: Callable[[str, bytes], None]

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, now or after the reconnect."""
        self.speaks(topic, payload)
        super().publish(topic, payload, qos=qos, retain=retain)


class _Register:
    """The nodes that a helper has admitted, and everybody's keys."""

    def __init__(self, nodes: frozenset[NodeId]) -> None:
        self._nodes, self.verify = nodes, SimKeys().verify

    def knows(self, node: NodeId) -> bool:
        """Whether a node was admitted."""
        return node in self._nodes


class _LaterSums:
    """Adds masks a little later, as the thread does."""

    def __init__(self, world: World, post: Callable[..., None], noise: Noise) -> None:
        self._world, self._post, self._noise = world, post, noise

    def start(self, job: SumJob) -> None:
        """Add the masks of one batch."""
        done: Any = SumsComputed(request=job.request, sums=add_masks(job, self._noise))
        self._world.after(SUM_S, lambda: self._post(done))

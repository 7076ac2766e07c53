"""A whole gateway on its own disks, without brokers: a scripted federation above, scripted nodes below, and kills.

Both scripts keep to the protocol and nothing else: they repeat what has no answer, and they remember every word, so
that a test can say what was promised to whom, and when.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from coordinator.engine.events import StopRequested
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings, first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.global_model.sums import SiteClaims
from coordinator.global_model.update_checks import check_update
from coordinator.runtime.executor import ExecutorParts
from coordinator.runtime.inbound import Inbound as SiteInbound
from coordinator.runtime.traffic import Traffic
from coordinator.strategies.selection import make_selector
from edge_node.engine.machine import NodeMachine
from edge_node.engine.settings import NodeSettings
from edge_node.runtime.executor import NodeParts
from edge_node.runtime.inbound import Inbound as NodeInbound
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.training.worker import TrainingSetup
from federation.protocol.chunking import payload_digest
from federation.protocol.claims import claim_of
from federation.protocol.cohort import EVERYONE, NOBODY, evaluates, includes
from federation.protocol.messages import (
    CoordinatorState,
    Decline,
    EvaluationReceipt,
    EvaluationReport,
    Message,
    ModelPart,
    ModelRef,
    NodeState,
    PartKind,
    Presence,
    Reason,
    Receipt,
    ReceiptStatus,
    RoundAnnouncement,
    TrainSettings,
    UpdateOffer,
)
from federation.protocol.topics import Topics
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION, decode_message, encode_message
from federation.runtime.transport import (
    MessageReceived,
    TransportAnswered,
    TransportConnected,
    TransportDisconnected,
)
from federation.types import (
    Digest,
    Epoch,
    FederationId,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    SeenRun,
    Start,
    UpdateId,
    update_id,
)
from site_gateway.engine.events import AboveEvent, BelowEvent, GatewayEvent
from site_gateway.engine.machine import GatewayMachine
from site_gateway.engine.site import SiteMachine
from site_gateway.runtime.executor import AboveExecutor, GatewayExecutor, SiteExecutor
from site_gateway.runtime.following import Follower, SiteTask, site_model
from site_gateway.runtime.uplink import Form
from site_gateway.storage.store import SiteStore
from tests.rigs.model_values import INITIAL, LOSSLESS, MANIFEST
from update_codec import Accumulator, Vectors, decode, encode, inspect, is_sum, read_sum, sum_frame

RUN = RunId("00000000000000aa")
GATEWAY = NodeId("press-shop")
TOPICS = Topics(FederationId("plant"))


class Killed(BaseException):
    """The process is gone, between two effects."""


class Wire:
    """One side's connection: keeps what was said, in order."""

    def __init__(self) -> None:
        self.said: deque[tuple[str, bytes]] = deque()
        self.retained: dict[str, bytes] = {}

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Keep it."""
        del qos
        self.said.append((topic, payload))
        if retain:
            self.retained[topic] = payload

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        """Nothing is pulled: small deltas ride in announcements."""

    def unsubscribe(self, topic_filter: str) -> None:
        """As above."""

    def open(self) -> None:
        """Nothing to open."""

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Nothing to close."""


class NoTrainer:
    """Never asked."""

    def start(self, job: object) -> None:
        """Never."""
        raise AssertionError(job)

    def evaluate(self, job: object) -> None:
        """Never."""
        raise AssertionError(job)

    def stop(self, round_id: object) -> None:
        """Never."""
        raise AssertionError(round_id)

    def close(self, *, timeout_s: float) -> bool:
        """Nothing runs."""
        return timeout_s >= 0


def trained(node: str, round_id: int) -> bytes:
    """What a node learns in a round: the same after each of its restarts."""
    rng = np.random.default_rng([round_id, *node.encode()])
    delta = Vectors(
        rng.standard_normal(MANIFEST.parameter_count).astype(np.float32),
        np.zeros(MANIFEST.statistic_count, np.float32),
        np.array([round_id, len(node)]),
    )
    return encode(delta, MANIFEST, LOSSLESS).frame


def examples(node: str) -> int:
    """How many a node has."""
    return 10 + len(node) + node.encode()[-1] % 7


def measured(node: str, version: int) -> dict[str, float]:
    """What a node finds when it evaluates; not every node has every number."""
    found = {"accuracy": 1.0 / (3 + version + node.encode()[-1] % 7), "loss": 0.1 + node.encode()[-1] % 3}
    return found if node != "n1" else {"accuracy": found["accuracy"]}


@dataclass
class Above:
    """The federation above: keeps what it was offered, and makes the next version of it when a test says so."""

    versions: list[Vectors] = field(default_factory=lambda: [INITIAL])
    parts: tuple[ModelPart, ...] = ()
    delta: bytes | None = None
    round: int = -1
    codec: str = "lossless"
    final: bool = False
    evaluation: int | None = None
    reports: list[EvaluationReport] = field(default_factory=list)
    declines: list[Decline] = field(default_factory=list)
    offers: dict[UpdateId, list[bytes]] = field(default_factory=dict)
    verdicts: dict[UpdateId, Receipt] = field(default_factory=dict)
    claims: dict[UpdateId, bytes | None] = field(default_factory=dict)
    fates: dict[UpdateId, Receipt] = field(default_factory=dict)
    questions: list[UpdateId] = field(default_factory=list)
    asked_for: dict[UpdateId, bytes] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The newest one."""
        return len(self.versions) - 1

    def announce(self, *, asked: bool = True) -> None:
        """Another round, of the newest version."""
        self.round, self.final = self.round + 1, not asked

    def retained(self) -> Iterator[Message]:
        """What whoever connects is told."""
        yield CoordinatorState(
            presence=Presence.ONLINE,
            run=RUN,
            epoch=Epoch(1),
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_VERSION,
            start=Start(7),
        )
        if self.round < 0:
            return
        model = ModelRef(
            version=ModelVersion(self.version),
            digest=Digest(self.versions[-1].digest()),
            manifest_digest=Digest(MANIFEST.digest),
            seed=3,
            parts=self.parts,
            delta=self.delta,
        )
        yield RoundAnnouncement(
            run=RUN,
            epoch=Epoch(1),
            round=RoundId(self.round),
            task="digits",
            model=model,
            cohort=NOBODY if self.final else EVERYONE,
            settings=TrainSettings(seed=40 + self.round, learning_rate=0.125),
            codec=self.codec,
            min_base_version=ModelVersion(self.version),
            lease_s=600.0,
            spread_s=0.0,
            final=self.final,
            start_low=7,
            evaluation=self.evaluation,
        )

    def judge(self, update: UpdateId, status: ReceiptStatus = ReceiptStatus.APPLIED) -> None:
        """The final word on an offered sum; applied makes the next version."""
        if status is not ReceiptStatus.APPLIED:
            self.verdicts[update] = Receipt(run=RUN, update=update, status=status, reason=Reason.TOO_STALE)
            return
        self.advance(self.offers[update][-1])
        self.verdicts[update] = Receipt(
            run=RUN, update=update, status=ReceiptStatus.APPLIED, version=ModelVersion(self.version)
        )

    def advance(self, frame: bytes) -> None:
        """Make the next version of a sum, or of an update, wherever it has come from."""
        total = Accumulator(MANIFEST)
        if is_sum(frame):
            total.add_sum(read_sum(frame, MANIFEST))
        else:
            total.add(frame, 1.0)
        step = encode(total.mean(), MANIFEST, LOSSLESS).frame
        self.versions.append(self.versions[-1].plus(decode(step, MANIFEST)))
        part = ModelPart(
            kind=PartKind.DELTA,
            version=ModelVersion(self.version),
            payload_bytes=len(step),
            payload_digest=payload_digest(step),
            chunk_bytes=61_440,
        )
        self.parts, self.delta = (part,), step


@dataclass(frozen=True)
class Site:
    """What is behind a gateway below: its nodes, in which form they are told of, and whether they are named."""

    nodes: tuple[str, ...]
    form: Form = Form.EXACT
    names: bool = True
    members_max: int = 8

    def frame(self, round_id: int) -> bytes:
        """What goes up for one round."""
        total = Accumulator(MANIFEST)
        for node in self.nodes:
            total.add(trained(node, round_id), float(examples(node)))
        if self.form is Form.EXACT:
            return sum_frame(total.sums(), MANIFEST)
        return encode(total.mean(), MANIFEST, LOSSLESS).frame

    def claims(self, round_id: int) -> bytes | None:
        """Whom it names."""
        named = sorted(claim_of(update_id(RoundId(round_id), NodeId(node))) for node in self.nodes)
        return b"".join(named) if self.names else None


NO_SITES: Mapping[str, Site] = {}
EXAMPLES_MAX = 30
"""Of one node, where gateways are among them."""


@dataclass
class Node:
    """One node of the site: what it was asked, and every receipt that it has had."""

    name: NodeId
    site: Site | None = None
    outbox: dict[UpdateId, UpdateOffer] = field(default_factory=dict)
    receipts: dict[UpdateId, list[Receipt]] = field(default_factory=dict)
    reports: dict[ModelVersion, EvaluationReport] = field(default_factory=dict)
    evaluated: set[ModelVersion] = field(default_factory=set)
    asked: list[RoundAnnouncement] = field(default_factory=list)
    made: list[UpdateOffer] = field(default_factory=list)
    sends: bytes | None = None
    """A frame that it sends instead of what it has learnt."""

    def seen(self) -> SeenRun | None:
        """The newest that it has heard of the run."""
        if not self.asked:
            return None
        last = self.asked[-1]
        told = [one.version for said in self.receipts.values() for one in said if one.version is not None]
        version = ModelVersion(max([last.model.version, *told]))
        return SeenRun(run=RUN, epoch=last.epoch, start=Start(last.start_low or 0), round=last.round, version=version)

    def hear(self, message: Message) -> None:
        """Train at once; an update stays in the outbox until its final receipt."""
        if isinstance(message, Receipt):
            self.receipts.setdefault(message.update, []).append(message)
            if message.status.final:
                self.outbox.pop(message.update, None)
            return
        if isinstance(message, EvaluationReceipt):
            self.reports.pop(message.version, None)
        if not isinstance(message, RoundAnnouncement):
            return
        version = message.model.version
        if evaluates(message.evaluation, message.run, version, self.name) and version not in self.evaluated:
            self.evaluated.add(version)
            self.reports[version] = EvaluationReport(
                run=RUN,
                version=version,
                digest=message.model.digest,
                num_examples=examples(self.name),
                metrics=measured(self.name, version),
                evaluate_s=float(len(self.name)),
            )
        if message.final:
            return
        if not includes(message.cohort, message.run, message.round, self.name):
            return
        update = update_id(message.round, self.name)
        if update in self.outbox or update in self.receipts:
            return
        self.asked.append(message)
        site, round_id = self.site, message.round
        frame = trained(self.name, round_id) if site is None else site.frame(round_id)
        frame = self.sends or frame
        count = examples(self.name) if site is None else sum(map(examples, site.nodes))
        self.outbox[update] = UpdateOffer(
            run=RUN,
            round=message.round,
            update=update,
            incarnation=Incarnation(1),
            base_version=message.model.version,
            base_digest=message.model.digest,
            num_examples=count,
            metrics={"loss": float(len(self.name))},
            codec="sum" if is_sum(frame) else inspect(frame, MANIFEST).spec,
            payload_bytes=len(frame),
            payload_digest=payload_digest(frame),
            chunk_bytes=61_440,
            inline=frame,
            members=None if site is None else site.claims(round_id),
        )
        self.made.append(self.outbox[update])


class Rig:
    """One gateway; a new process after each kill."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        form: Form = Form.EXACT,
        members_max: int = 0,
        sites: Mapping[str, Site] = NO_SITES,
    ) -> None:
        self.folder, self.form, self.now = folder, form, 100.0
        self.caps = {NodeId(name): site.members_max for name, site in sites.items()}
        self.members_max, self.is_cut = members_max, False
        self.above = Above()
        self.nodes = {name: Node(name) for name in (NodeId(f"n{index}") for index in range(nodes))}
        self.nodes |= {NodeId(name): Node(NodeId(name), site=site) for name, site in sites.items()}
        self.tells_seen = False
        self.effects = 0
        self.kill_after: int | None = None
        self.kill_before: type | None = None
        self.starts = 0
        self.start()

    def start(self, *, kept: Sequence[Message] = ()) -> None:
        """A process begins, and finds what the brokers have; first what the one above has kept for its session."""
        self.starts += 1
        self.store = SiteStore(self.folder / "site", gateway=GATEWAY, run=RUN, audit_versions=99)
        if self.store.head() is None:
            self.store.initialise(MANIFEST, first_commit(INITIAL, MANIFEST, DownlinkSettings(), seed=3))
        self.node_store = SqliteNodeStore(self.folder / "above")
        self.up, self.down = Wire(), Wire()
        above, below = self._above_part(), self._below_part()
        below.go_on_away(self.members_max)
        self.machine = GatewayMachine(above, below, RUN)
        self.executor = GatewayExecutor(self.above_executor, self.site_executor, self.form)
        self.step(None)
        if not self.is_cut:
            self._connect_above()
        for message in kept:
            self.tell_above(message)
        self.hear_below(TransportConnected(connection="control", session_present=False, packet_bytes_max=262_144))
        self.hear_below(TransportAnswered(connection="control"))
        for node in self.nodes:
            self._say_state(node, Presence.ONLINE)

        self.now += 1.0
        self.step(None)

    def _above_part(self) -> NodeMachine:
        first = self.store.model(ModelVersion(0)) if self.store.head() == 0 else None
        setup = TrainingSetup(node=GATEWAY, task=SiteTask(MANIFEST, first), manifest=MANIFEST)
        self.node_inbound = NodeInbound(TOPICS, GATEWAY)
        parts = NodeParts(setup=setup, store=self.node_store, trainer=NoTrainer(), transport=self.up, topics=TOPICS)
        self.above_executor = AboveExecutor(parts, RUN, site_model(self.store))
        return NodeMachine(
            NodeSettings(node=GATEWAY, task="digits", reconnect_spread_s=0.0),
            self.node_store.incarnation,
            self.above_executor.recovered(),
            rng=lambda: 0.0,
            state_id=self.node_store.state_id,
        )

    def _below_part(self) -> SiteMachine:
        recovered = self.store.recovered_site(recent=1)
        follower = Follower(self.store, recovered.head, CommitterSettings(), self.above_executor.held_model)
        parts = ExecutorParts(
            store=self.store,
            committer=follower,
            control=self.down,
            data=self.down,
            topics=TOPICS,
            now=lambda: self.now,
            say=lambda _event, _fields: None,
            check=partial(check_update, sites=SiteClaims(self.caps, EXAMPLES_MAX)),
        )
        self.site_executor = SiteExecutor(parts, self.store, EXAMPLES_MAX)
        self.site_inbound = SiteInbound(
            TOPICS, self.store, Traffic(), self.site_executor.broker_connected, now=lambda: self.now
        )
        count = len(self.nodes)
        settings = EngineSettings(
            task="digits",
            concurrency=count,
            buffer=count,
            refill=count,
            nodes_min=count,
            settle_s=0.5,
            evaluate_every=0,
            codec_up="lossless",
            payload_bytes_max=1 << 20,
            lease_s=1e6,
            max_wait_s=1e6,
            gateways=self.caps,
            num_examples_max=EXAMPLES_MAX,
        )
        return SiteMachine(
            settings, recovered, selector=make_selector("repeatable"), rng=lambda: 0.5, start=Start(10 + self.starts)
        )

    # --- the loop ---------------------------------------------------------------------------------------------------

    def step(self, event: GatewayEvent | None) -> None:
        """Handle one event as the driver does; a kill may come before any effect."""
        pending: deque[GatewayEvent | None] = deque([event])
        while pending:
            for effect in self.machine.handle(pending.popleft(), self.now):
                is_due = self.kill_after is not None and self.effects >= self.kill_after
                if is_due or (self.kill_before is not None and isinstance(effect.effect, self.kill_before)):
                    self.kill_after = self.kill_before = None
                    raise Killed
                self.effects += 1
                pending.extend(self.executor.execute(effect))

    def hear_above(self, item: object) -> None:
        """Something arrives from above."""
        event = self.node_inbound.translate(item)
        if event is not None:
            self.step(AboveEvent(event=event))

    def hear_below(self, item: object) -> None:
        """Something arrives from the site."""
        event = self.site_inbound.translate(item)
        if event is not None:
            self.step(BelowEvent(event=event))

    def tell_above(self, message: Message) -> None:
        """The federation above says something to the gateway, or to all."""
        match message:
            case CoordinatorState():
                topic = TOPICS.coordinator_state
            case RoundAnnouncement():
                topic = TOPICS.round
            case _:
                topic = TOPICS.node_command(GATEWAY)
        self.hear_above(MessageReceived(topic=topic, payload=encode_message(message)))

    def _say_state(self, node: NodeId, presence: Presence) -> None:
        state = NodeState(
            presence=presence,
            incarnation=Incarnation(1),
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_VERSION,
            task="digits",
            invitable=True,
            seen=self.nodes[node].seen() if self.tells_seen else None,
        )
        self.hear_below(MessageReceived(topic=TOPICS.node_state(node), payload=encode_message(state), retained=True))

    def ask(self, gateway: NodeId, offer: UpdateOffer, update: UpdateId) -> None:
        """A gateway below asks what became of an update; what is said above comes down."""
        question = replace(offer, update=update, inline=None, members=None)
        self.hear_below(MessageReceived(topic=TOPICS.node_event(gateway), payload=encode_message(question)))
        for _ in range(2):
            self.deliver()

    def leave(self, node: NodeId) -> None:
        """A node of the site says that it goes."""
        self._say_state(node, Presence.OFFLINE)

    def _connect_above(self) -> None:
        self.hear_above(TransportConnected(connection="node", session_present=False, packet_bytes_max=262_144))

    def cut(self) -> None:
        """The line above is down: what is said there is lost."""
        self.is_cut = True
        self.hear_above(TransportDisconnected(connection="node", reason="the line is down"))

    def mend(self) -> None:
        """It is back."""
        self.is_cut = False
        self._connect_above()

    def die(self) -> None:
        """The process is gone: its locks go with it."""
        self.store.close()
        self.node_store.close()

    # --- the world --------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Everybody says once what the protocol has them repeat; a killed gateway is started again."""
        try:
            self._turn()
        except Killed:
            self.die()
            while True:
                try:
                    self.start()
                except Killed:
                    self.die()
                    continue
                return

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the machine do what falls due: a process that stood still would listen anew."""
        until = self.now + seconds
        while (due := self.machine.deadline()) is not None and due < until:
            self.now = max(self.now, due) + 1e-3
            self.step(None)
        self.now = until

    def _turn(self) -> None:
        self.pass_time(400.0)
        if not self.is_cut:
            for message in self.above.retained():
                self.tell_above(message)
        self.step(None)
        self.deliver()
        for update, receipt in self.above.verdicts.items():
            if update in self.above.offers and not self.is_cut:
                self.tell_above(receipt)
        self.deliver()
        for node in self.nodes.values():
            for offer in list(node.outbox.values()):
                self.hear_below(MessageReceived(topic=TOPICS.node_event(node.name), payload=encode_message(offer)))
                self.deliver()
            for report in list(node.reports.values()):
                self.hear_below(MessageReceived(topic=TOPICS.node_event(node.name), payload=encode_message(report)))
                self.deliver()
        self.step(None)
        self.deliver()

    def deliver(self) -> None:
        """What the gateway has said reaches whom it is for."""
        while self.down.said:
            topic, payload = self.down.said.popleft()
            if not payload or "/m/" in topic:
                continue
            for node in self.nodes.values():
                if topic in (TOPICS.round, TOPICS.node_command(node.name)):
                    node.hear(decode_message(payload))
        while self.up.said:
            topic, payload = self.up.said.popleft()
            if self.is_cut:
                continue
            if topic == TOPICS.node_event(GATEWAY) and payload:
                message = decode_message(payload)
                if isinstance(message, Decline):
                    self.above.declines.append(message)
                if isinstance(message, EvaluationReport):
                    self.above.reports.append(message)
                    word = EvaluationReceipt(run=RUN, version=message.version, status=ReceiptStatus.APPLIED)
                    self.tell_above(word)
                if isinstance(message, UpdateOffer) and message.update != update_id(message.round, GATEWAY):
                    self.above.questions.append(message.update)
                    self.above.asked_for[message.update] = message.members or b""
                    unknown = Receipt(
                        run=RUN, update=message.update, status=ReceiptStatus.REFUSED, reason=Reason.NOT_ASSIGNED
                    )
                    self.tell_above(self.above.fates.get(message.update, unknown))
                elif isinstance(message, UpdateOffer) and message.inline is not None:
                    self.above.claims[message.update] = message.members
                    self.above.offers.setdefault(message.update, []).append(message.inline)
                    status = Receipt(run=RUN, update=message.update, status=ReceiptStatus.STORED)
                    self.tell_above(self.above.verdicts.get(message.update, status))

    def stop(self) -> None:
        """An orderly end."""
        self.step(BelowEvent(event=StopRequested()))
        self.deliver()

    def until_offered(self, update: UpdateId, turns: int = 12) -> None:
        """Let time pass until the federation above has a sum."""
        for _ in range(turns):
            if update in self.above.offers:
                return
            self.turn()
        raise AssertionError(f"{update} was never offered: {self.machine.snapshot()}")

    def flat(self, round_id: int) -> bytes:
        """The frame that the exact sum of all nodes' updates of a round has."""
        total = Accumulator(MANIFEST)
        behind = [node for one in self.nodes.values() if one.site is not None for node in one.site.nodes]
        for node in (*behind, *(name for name, one in self.nodes.items() if one.site is None)):
            total.add(trained(node, round_id), float(examples(node)))
        return sum_frame(total.sums(), MANIFEST)


def killed_rig(folder: Path, after: int) -> Rig:
    """A gateway that is killed before its n-th effect."""
    rig = Rig(folder)
    rig.kill_after = rig.effects + after
    return rig


__all__ = ["GATEWAY", "RUN", "TOPICS", "Rig", "Site", "examples", "killed_rig", "measured"]

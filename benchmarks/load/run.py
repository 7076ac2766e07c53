"""One load: everybody connects, the time is measured, what is under way is seen to its end, and the store is asked."""

import random
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.load.network import Network
from benchmarks.load.node import Counts, Shared
from benchmarks.load.processes import (
    FEDERATION,
    Broker,
    Coordinator,
    Cost,
    DropWatch,
    Enrolled,
    cost_of,
    started_broker,
)
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.strategies.codecs import codec_for
from edge_node.engine.settings import PACE_LINGER_S
from federation.protocol.messages import ReceiptStatus
from federation.protocol.signing import Reader
from federation.protocol.topics import Topics
from federation.types import NodeId, UpdateId
from update_codec import CodecSpec, Manifest, Vectors, encode

__all__ = ["Measured", "Plan", "run"]

CONNECT_LIMIT_S: Final = 300.0
ATTEMPTS: Final = 5
DRAIN_LIMIT_S: Final = 60.0
FRAMES: Final = 256
SAY_S: Final = 5.0
TURN_S: Final = 0.05
UPDATE_SCALE: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run.

    Attributes:
        nodes: Clients.
        seconds: How long it is measured, once work has begun.
        synchronous: A version waits for all that were asked.
        codec: Of the updates.
        parameters: Of the model, float32.
        concurrency: Nodes that train at once.
        buffer: Updates that make a version.
        refill: Free places at which new nodes are asked; None is the coordinator's own choice.
        train_s: Mean of a training's time, in seconds, exponentially distributed.
        connect_per_s: Connections that are begun each second.
        tls: Client certificates and access rules.
        signed: Every message is signed.
        pace_s: How often nodes look in, in seconds; 0: they stay connected.
    """

    nodes: int
    seconds: float
    synchronous: bool
    codec: str
    parameters: int
    concurrency: int
    buffer: int
    refill: int | None
    train_s: float
    connect_per_s: float
    tls: bool
    signed: bool
    pace_s: float = 0.0

    @property
    def task(self) -> str:
        """Name of the task."""
        return f"null-{self.parameters}"

    @property
    def names(self) -> list[NodeId]:
        """Of the nodes."""
        return [NodeId(f"node-{number:06d}") for number in range(self.nodes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it.

    Attributes:
        counts: What happened to nodes within the time; declines and lost connections in the whole run.
        seconds: The time, in seconds.
        coordinator: What the coordinator has cost within it; memory at its end, and at most.
        broker: The same of the broker.
        load_cpu_s: CPU of the nodes, in seconds.
        dropped: Messages that the broker has dropped, in the whole run; None: it does not say.
        lost: Updates without a receipt at the end, and those that a receipt has confirmed and the store has not.
        connect_s: How long it took until everybody was connected, in seconds.
        first_s: How long until then work began, in seconds: the coordinator had all births.
        update_bytes: Mean size of an update.
        versions: That were made in the whole run.
        refusals: Some of what went wrong on connections.
        check_ins: How often a node has connected within the time.
        online_mean: Nodes that were connected, in the mean over the time; ``online_max``: at most.
    """

    counts: Counts
    seconds: float
    coordinator: Cost
    broker: Cost
    load_cpu_s: float
    dropped: int | None
    lost: int
    connect_s: float
    first_s: float
    update_bytes: float
    versions: int
    refusals: tuple[str, ...]
    check_ins: int
    online_mean: float
    online_max: int


def run(plan: Plan, folder: Path) -> Measured:
    """Run it in an empty folder.

    Raises:
        RuntimeError: Somebody did not come, or the coordinator has ended; the message has its last words.
    """
    enrolled = Enrolled.create(folder, plan.names, plan.task) if plan.tls or plan.signed else None
    frames = _frames(plan)
    with started_broker(enrolled, tls=plan.tls) as broker:
        coordinator = Coordinator(
            keys=_settings(plan, folder, broker, enrolled),
            config=enrolled.plant.root if plan.tls and enrolled is not None else None,
            log=folder / "coordinator.log",
        )
        coordinator.start()
        try:
            # With certificates only the coordinator's identity may hear it: once the coordinator has left.
            with nullcontext() if plan.tls else DropWatch(broker, None) as drops:
                return _Load(plan, folder, frames, (broker, coordinator, enrolled)).measure(drops)
        finally:
            coordinator.stop()


def settles_s(plan: Plan) -> float:
    """From everybody's being connected until who is connected at a moment is a matter of the pace alone, in seconds.

    All come at once and leave when the linger is over; the last of them is back half a pace after the pace.
    """
    return 1.5 * plan.pace_s + _linger_s(plan) if plan.pace_s else 0.0


def _linger_s(plan: Plan) -> float:
    return min(PACE_LINGER_S, plan.pace_s or PACE_LINGER_S)


class _Load:
    def __init__(
        self,
        plan: Plan,
        folder: Path,
        frames: list[bytes],
        parts: tuple[Broker, Coordinator, Enrolled | None],
    ) -> None:
        self._plan, self._folder, self._frames = plan, folder, frames
        self._broker, self._coordinator, self._enrolled = parts
        signing = self._enrolled if plan.signed else None
        rng = random.Random(1)
        topics = Topics(FEDERATION)
        self._shared = Shared(
            topics=topics,
            task=plan.task,
            frames=frames,
            rng=rng.random,
            train_s=lambda: rng.expovariate(1 / plan.train_s) if plan.train_s else 0.0,
            reader=Reader(topics, None if signing is None else signing.coordinator_key),
            linger_s=_linger_s(plan),
        )
        self._network = Network(
            self._shared,
            self._broker.port,
            plan.names,
            signer=(lambda _name: None) if signing is None else signing.signer,
            tls=self._enrolled.tls if plan.tls and self._enrolled is not None else None,
        )
        self._said = 0.0

    def measure(self, drops: DropWatch | None) -> Measured:
        """Connect, begin, measure, end."""
        begun = time.monotonic()
        self._until(self._connect(begun), "nodes are connected", CONNECT_LIMIT_S)
        connected = time.monotonic()
        self._until(lambda: self._shared.counts.stored > 0, "the first update is stored", CONNECT_LIMIT_S)
        first_s, spread_s = time.monotonic() - connected, settles_s(self._plan)
        spread = time.monotonic() + spread_s
        self._until(lambda: time.monotonic() >= spread, "nodes have spread", spread_s + DRAIN_LIMIT_S)
        first = time.monotonic()
        before, own, costs = self._shared.counts.copy(), time.process_time(), self._costs()
        ends, came, online = first + self._plan.seconds, self._network.came, list[int]()

        def over() -> bool:
            online.append(self._network.online)
            return time.monotonic() >= ends

        self._until(over, "", self._plan.seconds + DRAIN_LIMIT_S)
        came = self._network.came - came
        after, spent, until = self._shared.counts.copy(), time.process_time(), time.monotonic()
        now = self._costs()
        self._drain()
        self._coordinator.stop()
        self._network.close()
        versions, kept = self._kept()
        unanswered = set[UpdateId]().union(*(one.node.waits_for() for one in self._network.connections))
        return Measured(
            counts=_difference(after, before),
            seconds=until - first,
            coordinator=_spent(now[0], costs[0]),
            broker=_spent(now[1], costs[1]),
            load_cpu_s=spent - own,
            dropped=self._dropped() if drops is None else drops.count(),
            lost=len(unanswered) + len(self._shared.confirmed - kept),
            connect_s=connected - begun,
            first_s=first_s,
            update_bytes=sum(map(len, self._frames)) / len(self._frames),
            versions=versions,
            refusals=tuple(self._network.refusals[:8]),
            check_ins=came,
            online_mean=sum(online) / len(online),
            online_max=max(online),
        )

    def _connect(self, begun: float) -> Callable[[], bool]:
        """Begin the connections that are due, at a pace."""

        def step() -> bool:
            due = int((time.monotonic() - begun) * self._plan.connect_per_s) + 1
            self._network.open_until(min(self._plan.nodes, due))
            # By a pace the first may have left before the last have come.
            return (self._network.came if self._plan.pace_s else self._network.online) >= self._plan.nodes

        return step

    def _until(self, done: Callable[[], bool], what: str, limit_s: float) -> None:
        ends = time.monotonic() + limit_s
        while not done():
            self._network.turn(TURN_S)
            self._say()
            if time.monotonic() > ends:
                online, pid = self._network.online, self._coordinator.pid
                said = ", ".join(self._network.refusals[:3])
                raise RuntimeError(
                    f"after {limit_s:g} s not yet: {what} ({online} of {self._plan.nodes} nodes are connected,"
                    f" the coordinator is process {pid}) {said}"
                )

    def _drain(self) -> None:
        """No training begins any more; every offer is waited for."""
        self._shared.training = False
        ends = time.monotonic() + DRAIN_LIMIT_S
        while time.monotonic() < ends and any(one.node.waits_for() for one in self._network.connections):
            self._network.turn(TURN_S)

    def _costs(self) -> tuple[Cost, Cost]:
        return cost_of(self._coordinator.pid), cost_of(self._broker.pid)

    def _kept(self) -> tuple[int, set[UpdateId]]:
        """Versions in the store, and its updates that are stored or applied, compacted ones among them."""
        with ReadOnlyStore(self._folder / "state") as store:
            counts = (ReceiptStatus.STORED, ReceiptStatus.APPLIED)
            kept = {row.record.update for row in store.updates() if row.verdict.status in counts}
            return store.head() or 0, kept

    def _dropped(self) -> int | None:
        tls = None if self._enrolled is None else self._enrolled.monitor
        for _ in range(ATTEMPTS):
            # Thousands of connections have just ended: it may be busy with that, and reset what comes.
            with suppress(OSError), DropWatch(self._broker, tls) as drops:
                if (found := drops.count()) is not None:
                    return found
        return None

    def _say(self) -> None:
        """Progress, every few seconds, where somebody looks."""
        now, counts = time.monotonic(), self._shared.counts
        if now - self._said >= SAY_S and sys.stderr.isatty():
            self._said = now
            sys.stderr.write(
                f"\r{self._network.online} nodes connected, {counts.stored} updates stored, {counts.applied} applied  "
            )
            sys.stderr.flush()


def _settings(plan: Plan, folder: Path, broker: Broker, enrolled: Enrolled | None) -> dict[str, str]:
    buffer = plan.concurrency if plan.synchronous else plan.buffer
    values: dict[str, object] = {
        "FEDERATION__ID": FEDERATION,
        "TASK__NAME": plan.task,
        "STORE__FOLDER": folder / "state",
        "ROUND__CONCURRENCY": plan.concurrency,
        "ROUND__BUFFER": buffer,
        "ROUND__NODES_MIN": 1 if plan.pace_s else plan.nodes,
        "ROUND__PACE_S": plan.pace_s,
        "ROUND__VERSIONS": 0,
        "ROUND__INTERVAL_MIN_S": 0,
        "CODEC__UP": plan.codec,
        "EVALUATION__EVERY": 0,
        "LOG__LEVEL": "error",
    }
    if plan.refill is not None:
        values["ROUND__REFILL"] = plan.refill
    if broker.url is not None:
        values["BROKER__URL"] = broker.url
    if enrolled is not None:
        values |= {"PRIVACY__SEALED": "false", "SECURITY__REQUIRE_SIGNATURES": str(plan.signed).lower()}
        values |= {"SECURITY__SIGNING_KEY": enrolled.plant.signing_key, "SECURITY__NODE_KEYS": enrolled.plant.node_keys}
    return {name: str(value) for name, value in values.items()}


def _frames(plan: Plan) -> list[bytes]:
    """Updates of that codec, normally distributed."""
    spec = CodecSpec.parse(codec_for(plan.codec, plan.parameters))
    manifest = Manifest.of({"weights": np.zeros(plan.parameters, np.float32)}, {})
    made = []
    for seed in range(FRAMES):
        drawn = np.random.default_rng(seed).standard_normal(plan.parameters, dtype=np.float32)
        change: Vectors = manifest.flatten({"weights": np.float32(UPDATE_SCALE) * drawn})
        made.append(encode(change, manifest, spec, seed=seed).frame)
    return made


def _difference(after: Counts, before: Counts) -> Counts:
    found = replace(after, receipt_s=sorted(after.receipt_s))
    for name in ("deliveries", "down", "model", "announcements", "offers", "stored", "applied", "stale", "refused"):
        setattr(found, name, getattr(after, name) - getattr(before, name))
    return found


def _spent(after: Cost, before: Cost) -> Cost:
    return Cost(cpu_s=after.cpu_s - before.cpu_s, rss=after.rss, rss_max=after.rss_max)

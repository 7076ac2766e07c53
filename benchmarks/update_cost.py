"""What one small update costs the coordinator itself: its machine, executor and store in this process, no broker.

    python -m benchmarks.update_cost [--json] [--profile FILE] [--updates N] [--parameters N] [--together N]

The store is a real one on the disk, the nodes are those of `benchmarks.load`, and what all of them publish arrives a
few messages at a time. Only the coordinator's own turns are counted, in processor time. Beside them stands the least
that any coordinator would do with an update, of the same bytes in the same run: read the message, take the payload's
digest, and put it into a table in a transaction of its own. What a connection costs is in `benchmarks.connection`.

With ``--profile`` the turns run under cProfile, and the statistics go to the file: figures are then not comparable.
"""

import argparse
import contextlib
import cProfile
import queue
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from benchmarks.load.memory import COORDINATOR, Bus, End, VirtualClock
from benchmarks.load.node import LoadNode, Shared
from benchmarks.table import Figure, show
from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import committer_settings, engine_settings
from coordinator.engine.effects import Effect
from coordinator.engine.events import Event
from coordinator.engine.machine import CoordinatorMachine
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import Committer
from coordinator.monitoring.state_files import StoppingRule
from coordinator.monitoring.status_file import StatusFile
from coordinator.monitoring.watched_machine import WatchedMachine
from coordinator.records import RecoveredState
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from coordinator.runtime.group_commit import BATCH_MAX, GroupCommit
from coordinator.runtime.inbound import Inbound
from coordinator.runtime.leading import open_store
from coordinator.runtime.starting import ensure_model, evaluated_task
from coordinator.strategies.codecs import codec_for
from coordinator.strategies.selection import make_selector
from federation.protocol.messages import UpdateOffer
from federation.protocol.signing import Reader
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message
from federation.runtime.driver import Driver
from federation.runtime.log import configure_log
from federation.runtime.transport import InboxItem, TransportAnswered, TransportConnected
from federation.types import FederationId, NodeId, Start
from update_codec import CodecSpec, Manifest, encode

NODES, PIECES = 100, 10
CONCURRENCY, BUFFER = 80, 20
UPDATE_SCALE = 1e-3
PACKET_BYTES = 262_144
TURN_S = 0.005
"""What passes from one batch to the next, in seconds."""

FRAMES = 1_100
"""All different, and more than the coordinator remembers by their digests: each is looked at, as in a real run."""
WARM = 200
"""Updates before anything is counted: tables, caches and the first versions."""


class Federation:
    """A coordinator and its nodes, moved by hand.

    Args:
        folder: An empty one, for the store.
        parameters: Of the model, float32.
        together: Messages that come to the coordinator at once.

    Attributes:
        spent_s: Processor time of the coordinator's turns, in seconds.
        offer: The longest message that nodes have published: an offer with its update.
    """

    def __init__(self, folder: Path, parameters: int, together: int) -> None:
        self.spent_s, self.offer = 0.0, b""
        self._together, self._inbox = together, queue.Queue[InboxItem]()
        self._bus = Bus(self._inbox)
        self._config = _config(folder, parameters)
        self._topics = Topics(FederationId(self._config.federation.id))
        self._profile: cProfile.Profile | None = None
        self._clock = VirtualClock()
        store = open_store(self._config.store, self._inbox)
        if store is None:
            raise RuntimeError("a signal came before the store was open")
        self._store = store
        self._store.wait_later()
        self._driver = self._coordinator()
        self._shared, self._nodes = self._fleet(parameters)

    def close(self) -> None:
        """Give the folder back."""
        self._store.close()

    def begin(self) -> None:
        """Everybody is there, and the first updates are part of versions."""
        self._inbox.put(
            InboxItem(
                event=TransportConnected(connection="control", session_present=False, packet_bytes_max=PACKET_BYTES)
            )
        )
        self._inbox.put(InboxItem(event=TransportAnswered(connection="control")))
        self._driver.begin()
        for name, node in self._nodes.items():
            self._bus.hand(self._bus.broker.connect(name, now=0.0))
            node.connected(self._clock.now())
        self.run(WARM)

    def run(self, updates: int) -> float:
        """Until so many more updates are applied; microseconds of the coordinator's processor time for each."""
        begun, spent = self._shared.counts.applied, self.spent_s
        while self._shared.counts.applied < begun + updates:
            self._bus.arrive(self._together)
            self._clock.until(self._clock.now() + TURN_S)
            if self._inbox.empty():
                self._pass_time()
            if not self._inbox.empty() or self._is_due():
                self._turn()
            self._move_nodes()
            if self._shared.counts.refused:
                raise RuntimeError(f"updates are refused: {dict(self._shared.counts.reasons)}")
        return (self.spent_s - spent) / (self._shared.counts.applied - begun) * 1e6

    @contextlib.contextmanager
    def profiled(self, file: Path) -> Iterator[None]:
        """Write what the turns of this block call to a file of cProfile's."""
        self._profile = cProfile.Profile(time.process_time)
        yield
        self._profile.dump_stats(file)
        self._profile = None

    def _turn(self) -> None:
        before = time.process_time()
        if self._profile is None:
            self._driver.turn()
        else:
            self._profile.runcall(self._driver.turn)
        self.spent_s += time.process_time() - before

    def _is_due(self) -> bool:
        deadline = self._watched.deadline()
        return deadline is not None and deadline <= self._clock.now()

    def _pass_time(self) -> None:
        """Nobody says anything: go to the next moment at which somebody does something by himself."""
        due = [self._watched.deadline(), *(node.next_due() for node in self._nodes.values())]
        self._clock.until(min(moment for moment in due if moment is not None))
        for node in self._nodes.values():
            node.wake(self._clock.now())

    def _move_nodes(self) -> None:
        now, bus = self._clock.now(), self._bus
        self._end.leave()
        while bus.down:
            one = bus.down.popleft()
            node = self._nodes[NodeId(one.client_id)]
            node.message(one.topic, one.payload, now)
            node.wake(now)
        for end in self._ends:
            end.leave()
        if bus.up:
            self.offer = max((self.offer, *(one.payload for one in bus.up)), key=len)

    def _coordinator(self) -> Driver[Event, Effect]:
        """As `coordinator.app` puts it together, without signals and connections."""
        config, store = self._config, self._store
        with contextlib.closing(evaluated_task(config)) as task:
            ensure_model(config, store, task)
        engine = engine_settings(config)
        recovered = store.recovered(recent=engine.max_staleness + 1)
        committer = Committer(store, recovered.head, committer_settings(config))
        manifest = committer.manifest
        most = engine.payload_bytes_max or manifest.frame_bytes_max
        engine = replace(engine.for_model(manifest.parameter_count), payload_bytes_max=most)
        self._bus.hand(self._bus.broker.connect(COORDINATOR, now=0.0))
        self._end = end = End(self._bus, COORDINATOR)
        end.subscribe((*self._topics.coordinator_subscriptions_control, *self._topics.coordinator_subscriptions_data))
        commits = GroupCommit(store, end, end)
        executor = CoordinatorExecutor(
            ExecutorParts(
                store=store,
                committer=committer,
                control=commits.control,
                data=commits.data,
                topics=self._topics,
                now=self._clock.now,
                say=lambda _event, _fields: None,
                passing=commits.passing,
            )
        )
        machine = _machine(config, engine, recovered)
        inbound = Inbound(self._topics, store, executor.traffic, executor.broker_connected, now=self._clock.now)
        rule = StoppingRule(settings=engine.stopping, versions=engine.versions)
        status = StatusFile(config.store.folder, machine.snapshot, dict, rule)
        self._watched = watched = WatchedMachine(machine, commits.settle, self._clock.now, status)
        parts = (watched, executor, self._inbox, self._clock, inbound.translate)
        return Driver(*parts, settle=watched.settle, batch_max=BATCH_MAX, follows=machine.follows)

    def _fleet(self, parameters: int) -> tuple[Shared, dict[NodeId, LoadNode]]:
        rng = random.Random(1)
        shared = Shared(
            topics=self._topics,
            task=self._config.task.name,
            frames=_frames(parameters),
            rng=rng.random,
            train_s=lambda: 0.0,
            reader=Reader(self._topics, None),
        )
        names = [NodeId(f"node-{number:03d}") for number in range(NODES)]
        self._ends = [End(self._bus, name) for name in names]
        return shared, {
            name: LoadNode(name, shared, end, None, number=number)
            for number, (name, end) in enumerate(zip(names, self._ends, strict=True))
        }


def _machine(config: CoordinatorConfig, engine: EngineSettings, recovered: RecoveredState) -> CoordinatorMachine:
    selector = make_selector(config.round.selector)
    return CoordinatorMachine(engine, recovered, selector=selector, rng=random.Random(2).random, start=Start(1))


def _config(folder: Path, parameters: int) -> CoordinatorConfig:
    flags: dict[str, object] = {
        "federation.id": "bench",
        "broker.url": "mqtt://127.0.0.1",  # nobody connects
        "task.name": f"null-{parameters}",
        "store.folder": folder / "state",
        "round.concurrency": CONCURRENCY,
        "round.buffer": BUFFER,
        "round.nodes_min": NODES,
        "round.versions": 0,
        "round.interval_min_s": 0.0,
        "codec.up": "edge",
        "evaluation.every": 0,
    }
    return read_config(None, flags, {})


def _frames(parameters: int) -> list[bytes]:
    """Updates that are all different, so that none is known by its digest; normally distributed."""
    spec = CodecSpec.parse(codec_for("edge", parameters))
    manifest = Manifest.of({"weights": np.zeros(parameters, np.float32)}, {})
    frames = []
    for seed in range(FRAMES):
        drawn = np.random.default_rng(seed).standard_normal(parameters, dtype=np.float32)
        change = manifest.flatten({"weights": np.float32(UPDATE_SCALE) * drawn})
        frames.append(encode(change, manifest, spec, seed=seed).frame)
    return frames


class Least:
    """The least that is done with an update.

    Args:
        folder: Where its table is.
        offer: One message of a node, with an update inside.
    """

    def __init__(self, folder: Path, offer: bytes) -> None:
        message = decode_message(offer)
        if not isinstance(message, UpdateOffer) or message.inline is None:
            raise RuntimeError("no update rides in the longest message")
        self._packed = msgpack.packb([str(message.update), message.num_examples, message.inline])
        self._database = sqlite3.connect(folder / "least.sqlite", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("CREATE TABLE updates (id INTEGER PRIMARY KEY, name, weight, digest, body)")

    def run(self, updates: int) -> float:
        """Microseconds of processor time for each."""
        before = time.process_time()
        for _ in range(updates):
            name, weight, body = msgpack.unpackb(self._packed)
            row = (name, weight, blake2b(body, digest_size=16).digest(), body)
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT INTO updates (name, weight, digest, body) VALUES (?, ?, ?, ?)", row)
            self._database.execute("COMMIT")
        return (time.process_time() - before) / updates * 1e6

    def close(self) -> None:
        """Give the folder back."""
        self._database.close()


def measure(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Both in turn, piece by piece."""
    with contextlib.closing(Federation(folder, options.parameters, options.together)) as federation:
        federation.begin()
        if options.profile is not None:
            with federation.profiled(options.profile):
                federation.run(options.updates)
            return []
        ours, least = list[float](), list[float]()
        with contextlib.closing(Least(folder, federation.offer)) as reference:
            for _ in range(PIECES):
                ours.append(federation.run(options.updates // PIECES))
                least.append(reference.run(options.updates // PIECES))
    ratio = statistics.median(one / other for one, other in zip(ours, least, strict=True))
    note = f"least times {min(ours):.0f} and {min(least):.0f} us, {options.together} messages at a time"
    what = f"an update of {options.parameters:,} parameters / read, digest and row of the same bytes, processor time"
    return [Figure(what=what, measured=ratio, bar=None, note=note)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.update_cost", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--updates", type=int, default=2_000, help="updates that are counted (default: %(default)s)")
    parser.add_argument("--parameters", type=int, default=1_000, help="of the model (default: %(default)s)")
    parser.add_argument("--together", type=int, default=4, help="messages that arrive at once (default: %(default)s)")
    parser.add_argument("--profile", type=Path, help="write cProfile's statistics there, and print no figures")
    options: Any = parser.parse_args(arguments)
    configure_log(json=True, level="error")
    with tempfile.TemporaryDirectory(prefix="fedmq-update-cost-") as name:
        figures = measure(options, Path(name))
    return 0 if not figures or show("an update", figures, as_json=options.json, skipped={}) else 1


if __name__ == "__main__":
    sys.exit(main())

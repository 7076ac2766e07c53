"""What the stores find in a state folder, as plain data; and roles that go on from it, without a broker."""

import json
import queue
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import committer_settings, engine_settings
from coordinator.engine.machine import CoordinatorMachine
from coordinator.global_model.committer import Committer
from coordinator.runtime.central_evaluation import Evaluator, NoEvaluator
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from coordinator.runtime.inbound import Inbound
from coordinator.storage.database import DATABASE
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.strategies.selection import make_selector
from edge_node.engine.effects import SettleUpdate
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.storage.read_only import read_node
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.training.worker import TrainingJob, TrainingSetup
from federation.protocol.messages import Message, Receipt
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.driver import Driver
from federation.runtime.transport import MessageReceived, TransportAnswered, TransportConnected
from federation.task import Task, TaskContext
from federation.tasks.registry import load_task
from federation.tasks.scaffold import scaffolded
from federation.testing import FakeClock
from federation.types import FederationId, ModelVersion, NodeId, UpdateId
from update_codec import Manifest

FORMER = Path(__file__).parents[1] / "golden" / "state_folders"
CONFIG = FORMER / "coordinator.toml"
TOPICS = Topics(FederationId("former"))
RECENT = 2
"""Versions that an update may be based on: ``round.max_staleness`` of the configuration, and the head."""

SHOWN_BYTES = 64
SINCE = ("not checked:", "not covered by sums:")
"""What the audit adds since then about what it cannot see."""
NODE_DATABASE = "node.sqlite"
NODE_TASK = "quadratic-400"
NODE = NodeId("pi-3")
LATER_FIELDS = {"inputs", "medians", "restored", "spent"} | {"batch", "boxes", "content_key", "seeds"}
LATER_FIELDS |= {"sums", "terms", "ticket", "released", "nodes_seen", "masked_reports", "whole"}
"""Fields that records of the release before did not have."""
LATER_COLUMNS = {"versions": "seal", "updates": "seal", "transfers": "members"}
LATER_COLUMNS |= {"batches": "others", "node_results": "nodes", "surveys": "medians"}
"""Columns that a coordinator's tables did not have at first."""
COMPACTION = [f"compacted_{what}" for what in ("updates", "nodes", "sums", "versions", "claims")]
"""Tables of updates that are compacted."""


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses by their fields, bytes in hex, arrays by type, shape and digest."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name not in LATER_FIELDS]
        return {name: plain(getattr(value, name)) for name in names}
    made = value
    match value:
        case np.ndarray():
            made = [str(value.dtype), list(value.shape), digest(np.ascontiguousarray(value).tobytes())]
        case bytes():
            made = value.hex() if len(value) <= SHOWN_BYTES else f"{len(value)} bytes {digest(value)}"
        case Enum():
            made = value.value
        case set() | frozenset():
            made = sorted(plain(one) for one in value)
        case Mapping():
            made = {str(plain(key)): plain(one) for key, one in value.items()}
        case list() | tuple():
            made = [plain(one) for one in value]
        case _:
            assert value is None or isinstance(value, str | int | float)
    return made


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def folder_of_layout(name: str, folder: Path) -> None:
    """Make a state folder of an earlier layout: its database from a dump, and the files beside it."""
    shutil.copytree(FORMER / "layouts" / name, folder)
    database = sqlite3.connect(folder / (DATABASE if name.startswith("coordinator") else NODE_DATABASE))
    try:
        database.executescript((FORMER / "layouts" / f"{name}.sql").read_text(encoding="utf-8"))
    finally:
        database.close()


def made_older(path: Path, *tables: str) -> None:
    """Take from a coordinator's database what came later: these tables, the sums, the medians, and the claims."""
    database = sqlite3.connect(path)
    try:
        for table in (*tables, "claims", *COMPACTION):
            database.execute(f"DROP TABLE {table}")
        for table, column in LATER_COLUMNS.items():
            if table not in tables:
                database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        database.execute("DELETE FROM meta WHERE key LIKE '%seal%'")
        database.execute("PRAGMA user_version = 1")
        database.commit()
    finally:
        database.close()


# --- the coordinator ------------------------------------------------------------------------------------------------


def settings_for(folder: Path) -> CoordinatorConfig:
    """The configuration that the folders were made with."""
    return read_config(CONFIG, {"store.folder": folder}, {})


def read_by_commands(folder: Path, nodes: Sequence[Path] = ()) -> dict[str, Any]:
    """What the commands say that only read; without what the wall clock tells."""
    boxes = [word for node in nodes for word in ("--node", str(node))]
    said = {
        "status": command("status", "--state", str(folder)),
        "nodes": command("status", "--nodes", "--state", str(folder)),
        "why": command("why", "--state", str(folder)),
        "audit": command("audit", "--config", str(CONFIG), "--state", str(folder), *boxes),
    }
    findings = said["audit"]["findings"]
    said["audit"]["findings"] = [one for one in findings if not one["detail"].startswith(SINCE)]
    for name in ("since_s", "said_s"):
        del said["why"][name]
    return said


def command(*arguments: str) -> dict[str, Any]:
    words = [*arguments, "--json"]
    result = CliRunner().invoke(make_app(words), words, catch_exceptions=False)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def found_coordinator(folder: Path) -> dict[str, Any]:
    """What a coordinator finds that starts on this folder, which counts its epoch up and repairs it."""
    store = open_coordinator(folder)
    try:
        return found_in(store, folder)
    finally:
        store.close()


def found_in(store: SqliteStore, folder: Path) -> dict[str, Any]:
    state, manifest = store.recovered(recent=RECENT), store.manifest()
    head = state.head.version
    kept = sorted({max(0, head - 1), head, *state.retained})
    updates = list(store.updates())
    models = {ModelVersion(version): store.model(ModelVersion(version)) for version in kept}
    return {
        "run": store.run,
        "epoch": store.epoch,
        "alarms": store.alarms,
        "manifest": None if manifest is None else plain(manifest.digest),
        "recovered": plain(state),
        "updates": plain(updates),
        "verdicts": plain([store.verdict(row.record.update) for row in updates]),
        "payloads": {record.update: plain(store.payload(record.update)) for record in state.stored},
        "transfers": {one.record.update: plain(store.transfer_payload(one.record.update)) for one in state.transfers},
        "models": plain(models),
        "frames": {f"{part.kind}-{part.version}": plain(store.frame(part)) for part in state.head.parts},
        "obsolete_parts": plain(store.obsolete_parts(state.head)),
        "history": plain(store.history()),
        "participation": plain(store.participation()),
        "curves": plain(store.curves()),
        "best": store.best(),
        "blobs": sorted(path.name for path in (folder / "blobs").iterdir()),
        "layout": layout_of(folder / DATABASE),
    }


def layout_of(path: Path) -> dict[str, Any]:
    """Number, tables and columns of a database."""
    database = sqlite3.connect(path)
    try:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        tables = {
            name: [row[1] for row in database.execute("SELECT * FROM pragma_table_info(?)", (name,))] for name in names
        }
        return {"user_version": database.execute("PRAGMA user_version").fetchone()[0], "tables": tables}
    finally:
        database.close()


def open_coordinator(folder: Path) -> SqliteStore:
    """Open the store as a coordinator does."""
    store = SqliteStore(folder, audit_versions=settings_for(folder).store.audit_versions)
    store.wait_later()
    return store


@dataclass(frozen=True, slots=True)
class Said:
    """One publish of the coordinator."""

    topic: str
    payload: bytes


class Wire:
    """Remembers what was published."""

    def __init__(self) -> None:
        self.said: list[Said] = []

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        del qos, retain
        self.said.append(Said(topic, payload))


class Coordinator:
    """All that decides and saves in a coordinator's process, in a time that the test moves."""

    def __init__(self, folder: Path, evaluator: Evaluator | None = None) -> None:
        config = settings_for(folder)
        self.engine = engine_settings(config)
        self.clock, self.wire, self.store = FakeClock(100.0), Wire(), open_coordinator(folder)
        recovered = self.store.recovered(recent=self.engine.max_staleness + 1)
        self.committer = Committer(self.store, recovered.head, committer_settings(config))
        parts = ExecutorParts(
            store=self.store,
            committer=self.committer,
            control=self.wire,
            data=self.wire,
            topics=TOPICS,
            now=self.clock.now,
            say=self.say,
            evaluator=evaluator or NoEvaluator(),
            update_norm_max=config.limits.update_norm_max,
        )
        executor = CoordinatorExecutor(parts)
        self.machine = CoordinatorMachine(
            replace(self.engine, payload_bytes_max=1 << 20),
            recovered,
            selector=make_selector(config.round.selector),
            rng=Random(7).random,
        )
        self.inbound = Inbound(TOPICS, self.store, executor.traffic, executor.broker_connected)
        self.driver = Driver(self.machine, executor, queue.Queue(), self.clock, self.inbound.translate)

    def say(self, event: str, fields: Mapping[str, object]) -> None:
        """A line of the log."""

    def settle(self) -> None:
        """What has happened is on the disk."""
        self.store.sync()

    def connect(self) -> None:
        """The loop begins, the broker is there, and nobody else speaks for this run."""
        self.driver.step(None)
        self.tell(TransportConnected(connection="control", session_present=False, packet_bytes_max=1 << 20))
        self.tell(TransportAnswered(connection="control"))
        self.wait(self.engine.settle_s)

    def hear(self, topic: str, message: Message | bytes) -> None:
        """A message arrives."""
        payload = message if isinstance(message, bytes) else encode_message(message)
        self.tell(MessageReceived(topic=topic, payload=payload))

    def tell(self, happened: object) -> None:
        event = self.inbound.translate(happened)
        if event is not None:
            self.driver.step(event)
        self.settle()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.driver.step(None)
        self.settle()

    def receipts(self) -> list[str]:
        """Every receipt that was sent, in order."""
        found = [decode_message(one.payload) for one in self.wire.said if one.topic.endswith("/cmd")]
        return [f"{one.update} {one.status.value} {one.reason.value}" for one in found if isinstance(one, Receipt)]

    def close(self) -> None:
        self.store.close()


def went_on(
    folder: Path, chunks: Mapping[int, bytes], update: UpdateId, start: Callable[[Path], Coordinator] = Coordinator
) -> dict[str, Any]:
    """Start a coordinator on the folder, send it what is missing of a large update, and say what it made of it."""
    coordinator = start(folder)
    try:
        coordinator.connect()
        node = NodeId(update.split("-", 1)[1])
        for index, body in chunks.items():
            coordinator.hear(TOPICS.node_chunk(node, update, index), body)
        head = coordinator.committer.head
        return {"version": head.version, "digest": plain(head.digest), "receipts": coordinator.receipts()}
    finally:
        coordinator.close()


# --- the node -------------------------------------------------------------------------------------------------------


def node_task() -> Task:
    return scaffolded(load_task(NODE_TASK)(TaskContext(node_index=1, node_count=3, data=None, device="cpu", seed=0)))


def node_setup() -> TrainingSetup:
    task = node_task()
    return TrainingSetup(node=NODE, task=task, manifest=Manifest.of(dict(task.initial_parameters(3)), task.roles()))


class Jobs:
    """A worker that only takes jobs."""

    def __init__(self) -> None:
        self.taken: list[TrainingJob] = []

    def start(self, job: TrainingJob) -> None:
        self.taken.append(job)

    def evaluate(self, job: object) -> None:
        raise NotImplementedError

    def stop(self, round_id: object) -> None:
        raise NotImplementedError

    def close(self, *, timeout_s: float) -> bool:
        return timeout_s > 0


class Silence(Wire):
    """A broker connection that nobody listens to."""

    def open(self) -> None:
        raise NotImplementedError

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        raise NotImplementedError

    def unsubscribe(self, topic_filter: str) -> None:
        raise NotImplementedError

    def close(self, *, timeout_s: float = 5.0) -> None:
        raise NotImplementedError


class Node:
    """A node's executor on its real store."""

    def __init__(self, folder: Path) -> None:
        self.store, self.jobs, self.setup = SqliteNodeStore(folder), Jobs(), node_setup()
        self.executor = NodeExecutor(
            NodeParts(setup=self.setup, store=self.store, trainer=self.jobs, transport=Silence(), topics=TOPICS)
        )

    def settle(self, update: UpdateId, *, applied: bool) -> None:
        """A final receipt arrives."""
        assert list(self.executor.execute(SettleUpdate(update=update, applied=applied))) == []


def audited_node(folder: Path) -> dict[str, Any]:
    """What the audit reads in a stopped node's folder."""
    found = read_node(folder)
    assert found.folder == folder
    outbox = {update: [plain(offer), stored] for update, (offer, stored) in found.outbox.items()}
    return {"run": found.run, "outbox": outbox, "held_version": found.held_version, "damage": found.damage}


def found_node(folder: Path) -> dict[str, Any]:
    """What a node finds that starts on this folder, which counts its boot number up."""
    store = SqliteNodeStore(folder)
    try:
        recovered, held = store.recovered(), store.held_model()
        outbox = [entry.offer.update for entry in recovered.outbox]
        return {
            "incarnation": store.incarnation,
            "recovered": plain(recovered),
            "held_model": plain(held),
            "held_digest_again": None if held is None else plain(held.vectors.digest()),
            "residual": plain(store.residual()),
            "residual_version": store.residual_version(),
            "task_state": plain(store.task_state()),
            "pending": {update: plain(store.pending(update)) for update in outbox},
            "frames": {update: plain(store.frame(update)) for update in outbox},
            "contexts": {update: plain(store.context(update)) for update in outbox},
            "files": sorted(path.name for path in folder.iterdir() if path.suffix in (".body", ".safetensors")),
            "layout": layout_of(folder / NODE_DATABASE),
        }
    finally:
        store.close()


def node_went_on(folder: Path) -> dict[str, Any]:
    """The first update of the outbox turns out applied, the second one refused: what the node then keeps."""
    node = Node(folder)
    try:
        first, second, *_ = (entry.offer.update for entry in node.store.recovered().outbox)
        node.settle(first, applied=True)
        node.settle(second, applied=False)
        return {
            "task_state": plain(node.store.task_state()),
            "residual": plain(node.store.residual()),
            "outbox": [entry.offer.update for entry in node.store.recovered().outbox],
        }
    finally:
        node.store.close()

"""A federation in a folder whose broker is overheard: a client that may read everything records what passes."""

import datetime as dt
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.app import run_coordinator
from coordinator.config import sections
from coordinator.enrolment.broker import FleetBroker
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from edge_node import config as node_config
from edge_node.app import run_node
from edge_node.setup.join import install
from federation.config import broker_address
from federation.protocol.topics import Topics
from federation.runtime.local_broker import free_port
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Inbox, MessageReceived
from federation.types import FederationId, NodeId

__all__ = ["RUN_BYTES", "Recording", "Site", "runs_of"]

FEDERATION = FederationId("plant")
TOPICS = Topics(FEDERATION)
RECORDER = NodeId("recorder")
LIMIT_S = 600.0
STOP_S = 20.0
RUN_BYTES = 8
"""So many bytes in a row are no accident: a given value is in a recording of 10 MB by chance once in 10^12."""


DIFFERENT_MIN = 4
"""Different bytes of a run that is looked for."""


def runs_of(content: bytes) -> NDArray[np.uint64]:
    """Every run of 8 bytes with four different ones at least, as a number: uint64, each once.

    A float such as 0.5 has seven zeros and is in many places.
    """
    if len(content) < RUN_BYTES:
        return np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(content, np.uint8), RUN_BYTES)
    different = 1 + (np.diff(np.sort(windows, axis=1), axis=1) != 0).sum(axis=1)
    varied = windows[different >= DIFFERENT_MIN]
    return np.unique(np.ascontiguousarray(varied).view(np.uint64).ravel())


@dataclass
class Recording:
    """What has passed the broker: topic and payload, in order; a message that is taken away has no payload."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)

    def on(self, ending: str) -> list[bytes]:
        """The payloads on the topics with this last level."""
        return [payload for topic, payload in self.messages if topic.endswith(f"/{ending}") and payload]

    def holds(self, word: bytes) -> bool:
        """Whether these bytes are in a payload."""
        return any(word in payload for _, payload in self.messages)

    def shared_runs(self, frames: Iterable[bytes], *, known: Iterable[bytes] = ()) -> tuple[int, int]:
        """How many runs of 8 bytes of these frames are in the recording, and how many there are.

        Args:
            frames: What must not be read.
            known: What is said openly on purpose and is in frames, too: digests of the model's shape.
        """
        recorded = np.unique(np.concatenate([runs_of(payload) for _, payload in self.messages]))
        wanted = np.unique(np.concatenate([runs_of(frame) for frame in frames]))
        open_ = [runs_of(one) for one in known]
        if open_:
            wanted = np.setdiff1d(wanted, np.concatenate(open_), assume_unique=False)
        return len(np.intersect1d(wanted, recorded, assume_unique=True)), len(wanted)


@dataclass
class Site:
    """A federation with certificates, in a folder.

    Attributes:
        folder: Where.
        nodes: How many nodes.
        task: What they train.
        data: The task's data, or None.
        start: How processes begin: ``fork`` has what this process has imported, ``spawn`` nothing.
    """

    folder: Path
    nodes: int
    task: str
    data: Path | None = None
    start: str = "fork"

    @property
    def names(self) -> list[NodeId]:
        """The nodes' names."""
        return [NodeId(f"node-{index}") for index in range(self.nodes)]

    @property
    def fleet(self) -> Fleet:
        """Its authority."""
        return Fleet(folder=FleetFolder(self.folder / FEDERATION), now=dt.datetime.now(dt.UTC))

    def prepare(self) -> None:
        """Enrol everybody once."""
        plan = FleetPlan(federation=FEDERATION, hosts=("localhost",), port=free_port(), task=self.task, evaluate=False)
        fleet = self.fleet
        fleet.create(plan)
        for name in fleet.enroll([*self.names, RECORDER]):
            install(fleet.folder.bundle(name), self.folder / name)

    def coordinator(self, state: Path, flags: Mapping[str, object]) -> sections.CoordinatorConfig:
        """Its configuration."""
        given: dict[str, object] = {
            "store.folder": state / "coordinator",
            "store.audit_versions": 1_000,
            "round.exit_when_finished": True,
            "round.interval_min_s": 0.0,
            "task.name": self.task,
            "log.level": "error",
        }
        return sections.read_config(self.folder / FEDERATION, {**given, **flags}, environ={})

    def node(self, name: NodeId, state: Path) -> node_config.NodeConfig:
        """A node's configuration."""
        given: dict[str, object] = {
            "store.folder": state / name,
            "task.name": self.task,
            "task.index": self.names.index(name) if name in self.names else 0,
            "task.count": self.nodes,
            "log.level": "error",
        }
        if self.data is not None:
            given["task.data"] = self.data
        return node_config.read_config(self.folder / name, given, environ={})

    @contextmanager
    def broker(self, *, fresh: bool) -> Iterator[Recording]:
        """The broker, and what passes it; ``fresh``: it knows nothing of before."""
        folder = self.folder / FEDERATION / "broker"
        if fresh:
            for file in (folder / "data").iterdir():
                file.unlink()
        rules = folder / "acl"
        text = rules.read_text(encoding="utf-8")
        if f"user {RECORDER}" not in text:
            rules.write_text(f"{text}\nuser {RECORDER}\ntopic read fl/#\n", encoding="utf-8")
        recording = Recording()
        with FleetBroker(folder), self._recorder(recording):
            yield recording

    @contextmanager
    def _recorder(self, recording: Recording) -> Iterator[None]:
        config = self.node(RECORDER, self.folder / "recorder-state")
        inbox: Inbox = queue.Queue(100_000)
        transport = MqttTransport(broker_address(config.broker), SessionSettings(client_id=RECORDER), inbox)
        transport.subscribe(f"fl/{FEDERATION}/#")
        ended = threading.Event()

        def hear() -> None:
            while not (ended.is_set() and inbox.empty()):
                try:
                    event = inbox.get(timeout=0.1).event
                except queue.Empty:
                    continue
                if isinstance(event, MessageReceived):
                    recording.messages.append((event.topic, event.payload))

        listener = threading.Thread(target=hear, name="recorder", daemon=True)
        listener.start()
        transport.open()
        try:
            yield
        finally:
            time.sleep(0.5)  # what is under way to us
            ended.set()
            listener.join(LIMIT_S)
            transport.close(timeout_s=1.0)

    def run(self, state: Path, names: Iterable[NodeId], flags: Mapping[str, object]) -> None:
        """One coordinator and these nodes, each a process, until the coordinator says that the run is over.

        Raises:
            RuntimeError: It has not ended in time, or not in order.
        """
        context: Any = get_context(self.start)
        os.environ["OMP_NUM_THREADS"] = "1"
        began: list[BaseProcess] = [context.Process(target=run_coordinator, args=(self.coordinator(state, flags),))]
        began += [context.Process(target=run_node, args=(self.node(name, state),)) for name in names]
        for process in began:
            process.start()
        try:
            began[0].join(LIMIT_S)
            if began[0].exitcode != 0:
                raise RuntimeError(f"the coordinator ended with {began[0].exitcode}")
        finally:
            _end(began)


def _end(processes: Iterable[BaseProcess]) -> None:
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    for process in alive:
        process.join(STOP_S)
        if process.is_alive():
            process.kill()
            process.join()

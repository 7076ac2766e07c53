"""The sensor demo's director: pumps, nodes, scorers, a coordinator and a broker, through four phases to a report."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_node.storage.reading_store import read_stored
from federation.errors import FederationError, StorageError
from federation.runtime.local_broker import LocalBroker
from fedmq.demo.fork_server import ForkServer
from fedmq.demo.processes import Exited, Fleet, Line, interrupts
from fedmq.demo.sensors.figures import PumpStory, counted, judge, percentile
from fedmq.demo.sensors.plan import EPOCH_S, WINDOW, SensorPlan, coordinator_toml, node_toml
from fedmq.demo.sensors.pumps import COLUMNS, NORMAL_ROWS, load_pumps
from fedmq.demo.sensors.replay import Replay, delays
from fedmq.demo.sensors.view import Board, View

__all__ = ["SensorDemo", "SensorDemoFailed"]

MODULES = (
    "torch",
    "federation.tasks.training.local_training",
    "federation.tasks.sensors.models",
    "onnx.numpy_helper",
    "onnxruntime",
    "coordinator.app",
    "edge_node.app",
    "edge_node.model.service",
)
"""What the processes are forked with."""

PHASE_S_MAX = 120.0
"""No phase takes so long: then the demo is given up, in seconds."""

AGAIN_S = 1.0
"""A killed device stays away so long, in seconds."""

LOOK_S = 0.5
"""How often the stores are looked at, in seconds."""

KILL_ROWS = 100
"""Live rows after which a device is killed."""

SETTLE_S = 8.0
"""How long the last readings may take to their disks, in seconds."""


class SensorDemoFailed(FederationError):  # noqa: N818 - the name says what it is
    """The demo could not finish; the message says which process ended and what it said last."""


@dataclass(slots=True)
class SensorDemo:
    """One run.

    Attributes:
        plan: What.
        board: What is known.
        view: Who shows it.
        folder: For settings and state.
        fleet: The processes.
    """

    plan: SensorPlan
    board: Board
    view: View
    folder: Path
    fleet: Fleet
    _connected: set[str] = field(default_factory=set)
    _victim: str | None = None
    _returned: set[str] = field(default_factory=set)
    _played: threading.Event = field(default_factory=threading.Event)
    _played_at: float = 0.0
    _look_at: float = 0.0

    def run(self) -> Mapping[str, object]:
        """Run to the end.

        Returns:
            The report.

        Raises:
            SensorDemoFailed: A process ended that should not have, or a phase did not end.
            KeyboardInterrupt: Somebody pressed Ctrl-C, or SIGTERM came.
        """
        with interrupts(self.fleet), self._warm(), LocalBroker() as broker:
            replay = Replay(self.plan, broker.url, self.board.stories)
            try:
                self._start(broker.url)
                replay.open()
                self._phases(replay, broker.url)
            finally:
                replay.close()
                self.fleet.stop()
        return self._report()

    @contextlib.contextmanager
    def _warm(self) -> Iterator[None]:
        if not ForkServer.is_possible():
            yield
            return
        self.view.say("loading torch and ONNX Runtime, once for all processes")
        with ForkServer(MODULES) as server:
            self.fleet.server = server
            yield

    # --- phases -----------------------------------------------------------------------------------------------------

    def _phases(self, replay: Replay, url: str) -> None:
        names, plan = set(self.board.stories), self.plan
        processes = names | {_scorer(name) for name in names}
        self._await("devices start", lambda: processes <= self._connected)
        self._await("devices listen", lambda: self._listen_all(replay))
        self.view.say(f"{plan.pumps} pumps, each with a node and a score service: {2 * plan.pumps} processes")
        self._set_states("ingests")
        replay.play(NORMAL_ROWS, plan.history_rate, self._played.set)
        self._await("normal running is read in", self._played.is_set)
        self._await("readings go to the disk", lambda: self._all_stored(NORMAL_ROWS))
        self._await("the model is traced", (self.folder / "program.onnx").exists)
        settings = self.folder / "coordinator.toml"
        settings.write_text(coordinator_toml(plan, url, self.folder / "coordinator"))
        self.fleet.start("coordinator", "coordinator", ["run", "--config", str(settings), "--log-json"])
        self._set_states("learns")
        self.view.say("normal running is on the disk of every node; the pumps learn together")
        self._await("the pumps learn together", lambda: self.board.version >= min(plan.learnt, plan.versions))
        self.view.say(f"version {self.board.version}: from here on every row is scored; faults come")
        self._set_states("scores")
        self._played.clear()
        replay.play(None, plan.rate, self._played.set)
        self._await("live", self._live)
        self._await("the last readings go to the disk", self._settled)

    def _listen_all(self, replay: Replay) -> bool:
        """Whether each node has stored something; who has not is sent its first row again."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + 2 * LOOK_S
        silent = [name for name in self.board.stories if not _rows_in(self._state_of(name))]
        for name in silent:
            replay.probe(name)
        return not silent

    def _live(self) -> bool:
        """Kill one device on the way; True once all was sent, and who was killed is back."""
        names = list(self.board.stories)
        name = names[len(names) // 2]
        story = self.board.stories[name]
        if self.plan.chaos and self._victim is None and story.sent >= NORMAL_ROWS + KILL_ROWS:
            self._victim = name
            self.fleet.kill(name)
            self.fleet.kill(_scorer(name))
            story.state = "killed"
            self.view.say(f"chaos: SIGKILL to {name}, node and score service, at row {story.sent}")
        if not self._played.is_set():
            return False
        # Who is not back a while after the last row is said not to be back.
        self._played_at = self._played_at or time.monotonic()
        return self._victim is None or self._is_back() or time.monotonic() - self._played_at > SETTLE_S

    def _is_back(self) -> bool:
        return self._victim is not None and {self._victim, _scorer(self._victim)} <= self._returned

    def _settled(self) -> bool:
        return self._all_stored(None) or time.monotonic() - self._played_at > 2 * SETTLE_S

    def _all_stored(self, rows: int | None) -> bool:
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + LOOK_S
        return all(
            self._stored(name, count) >= len(COLUMNS) * count
            for name, story in self.board.stories.items()
            if (count := story.sent if rows is None else min(rows, story.sent))
        )

    def _stored(self, name: str, rows: int) -> int:
        return counted(self._state_of(name), EPOCH_S + np.arange(rows, dtype=np.float64))

    def _await(self, phase: str, over: Callable[[], bool]) -> None:
        """Listen to the processes until a phase is over.

        Raises:
            SensorDemoFailed: It takes too long, or a process has ended.
        """
        self.board.phase, until = phase, time.monotonic() + PHASE_S_MAX
        while not over():
            if self.fleet.interrupted.is_set():
                raise KeyboardInterrupt
            if time.monotonic() > until:
                said = f"{phase}: this takes longer than {PHASE_S_MAX:.0f} s on this machine"
                raise SensorDemoFailed(f"{said}; with fewer programs beside it, or --pumps 4, it has less to do")
            with contextlib.suppress(queue.Empty):
                item = self.fleet.lines.get(timeout=0.1)
                if isinstance(item, Exited):
                    self._notice(item)
                else:
                    self._hear(item)

    # --- processes --------------------------------------------------------------------------------------------------

    def _start(self, url: str) -> None:
        program = self.folder / "program.onnx"
        self.fleet.start("program", "fedmq.demo.sensors", [str(program)])
        for name in self.board.stories:
            settings = self.folder / f"{name}.toml"
            settings.write_text(node_toml(self.plan, url, self.folder, name, program))
            self.fleet.start(name, "edge_node", ["run", "--config", str(settings), "--log-json"])
            self.fleet.start(_scorer(name), "edge_node", ["score", "--config", str(settings), "--log-json"])

    def _hear(self, line: Line) -> None:
        fields = line.fields
        if line.event == "connected" and fields.get("connection") == "data":
            self._connected.add(line.source)
            if self.fleet.generation(line.source):
                self._came_back(line.source)
        elif line.source == "coordinator" and line.event == "version_committed":
            version = fields.get("version")
            self.board.version = max(self.board.version, version if isinstance(version, int) else 0)
            if self.board.version in {1, self.plan.versions}:
                self.view.say(f"version {self.board.version}: the model of all pumps")

    def _came_back(self, source: str) -> None:
        self._returned.add(source)
        if self._is_back() and self._victim is not None:
            self.board.stories[self._victim].state = "scores"
            self.view.say(f"chaos: {self._victim} is back; what it missed comes from its broker")

    def _notice(self, exited: Exited) -> None:
        name = exited.source.removesuffix("-score")
        if name == self._victim and exited.generation == 0:
            time.sleep(AGAIN_S)
            self.fleet.restart(exited.source)
            return
        if exited.code == 0 and exited.source in {"program", "coordinator"}:
            return
        raise SensorDemoFailed(self.fleet.last_words(exited, "of this demo"))

    def _set_states(self, state: str) -> None:
        for story in self.board.stories.values():
            story.state = state

    def _state_of(self, name: str) -> Path:
        return self.folder / "state" / name

    # --- the report -------------------------------------------------------------------------------------------------

    def _report(self) -> Mapping[str, object]:
        """Measured, all of it: the stores are read after everybody has stopped."""
        stories = self.board.stories
        readings = len(COLUMNS) * sum(story.sent for story in stories.values())
        kept = sum(self._stored(name, story.sent) for name, story in stories.items())
        alarms = judge(list(stories.values()), WINDOW, NORMAL_ROWS)
        return {
            "f1": round(alarms.f1, 4),
            "false_alarm_rate": round(alarms.false_rate, 4),
            "missed_alarm_rate": round(alarms.missed_rate, 4),
            "readings": readings,
            "readings_lost": readings - kept,
            "score_p99_ms": _rounded(percentile(delays(list(stories.values())), 99)),
            "versions": self.board.version,
            "killed_and_back": int(self._is_back()),
            "total_wall_s": round(time.monotonic() - self.board.began, 2),
        }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 2)


def _scorer(name: str) -> str:
    return f"{name}-score"


def _rows_in(folder: Path) -> int:
    try:
        return read_stored(folder).rows
    except StorageError:
        return 0


def stories_of(plan: SensorPlan) -> Mapping[str, PumpStory]:
    """All pumps of a plan.

    Raises:
        ConfigError: The folder that was named has no readings.
    """
    return {pump.name: PumpStory(pump=pump) for pump in load_pumps(plan.pumps, plan.data)}

"""One federation of real processes with a large model: what took how long, how many bytes, how much memory."""

import queue
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from coordinator.runtime.traffic import PACKET_HEADER_BYTES
from federation.protocol.chunking import CHUNK_BYTES, chunk_count
from federation.protocol.topics import Topics
from federation.runtime.local_broker import LocalBroker
from federation.types import FederationId, NodeId, UpdateId
from fedmq.demo.plan import to_toml
from fedmq.demo.processes import Exited, Fleet, Line

COORDINATOR = "coordinator"
FEDERATION = "large"
LIMIT_S = 300.0
TASKS = Path(__file__).with_name("large_task.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class LargePlan:
    """What runs.

    Attributes:
        task: Function of `benchmarks.large_task`, or a built-in task.
        nodes: Node processes; all of them make one version.
        versions: Versions after which the run is over.
        url: Broker URL of the nodes, when they go through a proxy.
    """

    task: str = "resnet18"
    nodes: int = 2
    versions: int = 2
    url: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names."""
        return tuple(f"node-{index}" for index in range(self.nodes))

    @property
    def task_name(self) -> str:
        """For the configuration."""
        return self.task if self.task.startswith("null") else f"{TASKS}:{self.task}"


@dataclass(slots=True)
class LargeRun:
    """A running federation; everything happens inside `wait`.

    Attributes:
        plan: What runs.
        lines: Everything that was said, in order.
        watchers: Called with each line.
    """

    plan: LargePlan
    folder: Path
    broker: LocalBroker
    lines: list[Line] = field(default_factory=list)
    watchers: list[Callable[[Line], None]] = field(default_factory=list)
    fleet: Fleet = field(init=False)
    ended: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fleet = Fleet(folder=self.folder)

    def start(self) -> None:
        """Start everybody."""
        plan, url = self.plan, self.broker.url
        file = self.folder / "coordinator.toml"
        file.write_text(to_toml(settings(plan, url, self.folder)))
        self.fleet.start(COORDINATOR, "coordinator", ["run", "--config", str(file)])
        for index, name in enumerate(plan.names):
            arguments = ["run", "--broker", plan.url or url, "--federation", FEDERATION, "--id", name, "--log-json"]
            arguments += ["--task", plan.task_name, "--index", str(index), "--count", str(plan.nodes)]
            self.fleet.start(name, "edge_node", [*arguments, "--state", str(self.folder / name)])

    def wait(self, until: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        """Listen until something is true; False when the time is over, in seconds."""
        give_up_s = time.monotonic() + limit_s
        while not until():
            try:
                item = self.fleet.lines.get(timeout=max(0.0, give_up_s - time.monotonic()))
            except queue.Empty:
                return False
            if isinstance(item, Exited):
                self.ended[item.source] = item.code
            else:
                self.lines.append(item)
                for watcher in self.watchers:
                    watcher(item)
        return True

    def wait_finished(self) -> None:
        """Until the coordinator has committed all versions and left.

        Raises:
            RuntimeError: It did not, in time.
        """
        if not self.wait(lambda: COORDINATOR in self.ended) or self.ended[COORDINATOR] != 0:
            words = "\n".join(self.fleet.stderr_tail(name, 5) for name in (COORDINATOR, *self.plan.names))
            raise RuntimeError(f"the run did not end: {[line.event for line in self.lines[-5:]]}\n{words}")

    def restart(self, name: str) -> None:
        """SIGKILL, and start again with the same command at once."""
        self.fleet.kill(name)
        self.wait(lambda: name in self.ended)
        del self.ended[name]
        self.fleet.restart(name)

    def said(self, event: str, source: str | None = None) -> list[Line]:
        """All lines of one event."""
        return [line for line in self.lines if line.event == event and source in (None, line.source)]

    def peak_bytes(self, name: str) -> int:
        """The largest resident set of a process so far: of ``broker``, the coordinator or a node."""
        return peak_rss_bytes(self.broker.pid if name == "broker" else self.fleet.pid(name))


@contextmanager
def running(plan: LargePlan, folder: Path, broker: LocalBroker) -> Iterator[LargeRun]:
    """A federation whose processes all end with the block."""
    run = LargeRun(plan, folder, broker)
    try:
        run.start()
        yield run
    finally:
        run.fleet.stop()


def settings(plan: LargePlan, url: str, folder: Path) -> Mapping[str, Mapping[str, object]]:
    """The coordinator's configuration."""
    return {
        "federation": {"id": FEDERATION},
        "broker": {"url": url},
        "store": {"folder": str(folder / COORDINATOR)},
        "task": {"name": plan.task_name},
        "codec": {"up": "lossless"},
        "round": {
            "concurrency": plan.nodes,
            "versions": plan.versions,
            "lease_s": LIMIT_S,
            "max_wait_s": LIMIT_S,
            "exit_when_finished": True,
        },
        "evaluation": {"every": 0},
        "log": {"json": True},
    }


def moment_s(line: Line) -> float:
    """When a line was written, in seconds."""
    return datetime.fromisoformat(str(line.fields["timestamp"])).timestamp()


def integer(line: Line, key: str) -> int:
    """A whole number of a line."""
    return int(str(line.fields[key]))


def peak_rss_bytes(pid: int) -> int:
    """The largest resident set of a living process, as the kernel counted it."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match.group(1)) * 1024 if match else 0


def received_in_vain_bytes(run: LargeRun) -> int:
    """What the coordinator received beyond every chunk once, since its newest start, for its newest version.

    A few hundred bytes of each interruption are offers and states.
    """
    topics = Topics(FederationId(FEDERATION))
    extra = integer(run.said("version_committed")[-1], "bytes_up")
    version = integer(run.said("version_committed")[-1], "version")
    for line in run.said("update_stored"):
        update = UpdateId(str(line.fields["update"]))
        if integer(line, "round") == version - 1:
            node, payload_bytes = NodeId(str(line.fields["node"])), integer(line, "bytes")
            for index in range(chunk_count(payload_bytes, CHUNK_BYTES)):
                extra -= PACKET_HEADER_BYTES + len(topics.node_chunk(node, update, index))
            extra -= payload_bytes
    return extra

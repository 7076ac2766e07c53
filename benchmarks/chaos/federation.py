"""One federation of real processes under observation: who lives, who works, who was told what."""

import queue
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chaos.life import HARMLESS, KILLED, Armoury, Arms, Life
from benchmarks.chaos.plan import OpenSite, Plan, Site, node_environment
from coordinator.config.sections import read_config
from coordinator.config.settings import committer_settings
from federation.protocol.messages import ReceiptStatus
from federation.types import ModelVersion, UpdateId
from fedmq.audit.audit import AuditReport, Witness, audit
from fedmq.demo.processes import Exited, Fleet, Line

COORDINATOR = "coordinator"
COORDINATORS = (COORDINATOR, "standby")
"""Those of one run: the second one where a database is shared."""
LIMIT_S = 30.0
"""Whoever has not come back to work after this many seconds hangs."""
STOP_S = 10.0
SURPRISES_MAX = 4
"""Processes that keep ending by themselves end the scenario: it would only start them again."""
INTRUDER_S = 120.0
"""Two clients with one id kick each other with growing pauses until one gives up."""


@dataclass(slots=True)
class Federation:
    """Processes and what they say; everything happens inside `wait`.

    Attributes:
        site: What runs, and where.
        armoury: Asked at each start of a process.
        watchers: Called with each log line, after it has been taken in.
        lives: The newest life of each process.
        past: All lives that ended.
        retired: Processes that are not started again when they end.
        version: Newest version committed.
        surprises: Ends that nobody has ordered.
        waiting: What the coordinator says that it waits for.
        storage_failures: How often each process has said that it cannot write.
    """

    site: Site
    armoury: Armoury = lambda _: HARMLESS
    watchers: list[Callable[[Line], None]] = field(default_factory=list)
    lives: dict[str, Life] = field(default_factory=dict)
    past: list[Life] = field(default_factory=list)
    retired: set[str] = field(default_factory=set)
    version: int = 0
    surprises: list[str] = field(default_factory=list)
    waiting: str = ""
    storage_failures: Counter[str] = field(default_factory=Counter)
    fleet: Fleet = field(init=False)
    _run: str = ""
    _runs: dict[str, str] = field(default_factory=dict)
    _offered: set[UpdateId] = field(default_factory=set)
    _told: set[tuple[UpdateId, ReceiptStatus, ModelVersion | None]] = field(default_factory=set)
    _version_seen: int = 0
    _buffered: int = 0
    _connects: int = 0
    _expected: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fleet = Fleet(folder=self.folder)

    @property
    def plan(self) -> Plan:
        """What runs."""
        return self.site.plan

    @property
    def folder(self) -> Path:
        """State and configuration."""
        return self.site.folder

    @property
    def url(self) -> str:
        """The broker."""
        return self.site.url

    def start(self) -> None:
        """Start everybody."""
        self.site.prepare()
        for launch in self.site.launches():
            self._start(launch.name, launch.module, list(launch.arguments))

    def wait(self, until: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        """Listen until something is true; False when the time is over, in seconds."""
        give_up_s = time.monotonic() + limit_s
        while not until():
            left_s = give_up_s - time.monotonic()
            try:
                item = self.fleet.lines.get(timeout=max(0.0, left_s))
            except queue.Empty:
                return False
            if isinstance(item, Line):
                self._hear(item)
            else:
                self._bury(item)
        return True

    def wait_versions(self, count: int, limit_s: float = LIMIT_S) -> bool:
        """Wait for so many further versions."""
        wanted = self.version + count
        return self.wait(lambda: self.version >= wanted, limit_s)

    def wait_reconnect(self, limit_s: float = LIMIT_S) -> bool:
        """Wait until the coordinator's control connection is accepted once more.

        What it commits before that was in its hands when the broker died.
        """
        wanted = self._connects + 1
        return self.wait(lambda: self._connects >= wanted, limit_s)

    def everybody_works(self) -> bool:
        """Whether each process that is meant to live has done its work in this life."""
        return all(life.works_s is not None for name, life in self.lives.items() if name not in self.retired)

    def expect(self, name: str, code: int) -> None:
        """From now on a process may end by itself with this exit code; it is started again."""
        self._expected[name] = code

    def kill(self, name: str) -> None:
        """SIGKILL from outside; it is started again when its end has been noticed."""
        self.fleet.kill(name)

    def terminate(self, name: str) -> float | None:
        """SIGTERM, and start again; seconds until its end, or None when it did not end in time."""
        began_s, life = time.monotonic(), self.lives[name]
        self._expected[name] = 0
        self.fleet.send_signal(name, signal.SIGTERM)
        ended = self.wait(lambda: life.ended_s is not None, STOP_S)
        del self._expected[name]
        return time.monotonic() - began_s if ended else None

    def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP, listen to the others for so long, SIGCONT."""
        self.fleet.send_signal(name, signal.SIGSTOP)
        self.wait(lambda: False, seconds)
        self.fleet.send_signal(name, signal.SIGCONT)

    def intrude(self, name: str, module: str, arguments: list[str], code: int) -> bool:
        """Start somebody who must end by itself with this exit code; False when it does not, in time."""
        self._expected[name] = code
        self.retired.add(name)
        self._start(name, module, arguments)
        life = self.lives[name]
        return self.wait(lambda: life.ended_s is not None, INTRUDER_S) and life.code == code

    def join(self, name: str, module: str, arguments: list[str]) -> None:
        """Start somebody else beside those of the plan."""
        self._start(name, module, arguments)

    def work_again(self, name: str, limit_s: float = LIMIT_S) -> float | None:
        """Seconds until a process has done its work from now on, in the same life; None when it does not."""
        began_s, life = time.monotonic(), self.lives[name]
        life.works_s, life.counts_from = None, datetime.now(UTC)
        works = self.wait(lambda: life.works_s is not None, limit_s)
        return time.monotonic() - began_s if works else None

    def restart(self, name: str) -> None:
        """Start a process that has ended."""
        arms = self.armoury(name)
        self.fleet.restart(name, arms.environment | node_environment(self.plan))
        self._born(name, self.fleet.generation(name), arms)

    def retire(self, *names: str, number: signal.Signals = signal.SIGTERM) -> bool:
        """End processes for good; False when one does not stop in time."""
        wanted = {name for name in names if self.lives[name].ended_s is None}
        self.retired.update(names)
        self._expected |= dict.fromkeys(names, 0)
        for name in wanted:
            self.fleet.send_signal(name, number)
        return self.wait(lambda: all(self.lives[name].ended_s is not None for name in wanted), STOP_S)

    def drain(self) -> bool:
        """Stop the nodes, and let the coordinator make a version of what it has; False when it does not."""
        drained = self.drain_nodes()
        return self.retire(COORDINATOR) and drained

    def drain_nodes(self) -> bool:
        """The same, but the coordinator goes on."""
        self.armoury = lambda _: HARMLESS
        stopped = self.retire(*self.plan.names)
        return self.wait(lambda: self._buffered == 0, STOP_S) and stopped

    def audit(self) -> AuditReport:
        """Judge the stores by what the nodes have said; everybody must have stopped."""
        config, state = read_config(self.site.settings, {}, {}), self.site.state
        witness = Witness(offered=frozenset(self._offered), told=frozenset(self._told), version_seen=self._version_seen)
        nodes = [state(name) for name in self.lives if (state(name) / "node.sqlite").exists()]
        helpers = [state(name) for name in self.site.helpers]
        made = committer_settings(config)
        return audit(state(COORDINATOR), nodes=nodes, helpers=helpers, settings=made, witness=witness)

    def _start(self, name: str, module: str, arguments: list[str]) -> None:
        arms = self.armoury(name)
        self.fleet.start(name, module, arguments, arms.environment | node_environment(self.plan))
        self._born(name, 0, arms)

    def _born(self, name: str, generation: int, arms: Arms) -> None:
        self.lives[name] = Life(name, generation, time.monotonic(), label=arms.label, fuse=arms.fuse)

    def _bury(self, exited: Exited) -> None:
        name, life = exited.source, self.lives[exited.source]
        life.ended_s, life.code = time.monotonic(), exited.code
        self.past.append(life)
        # Python dies of a SIGTERM that comes before its handler is in place: such a process has done nothing yet.
        early = exited.code == -signal.SIGTERM and self._expected.get(name) == 0
        if exited.code not in (KILLED, self._expected.get(name)) and not early:
            self.surprises.append(f"{name} ended with {exited.code}: {self.fleet.stderr_tail(name, 3)}")
            if len(self.surprises) > SURPRISES_MAX:
                raise RuntimeError("; ".join(self.surprises))
        if name not in self.retired:
            self.restart(name)

    def _hear(self, line: Line) -> None:
        life = self.lives[line.source]
        if line.source in COORDINATORS:
            self._hear_coordinator(line, life)
        elif line.source not in self.site.helpers:
            self._hear_node(line, life)
        self.storage_failures[line.source] += line.event == "storage_failed"
        for watcher in self.watchers:
            watcher(line)
        if life.fuse is not None:
            life.fuse -= 1
            if life.fuse == 0:
                self.kill(line.source)

    def _hear_coordinator(self, line: Line, life: Life) -> None:
        if line.event == "version_committed":
            self.version = max(self.version, _integer(line.fields, "version"))
            self._buffered = 0
            life.work(line)
        elif line.event == "update_stored":
            self._buffered += 1
        elif line.event == "connected" and line.fields.get("connection") == "control":
            self._connects += 1
        elif line.event == "helper_online" and str(line.fields["helper"]) in self.lives:
            self.lives[str(line.fields["helper"])].work(line)
        elif line.event == "waiting":
            self._buffered = _integer(line.fields, "buffered")
            self.waiting = str(line.fields.get("reason", ""))
        elif line.event == "coordinator_started":
            self._run = str(line.fields["run"])
            self.version = max(self.version, _integer(line.fields, "version"))

    def _hear_node(self, line: Line, life: Life) -> None:
        """A witness of the coordinator's run: another one has the same update ids."""
        fields = line.fields
        self._runs[line.source] = str(fields.get("run", self._runs.get(line.source, self._run)))
        if self._runs[line.source] != self._run:
            return
        match line.event:
            case "update_offered":
                self._offered.add(UpdateId(str(fields["update"])))
            case "model_ready":
                self._version_seen = max(self._version_seen, _integer(fields, "version"))
            # What it is told of somebody else's update, which a stranger has sent in its name, it ignores.
            case "receipt" if str(fields["update"]).endswith(f"-{line.source}"):
                status = ReceiptStatus(str(fields["status"]))
                version = ModelVersion(_integer(fields, "version")) if status is ReceiptStatus.APPLIED else None
                self._told.add((UpdateId(str(fields["update"])), status, version))
                if status is ReceiptStatus.APPLIED:
                    life.work(line)
            case _:
                pass


def running(
    plan: Plan, folder: Path, url: str, armoury: Armoury = lambda _: HARMLESS
) -> AbstractContextManager[Federation]:
    """A federation without certificates that is at work; all its processes end with the block."""
    return running_at(OpenSite(plan, folder, url), armoury)


@contextmanager
def running_at(site: Site, armoury: Armoury = lambda _: HARMLESS) -> Iterator[Federation]:
    """A federation that is at work; all its processes end with the block."""
    federation = Federation(site=site, armoury=armoury)
    try:
        federation.start()
        yield federation
    finally:
        federation.fleet.stop()


def _integer(fields: Mapping[str, object], key: str) -> int:
    value = fields.get(key, 0)
    return value if isinstance(value, int) else 0

"""The demo's director: starts everything, listens, and leaves nothing behind."""

import contextlib
import queue
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.monitoring.why import nobody_trains
from federation.documents import read_json
from federation.errors import FederationError
from federation.runtime.address import BrokerAddress, parse_broker_url, printable_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.visit import clear_retained, visit_broker
from federation.units import counted
from fedmq.demo.fork_server import ForkServer, modules_of, warm
from fedmq.demo.gateways import GatewaySaboteur, SiteFarm, compare_with_flat
from fedmq.demo.masks import Masks, ServerSaboteur, helper_names
from fedmq.demo.plan import DemoPlan, check_plan, coordinator_settings, to_toml
from fedmq.demo.processes import Exited, Fleet, Line, interrupts
from fedmq.demo.story import NodeStory, Story, unsaved
from fedmq.demo.view import View

FIRST_VERSION = 1
"""Kill only once this many versions exist: a federation at work, not one that is starting."""

QUIET_S_MAX = 180.0
"""A demo whose processes all say nothing for this long, in seconds, is given up."""

TROUBLE_S_MAX = 60.0
"""The same, when all that they say is that there is no broker."""

TROUBLE = frozenset({"connect_failed", "connect_refused", "disconnected", "publish_dropped"})
"""What processes say again and again while there is no broker."""

OF_NODES: Mapping[str, Mapping[str, object]] = {"training": {"nice": 0}}
"""What all nodes are told: this machine has no other work that their training should go behind."""


class DemoFailed(FederationError):  # noqa: N818 - the name says what it is
    """The demo could not finish; the message says which process ended and what it said last."""


@dataclass(slots=True)
class Saboteur:
    """Kills one node in mid-training, and sees to it that it comes back.

    It kills once; a kill that came after the training had ended does not count, and is tried again.

    Attributes:
        fleet: The processes.
        enabled: False never kills.
        victim: Who was killed and is not yet back, or None.
        done: Whether a node was killed in mid-training.
        returning: Who was started again and has not yet had an update applied, or None.
        returned: Whether an update of the one that was killed in mid-training was applied after its return.
        news: Who was ``killed`` and ``back``, and at which version.
    """

    fleet: Fleet
    enabled: bool = True
    victim: str | None = None
    done: bool = False
    returning: str | None = None
    returned: bool = False
    news: list[Mapping[str, object]] = field(default_factory=list)
    _round: int | None = None

    def hear(self, line: Line, *, version: int) -> str | None:
        """Watch the log lines; returns a sentence when something was done."""
        if line.source == self.victim and line.event == "training_finished":
            # The node was faster than the signal.
            self._round = None
        if line.source == self.returning and line.fields.get("status") == "applied":
            self.returning, self.returned = None, self.done
            self._tell(line.source, "back", version)
            return f"chaos: {line.source} is back: version {line.fields.get('version')} has its update"
        wanted = self.enabled and not self.done and self.victim is None and version >= FIRST_VERSION
        if not wanted or line.event != "training_started":
            return None
        self.victim = line.source
        value = line.fields.get("round")
        self._round = value if isinstance(value, int) else None
        self.fleet.kill(line.source)
        self._tell(line.source, "killed", version)
        return f"chaos: SIGKILL to {line.source} while it trains round {self._round}"

    def _tell(self, node: str, what: str, version: int) -> None:
        self.news.append({"node": node, "version": version, "what": what})

    def notice(self, exited: Exited) -> str | None:
        """A process has ended: start the victim again."""
        if exited.source != self.victim:
            return None
        in_training, self.victim = self._round is not None, None
        self.done = self.done or in_training
        self.fleet.restart(exited.source)
        self.returning = exited.source
        told = "killed in mid-training" if in_training else "killed just after training; chaos will try again"
        return f"chaos: {exited.source} was {told}; started again"


@dataclass(slots=True)
class _Patience:
    """Gives a demo up when nothing happens any more: that somebody tries to connect, or to save, again is nothing."""

    since: float = field(default_factory=time.monotonic)
    trouble: str = ""
    unsaved: str = ""
    unsaved_since: float = 0.0

    def hear(self, item: Line | Exited | None, now: float) -> str | None:
        """Something was said, or nothing for a while; returns a sentence where a broker or a disk begins to be missing.

        Raises:
            DemoFailed: It has lasted too long.
        """
        sentence = self._hear_of_disks(item, now)
        if isinstance(item, Line) and item.event in TROUBLE and "-doctor" not in str(item.fields.get("client")):
            if not self.trouble:
                sentence = f"the broker cannot be reached: {item.fields.get('reason')}"
            self.trouble = str(item.fields.get("reason"))
        elif item is not None:
            self.since, self.trouble = now, ""
        if now - self.since > (TROUBLE_S_MAX if self.trouble else QUIET_S_MAX):
            because = f": the broker cannot be reached: {self.trouble}" if self.trouble else ""
            raise DemoFailed(f"nothing happened for {now - self.since:.0f} s{because}")
        return sentence

    def _hear_of_disks(self, item: Line | Exited | None, now: float) -> str | None:
        sentence = None
        if isinstance(item, Line) and item.event == "storage_failed" and not self.unsaved:
            self.unsaved, self.unsaved_since = f"{item.source} cannot save: {unsaved(item.fields)}", now
            sentence = self.unsaved
        elif isinstance(item, Line) and item.event == "version_committed":
            self.unsaved = ""
        if self.unsaved and now - self.unsaved_since > TROUBLE_S_MAX:
            raise DemoFailed(f"no version for {now - self.unsaved_since:.0f} s: {self.unsaved}")
        return sentence


@dataclass(slots=True)
class Demo:
    """One demo from its start to its report."""

    plan: DemoPlan
    story: Story
    view: View
    folder: Path
    fleet: Fleet
    saboteur: Saboteur
    servers: ServerSaboteur = field(init=False)
    gateways: GatewaySaboteur = field(init=False)
    farm: SiteFarm = field(init=False)

    def __post_init__(self) -> None:
        """It kills the fleet's own processes."""
        self.servers = ServerSaboteur(self.fleet)
        self.farm = SiteFarm.of(self.plan, self.folder, list(self.story.nodes))
        # One with gateways below it, where there is one.
        self.gateways = GatewaySaboteur(self.fleet, enabled=self.plan.chaos, among=self.farm.levels[0])

    def run(self) -> Mapping[str, object]:
        """Run to the end.

        Returns:
            The report, as `coordinator run --report` writes it, with the demo's own fields added.

        Raises:
            ConfigError: What was asked for cannot be run; nothing was started.
            DemoFailed: A process ended that should not have, or nothing happened any more.
            KeyboardInterrupt: Somebody pressed Ctrl-C, or SIGTERM came.
        """
        check_plan(self.plan)
        began = time.monotonic()
        with interrupts(self.fleet), self._warm(), self.farm.brokers(), self._broker() as (url, broker_name):
            try:
                self.view.say(f"broker: {broker_name} at {printable_url(url)}")
                self._start(url)
                self._listen()
            finally:
                self.fleet.stop()
        return self._report(broker_name, time.monotonic() - began)

    @contextlib.contextmanager
    def _warm(self) -> Iterator[None]:
        """Processes are forked from one that has imported torch, where that is possible."""
        if ForkServer.is_possible() and "torch" in modules_of(self.plan.task):
            self.view.say("loading torch, once for all processes …")
        if self.fleet.server is not None:
            yield
            return
        with warm(self.plan.task) as server:
            self.fleet.server = server
            yield

    @contextlib.contextmanager
    def _broker(self) -> Iterator[tuple[str, str]]:
        if self.plan.broker is not None:
            address = parse_broker_url(self.plan.broker, source="--broker")
            self._visit(address)
            try:
                yield self.plan.broker, "external broker"
            finally:  # nobody else would: the next demo has another name
                clear_retained(address, f"{self.plan.federation}-end", f"fl/{self.plan.federation}/#")
            return
        with LocalBroker() as broker:
            yield broker.url, f"mosquitto {broker.version}"

    def _visit(self, address: BrokerAddress) -> None:
        """Before anything starts: a broker that cannot be used is told within seconds."""
        name = f"{self.plan.federation}-begin"
        seen = visit_broker(address, name, filters=(), probes=(), enough=lambda _: True)
        if not seen.accepted:
            remedy = seen.remedy or "see its host and port, and whether it runs"
            raise DemoFailed(f"no broker that can be used at {address.host}:{address.port}: {seen.reason}; {remedy}")

    def _start(self, url: str) -> None:
        settings, node_settings = self.folder / "coordinator.toml", self.folder / "node.toml"
        state = self.plan.keep or self.folder / "coordinator"
        masks = self._start_helpers(url)
        more = self.farm.coordinator() if masks is None else masks.coordinator(self.plan.epsilon)
        sections = coordinator_settings(self.plan, broker_url=url, state=state)
        settings.write_text(to_toml({**sections, **{name: {**sections.get(name, {}), **more[name]} for name in more}}))
        # In a file that only we can read: the URL may hold a password, and a command line is for everybody's eyes.
        node_settings.write_text(to_toml({"broker": {"url": url}, **OF_NODES}))
        report = str(self.folder / "report.json")
        self.fleet.start(
            "coordinator", "coordinator", ["run", "--config", str(settings), "--log-json", "--report", report]
        )
        self.farm.start(self.fleet, url)
        for index, name in enumerate(self.story.nodes):
            if masks is not None or self.farm.gateways:
                node_settings = self.folder / f"{name}.toml"
                reached = url if masks is not None else self.farm.url_of(name)
                own = {} if masks is None else masks.node(name)
                node_settings.write_text(to_toml({"broker": {"url": reached}, **OF_NODES, **own}))
            self.fleet.start(name, "edge_node", self._node_arguments(str(node_settings), name, index))
        helpers = f", {counted(self.plan.helpers, 'helper')}" if masks is not None else ""
        if self.farm.gateways:
            helpers = f", {counted(len(self.farm.gateways), 'gateway')} with a Mosquitto each"
        self.view.say(
            f"started 1 coordinator{helpers} and {counted(self.plan.nodes, 'edge node')}, each a process of its own"
        )

    def _start_helpers(self, url: str) -> Masks | None:
        """The helpers of masked sums, and keys for everybody; None where nothing is masked."""
        names = helper_names(self.plan.helpers)
        if not names:
            return None
        masks = Masks.make(self.folder, self.plan.federation, self.story.nodes, names)
        for name in names:
            settings = self.folder / f"{name}.toml"
            settings.write_text(to_toml(masks.helper(name, url)))
            self.fleet.start(name, "sum_helper", ["run", "--config", str(settings), "--log-json"])
        return masks

    def _node_arguments(self, settings: str, name: str, index: int) -> list[str]:
        plan = self.plan
        arguments = ["run", "--config", settings, "--federation", plan.federation, "--id", name, "--task", plan.task]
        arguments += ["--index", str(index), "--count", str(plan.nodes), "--seed", str(plan.seed), "--log-json"]
        arguments += ["--state", str(self.folder / name)]
        if plan.partition is not None:
            arguments += ["--partition", plan.partition]
        if plan.data is not None:
            arguments += ["--data", str(plan.data.resolve())]
        return arguments

    def _listen(self) -> None:
        patience = _Patience()
        while not self.fleet.interrupted.is_set():
            try:
                # The limit only bounds how late Ctrl-C is noticed where a signal does not wake a queue.
                item = self.fleet.lines.get(timeout=1.0)
            except queue.Empty:
                item = None
            sentence = patience.hear(item, time.monotonic())
            if sentence and not self.story.finished:  # then everybody leaves, and says so
                self.view.say(sentence)
            if isinstance(item, Exited):
                if self._is_over(item):
                    return
            elif item is not None:
                self._hear(item)
            self.view.refresh()
        raise KeyboardInterrupt

    def _hear(self, line: Line) -> None:
        if sentence := self.story.hear(line):
            self.view.say(sentence)
        if sentence := self.saboteur.hear(line, version=self.story.version):
            self.view.pin(sentence)
        if self.plan.helpers and self.plan.chaos and (sentence := self.servers.hear(line)):
            self.view.pin(sentence)
        if self.farm.gateways and (sentence := self.gateways.hear(line)):
            self.view.pin(sentence)
        if self.story.hopeless:
            raise DemoFailed(nobody_trains(self.story.version, self.story.failing))
        if self.saboteur.victim is not None:
            self.story.nodes[self.saboteur.victim].state = "killed"

    def _is_over(self, exited: Exited) -> bool:
        if sentence := self.servers.notice(exited) or self.gateways.notice(exited):
            self.view.pin(sentence)
            return False
        sentence = self.saboteur.notice(exited)
        if sentence is not None:
            node = self.story.nodes[exited.source]
            node.restarts, node.state = self.fleet.generation(exited.source), "starting"
            self.view.pin(sentence)
            return False
        servers = {"coordinator", *self.farm.gateways}
        # One that a task has ended (os._exit) has written none.
        ended_in_order = exited.source != "coordinator" or (self.folder / "report.json").exists()
        if exited.source in servers and exited.code == 0 and ended_in_order:
            self.farm.ends.add(exited.source)
            return self.farm.ends == servers  # a gateway ends when its last sum has its verdict
        raise DemoFailed(self.fleet.last_words(exited, self.plan.task))

    def _report(self, broker_name: str, total_wall_s: float) -> Mapping[str, object]:
        report: dict[str, object] = read_json((self.folder / "report.json").read_text())
        detail = report.get("nodes_detail")
        if isinstance(detail, list):
            for node in detail:
                story = self.story.nodes.get(node["id"])
                node["restarts"] = story.restarts if story is not None else 0
                node["failed"], node["failure"] = (story.failed, story.failure) if story is not None else (0, "")
        return report | {
            "task": self.plan.task,
            "nodes": self.plan.nodes,
            "codec": "masked" if self.plan.helpers else self.plan.codec,
            "strategy": self.plan.strategy,
            "total_wall_s": total_wall_s,
            "broker": broker_name,
            "chaos_kills": int(self.saboteur.done),
            "chaos_returns": int(self.saboteur.returned),
            "news": self.saboteur.news,
            "helpers": self.plan.helpers,
            "server_kills": self.servers.kills,
            "sites": self._sites(),
        }

    def _sites(self) -> Mapping[str, object] | None:
        """The same without gateways; None where there were none."""
        if not self.farm.gateways:
            return None
        self.view.say("all versions are made once more, without gateways …")
        root = self.plan.keep or self.folder / "coordinator"
        found = compare_with_flat(self.farm, self.folder / "coordinator.toml", root)
        return {**found, "kills": self.gateways.kills, "back": self.gateways.back}


def make_demo(plan: DemoPlan, view: View, story: Story, folder: Path, server: ForkServer | None = None) -> Demo:
    """Put a demo together; nothing runs yet.

    Args:
        plan: What is run.
        view: Shows it.
        story: What is known of it.
        folder: For settings and state.
        server: Forks the processes; None is one of the demo's own, where that is possible.
    """
    unforked = frozenset({"coordinator"} if plan.apart else ())
    fleet = Fleet(folder=folder, server=server, unforked=unforked)
    return Demo(plan=plan, story=story, view=view, folder=folder, fleet=fleet, saboteur=Saboteur(fleet, plan.chaos))


def make_story(plan: DemoPlan) -> Story:
    """A story with all nodes that are about to start."""
    width = len(str(plan.nodes - 1))
    return Story({f"node-{index:0{width}d}": NodeStory() for index in range(plan.nodes)})

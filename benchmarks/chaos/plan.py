"""What one federation of the campaign looks like: tasks without torch, quick rounds, and its processes' arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedmq.demo.plan import to_toml

FEDERATION = "chaos"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One federation.

    Attributes:
        nodes: Node processes.
        task: A task that needs numpy only.
        codec: Codec of the updates.
        buffer: Updates that make a version; None is all nodes: synchronous rounds.
        strategy: Name of the strategy; "" is the one that follows from the buffer.
        evaluate_every: The coordinator evaluates every so many versions; 0 is never.
        quorum: Updates with which a partial buffer may be committed.
        lease_s: How long a node may take, in seconds.
        max_wait_s: Patience after a version's first update, in seconds.
        spread_s: Nodes react within this time: it sets the pace, and leaves the CPU to those that restart.
        keepalive_s: MQTT keep-alive of every connection, in seconds.
        store_url: Database that the coordinator's store is in; None is its state folder.
        pace_s: Nodes that have nothing to do leave, and look in about so often, in seconds; 0: they stay connected.
        interval_min_s: Least time between two versions, in seconds.
        urls: Broker URL by node name, for those that go through a proxy.
    """

    nodes: int = 4
    task: str = "null"
    codec: str = "edge"
    buffer: int | None = 2
    strategy: str = ""
    evaluate_every: int = 0
    quorum: int = 1
    lease_s: float = 5.0
    max_wait_s: float = 1.0
    spread_s: float = 0.2
    keepalive_s: int = 45
    store_url: str | None = None
    pace_s: float = 0.0
    interval_min_s: float = 0.0
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names."""
        return tuple(f"node-{index}" for index in range(self.nodes))


def write_settings(plan: Plan, folder: Path, broker_url: str) -> Path:
    """Write the coordinator's configuration and return its path."""
    synchronous = plan.buffer is None
    sections: Mapping[str, Mapping[str, object]] = {
        "federation": {"id": FEDERATION},
        "broker": {"url": broker_url, "keepalive_s": plan.keepalive_s},
        "store": {"folder": str(folder / "coordinator")} | ({"url": plan.store_url} if plan.store_url else {}),
        "task": {"name": plan.task},
        "codec": {"up": plan.codec},
        "round": {
            "concurrency": plan.nodes,
            "buffer": plan.buffer or plan.nodes,
            "quorum": plan.quorum,
            "max_staleness": 0 if synchronous else 10,
            "lease_s": plan.lease_s,
            "max_wait_s": plan.max_wait_s,
            "spread_s": plan.spread_s,
            **({"pace_s": plan.pace_s} if plan.pace_s else {}),
            **({"interval_min_s": plan.interval_min_s} if plan.interval_min_s else {}),
        },
        "strategy": {"name": plan.strategy, "nodes": plan.nodes} if plan.strategy else {},
        "evaluation": {"every": plan.evaluate_every},
        "log": {"json": True},
    }
    path = folder / "coordinator.toml"
    path.write_text(to_toml(sections), encoding="utf-8")
    return path


def coordinator_arguments(folder: Path) -> list[str]:
    """Arguments of ``python -m coordinator``."""
    return ["run", "--config", str(folder / "coordinator.toml")]


def node_arguments(plan: Plan, folder: Path, broker_url: str, name: str) -> list[str]:
    """Arguments of ``python -m edge_node``."""
    index = plan.names.index(name)
    arguments = ["run", "--broker", plan.urls.get(name, broker_url), "--federation", FEDERATION, "--id", name]
    arguments += ["--task", plan.task, "--index", str(index), "--count", str(plan.nodes)]
    return [*arguments, "--state", str(folder / name), "--log-json"]


def node_environment(plan: Plan) -> dict[str, str]:
    """Settings of a node that have no flag."""
    return {"FEDMQ_NODE__BROKER__KEEPALIVE_S": str(plan.keepalive_s), "FEDMQ_NODE__TRAINING__NICE": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One process: ``python -m module arguments``."""

    name: str
    module: str
    arguments: Sequence[str]


class Site(Protocol):
    """Where a federation of the campaign is: its files, and how its processes are started."""

    @property
    def plan(self) -> Plan:
        """What runs."""

    @property
    def folder(self) -> Path:
        """Where logs are written."""

    @property
    def url(self) -> str:
        """The broker."""

    @property
    def settings(self) -> Path:
        """The coordinator's configuration."""

    @property
    def helpers(self) -> Sequence[str]:
        """The helpers of masked sums; nobody where nothing is masked."""

    def prepare(self) -> None:
        """Write what the processes read."""

    def launches(self) -> Sequence[Launch]:
        """Everybody, in the order of their starts."""

    def state(self, name: str) -> Path:
        """State folder of a process."""


@dataclass(frozen=True, slots=True)
class OpenSite:
    """A federation without certificates."""

    plan: Plan
    folder: Path
    url: str
    helpers: Sequence[str] = ()

    @property
    def settings(self) -> Path:
        """The coordinator's configuration."""
        return self.folder / "coordinator.toml"

    def prepare(self) -> None:
        """Write the coordinator's configuration."""
        write_settings(self.plan, self.folder, self.url)

    def launches(self) -> Sequence[Launch]:
        """The coordinator and the nodes."""
        coordinator = Launch(name="coordinator", module="coordinator", arguments=coordinator_arguments(self.folder))
        nodes = [
            Launch(name=name, module="edge_node", arguments=node_arguments(self.plan, self.folder, self.url, name))
            for name in self.plan.names
        ]
        return [coordinator, *nodes]

    def state(self, name: str) -> Path:
        """State folder of a process."""
        return self.folder / name

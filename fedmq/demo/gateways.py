"""A demo through gateways: sites with a broker each, a gateway that is killed, and the same without any."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.config.sections import read_config
from coordinator.config.settings import committer_settings
from coordinator.global_model.committer import first_commit
from coordinator.global_model.initial import InitialRequest, initial_model_apart
from federation.errors import StorageError
from federation.runtime.local_broker import LocalBroker
from federation.units import counted
from fedmq.demo.plan import DemoPlan, gateway_names, to_toml
from fedmq.demo.processes import Exited, Fleet, Line
from fedmq.sites import Sites
from update_codec import CodecSpec

__all__ = ["GatewaySaboteur", "SiteFarm", "compare_with_flat"]

KILL_FROM = 1
"""The gateway is killed once this many versions exist."""

AUDIT_VERSIONS = 100_000
"""All updates of a demo are kept, above and below: the versions are made once more at its end."""

Sections = Mapping[str, Mapping[str, object]]


@dataclass(slots=True)
class SiteFarm:
    """The sites of one demo: who is where, and what each gateway is told.

    Attributes:
        folder: Where settings and state go.
        federation: Its name, above and below.
        task: What is trained, and the seed of its version 0.
        levels: The gateways' names, those of the highest level first.
        nodes: All nodes' names: dealt out in turn to the sites of the lowest level.
        ends: Gateways that have ended in order.
    """

    folder: Path
    federation: str
    task: tuple[str, int]
    levels: Sequence[Sequence[str]]
    nodes: Sequence[str]
    ends: set[str] = field(default_factory=set)
    _urls: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: DemoPlan, folder: Path, nodes: Sequence[str]) -> "SiteFarm":
        """The sites of a plan; none where it has no gateways."""
        task = (plan.task, plan.seed)
        levels = gateway_names(plan.gateways, plan.levels)
        return cls(folder=folder, federation=plan.federation, task=task, levels=levels, nodes=nodes)

    @property
    def gateways(self) -> list[str]:
        """All of them, a gateway before those below it."""
        return [name for names in self.levels for name in names]

    @contextlib.contextmanager
    def brokers(self) -> Iterator[None]:
        """Each site's own Mosquitto, while entered."""
        with contextlib.ExitStack() as stack:
            for name in self.gateways:
                self._urls[name] = stack.enter_context(LocalBroker()).url
            yield

    def gateway_of(self, node: str) -> str:
        """Whose site a node belongs to."""
        lowest = self.levels[-1]
        return lowest[list(self.nodes).index(node) % len(lowest)]

    def url_of(self, node: str) -> str:
        """The broker of a node's site."""
        return self._urls[self.gateway_of(node)]

    def coordinator(self) -> Sections:
        """What the coordinator's configuration has more."""
        if not self.gateways:
            return {}
        return {
            "gateways": {"members_max": {name: self._count(name) for name in self.levels[0]}},
            "store": {"audit_versions": AUDIT_VERSIONS},
        }

    def start(self, fleet: Fleet, url: str) -> None:
        """Write each gateway's folder, and start it."""
        for name in self.gateways:
            folder = self.folder / name
            folder.mkdir()
            (folder / "gateway.toml").write_text("")
            (folder / "above.toml").write_text(to_toml(self._above(name, url)))
            (folder / "below.toml").write_text(to_toml(self._below(name)))
            fleet.start(name, "fedmq", ["gateway", "run", "--config", str(folder), "--log-json"])

    def sites(self) -> list[Path]:
        """The gateways' state folders of this run.

        Raises:
            StorageError: One has none.
        """
        found = [sorted((self.folder / name / "below").glob("*/coordinator.sqlite3")) for name in self.gateways]
        if not all(found):
            raise StorageError("a gateway has no state: it has never heard of the run")
        return [files[-1].parent for files in found]

    def _depth(self, name: str) -> int:
        """How many gateways stand above one."""
        return next(depth for depth, names in enumerate(self.levels) if name in names)

    def _children(self, name: str) -> list[str]:
        """The gateways right below one."""
        lower = self.levels[self._depth(name) + 1 :][:1]
        return [one for names in lower for one in names if one.rpartition("-")[0] == name]

    def _count(self, name: str) -> int:
        """The nodes behind a gateway, of whatever level."""
        own = sum(self.gateway_of(node) == name for node in self.nodes)
        return own + sum(map(self._count, self._children(name)))

    def _above(self, name: str, url: str) -> Sections:
        return {
            "federation": {"id": self.federation},
            "node": {"id": name},
            "broker": {"url": url if name in self.levels[0] else self._urls[name.rpartition("-")[0]]},
            "task": {"name": self.task[0]},
            "store": {"folder": str(self.folder / name / "above")},
        }

    def _below(self, name: str) -> Sections:
        below, share = self._children(name), 2 ** self._depth(name)  # what is below has less time
        count = len(below) or self._count(name)
        caps = {"gateways": {"members_max": {one: self._count(one) for one in below}}} if below else {}
        return caps | {
            "federation": {"id": self.federation},
            "broker": {"url": self._urls[name]},
            "task": {"name": self.task[0], "seed": self.task[1]},
            "round": {
                "concurrency": count,
                "fraction": 1.0,
                "quorum": 1,
                "nodes_min": count,
                "lease_s": 60.0 / share,
                "max_wait_s": 30.0 / share,
                "exit_when_finished": True,
            },
            "store": {"folder": str(self.folder / name / "below"), "audit_versions": AUDIT_VERSIONS},
        }


@dataclass(slots=True)
class GatewaySaboteur:
    """Kills one gateway when its sum is on its disk and nobody above has it yet, and starts it again.

    Attributes:
        fleet: The processes.
        enabled: False never kills.
        among: Who may be.
        victim: Who was killed and is not yet started again.
        kills: How many were; ``back`` of them had a sum applied after it.
    """

    fleet: Fleet
    enabled: bool
    among: Sequence[str]
    victim: str | None = None
    kills: int = 0
    back: int = 0
    _returning: str | None = None

    def hear(self, line: Line) -> str | None:
        """Watch the gateways' logs; returns a sentence when something was done."""
        if line.source == self._returning and line.event == "site_sum_settled":
            self._returning, self.back = None, self.back + 1
            return f"chaos: {line.source} is back: version {line.fields.get('version')} has its sum"
        version = line.fields.get("version")
        wanted = self.enabled and not self.kills and self.victim is None and line.source in self.among
        if not wanted or line.event != "site_sum_frozen" or not isinstance(version, int) or version < KILL_FROM:
            return None
        self.victim = line.source
        self.fleet.kill(line.source)
        members = counted(int(str(line.fields.get("members") or 0)), "update")
        return f"chaos: SIGKILL to {line.source} with {members} in a sum that nobody has yet"

    def notice(self, exited: Exited) -> str | None:
        """A process has ended: start the victim again."""
        if exited.source != self.victim:
            return None
        self._returning, self.victim, self.kills = self.victim, None, self.kills + 1
        self.fleet.restart(exited.source)
        return f"chaos: {exited.source} was killed; started again"


def compare_with_flat(farm: SiteFarm, settings: Path, root: Path) -> Mapping[str, object]:
    """Make all versions of the demo once more, without gateways.

    Args:
        farm: The sites, which have stopped.
        settings: The coordinator's configuration file.
        root: Its state folder.

    Returns:
        ``digest`` and ``flat_digest`` of the last version, ``versions_same`` of ``versions``, what counts twice or is
        lost, and the payload bytes that went up, would have without gateways, and would coded again.

    Raises:
        StorageError: A store cannot be read.
    """
    config = read_config(settings, {}, environ={})
    chosen = committer_settings(config)
    data = None if config.task.data is None else str(config.task.data)
    request = InitialRequest(task=config.task.name, data=data, seed=config.task.seed)
    made = initial_model_apart(request, farm.folder)
    first = first_commit(made.vectors, made.manifest, chosen.downlink, seed=made.seed).model
    with Sites(root, farm.sites()) as sites:
        versions = list(sites.compare(first, chosen))
        problems, uplink = list(sites.problems()), sites.bytes_up(CodecSpec.parse("edge"))
    return {
        "gateways": len(farm.gateways),
        "levels": 1 + len(farm.levels),
        "versions": len(versions),
        "versions_same": sum(one.same for one in versions),
        "digest": versions[-1].through_gateways.hex() if versions else "",
        "flat_digest": versions[-1].flat.hex() if versions else "",
        "members": [one.members for one in versions],
        "problems": problems,
        "bytes_up_flat": uplink.flat,
        "bytes_up_exact": uplink.sent,
        "bytes_up_coded_again": uplink.again,
    }

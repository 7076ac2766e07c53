"""A federation as ``coordinator init`` makes it, with helpers: certificates, access rules, signed, sealed, masked."""

import datetime as dt
import signal
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.chaos.plan import Launch, Plan
from coordinator.enrolment.broker import FleetBroker
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from edge_node.setup import join
from federation.errors import TransportError
from federation.identity.private_files import read_text
from federation.identity.request import decode_request
from federation.runtime.local_broker import free_port
from federation.types import FederationId, NodeId
from fedmq.demo.plan import to_toml
from sum_helper.setup import folder as helper_folder

__all__ = ["PrivateSite", "SiteBroker"]

FEDERATION = FederationId("plant")
MEMBERS_MIN = 5
"""The fewest that a helper may be told; a campaign of more nodes than that needs another machine."""
AUDITED = 1_000
REQUEST_BYTES_MAX = 65_536


@dataclass(frozen=True)
class PrivateSite:
    """One folder with everybody's: no party has it all outside of a campaign.

    Attributes:
        plan: What runs; its buffer, and its quorum, are at least `MEMBERS_MIN`.
        folder: For logs; the others' folders are in it.
        count: Helpers.
        threshold: So many of them must answer.
        port: The broker's.
    """

    plan: Plan
    folder: Path
    count: int = 4
    threshold: int = 3
    port: int = field(default_factory=free_port)

    @property
    def helpers(self) -> Sequence[str]:
        """Their names."""
        return tuple(f"helper-{number}" for number in range(self.count))

    @property
    def url(self) -> str:
        """The broker."""
        return f"mqtts://localhost:{self.port}"

    @property
    def federation(self) -> Path:
        """The folder of ``coordinator init``."""
        return self.folder / FEDERATION

    @property
    def settings(self) -> Path:
        """The coordinator's configuration."""
        return self.federation / "coordinator.toml"

    def prepare(self) -> None:
        """Enrol everybody, as the pages for operators say it; done before, it does nothing."""
        if self.settings.exists():
            return
        fleet = Fleet(folder=FleetFolder(self.federation), now=dt.datetime.now(dt.UTC))
        hosts = ("localhost",)
        fleet.create(FleetPlan(federation=FEDERATION, hosts=hosts, port=self.port, task=self.plan.task, evaluate=False))
        pins = [self._enrol_helper(fleet, name) for name in self.helpers]
        fleet.enroll(self.plan.names)
        for name in self.plan.names:
            join.install(fleet.folder.bundle(NodeId(name)), self.folder / name, helpers=pins)
            for helper in self.helpers:
                helper_folder.admit(self.folder / helper / "register.json", join.own_key_line(self.folder / name))
        self._configure(pins)

    def launches(self) -> Sequence[Launch]:
        """Helpers first: nodes that find none decline."""
        index = partial(self.plan.names.index)
        task = ["--task", self.plan.task, "--count", str(self.plan.nodes)]
        return [
            *(Launch(name=name, module="sum_helper", arguments=self._run(name)) for name in self.helpers),
            Launch(name="coordinator", module="coordinator", arguments=self._run(FEDERATION)),
            *(
                Launch(name=name, module="edge_node", arguments=[*self._run(name), *task, "--index", str(index(name))])
                for name in self.plan.names
            ),
        ]

    def state(self, name: str) -> Path:
        """State folder of a process."""
        return (self.federation if name == "coordinator" else self.folder / name) / "state"

    def _run(self, name: str) -> list[str]:
        return ["run", "--config", str(self.folder / name), "--log-json"]

    def _enrol_helper(self, fleet: Fleet, name: str) -> str:
        """The line by which it is pinned."""
        request, line = helper_folder.ask(name, self.folder / name)
        fleet.enroll_request(decode_request(read_text(request, bytes_max=REQUEST_BYTES_MAX)))
        folder = helper_folder.install(fleet.folder.bundle(NodeId(name)), self.folder / name)
        settings = folder / "helper.toml"
        text = settings.read_text(encoding="utf-8")
        settings.write_text(text.replace("members_min = 8", f"members_min = {MEMBERS_MIN}"), encoding="utf-8")
        return line

    def _configure(self, pins: Sequence[str]) -> None:
        """What ``init`` has written, with masks and with rounds that are quick."""
        sections = tomllib.loads(self.settings.read_text(encoding="utf-8"))
        plan, synchronous = self.plan, self.plan.buffer is None
        sections["privacy"] |= {
            "masked": True,
            "helpers": list(pins),
            "threshold": self.threshold,
            "members_min": MEMBERS_MIN,
        }
        sections["round"] |= {
            "concurrency": plan.nodes,
            "buffer": plan.buffer or plan.nodes,
            "quorum": max(plan.quorum, MEMBERS_MIN),
            "max_staleness": 0 if synchronous else 10,
            "lease_s": plan.lease_s,
            "max_wait_s": plan.max_wait_s,
            "spread_s": plan.spread_s,
            "versions": 0,
            "interval_min_s": 0.0,
        }
        sections["store"]["audit_versions"] = AUDITED
        self.settings.write_text(to_toml(sections), encoding="utf-8")


class SiteBroker(FleetBroker):
    """The federation's Mosquitto, which may be killed."""

    def __init__(self, site: PrivateSite) -> None:
        super().__init__(site.federation / "broker")
        self._configuration = site.federation / "broker" / "mosquitto.conf"

    def kill(self) -> None:
        """SIGKILL; nothing is saved."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again with an empty store.

        Raises:
            TransportError: It does not.
        """
        for file in (self._configuration.parent / "data").glob("*.db"):
            file.unlink()
        if not self._launch(self._configuration):
            raise TransportError("the broker's port is taken")

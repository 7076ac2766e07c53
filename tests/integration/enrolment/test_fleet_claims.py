"""Real processes of an enrolled federation: a member that lies stops nobody, and a copy of the run's state holds."""

import datetime as dt
import queue
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from coordinator.enrolment.broker import FleetBroker
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from coordinator.monitoring.state_files import read_behind, read_claims, read_incidents
from coordinator.storage.read_only import ReadOnlyStore
from edge_node.app import node_trust
from edge_node.config import read_config
from edge_node.setup.join import install
from federation.protocol.messages import CoordinatorState, Message, NodeState, Presence, Proof
from federation.protocol.signing import Signer, Writer
from federation.protocol.topics import Topics
from federation.runtime.address import TlsFiles
from federation.runtime.local_broker import free_port
from federation.types import Epoch, FederationId, Incarnation, NodeId, RoundId, RunId, SeenRun, Start
from fedmq.demo.processes import Exited, Line
from fedmq.demo.processes import Fleet as Processes
from tests.rigs.raw_mqtt import NO_SUBSCRIBERS, RawClient

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(180)]

BAD, GOOD = NodeId("bad"), NodeId("good")
TOPICS = Topics(FederationId("plant"))
BIRTH = NodeState(
    presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1, task="null", codecs=("edge",)
)
QUICK = {
    "FEDMQ_COORDINATOR__ROUND__CONCURRENCY": "2",
    "FEDMQ_COORDINATOR__ROUND__INTERVAL_MIN_S": "0",
    "FEDMQ_COORDINATOR__ROUND__MAX_WAIT_S": "0.3",
    "FEDMQ_COORDINATOR__ROUND__LEASE_S": "3",
}
LIMIT_S = 60.0
QUIET_S = 8.0
"""Longer than claims without a proof hold."""


@dataclass
class Site:
    """An enrolled federation with its broker, and what its processes say."""

    root: Path
    port: int
    fleet: Fleet
    processes: Processes
    said: list[str] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.fleet.folder.root / "state"

    def coordinate(self) -> None:
        arguments = ["run", "--config", str(self.fleet.folder.root), "--log-json"]
        self.processes.start("coordinator", "coordinator", arguments, QUICK)

    def take_part(self) -> None:
        arguments = ["run", "--config", str(self.root / GOOD), "--state", str(self.root / "node-state"), "--log-json"]
        self.processes.start(GOOD, "edge_node", arguments)

    def hears(self, event: str, times: int = 1, limit_s: float = LIMIT_S) -> bool:
        """Whether the coordinator says this so often from now on, in time."""
        give_up = time.monotonic() + limit_s
        while times:
            try:
                item = self.processes.lines.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                return False
            if isinstance(item, Line) and item.source == "coordinator":
                self.said.append(item.event)
                times -= item.event == event
        return True

    def end(self, name: str) -> None:
        """SIGKILL, and wait for its end."""
        self.processes.kill(name)
        while True:
            item = self.processes.lines.get(timeout=LIMIT_S)
            if isinstance(item, Exited) and item.source == name:
                return

    def copy_of_a_moment(self) -> Path:
        """The state folder as a power cut would leave it now."""
        self.processes.send_signal("coordinator", signal.SIGSTOP)
        copied = shutil.copytree(self.state, self.root / "copy")
        self.processes.send_signal("coordinator", signal.SIGCONT)
        return copied

    def signer(self) -> Signer | None:
        return node_trust(read_config(self.root / BAD, {}, environ={}).security).signer

    def lie(self, client: RawClient, topic: str, message: Message, *, retain: bool = False) -> None:
        code = client.publish(topic, Writer(TOPICS, self.signer()).encode(topic, message), retain=retain)
        assert code in {0, NO_SUBSCRIBERS}

    def client(self) -> RawClient:
        authority, certificate, key = (str(self.root / BAD / name) for name in ("ca.crt", "node.crt", "node.key"))
        return RawClient(self.port, TlsFiles(authority=authority, certificate=certificate, key=key).context())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port = free_port()
    fleet = Fleet(folder=FleetFolder(tmp_path / "plant"), now=dt.datetime.now(dt.UTC))
    fleet.create(
        FleetPlan(federation=FederationId("plant"), hosts=("localhost",), port=port, task="null", evaluate=False)
    )
    for name in fleet.enroll([BAD, GOOD]):
        install(fleet.folder.bundle(name), tmp_path / name)
    processes = Processes(folder=tmp_path)
    with FleetBroker(fleet.folder.broker):
        try:
            yield Site(root=tmp_path, port=port, fleet=fleet, processes=processes)
        finally:
            processes.stop()


def test_a_member_that_lies_about_a_later_coordinator_does_not_stop_the_run(site: Site) -> None:
    """FED-130: neither with numbers, nor with a proof that it has signed itself."""
    site.coordinate()
    site.take_part()
    assert site.hears("version_committed"), site.said
    with ReadOnlyStore(site.state) as store:
        run = RunId(store.run)
    forged = CoordinatorState(
        presence=Presence.ONLINE, run=run, epoch=Epoch(2**32 - 1), protocol_min=1, protocol_max=1, start=Start(1)
    )
    with site.client() as bad:
        seen = SeenRun(run=run, epoch=Epoch(2**32 - 1), start=Start(2**64 - 1), round=RoundId(2**32 - 1))
        site.lie(bad, TOPICS.node_state(BAD), replace(BIRTH, seen=seen), retain=True)
        assert site.hears("claim_without_proof"), site.said
        payload = Writer(TOPICS, site.signer()).encode(TOPICS.coordinator_state, forged)
        site.lie(bad, TOPICS.node_event(BAD), Proof(state=payload))
        assert site.hears("version_committed", 3), site.said
        assert read_claims(site.state)["said_by"] == [BAD]
    assert read_behind(site.state) == {}
    assert "behind" not in site.said
    assert read_incidents(site.state)[BAD]["bad_signature"] == 1


def test_a_copy_of_the_state_that_nodes_are_beyond_is_held_by_what_they_prove(site: Site) -> None:
    """FED-97, FED-130: also where the pair of the copy is the higher one, and its node was restarted since."""
    site.coordinate()
    site.take_part()
    assert site.hears("version_committed"), site.said
    copied = site.copy_of_a_moment()
    assert site.hears("version_committed", 3), site.said
    for name in ("coordinator", GOOD):
        site.end(name)
    shutil.rmtree(site.state)
    shutil.move(copied, site.state)
    with ReadOnlyStore(site.state) as store:
        head = store.head()
    site.said.clear()
    site.take_part()
    site.coordinate()
    assert site.hears("behind"), site.said
    assert "claim_without_proof" in site.said
    assert "version_committed" not in site.said
    assert not site.hears("version_committed", limit_s=QUIET_S), site.said
    assert read_behind(site.state)["said_by"] == [GOOD]
    assert read_claims(site.state) == {}
    with ReadOnlyStore(site.state) as store:
        assert store.head() == head

"""Who is revoked is shut out, and the command proves it: by the broker, and by the coordinator that runs."""

import datetime as dt
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.enrolment import broker, shut_out
from coordinator.enrolment.broker import OWNER, FleetBroker, brokers_of, reload_broker
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from coordinator.monitoring.state_files import read_incidents, read_waiting
from edge_node.app import node_trust
from edge_node.config import read_config
from edge_node.setup.join import install
from federation.errors import FederationError
from federation.privacy.boxes import Kem, KeyPair
from federation.protocol.messages import NodeState, Presence
from federation.protocol.sealed_messages import SealingKey
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.runtime.address import TlsFiles
from federation.runtime.local_broker import free_port
from federation.types import FederationId, Incarnation, NodeId
from tests.rigs.raw_mqtt import RawClient, Refused

pytestmark = [pytest.mark.broker, pytest.mark.timeout(110)]

BAD, GOOD = NodeId("bad"), NodeId("good")
TOPICS = Topics(FederationId("plant"))
STATE = NodeState(
    presence=Presence.ONLINE,
    incarnation=Incarnation(1),
    protocol_min=1,
    protocol_max=1,
    task="null",
    seal=SealingKey(kem=0x0020, key=KeyPair.make(Kem.X25519).public.raw),
)
LIMIT_S = 40.0


@dataclass
class Site:
    """A federation in a folder, and processes of it."""

    root: Path
    port: int
    fleet: Fleet
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def broker(self) -> Path:
        return self.fleet.folder.broker

    @property
    def state(self) -> Path:
        return self.fleet.folder.root / "state"

    def client(self, name: str) -> RawClient:
        folder = self.root / name
        files = (str(folder / file) for file in ("ca.crt", "node.crt", "node.key"))
        authority, certificate, key = files
        return RawClient(self.port, TlsFiles(authority=authority, certificate=certificate, key=key).context())

    def listens(self) -> bool:
        with closing(socket.socket()) as plain:
            return plain.connect_ex(("127.0.0.1", self.port)) == 0

    def born(self, name: str) -> bytes:
        signer = node_trust(read_config(self.root / name, {}, environ={}).security).signer
        return Writer(TOPICS, signer).encode(TOPICS.node_state(NodeId(name)), STATE)

    def coordinate(self, *more: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "coordinator", "run", "--config", str(self.fleet.folder.root), *more],
            cwd=self.root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def wait_for(self, nodes: list[str]) -> float:
        """Seconds until the coordinator waits for exactly these."""
        began = time.monotonic()
        while time.monotonic() < began + LIMIT_S:
            try:
                if read_waiting(self.state).fields["nodes"] == nodes:
                    return time.monotonic() - began
            except FederationError:
                pass
            time.sleep(0.05)
        pytest.fail(f"the coordinator never waited for {nodes}")

    def revoke(self, *names: str) -> tuple[int, str]:
        done = CliRunner().invoke(make_app(["revoke"]), ["revoke", str(self.fleet.folder.root), *names])
        return done.exit_code, done.output


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port = free_port()
    fleet = Fleet(folder=FleetFolder(tmp_path / "plant"), now=dt.datetime.now(dt.UTC))
    fleet.create(
        FleetPlan(federation=FederationId("plant"), hosts=("localhost",), port=port, task="null", evaluate=False)
    )
    for name in fleet.enroll([BAD, GOOD]):
        install(fleet.folder.bundle(name), tmp_path / name)
    made = Site(root=tmp_path, port=port, fleet=fleet)
    yield made
    for process in made.processes:
        process.send_signal(signal.SIGTERM)
    for process in made.processes:
        process.wait(LIMIT_S)


def test_a_revoked_node_is_not_waited_for_and_its_connection_ends(site: Site) -> None:
    """FED-104: within two seconds, with a coordinator that waits for it alone."""
    site.coordinate("--with-broker")
    deadline = time.monotonic() + LIMIT_S
    while not brokers_of(site.broker) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    with site.client(BAD) as bad:
        assert bad.publish(TOPICS.node_state(BAD), site.born(BAD), retain=True) in {0, 0x10}
        site.wait_for([BAD])
        began = time.monotonic()
        assert site.revoke(BAD) == (0, f"{BAD} is revoked\n{shut_out.SHUT}\n")
        assert time.monotonic() - began < 5.0
        site.wait_for([])
        with pytest.raises((Refused, OSError)):
            bad.listen_until("the broker has ended it")
    with pytest.raises(Refused):
        site.client(BAD)
    with site.client(GOOD) as good:
        good.publish(TOPICS.node_state(GOOD), site.born(GOOD), retain=True)
        site.wait_for([GOOD])
        # Nothing of it is left for a coordinator that starts anew.
        good.subscribe(TOPICS.node_state(BAD))
    assert read_incidents(site.state).get(GOOD) is None


def test_a_second_coordinator_leaves_the_broker_of_the_first_within_reach(site: Site) -> None:
    with FleetBroker(site.broker) as first:
        with FleetBroker(site.broker):
            assert brokers_of(site.broker) == [first.pid]
        assert (site.broker / "data" / "mosquitto.pid").read_text().strip() == str(first.pid)
        # And where another program has taken the file away:
        (site.broker / "data" / "mosquitto.pid").unlink()
        with site.client(BAD):
            assert site.revoke(BAD)[0] == 0
        with pytest.raises(Refused):
            site.client(BAD)
    assert not reload_broker(site.broker)


def test_a_broker_ends_with_a_coordinator_that_was_killed_and_the_next_one_has_its_own(site: Site) -> None:
    """An orphan would listen on for ever, with nobody who reads its log or lists its revocations."""
    site.coordinate("--with-broker")
    site.wait_for([])
    (first,) = map(psutil.Process, brokers_of(site.broker))
    killed = site.processes[-1]
    killed.kill()
    site.coordinate("--with-broker")  # at once, as a supervisor does
    assert psutil.wait_procs([first], timeout=LIMIT_S)[1] == []
    deadline = time.monotonic() + LIMIT_S
    while not ((running := brokers_of(site.broker)) and site.listens()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert running != [first.pid]
    assert psutil.Process(running[0]).ppid() == site.processes[-1].pid
    with site.client(BAD) as bad:
        bad.publish(TOPICS.node_state(BAD), site.born(BAD), retain=True)
        site.wait_for([BAD])


FORGETFUL = """
import os
import sys
from pathlib import Path

from coordinator.enrolment.broker import FleetBroker


class Forgetful(FleetBroker):
    def _on_birth(self):
        return None


Forgetful(Path(sys.argv[1])).__enter__()
os._exit(0)
"""
"""Starts a broker that does not hear of its end, as Mosquitto that is not in its main loop yet, and ends."""


def test_a_broker_that_has_outlived_its_coordinator_is_ended_by_the_next_one(site: Site) -> None:
    """It would be used as it is, and stay for ever: with its old settings, and nobody who reads its log."""
    command = [sys.executable, "-c", FORGETFUL, str(site.broker)]
    subprocess.run(command, check=True, timeout=LIMIT_S)
    (left,) = map(psutil.Process, brokers_of(site.broker))
    try:
        with FleetBroker(site.broker) as next_one:
            assert brokers_of(site.broker) == [next_one.pid]
    finally:
        with suppress(psutil.NoSuchProcess):
            left.kill()


@pytest.mark.parametrize(("said", "lives"), [("", None), (f"{OWNER}=1", False), (f"{OWNER}=9", True)])
def test_only_a_broker_that_says_so_is_known_to_be_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, lives: bool | None
) -> None:
    """Its parent is its owner, where it began when the broker says; a service manager's broker says nothing."""
    monkeypatch.setattr(broker, "PROCESSES", tmp_path)
    stat = "{} (a (b) c) S {} " + "0 " * 17 + "{} 0"
    for pid, parent, began in ((7, 3, 12), (3, 1, 9)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(stat.format(pid, parent, began))
    (tmp_path / "7" / "environ").write_text(f"HOME=/\0{said}\0")
    assert broker._owner_lives(7) is lives
    (tmp_path / "7" / "environ").unlink()
    assert broker._owner_lives(7) is None


def test_a_broker_that_has_not_read_its_lists_is_told_of(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shut_out, "PATIENCE_S", 0.3)
    with FleetBroker(site.broker):
        with monkeypatch.context() as patch:
            patch.setattr("coordinator.enrolment.cli.reload_broker", lambda _: False)
            code, said = site.revoke(BAD)
        assert code == 1
        assert "NOT SHUT OUT" in said
        assert "still accepts a revoked certificate" in said
        with site.client(BAD):
            pass
        # As somebody does it by hand where the broker runs elsewhere; then the command only checks.
        lists = site.fleet.folder.revoked.read_bytes()
        assert reload_broker(site.broker)
        with monkeypatch.context() as patch:
            patch.setattr("coordinator.enrolment.cli.reload_broker", lambda _: False)
            patch.setattr(shut_out, "PATIENCE_S", 20.0)  # it ends as soon as it is proved
            assert site.revoke(BAD)[0] == 0
        assert site.fleet.folder.revoked.read_bytes() == lists


def test_a_coordinator_that_follows_no_list_is_told_of(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = site.fleet.folder.config
    text = settings.read_text().replace("require_signatures = true", "require_signatures = false")
    settings.write_text(text.replace("sealed = true", "sealed = false"))  # else the configuration is refused
    monkeypatch.setattr(shut_out, "PATIENCE_S", 2.0)
    with FleetBroker(site.broker):
        site.coordinate()
        with site.client(BAD) as bad:
            bad.publish(TOPICS.node_state(BAD), site.born(BAD), retain=True)
            site.wait_for([BAD])
            code, said = site.revoke(BAD)
    assert code == 1
    assert "follows no list of nodes" in said


def test_what_a_node_leaves_retained_is_taken_away(site: Site) -> None:
    """FED-102."""
    site.coordinate("--with-broker")
    site.wait_for([])
    topics = [f"fl/plant/n/{BAD}/up/junk-{number}/x{number}" for number in range(300)]
    with site.client(BAD) as bad:
        for topic in topics:
            assert bad.publish(topic, bytes(100_000), retain=True) in {0, 0x10}
        bad.publish(TOPICS.node_event(BAD), bytes(10), retain=True)
    deadline = time.monotonic() + LIMIT_S
    while read_incidents(site.state).get(BAD, {}).get("retained", 0) < len(topics) + 1:
        assert time.monotonic() < deadline, read_incidents(site.state)
        time.sleep(0.1)
    for process in site.processes:
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)
    assert (site.broker / "data" / "mosquitto.db").stat().st_size < 100_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a broker as somebody else")
def test_root_does_not_run_the_federations_broker_as_root(site: Site) -> None:
    with FleetBroker(site.broker) as broker:
        assert psutil.Process(broker.pid).uids().real != 0
        assert site.revoke(BAD)[0] == 0  # what root writes is read by the broker
    owner = site.broker.stat().st_uid
    assert owner != 0
    assert (site.broker / "acl").stat().st_uid == owner
    with FleetBroker(site.broker) as broker:
        assert psutil.Process(broker.pid).uids().real == owner

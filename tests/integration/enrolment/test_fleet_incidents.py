"""Every attack on a real federation is denied, seen in ``coordinator status``, and no business of the other nodes."""

import datetime as dt
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from coordinator.runtime.inbound import BURST_MESSAGES
from edge_node.app import node_trust
from edge_node.config import read_config
from edge_node.setup.join import install
from federation.identity.certificates import Purpose, new_authority, new_identity, read_identity
from federation.protocol.messages import Decline
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.protocol.wire import encode_message
from federation.runtime.address import TlsFiles
from federation.runtime.local_broker import free_port
from federation.types import FederationId, NodeId, RoundId, RunId
from tests.rigs.raw_mqtt import RawClient, Refused

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(110)]

STOP_S = 20.0
BAD, GOOD, NEW = NodeId("bad"), NodeId("good"), NodeId("new")
TOPICS = Topics(FederationId("plant"))
DECLINE = Decline(run=RunId("0" * 16), round=RoundId(0), reason="attack")
BOMB = bytes.fromhex("df" + "ff" * 4) * 4_000
"""A map that claims four thousand million entries, in each of them another one."""


@dataclass
class Site:
    """A federation with a coordinator process that has started its broker, and one node that takes part."""

    folder: Path
    port: int
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def context(self, name: str) -> ssl.SSLContext:
        folder = self.folder / name
        files = (folder / "ca.crt", folder / "node.crt", folder / "node.key")
        return tls(*files)

    def client(self, name: str, **more: int) -> RawClient:
        return RawClient(self.port, self.context(name), **more)  # type: ignore[arg-type]

    def writer(self, name: str) -> Writer:
        return Writer(TOPICS, node_trust(read_config(self.folder / name, {}, environ={}).security).signer)

    def fence(self) -> None:
        """Wait until the coordinator has read everything that came before: it asks a node that it does not know."""
        topic = TOPICS.node_event(NEW)
        with self.client(NEW) as new:
            new.subscribe(TOPICS.node_command(NEW))
            assert new.publish(topic, self.writer(NEW).encode(topic, DECLINE)) == 0
            new.listen_until(TOPICS.node_command(NEW))

    def incidents(self) -> dict[str, dict[str, int]]:
        """What the status says after an orderly stop."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=STOP_S)
        command = [sys.executable, "-m", "coordinator", "status", "--config", str(self.folder / "plant"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told = json.loads(done.stdout)
        assert {BAD, GOOD, "broker"} <= told["certificates"].keys()
        assert "gone" not in told["certificates"]
        found: dict[str, dict[str, int]] = told["incidents"]
        return found


EASILY_FLOODED = (
    "-c",
    "from coordinator import cli; from coordinator.runtime import inbound; inbound.MESSAGES_PER_S = 100.0; cli.main()",
)
"""A busy machine reads fewer messages a second than the usual limit lets through: then nothing floods it."""


def tls(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    return TlsFiles(authority=str(authority), certificate=str(certificate), key=str(key)).context()


def until(process: "subprocess.Popen[str]", event: str) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if event in line:
            return
    pytest.fail("".join(said))


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A fleet of one coordinator and one node; a test may name how its coordinator is started."""
    port = free_port()
    fleet = Fleet(folder=FleetFolder(tmp_path / "plant"), now=dt.datetime.now(dt.UTC))
    fleet.create(
        FleetPlan(federation=FederationId("plant"), hosts=("localhost",), port=port, task="null", evaluate=False)
    )
    for name in fleet.enroll([BAD, GOOD, NEW, "gone"]):
        install(fleet.folder.bundle(name), tmp_path / name)
    fleet.revoke(["gone"])
    # The only level at which Mosquitto speaks of denied publishes.
    with (fleet.folder.broker / "mosquitto.conf").open("a") as config:
        config.write("log_type debug\n")
    made = Site(folder=tmp_path, port=port)
    coordinator = getattr(request, "param", ("-m", "coordinator"))
    until(made.start(*coordinator, "run", "--config", "plant", "--with-broker"), "coordinator_started")
    until(made.start("-m", "edge_node", "run", "--config", GOOD), "receipt")
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def try_to_connect(site: Site) -> None:
    """Everybody who does not belong, and everything but TLS."""
    plant, now = FleetFolder(site.folder / "plant"), dt.datetime.now(dt.UTC)
    theirs = read_identity(*(path.read_text() for path in plant.authority))
    long_ago = now - dt.timedelta(days=30)
    strangers = (
        new_identity(theirs, BAD, purpose=Purpose.CLIENT, now=long_ago, days=10),
        new_identity(new_authority("fedmq plant", now=now), BAD, purpose=Purpose.CLIENT, now=now),
        new_authority(BAD, now=now),
    )
    for number, stranger in enumerate(strangers):
        certificate, key = site.folder / f"{number}.crt", site.folder / f"{number}.key"
        certificate.write_text(stranger.certificate_pem)
        key.write_text(stranger.key_pem)
        with pytest.raises(Refused):
            RawClient(site.port, tls(plant.coordinator_authority, certificate, key))
    with pytest.raises(Refused):
        site.client("gone")
    with pytest.raises(Refused):
        RawClient(site.port, TlsFiles(authority=str(plant.coordinator_authority)).context())
    with pytest.raises(Refused):
        RawClient(site.port, None)


def speak_out_of_turn(site: Site) -> None:
    """What a node that went bad can send, with a certificate that is good."""
    with site.client(BAD) as bad:
        for topic in (TOPICS.round, TOPICS.coordinator_state, TOPICS.node_event(GOOD), "fl/plant/model/1/k0/0"):
            assert bad.publish(topic, retain=True) != 0
        for topic_filter in ("#", TOPICS.node_command(GOOD)):
            bad.subscribe(topic_filter)
        topic = TOPICS.node_event(BAD)
        for payload in (encode_message(DECLINE), BOMB):
            bad.publish(topic, payload)
        bad.publish(topic, site.writer(GOOD).encode(topic, DECLINE))
    with site.client(BAD, level=4) as old:
        old.publish(TOPICS.round, retain=True)
    with site.client(BAD), site.client(BAD):
        pass
    with site.client(BAD) as bad, pytest.raises((Refused, OSError)):
        bad.publish(TOPICS.node_event(BAD), bytes(300_000))


def test_every_attack_is_seen_in_the_status_and_costs_nobody_else(site: Site) -> None:
    """FED-76, FED-18."""
    try_to_connect(site)
    speak_out_of_turn(site)
    site.fence()
    until(site.processes[1], "receipt")  # the other node is heard as ever
    found = site.incidents()
    assert found["unknown"]["certificate_refused"] >= 5
    assert found["unknown"]["no_tls"] == 1
    bad = found[BAD]
    assert bad["denied_publish"] == 5
    assert bad["foreign_subscription"] == 2
    assert bad["bad_signature"] == 3
    assert bad["old_protocol"] == 1
    assert bad["taken_over"] >= 1
    assert bad["oversize_packet"] == 1
    assert GOOD not in found


@pytest.mark.parametrize("site", [EASILY_FLOODED], indirect=True)
def test_a_flood_from_one_node_is_cut_off_and_the_others_go_on(site: Site) -> None:
    with site.client(BAD) as bad:
        payload = site.writer(BAD).encode(TOPICS.node_event(BAD), DECLINE)
        bad.flood(TOPICS.node_event(BAD), payload, int(BURST_MESSAGES) * 8)
        assert bad.publish(TOPICS.node_event(BAD), payload) == 0  # behind all of it
    site.fence()
    until(site.processes[1], "receipt")
    found = site.incidents()
    assert found[BAD]["flood"] > 0
    assert GOOD not in found

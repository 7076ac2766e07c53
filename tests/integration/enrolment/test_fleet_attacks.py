"""What a stranger and a node that went bad can do to a federation's real broker: nothing."""

import datetime as dt
import queue
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.enrolment.broker import FleetBroker, reload_broker
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from edge_node.setup.join import install
from federation.identity.certificates import Identity, Purpose, new_authority, new_identity, read_identity
from federation.runtime.local_broker import free_port
from federation.runtime.mqtt import BrokerAddress, MqttTransport, SessionSettings, TlsFiles
from federation.runtime.transport import Inbox, InboxItem, TransportConnected, TransportFailed, Will
from federation.types import FederationId, NodeId
from tests.rigs.raw_mqtt import NO_SUBSCRIBERS, NOT_AUTHORIZED, RawClient, Refused

# One broker serves the tests of this module.
pytestmark = [pytest.mark.broker, pytest.mark.xdist_group("fleet")]

NODES = ("edge-01", "edge-02", "edge-03", "edge-04", "edge-05", "twin-01")
FENCE = "fl/plant/n/edge-01/cmd"
WAIT_S = 30.0


@dataclass(frozen=True)
class Site:
    """A federation with a running broker.

    Attributes:
        fleet: Its folder.
        port: Of the broker.
        devices: Where its nodes have joined.
    """

    fleet: Fleet
    port: int
    devices: Path

    def files(self, name: str) -> TlsFiles:
        """Certificate and key of a node, or of one of the coordinator's connections."""
        folder = self.fleet.folder
        if name in {"control", "data"}:
            certificate, key = folder.coordinator(name)
        elif name == "broker":
            certificate, key = folder.broker_pair
        else:
            certificate, key = self.devices / name / "node.crt", self.devices / name / "node.key"
        return TlsFiles(authority=str(folder.coordinator_authority), certificate=str(certificate), key=str(key))

    def client(self, name: str, **more: object) -> RawClient:
        """A connection with this identity."""
        return RawClient(self.port, self.files(name).context(), **more)  # type: ignore[arg-type]

    def authority(self) -> Identity:
        """The federation's own authority."""
        return read_identity(*(path.read_text() for path in self.fleet.folder.authority))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root, port = tmp_path_factory.mktemp("fleet"), free_port()
    fleet = Fleet(folder=FleetFolder(root / "plant"), now=dt.datetime.now(dt.UTC))
    fleet.create(
        FleetPlan(federation=FederationId("plant"), hosts=("localhost",), port=port, task="null", evaluate=False)
    )
    for name in fleet.enroll(NODES):
        install(fleet.folder.bundle(NodeId(name)), root / name)
    fleet.revoke(["edge-05"])
    with FleetBroker(fleet.folder.broker):
        yield Site(fleet=fleet, port=port, devices=root)


def fenced(site: Site, witness: RawClient) -> list[str]:
    """What ``witness``, who is edge-01, has heard before one more thing that the coordinator says to it now."""
    with site.client("control") as control:
        assert control.publish(FENCE) == 0
    return witness.listen_until(FENCE)


@pytest.mark.parametrize(
    "topic",
    [
        "fl/plant/n/edge-02/state",
        "fl/plant/n/edge-02/evt",
        "fl/plant/n/edge-02/tel",
        "fl/plant/n/edge-02/up/1-edge-02/0",
        "fl/plant/n/edge-02/cmd",
        "fl/plant/n/edge-01/cmd",
        "fl/plant/n/edge-01/other",
        "fl/plant/srv",
        "fl/plant/round",
        "fl/plant/model/1/k0/0",
        "fl/other/n/edge-01/state",
        "elsewhere",
    ],
)
def test_a_node_may_publish_below_its_own_name_only(site: Site, topic: str) -> None:
    with site.client("edge-01") as node:
        assert node.publish(topic, retain=True) == NOT_AUTHORIZED


def test_a_node_may_say_what_it_must(site: Site) -> None:
    with site.client("edge-01") as node, site.client("control") as control, site.client("data") as data:
        control.subscribe("fl/plant/n/+/evt")
        data.subscribe("fl/plant/n/+/up/+/+")
        assert node.publish("fl/plant/n/edge-01/evt") == 0
        assert node.publish("fl/plant/n/edge-01/up/1-edge-01/0") == 0
        assert node.publish("fl/plant/n/edge-01/state") in {0, NO_SUBSCRIBERS}
        assert control.listen_until("fl/plant/n/edge-01/evt") == []
        assert data.listen_until("fl/plant/n/edge-01/up/1-edge-01/0") == []


def test_nothing_that_a_node_poisons_is_there_for_others(site: Site) -> None:
    with site.client("edge-02") as bad:
        for topic in ("fl/plant/srv", "fl/plant/round", "fl/plant/model/1/k0/0"):
            assert bad.publish(topic, retain=True) == NOT_AUTHORIZED
    with site.client("edge-01") as good:
        for topic_filter in ("fl/plant/srv", "fl/plant/round", "fl/plant/model/1/k0/+", FENCE):
            good.subscribe(topic_filter)
        assert fenced(site, good) == []


@pytest.mark.parametrize("topic_filter", ["#", "fl/plant/#", "fl/plant/n/+/cmd", "fl/plant/n/edge-02/cmd"])
def test_a_node_reads_its_own_commands_only(site: Site, topic_filter: str) -> None:
    with site.client("edge-01") as node, site.client("control") as control, site.client("edge-02") as other:
        node.subscribe(topic_filter)
        node.subscribe(FENCE)
        assert control.publish("fl/plant/n/edge-02/cmd") in {0, NO_SUBSCRIBERS}
        assert other.publish("fl/plant/n/edge-02/evt") in {0, NO_SUBSCRIBERS}
        assert control.publish(FENCE) == 0
        assert node.listen_until(FENCE) == []


def test_a_will_on_another_nodes_topic_is_never_said(site: Site) -> None:
    with site.client("control") as control:
        for name in ("edge-02", "edge-03"):
            control.subscribe(f"fl/plant/n/{name}/state")
        site.client("edge-03", will=Will(topic="fl/plant/n/edge-02/state", payload=b"lost")).vanish()
        # The same name connects again, which the broker allows only once it is done with the connection before.
        with site.client("edge-03") as again:
            assert again.publish("fl/plant/n/edge-03/state") == 0
        assert control.listen_until("fl/plant/n/edge-03/state") == []


def test_an_own_will_is_said(site: Site) -> None:
    with site.client("control") as control:
        control.subscribe("fl/plant/n/edge-03/state")
        site.client("edge-03", will=Will(topic="fl/plant/n/edge-03/state", payload=b"lost")).vanish()
        assert control.listen_until("fl/plant/n/edge-03/state") == []


def test_a_client_id_of_another_node_takes_nothing_over(site: Site) -> None:
    with site.client("edge-02", client_id="edge-02") as victim:
        with site.client("edge-01", client_id="edge-02") as bad:
            assert bad.publish("fl/plant/n/edge-02/evt") == NOT_AUTHORIZED
        assert victim.publish("fl/plant/n/edge-02/evt") in {0, NO_SUBSCRIBERS}


def test_an_older_protocol_gives_no_more_rights(site: Site) -> None:
    with site.client("control") as control, site.client("edge-01", level=4) as node:
        control.subscribe("fl/plant/n/+/evt")
        node.subscribe("#")
        assert node.publish("fl/plant/n/edge-02/evt", retain=True) == 0  # 3.1.1 cannot say that it was refused
        assert control.publish("fl/plant/n/edge-02/cmd") in {0, NO_SUBSCRIBERS}
        assert node.publish("fl/plant/n/edge-01/evt") == 0
        assert control.listen_until("fl/plant/n/edge-01/evt") == []
        assert control.publish(FENCE) == 0
        assert node.listen_until(FENCE) == []


def test_a_packet_that_is_too_large_costs_its_sender_only(site: Site) -> None:
    with site.client("edge-02") as other:
        with site.client("edge-01") as node, pytest.raises((Refused, OSError)):
            node.publish("fl/plant/n/edge-01/evt", bytes(300_000))
        assert other.publish("fl/plant/n/edge-02/evt") in {0, NO_SUBSCRIBERS}


def stranger(site: Site, folder: Path, kind: str) -> ssl.SSLContext:
    """The TLS side of somebody who does not belong."""
    now, theirs = dt.datetime.now(dt.UTC), site.authority()
    long_ago = now - dt.timedelta(days=30)
    made = {
        "expired": lambda: new_identity(theirs, "edge-01", purpose=Purpose.CLIENT, now=long_ago, days=10),
        "foreign": lambda: new_identity(
            new_authority("fedmq plant", now=now), "edge-01", purpose=Purpose.CLIENT, now=now
        ),
        "self-signed": lambda: new_authority("edge-01", now=now),
    }[kind]()
    (folder / "crt").write_text(made.certificate_pem)
    (folder / "key").write_text(made.key_pem)
    files = site.files("edge-01")
    return TlsFiles(authority=files.authority, certificate=str(folder / "crt"), key=str(folder / "key")).context()


@pytest.mark.parametrize("kind", ["expired", "foreign", "self-signed"])
def test_a_strangers_certificate_does_not_connect(site: Site, tmp_path: Path, kind: str) -> None:
    with pytest.raises(Refused):
        RawClient(site.port, stranger(site, tmp_path, kind))


@pytest.mark.parametrize("name", ["edge-05", "broker"])
def test_a_revoked_certificate_and_the_brokers_own_do_not_connect(site: Site, name: str) -> None:
    with pytest.raises(Refused):
        site.client(name)


def test_no_certificate_and_no_tls_do_not_connect(site: Site) -> None:
    with pytest.raises(Refused):
        RawClient(site.port, TlsFiles(authority=site.files("edge-01").authority).context())
    with pytest.raises(Refused):
        RawClient(site.port, None)


def test_a_client_refuses_a_broker_of_another_authority(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_text(new_authority("fedmq plant", now=dt.datetime.now(dt.UTC)).certificate_pem)
    files = site.files("edge-01")
    with pytest.raises(Refused, match="CERTIFICATE_VERIFY_FAILED"):
        RawClient(site.port, TlsFiles(authority=str(other), certificate=files.certificate, key=files.key).context())


def test_revoking_silences_an_open_connection_and_refuses_the_next(site: Site) -> None:
    with site.client("edge-04") as node:
        assert node.publish("fl/plant/n/edge-04/evt") in {0, NO_SUBSCRIBERS}
        site.fleet.revoke(["edge-04"])
        assert reload_broker(site.fleet.folder.broker)
        # The signal is heard between two packets: within a few.
        assert any(node.publish("fl/plant/n/edge-04/evt") == NOT_AUTHORIZED for _ in range(1_000))
    with pytest.raises(Refused):
        site.client("edge-04")
    with site.client("edge-01") as other:
        assert other.publish("fl/plant/n/edge-01/evt") in {0, NO_SUBSCRIBERS}


def give_up(client: MqttTransport, inbox: Inbox, topic: str) -> str | None:
    """Say at each connection that it is there, as a node does; the reason when it stops, None when it is told."""
    while True:
        match inbox.get(timeout=WAIT_S).event:
            case TransportConnected():
                client.publish(topic, b"here", retain=True)
            case TransportFailed(reason=reason):
                return reason
            case None:
                return None


def test_two_devices_with_one_certificate_are_noticed_and_one_stops(site: Site) -> None:
    topic, reasons = "fl/plant/n/twin-01/state", queue.SimpleQueue[str | None]()
    address = BrokerAddress(host="localhost", port=site.port, tls=site.files("twin-01"))
    session = SessionSettings(client_id="twin-01", first_connect_spread_s=0.0, reconnect_delay_s_max=0.05)
    inboxes: list[Inbox] = [queue.Queue(1_000) for _ in range(2)]
    twins = [MqttTransport(address, session, inbox, will=Will(topic=topic, payload=b"lost")) for inbox in inboxes]
    threads = [
        threading.Thread(target=lambda c=client, i=inbox: reasons.put(give_up(c, i, topic)))
        for client, inbox in zip(twins, inboxes, strict=True)
    ]
    for thread, twin in zip(threads, twins, strict=True):
        thread.start()
        twin.open()
    assert "another client uses the id" in str(reasons.get(timeout=WAIT_S))
    for inbox, thread, twin in zip(inboxes, threads, twins, strict=True):
        inbox.put(InboxItem(event=None))
        thread.join(WAIT_S)
        twin.close()

"""The documented alternative to client certificates: users, passwords and roles, also through WebSockets with TLS."""

import datetime as dt
import os
import queue
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from federation.runtime.local_broker import BROKER_LIMITS, LocalBroker, free_port
from federation.runtime.mqtt import BrokerAddress, MqttTransport, SessionSettings, TlsFiles
from federation.runtime.transport import Inbox, MessageReceived, TransportBlocked, TransportConnected, Will
from federation.types import FederationId
from tests.rigs.raw_mqtt import NO_SUBSCRIBERS, NOT_AUTHORIZED, RawClient, Refused

PLUGIN = Path("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so")
pytestmark = [
    pytest.mark.broker,
    pytest.mark.xdist_group("passwords"),
    pytest.mark.skipif(not PLUGIN.exists(), reason="needs Mosquitto's dynamic security plugin"),
]

PAGE = (Path(__file__).parents[3] / "docs/how-to/without-certificates.md").read_text(encoding="utf-8")
NODES = ("edge-01", "edge-02")
LIMIT_S = 30.0


def block(name: str) -> str:
    found = re.search(rf"<!-- test: {name} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"no block {name}"
    return found.group(1)


@dataclass(frozen=True)
class Site:
    """A broker with users, as the page makes it.

    Attributes:
        folder: Has the fleet's certificates and each node's password.
        port: Of the plain listener.
        wss: Of the one for WebSockets with TLS.
    """

    folder: Path
    port: int
    wss: int

    def client(self, name: str, **more: object) -> RawClient:
        return RawClient(self.port, None, **{"client_id": name, "user": (name, f"secret of {name}"), **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, wss = tmp_path_factory.mktemp("passwords"), free_port()
    plan = FleetPlan(federation=FederationId("plant"), hosts=("localhost",), port=8883, task="null", evaluate=False)
    Fleet(folder=FleetFolder(folder / "plant"), now=dt.datetime.now(dt.UTC)).create(plan)
    users = folder / "dynamic-security.json"

    def run(name: str, **more: str) -> None:
        environ = {**os.environ, "ADMIN_PASSWORD": "admins-own", "HOME": str(folder), **more}
        subprocess.run(
            ["/bin/bash", "-euc", block(name)],
            cwd=folder,
            env=environ,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    run("init")
    pair = FleetFolder(folder / "plant").broker_pair
    lines = (
        *block("configuration").replace("dynamic-security.json", str(users)).splitlines(),
        f"listener {wss} 127.0.0.1",
        "protocol websockets",
        f"certfile {pair[0]}",
        f"keyfile {pair[1]}",
    )
    # Mosquitto 2.0.11 with the plugin stops answering after some 25 commands when it has a memory limit.
    limits = {name: value for name, value in BROKER_LIMITS.items() if name != "memory_limit"}
    with LocalBroker(settings=limits, lines=lines) as broker:
        run("coordinator", PORT=str(broker.port), PASSWORD="secret of coordinator")  # noqa: S106 - of a test
        for name in NODES:
            run("node", PORT=str(broker.port), NODE=name, PASSWORD=f"secret of {name}")
        yield Site(folder=folder, port=broker.port, wss=wss)


def test_a_node_writes_below_its_own_name_only(site: Site) -> None:
    with site.client("edge-01") as node:
        for own in ("state", "evt", "tel", "up/1-edge-01/0"):
            assert node.publish(f"fl/plant/n/edge-01/{own}") in {0, NO_SUBSCRIBERS}
        for other in ("n/edge-02/evt", "n/edge-02/state", "n/edge-01/cmd", "srv", "round", "model/1/k0/0"):
            assert node.publish(f"fl/plant/{other}", retain=True) == NOT_AUTHORIZED


def test_a_node_hears_what_is_meant_for_it_only(site: Site) -> None:
    with site.client("edge-01") as node, site.client("coordinator") as coordinator:
        for refused in ("#", "fl/plant/#", "fl/plant/n/+/cmd", "fl/plant/n/edge-02/cmd"):
            assert node.subscribe(refused) == NOT_AUTHORIZED
        assert node.subscribe("fl/plant/model/7/k0/+") < 0x80
        assert node.subscribe("fl/plant/n/edge-01/cmd") < 0x80
        assert coordinator.subscribe("fl/plant/n/+/evt") < 0x80
        assert coordinator.publish("fl/plant/n/edge-02/cmd") in {0, NO_SUBSCRIBERS}
        assert coordinator.publish("fl/plant/n/edge-01/cmd") == 0
        assert node.listen_until("fl/plant/n/edge-01/cmd") == []
        assert node.publish("fl/plant/n/edge-01/evt") == 0
        assert coordinator.listen_until("fl/plant/n/edge-01/evt") == []


@pytest.mark.parametrize(
    ("user", "client_id"),
    [
        (("edge-01", "guess"), "edge-01"),
        (("edge-03", "secret of edge-03"), "edge-03"),
        (("edge-01", "secret of edge-01"), "edge-02"),
        (None, "edge-01"),
    ],
    ids=["wrong password", "unknown", "another node's session", "anonymous"],
)
def test_who_is_not_that_node_does_not_connect(site: Site, user: tuple[str, str] | None, client_id: str) -> None:
    with pytest.raises(Refused):
        site.client("edge-01", user=user, client_id=client_id)


def test_a_will_on_another_nodes_topic_is_never_said(site: Site) -> None:
    with site.client("coordinator") as coordinator:
        coordinator.subscribe("fl/plant/n/+/state")
        site.client("edge-01", will=Will(topic="fl/plant/n/edge-02/state", payload=b"lost")).vanish()
        with site.client("edge-01") as again:
            assert again.publish("fl/plant/n/edge-01/state") == 0
        assert coordinator.listen_until("fl/plant/n/edge-01/state") == []


def connect(site: Site, password: str) -> object:
    """What a node's own transport comes to through WebSockets with TLS."""
    address = BrokerAddress(
        host="localhost",
        port=site.wss,
        transport="websockets",
        tls=TlsFiles(authority=str(site.folder / "plant/broker/ca.crt")),
        username="edge-02",
        password=password,
    )
    inbox: Inbox = queue.Queue(100)
    session = SessionSettings(client_id="edge-02", first_connect_spread_s=0.0)
    transport = MqttTransport(address, session, inbox)
    transport.subscribe("fl/plant/n/edge-02/cmd")
    transport.open()
    try:
        first = inbox.get(timeout=LIMIT_S).event
        if not isinstance(first, TransportConnected):
            return first
        with site.client("coordinator") as coordinator:
            while coordinator.publish("fl/plant/n/edge-02/cmd", b"hello") == NO_SUBSCRIBERS:
                continue  # the subscription is on its way
        return inbox.get(timeout=LIMIT_S).event
    finally:
        transport.close()


def test_a_node_gets_through_websockets_with_tls(site: Site) -> None:
    """As on port 443, where 8883 is blocked."""
    heard = connect(site, "secret of edge-02")
    assert isinstance(heard, MessageReceived)
    assert (heard.topic, heard.payload) == ("fl/plant/n/edge-02/cmd", b"hello")


def test_a_wrong_password_is_refused_with_a_reason_and_a_remedy(site: Site) -> None:
    refused = connect(site, "guess")
    assert isinstance(refused, TransportBlocked)
    assert "refused by the broker" in refused.reason
    assert "password" in refused.remedy


def test_a_password_that_was_changed_in_its_file_is_said_at_the_next_attempt(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "password"
    inbox: Inbox = queue.Queue(100)
    file.write_text("former", encoding="utf-8")
    address = BrokerAddress(
        host="localhost",
        port=site.port,
        username="edge-02",
        password="former",  # noqa: S106 - of a test
        password_file=file,
    )
    session = SessionSettings(client_id="edge-02", first_connect_spread_s=0.0)
    transport = MqttTransport(address, session, inbox)
    transport.open()
    refused = inbox.get(timeout=LIMIT_S).event
    file.write_text("secret of edge-02\n", encoding="utf-8")
    met = [inbox.get(timeout=LIMIT_S).event]
    while isinstance(met[-1], TransportBlocked):
        met.append(inbox.get(timeout=LIMIT_S).event)
    transport.close()
    assert isinstance(refused, TransportBlocked)
    assert "password" in refused.reason or "authorized" in refused.reason
    assert isinstance(met[-1], TransportConnected)

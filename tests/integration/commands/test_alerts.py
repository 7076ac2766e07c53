"""Alerts on a topic of a real broker, sent by the command and heard by somebody else."""

import json
import queue

import pytest

from coordinator.config.alerts import AlertsSection
from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Inbox, MessageReceived, TransportConnected
from fedmq.alerts.sinks import NotDelivered, make_sinks

pytestmark = pytest.mark.broker


def test_an_alert_is_published_as_json_by_a_client_of_its_own(broker: LocalBroker) -> None:
    inbox: Inbox = queue.Queue()
    hears = MqttTransport(parse_broker_url(broker.url), SessionSettings(client_id="hears"), inbox)
    hears.subscribe("plant/alerts")
    hears.open()
    while not isinstance(inbox.get(timeout=20).event, TransportConnected):
        pass
    limits = AlertsSection(broker=broker.url, topic="plant/alerts")
    make_sinks(limits, "plant")["topic"]({"kind": "test", "over": False})
    while not isinstance(event := inbox.get(timeout=20).event, MessageReceived):
        pass
    hears.close(timeout_s=5)
    assert (event.topic, json.loads(event.payload)) == ("plant/alerts", {"kind": "test", "over": False})


def test_a_broker_that_is_away_is_told() -> None:
    limits = AlertsSection(broker="mqtt://127.0.0.1:1", topic="a")
    with pytest.raises(NotDelivered, match=r"alerts\.broker: "):
        make_sinks(limits, "plant")["topic"]({"kind": "test", "over": False})

"""What the network in memory can do to its transports; what they promise is in the contract suite."""

import queue

from federation.runtime.session import SessionSettings
from federation.runtime.transport import (
    Inbox,
    MessageReceived,
    TransportConnected,
    TransportDisconnected,
    TransportEvent,
    Will,
)
from federation.testing import BrokerSettings, FakeClock, MemoryNetwork, MemoryTransport


def _transport(
    network: MemoryNetwork, name: str, *, inbox_items: int = 100, will: Will | None = None, queued: int = 10
) -> tuple[MemoryTransport, Inbox]:
    inbox: Inbox = queue.Queue(inbox_items)
    session = SessionSettings(client_id=name, queue_messages_max=queued)
    return MemoryTransport(network, session, inbox, will=will), inbox


def _events(inbox: Inbox) -> list[TransportEvent]:
    out: list[TransportEvent] = []
    while not inbox.empty():
        event = inbox.get_nowait().event
        assert isinstance(event, TransportEvent)
        out.append(event)
    return out


def test_a_cut_brings_the_will_after_its_delay_on_the_clock() -> None:
    clock = FakeClock()
    network = MemoryNetwork(clock)
    watcher, heard = _transport(network, "watcher")
    watcher.subscribe("state")
    watcher.open()
    node, inbox = _transport(network, "node", will=Will(topic="state", payload=b"lost", delay_s=15))
    node.open()
    network.cut(node)
    network.cut(node)
    assert [type(event) for event in _events(inbox)] == [TransportConnected, TransportDisconnected]
    clock.advance(14.9)
    network.tick()
    assert [type(event) for event in _events(heard)] == [TransportConnected]
    clock.advance(0.1)
    network.tick()
    assert _events(heard) == [MessageReceived(topic="state", payload=b"lost")]


def test_the_second_client_with_an_id_takes_the_session_over() -> None:
    network = MemoryNetwork()
    first, first_inbox = _transport(network, "same")
    first.subscribe("t")
    first.open()
    second, second_inbox = _transport(network, "same")
    second.open()
    first.reconnect()
    assert not first.connected
    assert isinstance(_events(first_inbox)[-1], TransportDisconnected)
    second.publish("t", b"to the session")
    assert _events(second_inbox)[-1] == MessageReceived(topic="t", payload=b"to the session")
    first.close()
    assert network.broker.connected("same")


def test_a_full_inbox_costs_the_connection() -> None:
    network = MemoryNetwork()
    slow, inbox = _transport(network, "slow", inbox_items=4)
    slow.subscribe("t")
    slow.open()
    speaker, _ = _transport(network, "speaker")
    speaker.open()
    for number in range(6):
        speaker.publish("t", b"%d" % number)
    assert not slow.connected
    first = _events(inbox)
    slow.reconnect()
    second = _events(inbox)
    slow.reconnect()
    third = _events(inbox)
    assert [type(event) for event in first] == [TransportConnected, *[MessageReceived] * 3]
    assert [type(event) for event in second] == [TransportDisconnected, TransportConnected, *[MessageReceived] * 2]
    payloads = [event.payload for event in (*first, *second, *third) if isinstance(event, MessageReceived)]
    assert payloads == [b"%d" % number for number in range(6)]


def test_a_long_queue_arrives_whole_and_in_order() -> None:
    network = MemoryNetwork()
    hearer, inbox = _transport(network, "hearer", inbox_items=3_000)
    hearer.subscribe("t")
    hearer.open()
    speaker, _ = _transport(network, "speaker")
    speaker.open()
    network.cut(hearer)
    for number in range(2_500):
        speaker.publish("t", b"%d" % number)
    hearer.reconnect()
    received = [event.payload for event in _events(inbox) if isinstance(event, MessageReceived)]
    assert received == [b"%d" % number for number in range(2_500)]


def test_a_transport_opened_while_the_broker_is_down_connects_at_the_restart() -> None:
    network = MemoryNetwork()
    network.crash()
    node, inbox = _transport(network, "node", queued=2)
    node.open()
    for number in range(3):
        node.publish("t", b"%d" % number)
    assert node.dropped == 1
    assert _events(inbox) == []
    node.subscribe("t")
    network.restart([node])
    assert [type(event) for event in _events(inbox)] == [TransportConnected, MessageReceived, MessageReceived]


def test_the_broker_s_limit_is_announced() -> None:
    network = MemoryNetwork(settings=BrokerSettings(max_packet_size=70_000))
    node, inbox = _transport(network, "node")
    node.open()
    (event,) = _events(inbox)
    assert isinstance(event, TransportConnected)
    assert event.packet_bytes_max == 70_000

"""Links between clients and the broker: order, loss, cuts, links that stand still, and a broker that dies."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from federation.errors import PayloadTooLarge
from federation.runtime.session import SessionSettings
from federation.runtime.transport import MessageReceived, TransportConnected, TransportDisconnected, Will
from federation.testing import BrokerSettings
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.faults import Dice, FaultPlan
from fedmq.simulation.world.network import KEEPALIVE_TIMEOUT_S, SimNetwork
from fedmq.simulation.world.transcript import Transcript
from fedmq.simulation.world.transport import SimTransport


class Client:
    def __init__(self, lab: "Lab", name: str, *, manual_ack: bool = False, queue: int = 100) -> None:
        session = SessionSettings(client_id=name, manual_ack=manual_ack, queue_messages_max=queue, receive_max=2)
        will = Will(topic=f"will/{name}", payload=b"lost", delay_s=15)
        self.events: list[object] = []
        self.acknowledge: list[Callable[[], None]] = []
        self.transport = SimTransport(lab.network, session, self._deliver, will=will)

    def _deliver(self, event: object, acknowledge: Callable[[], None] | None) -> None:
        self.events.append(event)
        if acknowledge is not None:
            self.acknowledge.append(acknowledge)

    @property
    def heard(self) -> list[bytes]:
        return [event.payload for event in self.events if isinstance(event, MessageReceived)]

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


class Lab:
    def __init__(self, plan: FaultPlan | None = None, *, inflight: int = 20) -> None:
        self.world = World()
        self.dice = Dice(FaultPlan() if plan is None else plan, "lab")
        settings = BrokerSettings(max_packet_size=1000, max_inflight_messages=inflight)
        self.network = SimNetwork(self.world, self.dice, Transcript(), settings)

    def clients(self, *names: str, **options: bool) -> list[Client]:
        clients = [Client(self, name, **options) for name in names]
        for client in clients:
            client.transport.open()
        self.run(1.0)
        return clients

    def run(self, seconds: float) -> None:
        limit_s = self.world.now + seconds
        self.world.run(lambda: False, limit_s=limit_s)
        self.world.now = limit_s


def test_messages_keep_their_order_on_a_good_link() -> None:
    lab = Lab()
    ann, bob = lab.clients("ann", "bob")
    bob.transport.subscribe("t/+")
    lab.run(1.0)
    for number in range(20):
        ann.transport.publish("t/x", bytes([number]))
    lab.run(2.0)
    assert bob.heard == [bytes([number]) for number in range(20)]
    assert lab.network.counts.messages == 40


def test_what_is_published_offline_is_sent_later_as_far_as_the_queue_goes() -> None:
    lab = Lab()
    (bob,) = lab.clients("bob")
    bob.transport.subscribe("t")
    ann = Client(lab, "ann", queue=3)
    for number in range(5):
        ann.transport.publish("t", bytes([number]))
    ann.transport.publish("t", b"soon forgotten", qos=0)
    assert ann.transport.dropped == 3
    ann.transport.open()
    lab.run(2.0)
    assert bob.heard == [b"\x00", b"\x01", b"\x02"]


def test_a_message_too_large_for_the_broker_is_refused_at_once() -> None:
    (ann,) = Lab().clients("ann")
    with pytest.raises(PayloadTooLarge):
        ann.transport.publish("t", bytes(1000))


def test_a_cut_loses_nothing_that_was_published_with_qos_1() -> None:
    lab = Lab()
    ann, bob = lab.clients("ann", "bob")
    bob.transport.subscribe("t")
    lab.run(1.0)
    for number in range(10):
        ann.transport.publish("t", bytes([number]))
    lab.network.cut("ann")
    lab.run(60.0)
    assert sorted(set(bob.heard)) == [bytes([number]) for number in range(10)]
    assert ann.count(TransportDisconnected) == 1
    assert ann.count(TransportConnected) == 2


def test_a_killed_process_leaves_its_will_and_a_closed_one_does_not() -> None:
    lab = Lab()
    ann, bob, eve = lab.clients("ann", "bob", "eve")
    eve.transport.subscribe("will/+")
    lab.run(1.0)
    ann.transport.kill()
    bob.transport.close()
    lab.run(14.0)
    assert eve.heard == []
    lab.run(3.0)
    assert eve.heard == [b"lost"]
    assert ann.count(TransportDisconnected) == 0


def test_unsubscribing_offline_counts_after_the_reconnect() -> None:
    lab = Lab()
    ann, bob = lab.clients("ann", "bob")
    bob.transport.subscribe("t")
    lab.run(1.0)
    lab.network.cut("bob")
    bob.transport.unsubscribe("t")
    lab.run(60.0)
    ann.transport.publish("t", b"x")
    lab.run(1.0)
    bob.transport.unsubscribe("never subscribed")
    assert bob.heard == []


def test_every_message_is_lost_doubled_or_overtaken_when_the_plan_says_so() -> None:
    for plan, expected in ((FaultPlan(drop=1.0), 0), (FaultPlan(duplicate=1.0), 4)):
        lab = Lab(plan)
        ann, bob = lab.clients("ann", "bob")
        bob.transport.subscribe("t")
        lab.run(1.0)
        ann.transport.publish("t", b"x")
        lab.run(2.0)
        assert len(bob.heard) == expected
    lab = Lab(FaultPlan(reorder=0.5))
    ann, bob = lab.clients("ann", "bob")
    bob.transport.subscribe("t")
    lab.run(1.0)
    sent = [bytes([number]) for number in range(30)]
    for payload in sent:
        ann.transport.publish("t", payload)
    lab.run(20.0)
    assert bob.heard != sent
    assert sorted(bob.heard) == sent


def test_what_is_retained_is_exempt_on_its_way_up() -> None:
    lab = Lab(FaultPlan(drop=1.0))
    (ann,) = lab.clients("ann")
    ann.transport.publish("state", b"here", retain=True)
    lab.run(1.0)
    assert lab.network.broker.retained == {"state": b"here"}


def test_a_lost_message_does_not_block_the_window_of_a_careful_client() -> None:
    lab = Lab(FaultPlan(drop=1.0), inflight=2)
    (bob,) = lab.clients("bob", manual_ack=True)
    bob.transport.subscribe("t")
    (ann,) = lab.clients("ann")
    for number in range(6):
        ann.transport.publish("t", bytes([number]), retain=True)
    lab.run(2.0)
    lab.dice.heal()
    ann.transport.publish("t", b"last")
    lab.run(2.0)
    assert bob.heard == [b"last"]


def test_a_careful_client_gets_again_what_it_did_not_acknowledge() -> None:
    lab = Lab()
    (bob,) = lab.clients("bob", manual_ack=True)
    (ann,) = lab.clients("ann")
    bob.transport.subscribe("t")
    lab.run(1.0)
    for number in range(3):
        ann.transport.publish("t", bytes([number]))
    lab.run(1.0)
    assert bob.heard == [b"\x00", b"\x01"]
    bob.acknowledge[0]()
    lab.run(1.0)
    assert bob.heard == [b"\x00", b"\x01", b"\x02"]
    lab.network.cut("bob")
    bob.acknowledge[1]()
    lab.run(60.0)
    assert bob.heard[3:] == [b"\x01", b"\x02"]


def test_a_link_that_stands_still_for_a_while_delivers_afterwards() -> None:
    lab = Lab()
    ann, bob = lab.clients("ann", "bob")
    bob.transport.subscribe("t")
    lab.run(1.0)
    lab.network.freeze("ann", 30.0, up=True, down=False)
    ann.transport.publish("t", b"x")
    lab.run(29.0)
    assert bob.heard == []
    lab.run(3.0)
    assert bob.heard == [b"x"]
    assert ann.count(TransportDisconnected) == 0


def test_a_link_that_stands_still_for_longer_than_the_keep_alive_is_lost() -> None:
    lab = Lab()
    ann, bob = lab.clients("ann", "bob")
    bob.transport.subscribe("t")
    lab.run(1.0)
    lab.network.freeze("ann", 120.0, up=True, down=True)
    ann.transport.publish("t", b"x")
    lab.run(KEEPALIVE_TIMEOUT_S + 1.0)
    assert ann.count(TransportDisconnected) == 1
    lab.run(40.0)
    assert ann.count(TransportConnected) == 1
    lab.network.thaw()
    lab.run(20.0)
    assert ann.count(TransportConnected) == 2
    assert bob.heard == [b"x"]


@pytest.mark.parametrize("wipe_retained", [True, False])
def test_everybody_comes_back_after_the_broker_has_died(wipe_retained: bool) -> None:
    lab = Lab()
    ann, bob = lab.clients("ann", "bob")
    ann.transport.publish("state", b"here", retain=True)
    lab.run(1.0)
    lab.network.crash(5.0, wipe_sessions=True, wipe_retained=wipe_retained)
    lab.network.crash(5.0, wipe_sessions=True, wipe_retained=True)  # it is dead already
    ann.transport.close()
    lab.run(30.0)
    assert lab.network.broker.retained == ({} if wipe_retained else {"state": b"here"})
    assert bob.count(TransportConnected) == 2
    assert ann.count(TransportConnected) == 1


def test_a_second_client_of_the_same_name_takes_over() -> None:
    lab = Lab()
    (first,) = lab.clients("ann")
    first.transport.session = replace(first.transport.session, reconnect_delay_s_max=0.0)
    (second,) = lab.clients("ann")
    assert first.count(TransportDisconnected) >= 1
    assert second.count(TransportConnected) >= 1

"""The broker in memory behaves as Mosquitto 2.0 does where it hurts."""

import pytest

from federation.errors import LocalProtocolError, PayloadTooLarge
from federation.testing import BrokerSettings, ConnectSettings, Delivery, MemoryBroker, WillMessage

_MANUAL = ConnectSettings(manual_ack=True)

KEEPS = ConnectSettings(session_expiry_s=3600.0, manual_ack=True)


def _with_clients(*names: str, settings: BrokerSettings | None = None) -> MemoryBroker:
    broker = MemoryBroker(settings)
    for name in names:
        broker.connect(name, now=0.0)
    return broker


def _payloads(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.payload for delivery in deliveries]


def test_a_message_goes_to_its_subscribers_with_the_lower_qos() -> None:
    broker = _with_clients("pub", "one", "two", "three")
    broker.subscribe("one", "t/+", qos=0)
    broker.subscribe("two", "t/x", qos=1)
    out = broker.publish("pub", "t/x", b"p", qos=1)
    assert {(delivery.client_id, delivery.qos) for delivery in out} == {("one", 0), ("two", 1)}


def test_overlapping_subscriptions_deliver_more_than_once() -> None:
    broker = _with_clients("c")
    broker.subscribe("c", "t/#")
    broker.subscribe("c", "t/x")
    assert _payloads(broker.publish("c", "t/x", b"p")) == [b"p", b"p"]


def test_retained_comes_with_each_subscription_until_it_is_cleared() -> None:
    broker = _with_clients("c")
    assert broker.publish("c", "t/1", b"one", retain=True) == []
    broker.publish("c", "t/2", b"two", retain=True)
    for _ in range(2):
        out = broker.subscribe("c", "t/+")
        assert [(delivery.payload, delivery.retained) for delivery in out] == [(b"one", True), (b"two", True)]
    out = broker.publish("c", "t/1", b"", retain=True)
    assert [(delivery.payload, delivery.retained) for delivery in out] == [(b"", False)]
    assert broker.retained == {"t/2": b"two"}
    assert broker.subscribe("c", "t/1") == []


def test_a_session_keeps_messages_for_an_absent_client_and_forgets_qos_0() -> None:
    broker = _with_clients("pub", "c")
    broker.subscribe("c", "t")
    broker.disconnect("c", now=1.0, clean=False)
    assert broker.publish("pub", "t", b"1") == broker.publish("pub", "t", b"2", qos=0) == []
    assert _payloads(broker.connect("c", now=2.0)) == [b"1"]
    assert broker.session_present("c")


def test_a_clean_start_or_an_expired_session_begins_from_nothing() -> None:
    for settings, later in ((ConnectSettings(clean_start=True), 2.0), (ConnectSettings(), 8000.0)):
        broker = _with_clients("pub", "c")
        broker.subscribe("c", "t")
        broker.disconnect("c", now=1.0)
        broker.publish("pub", "t", b"1")
        assert broker.connect("c", settings, now=later) == []
        assert not broker.session_present("c")
        assert broker.publish("pub", "t", b"2") == []


def test_a_full_queue_drops_the_newest_without_a_word() -> None:
    broker = _with_clients("pub", "c", settings=BrokerSettings(max_queued_messages=3))
    broker.subscribe("c", "t")
    broker.disconnect("c", now=1.0)
    for number in range(5):
        broker.publish("pub", "t", b"%d" % number)
    assert _payloads(broker.connect("c", now=2.0)) == [b"0", b"1", b"2"]
    assert broker.dropped == {"c": 2}


def test_a_slow_subscriber_gets_a_window_and_the_rest_as_it_acknowledges() -> None:
    broker = _with_clients("pub", settings=BrokerSettings(max_inflight_messages=2, max_queued_messages=2))
    broker.connect("c", _MANUAL, now=0.0)
    broker.subscribe("c", "t")
    out = [delivery for number in range(6) for delivery in broker.publish("pub", "t", b"%d" % number)]
    assert _payloads(out) == [b"0", b"1"]
    assert broker.dropped == {"c": 2}
    assert _payloads(broker.ack("c", out[0].mid)) == [b"2"]
    assert broker.ack("c", out[0].mid) == []
    assert _payloads(broker.ack("c", out[1].mid)) == [b"3"]


def test_the_client_s_own_receive_maximum_narrows_the_window() -> None:
    broker = _with_clients("pub")
    broker.connect("c", ConnectSettings(manual_ack=True, receive_max=1), now=0.0)
    broker.subscribe("c", "t")
    assert len([*broker.publish("pub", "t", b"0"), *broker.publish("pub", "t", b"1")]) == 1


def test_what_was_not_acknowledged_comes_again_as_a_duplicate_before_the_rest() -> None:
    broker = _with_clients("pub")
    broker.connect("c", _MANUAL, now=0.0)
    broker.subscribe("c", "t")
    first, second = (broker.publish("pub", "t", payload)[0] for payload in (b"0", b"1"))
    broker.ack("c", first.mid)
    broker.disconnect("c", now=1.0, clean=False)
    broker.publish("pub", "t", b"2")
    again = broker.connect("c", _MANUAL, now=2.0)
    assert [(delivery.payload, delivery.duplicate) for delivery in again] == [(b"1", True), (b"2", False)]
    assert again[0].mid == second.mid


def test_a_will_waits_for_its_delay_and_is_retained() -> None:
    broker = _with_clients("watcher")
    broker.subscribe("watcher", "state")
    broker.connect("c", ConnectSettings(will=WillMessage(topic="state", payload=b"lost", delay_s=15.0)), now=0.0)
    assert broker.disconnect("c", now=10.0, clean=False) == []
    assert broker.next_due() == 25.0
    assert broker.advance(24.9) == []
    assert _payloads(broker.advance(25.0)) == [b"lost"]
    assert broker.retained == {"state": b"lost"}
    assert broker.advance(26.0) == []


def test_a_will_does_not_outwait_the_session() -> None:
    broker = _with_clients("watcher")
    broker.subscribe("watcher", "state")
    will = WillMessage(topic="state", payload=b"lost", delay_s=15.0)
    broker.connect("c", ConnectSettings(will=will, session_expiry_s=5.0), now=0.0)
    broker.disconnect("c", now=0.0, clean=False)
    assert _payloads(broker.advance(5.0)) == [b"lost"]


@pytest.mark.parametrize("how", ["back in time", "clean end", "taken over", "broker crash"])
def test_no_will_when_nobody_vanished(how: str) -> None:
    broker = _with_clients("watcher")
    broker.subscribe("watcher", "state")
    settings = ConnectSettings(will=WillMessage(topic="state", payload=b"lost", delay_s=15.0))
    broker.connect("c", settings, now=0.0)
    if how == "back in time":
        broker.disconnect("c", now=0.0, clean=False)
        broker.connect("c", settings, now=14.0)
    elif how == "clean end":
        broker.disconnect("c", now=0.0)
    elif how == "taken over":
        broker.connect("c", settings, now=1.0)
    else:
        broker.crash(wipe_sessions=False)
    assert broker.advance(100.0) == []
    assert broker.retained == {}


@pytest.mark.parametrize("wipe_sessions", [False, True])
@pytest.mark.parametrize("wipe_retained", [False, True])
def test_a_crash_cuts_everybody_and_forgets_what_it_is_told_to(wipe_sessions: bool, wipe_retained: bool) -> None:
    broker = _with_clients("b", "a")
    broker.subscribe("a", "t")
    broker.publish("b", "t", b"kept", retain=True)
    assert broker.crash(wipe_sessions=wipe_sessions, wipe_retained=wipe_retained) == ["a", "b"]
    assert not broker.connected("a")
    assert broker.retained == ({} if wipe_retained else {"t": b"kept"})
    broker.connect("a", now=1.0)
    broker.connect("b", now=1.0)
    assert broker.session_present("a") is not wipe_sessions
    assert _payloads(broker.publish("b", "t", b"new")) == ([] if wipe_sessions else [b"new"])


def test_unsubscribing_stops_what_comes_later() -> None:
    broker = _with_clients("c")
    broker.subscribe("c", "t/#")
    broker.unsubscribe("c", "t/#")
    broker.unsubscribe("c", "never/asked")
    assert broker.publish("c", "t/x", b"p") == []


def test_oversize_wildcards_and_strangers_are_refused() -> None:
    broker = _with_clients("c", settings=BrokerSettings(max_packet_size=4))
    with pytest.raises(PayloadTooLarge):
        broker.publish("c", "t", b"12345")
    with pytest.raises(LocalProtocolError, match="wildcard"):
        broker.publish("c", "t/#", b"1")
    with pytest.raises(LocalProtocolError, match="stranger"):
        broker.publish("stranger", "t", b"1")
    assert broker.disconnect("stranger", now=0.0) == broker.ack("stranger", 1) == []


def test_a_folder_filter_finds_what_a_general_one_finds() -> None:
    """One level under a literal folder has an index of its own; clearing and crashing keep it right."""
    broker = MemoryBroker()
    broker.connect("a", now=0.0)
    for topic in ("m/1/k/0", "m/1/k/1", "m/2/k/0", "n/x/state"):
        broker.publish("a", topic, b"x", retain=True)
    broker.publish("a", "m/1/k/1", b"", retain=True)
    broker.publish("a", "m/2/k/0", b"", retain=True)
    broker.publish("a", "m/9/k/0", b"", retain=True)
    assert [delivery.topic for delivery in broker.subscribe("a", "m/1/k/+")] == ["m/1/k/0"]
    assert [delivery.topic for delivery in broker.subscribe("a", "m/+/k/+")] == ["m/1/k/0"]
    assert broker.subscribe("a", "m/2/k/+") == []
    broker.crash()
    broker.connect("a", now=1.0)
    assert broker.subscribe("a", "m/1/k/+") == []


def test_a_crash_brings_back_what_was_saved_before_and_nothing_since() -> None:
    """Mosquitto saves every ``autosave_interval``: an old round and an old command come again."""
    broker = MemoryBroker()
    broker.connect("node", KEEPS, now=0.0)
    broker.subscribe("node", "cmd")
    broker.disconnect("node", now=1.0)
    broker.connect("server", ConnectSettings(session_expiry_s=0.0), now=1.0)
    broker.publish("server", "round", b"1", retain=True)
    broker.publish("server", "cmd", b"old")
    broker.save()
    broker.publish("server", "round", b"2", retain=True)
    broker.publish("server", "late", b"x", retain=True)
    broker.publish("server", "cmd", b"new")
    assert [delivery.payload for delivery in broker.connect("node", KEEPS, now=2.0)] == [b"old", b"new"]

    assert broker.crash(rewind=True) == ["node", "server"]
    assert broker.retained == {"round": b"1"}
    again = broker.connect("node", KEEPS, now=3.0)
    assert [(delivery.payload, delivery.duplicate) for delivery in again] == [(b"old", True)]
    assert broker.session_present("node")
    broker.connect("server", now=3.0)
    assert not broker.session_present("server")
    assert [delivery.payload for delivery in broker.publish("server", "cmd", b"live")] == [b"live"]
    assert [delivery.payload for delivery in broker.subscribe("node", "round")] == [b"1"]


def test_a_crash_before_the_first_save_brings_back_nothing() -> None:
    broker = MemoryBroker()
    broker.connect("a", KEEPS, now=0.0)
    broker.publish("a", "t", b"x", retain=True)
    broker.crash(rewind=True)
    assert broker.retained == {}
    broker.connect("a", KEEPS, now=1.0)
    assert not broker.session_present("a")

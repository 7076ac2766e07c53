"""Refused messages are counted by sender and kind, bounded in memory, and told by the status file."""

from coordinator.runtime.incidents import OTHERS, SENDERS_MAX, Incidents, count_denied
from federation.runtime.transport import Inbox

DENIED = "Denied PUBLISH from edge-01 (d0, q1, r1, m1, 'x', ... (1 bytes))"


def test_counts_go_on_after_a_restart() -> None:
    before = Incidents()
    before.count("edge-01", "malformed")
    again = Incidents(before.counts())
    assert again.count("edge-01", "malformed") == 2
    assert (before.counts(), again.counts()) == ({"edge-01": {"malformed": 1}}, {"edge-01": {"malformed": 2}})


def test_invented_names_do_not_fill_the_memory() -> None:
    incidents = Incidents()
    for number in range(SENDERS_MAX + 50):
        incidents.count(f"forged-{number}", "bad_signature")
    counts = incidents.counts()
    assert len(counts) == SENDERS_MAX + 1
    assert counts[OTHERS] == {"bad_signature": 50}


def test_what_only_the_brokers_own_log_tells_is_counted_and_wakes_the_loop_once() -> None:
    """FED-18: a flood fills no inbox."""
    incidents, inbox = Incidents(), Inbox(10)
    count_denied(incidents, inbox, "mosquitto version 2.0.11 running")
    assert inbox.empty()
    for _ in range(20):
        count_denied(incidents, inbox, DENIED)
    assert (incidents.counts(), inbox.qsize()) == ({"edge-01": {"denied_publish": 20}}, 1)
    assert inbox.get().event is None

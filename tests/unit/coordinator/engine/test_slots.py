"""Slots are held as long as they can be of use, and go to those who are likely to help."""

from federation.types import RoundId
from tests.rigs.coordinator_rig import Rig, engine


def test_a_lease_covers_the_time_over_which_nodes_spread_their_start() -> None:
    rig = Rig(engine(lease_s=60.0, spread_s=30.0))
    rig.start("ann", "bob")
    rig.wait(89.0)
    assert (rig.get("live"), rig.get("counters")) == (2, {})
    rig.wait(1.0)
    assert rig.get("counters") == {"leases_expired": 2}


def test_after_a_restart_only_those_who_have_not_delivered_hold_a_slot() -> None:
    rig = Rig(engine(quorum=2, max_wait_s=1e9))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    rig.restart()
    rig.connect()
    assert rig.get("live") == 1
    assert rig.get("waiting_for")["nodes"] == ["bob"]  # type: ignore[index]


def test_who_let_a_lease_expire_is_asked_after_the_others() -> None:
    for seed in range(8):
        rig = Rig(engine(concurrency=1, buffer=1, refill=1, quorum=1, nodes_min=2), seed=seed)
        rig.start("ann", "bob")
        first = rig.store.rounds[RoundId(0)].nodes
        rig.wait(rig.settings.lease_s)
        assert rig.store.rounds[RoundId(1)].nodes != first

"""Who else speaks for the coordinator, what was wiped while it runs, and what the broker drops."""

import pytest

from coordinator.engine import effects, events
from coordinator.engine.effects import PublishModel, PublishState
from federation.protocol.messages import Presence
from federation.types import RunId
from tests.rigs.coordinator_rig import Rig, engine, transcript

AGAIN = ["publish state online epoch 1", "publish model 0", "announce round 0 of version 0"]


def test_an_older_twin_leaves_without_a_word_when_a_newer_one_is_online() -> None:
    """FED-63: to say that it is offline would bury the newer one, and to answer an offer would cost the update."""
    rig = Rig()
    rig.start("ann", "bob")
    assert transcript(rig.heard(Presence.ONLINE, epoch=2, retained=True), notes=True) == ["note fenced", "stop fenced"]
    assert transcript(rig.offer("ann", 0)) == []
    assert rig.machine.deadline() is None


@pytest.mark.parametrize(
    ("ours", "theirs", "leaves"), [(7, 8, True), (7, 6, False), (7, None, False), (None, 8, True), (None, None, False)]
)
def test_of_two_starts_with_one_epoch_the_lower_one_leaves(ours: int | None, theirs: int | None, leaves: bool) -> None:
    """FED-96: a copied folder has the epoch of its original; an older coordinator names no start, and counts as 0."""
    rig = Rig(start=ours)
    rig.start("ann", "bob")
    said = transcript(rig.heard(Presence.ONLINE, epoch=1, start=theirs, retained=True))
    assert said == (["stop fenced"] if leaves else [])


def test_the_start_is_said_in_the_state_and_its_low_half_in_the_announcement() -> None:
    """FED-96."""
    rig = Rig(start=2**40 + 5)
    said = [effect.state.start for effect in rig.connect() if isinstance(effect, PublishState)]
    assert said == [2**40 + 5]
    rig.state("ann")
    rig.state("bob")
    assert rig.announced is not None
    assert rig.announced.start_low == 5


@pytest.mark.parametrize("presence", [Presence.LOST, Presence.OFFLINE])
def test_a_newer_one_that_is_gone_is_no_reason_to_leave(presence: Presence) -> None:
    rig = Rig()
    rig.start("ann", "bob")
    assert transcript(rig.heard(presence, epoch=2)) == AGAIN
    assert not any(isinstance(effect, effects.Stop) for effect in rig.offer("ann", 0))


def test_what_was_wiped_is_published_again_but_not_without_a_pause() -> None:
    """FED-64."""
    rig = Rig()
    rig.start("ann", "bob")
    effects = rig.heard()
    assert transcript(effects) == AGAIN
    assert [effect.lost for effect in effects if isinstance(effect, PublishModel)] == [True]
    assert transcript(rig.heard(Presence.LOST)) == []
    assert transcript(rig.heard(Presence.ONLINE, epoch=0)) == []
    assert transcript(rig.wait(4.9)) == []
    assert transcript(rig.wait(0.1)) == AGAIN
    assert transcript(rig.wait(60.0))[:1] != AGAIN[:1]
    assert rig.get("counters") == {"retained_lost": 2, "leases_expired": 2}


def test_a_model_that_a_node_asked_for_in_vain_is_published_again() -> None:
    """FED-90: on the word of whoever was asked for it, also after its lease, and once per round."""
    rig = Rig(engine(concurrency=2, buffer=2, lease_s=60.0))
    rig.start("ann", "bob")
    assert transcript(rig.starve("dan", 0)) == ["tell dan rebirth"]
    rig.wait(60.0)
    effects = rig.starve("ann", 0)
    assert [effect.lost for effect in effects if isinstance(effect, PublishModel)] == [True]
    assert "publish model 0" not in transcript([*rig.starve("bob", 0), *rig.wait(10.0)])
    assert rig.get("counters") == {"leases_expired": 2, "declines": 3, "retained_lost": 1}


def test_a_node_that_starves_for_an_older_version_gets_nothing_again() -> None:
    """FED-90: the parts of a former head are cleared when their time has come."""
    rig = Rig(engine(concurrency=2, buffer=1, max_staleness=5, refill=1))
    rig.start("ann", "bob")
    rig.offer("ann", 0)
    assert rig.get("version") == 1
    rig.starve("bob", 0)
    counters = rig.get("counters")
    assert isinstance(counters, dict)
    assert "retained_lost" not in counters


def test_our_own_word_and_what_stood_there_before_change_nothing() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    assert rig.heard(Presence.ONLINE) == []
    assert rig.heard(Presence.LOST, retained=True) == []
    assert rig.heard(retained=True) == []


def test_nothing_is_published_again_without_a_broker() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    rig.heard()
    rig.heard()
    rig.disconnect()
    assert rig.heard() == []
    assert transcript(rig.wait(600.0)) == []


def test_a_coordinator_of_another_run_is_said_once_and_not_fought() -> None:
    rig = Rig()
    rig.start("ann", "bob")
    other = RunId("f" * 16)
    assert transcript(rig.heard(Presence.ONLINE, epoch=9, run=other), notes=True) == ["note other_coordinator"]
    assert transcript(rig.heard(Presence.ONLINE, epoch=9, run=other), notes=True) == []
    assert rig.get("counters") == {"other_coordinators": 2}


def test_messages_that_the_broker_drops_are_an_alarm() -> None:
    """What it had dropped before we came is no news."""
    rig = Rig()
    rig.start("ann", "bob")
    dropped = [rig.tell(events.BrokerDropped(total=total)) for total in (7, 7, 9, 9, 12)]
    assert [transcript(effects, notes=True) for effects in dropped] == [
        [],
        [],
        ["note broker_drops"],
        [],
        ["note broker_drops"],
    ]
    assert rig.get("counters") == {"broker_dropped": 5}
    rig.tell(events.BrokerDropped(total=1))  # the broker has been restarted
    assert transcript(rig.tell(events.BrokerDropped(total=2)), notes=True) == ["note broker_drops"]

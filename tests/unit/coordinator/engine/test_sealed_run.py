"""The machine of a sealed run: whom it asks, and what is said before and after somebody has left."""

from coordinator.engine import effects, events
from coordinator.engine.liveness import UNSEALED
from federation.protocol.messages import Presence
from federation.protocol.sealed_messages import SealingKey
from federation.types import Incarnation, NodeId
from tests.rigs.coordinator_rig import Rig, engine, transcript

SEAL = SealingKey(kem=0x0020, key=bytes(32))
OTHERS = (effects.Note, effects.SaveAttendance)


def sealed(**changes: object) -> Rig:
    rig = Rig(engine(concurrency=2, buffer=2, refill=1, nodes_min=1, sealed=True, **changes))
    rig.connect()
    return rig


def enrolled(rig: Rig, *nodes: str) -> list[str]:
    done = rig.tell(events.NodesEnrolled(nodes=frozenset(map(NodeId, nodes)), digest=" ".join(nodes)))
    return transcript([effect for effect in done if not isinstance(effect, OTHERS)])


def test_only_a_node_that_can_seal_is_asked_and_it_is_said_why_the_other_is_not() -> None:
    """FED-164."""
    rig = sealed()
    rig.state("old")
    assert (rig.get("online"), rig.get("candidates"), rig.get("live")) == (1, 0, 0)
    waiting = rig.machine.snapshot()["waiting_for"]
    assert isinstance(waiting, dict)
    assert waiting["failing"] == {"old": UNSEALED}
    rig.state("new", seal=SEAL)
    assert rig.get("live") == 1
    rig.state("old", seal=SEAL, incarnation=Incarnation(2))  # a newer release
    waiting = rig.machine.snapshot()["waiting_for"]
    assert isinstance(waiting, dict)
    assert waiting["failing"] == {}


def test_a_will_without_a_key_is_a_will() -> None:
    rig = sealed()
    rig.state("new", seal=SEAL)
    rig.state("new", Presence.LOST)
    assert rig.get("online") == 0
    assert rig.machine.snapshot()["counters"] == {}


def test_nothing_is_announced_before_a_revocation_is_on_the_disk() -> None:
    """FED-169: then everything that is retained is said again, closed with the new key."""
    rig = sealed()
    rig.state("ann", seal=SEAL)
    rig.state("bob", seal=SEAL)
    assert enrolled(rig, "ann", "bob") == ["follow ann bob"]
    said = enrolled(rig, "bob")
    follow = said.index("follow bob")
    assert not any(line.startswith(("announce", "publish")) for line in said[:follow])
    after = said[follow + 1 :]
    assert after[:2] == ["publish state online epoch 1", "publish model 0"]
    assert any(line.startswith("announce") for line in after)
    model = [one for one in rig.tell(None) if isinstance(one, effects.PublishModel)]
    assert model == []  # once


def test_a_revocation_is_followed_at_once_and_said_once_it_is_known_who_leads() -> None:
    """FED-97, FED-169: in a new connection somebody else may lead by now."""
    rig = sealed(settle_s=5.0)
    rig.wait(6.0)
    rig.state("ann", seal=SEAL)
    rig.state("bob", seal=SEAL)
    enrolled(rig, "ann", "bob")
    rig.disconnect()
    rig.connect()
    said = enrolled(rig, "bob")
    assert "follow bob" in said
    assert not any(line.startswith(("announce", "publish")) for line in said)
    later = transcript(rig.wait(10.0))
    assert any(line.startswith("publish model") for line in later)


def test_a_full_disk_stops_the_run_until_the_revocation_is_kept() -> None:
    """FED-169."""
    rig = sealed()
    rig.state("ann", seal=SEAL)
    rig.state("bob", seal=SEAL)
    enrolled(rig, "ann", "bob")
    rig.failing, rig.failing_kinds = True, (effects.FollowEnrolled,)
    assert not any(line.startswith(("announce", "publish model")) for line in enrolled(rig, "bob"))
    assert rig.get("paused")
    rig.failing = False
    due = rig.machine.deadline()
    assert due is not None
    rig.now = due
    said = transcript([effect for effect in rig.tell(None) if not isinstance(effect, OTHERS)])
    assert "follow bob" in said
    assert rig.readers == frozenset({NodeId("bob")})
    assert "publish model 0" in said[said.index("follow bob") :]


def test_a_run_that_is_not_sealed_follows_nobody() -> None:
    rig = Rig(engine(concurrency=1, buffer=1, refill=1, nodes_min=1))
    rig.start("ann")
    assert "follow ann" not in enrolled(rig, "ann")
    assert rig.readers is None


def test_another_key_is_said_once_it_is_there() -> None:
    """FED-170: not by a process that does not lead yet."""
    rig = Rig(engine(sealed=True, settle_s=1.0))
    rig.connect()
    assert transcript(rig.tell(events.RotationDue())) == ["rotate key"]
    rig = sealed()
    assert transcript(rig.tell(events.RotationDue())) == ["rotate key", "publish state online epoch 1"]

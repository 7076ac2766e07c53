"""Nodes that are away by the pace are neither asked nor missed until they are due: FED-325 and FED-327."""

from typing import Any

from coordinator.engine import effects
from coordinator.engine.liveness import ROLL_CALL_S
from federation.protocol.limits import AWAY_GRACE_S
from federation.protocol.messages import Presence, Rebirth
from tests.rigs.coordinator_rig import Rig, engine


def waits(rig: Rig) -> Any:
    return rig.machine.snapshot()["waiting_for"]


def called(done: list[effects.Effect]) -> list[str]:
    return [one.node for one in done if isinstance(one, effects.SendCommand) and isinstance(one.command, Rebirth)]


def test_the_pace_is_announced_where_there_is_one() -> None:
    for pace_s, said in ((0.0, None), (900.0, 900.0)):
        rig = Rig(engine(pace_s=pace_s))
        (state,) = [one.state for one in rig.connect() if isinstance(one, effects.PublishState)]
        assert state.pace_s == said


def test_a_node_that_is_away_is_not_called_and_not_named_before_it_is_due() -> None:
    rig = Rig(engine(nodes_min=2))
    rig.connect()
    for node in ("ann", "bob"):
        rig.state(node)
        rig.state(node, presence=Presence.OFFLINE, away_s=600.0)
    rig.wait(5.0)
    assert (waits(rig)["gone"], waits(rig)["away"], waits(rig)["back_s"]) == ([], 2, 595.0)
    assert called(rig.wait(590.0)) == []
    rig.state("ann")
    assert (waits(rig)["away"], waits(rig)["gone"]) == (1, [])
    assert sorted(set(called(rig.wait(AWAY_GRACE_S + 2 * ROLL_CALL_S)))) == ["bob"]
    assert (waits(rig)["away"], waits(rig)["gone"], waits(rig)["back_s"]) == (0, ["bob"], None)


def test_a_node_that_was_lost_on_its_way_is_missed_as_ever() -> None:
    rig = Rig(engine(nodes_min=2))
    rig.connect()
    rig.state("ann")
    rig.state("ann", presence=Presence.OFFLINE, away_s=600.0)
    rig.state("ann", presence=Presence.LOST)
    assert (waits(rig)["away"], waits(rig)["gone"]) == (0, ["ann"])


def test_a_node_is_believed_for_days_and_no_longer() -> None:
    rig = Rig(engine(nodes_min=2))
    rig.connect()
    rig.state("ann")
    rig.state("ann", presence=Presence.OFFLINE, away_s=1e9)
    assert waits(rig)["back_s"] == 11 * 86_400.0

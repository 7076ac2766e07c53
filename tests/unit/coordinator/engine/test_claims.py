"""What a gateway may end by asking: updates that no sum has claimed, and so many in a minute as it may speak for."""

from coordinator.engine.claims import WITHDRAWN_S
from coordinator.engine.effects import Effect, WithdrawUpdate
from federation.types import NodeId, UpdateId
from tests.rigs.coordinator_rig import Rig, engine

GATEWAY, CAP = NodeId("hall"), 3


def withdrawn(effects: list[Effect]) -> list[UpdateId]:
    """Those that nobody may claim any more."""
    return [one.update for one in effects if isinstance(one, WithdrawUpdate)]


def asked(rig: Rig, count: int, *, node: str = GATEWAY) -> list[UpdateId]:
    """What is withdrawn when a gateway asks for so many updates."""
    return [
        update for at in range(count) for update in withdrawn(rig.offer(node, 0, update=UpdateId(f"0-stranger-{at}")))
    ]


def test_gateway_that_asks_for_everything_ends_as_many_updates_a_minute_as_it_may_speak_for() -> None:
    """FED-288: what is beyond has no answer, and nothing is lost by that: it is asked for again."""
    rig = Rig(engine(gateways={GATEWAY: CAP}))
    rig.start(GATEWAY, "ann")
    assert len(asked(rig, 50)) == CAP
    assert rig.machine.snapshot()["counters"] == {"questions_unanswered": 50 - CAP}
    rig.wait(WITHDRAWN_S / CAP + 1.0)
    assert len(asked(rig, 50)) == 1


def test_node_that_is_no_gateway_ends_nothing() -> None:
    """FED-273."""
    rig = Rig(engine(gateways={GATEWAY: CAP}))
    rig.start(GATEWAY, "ann")
    assert asked(rig, 5, node="ann") == []

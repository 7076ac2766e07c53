"""What a gateway may end by asking: updates that no sum has claimed, and so many in a minute as it may speak for."""

from coordinator.engine.claims.effects import JudgeClaimed, WithdrawClaims
from coordinator.engine.claims.fates import WITHDRAWN_S
from coordinator.engine.effects import Effect, SaveVerdict, SendCommand
from federation.protocol.claims import claim_of
from federation.protocol.messages import Reason, Receipt
from federation.types import NodeId, UpdateId
from tests.rigs.coordinator_rig import Rig, engine

GATEWAY, CAP = NodeId("hall"), 3


def withdrawn(effects: list[Effect]) -> list[UpdateId]:
    """Those that nobody may claim any more."""
    return [one.update for one in effects if isinstance(one, WithdrawClaims)]


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


def test_gateway_that_asks_for_a_sum_pays_for_each_member() -> None:
    """FED-288, FED-295."""
    rig = Rig(engine(gateways={GATEWAY: CAP}))
    rig.start(GATEWAY, "ann")
    claims = b"".join(claim_of(UpdateId(f"0-stranger-{at}")) for at in range(CAP - 1))
    effects = [rig.offer(GATEWAY, 0, update=UpdateId(f"0-sum-{at}"), members=claims) for at in range(2)]
    assert [len(withdrawn(one)) for one in effects] == [1, 0]


def test_refused_sum_that_names_more_nodes_than_it_may_claims_nothing() -> None:
    """FED-296: a gateway that lies ends no more updates by what is refused than by what counts."""
    rig = Rig(engine(gateways={GATEWAY: CAP}))
    rig.start(GATEWAY, "ann")
    claims = b"".join(claim_of(UpdateId(f"0-stranger-{at}")) for at in range(CAP + 1))
    effects = rig.offer(GATEWAY, 0, num_examples=0, members=claims)
    saved = [one.record for one in effects if isinstance(one, SaveVerdict | JudgeClaimed)]
    assert [one.members for one in saved if one is not None] == [b""]


def test_refused_sum_of_which_some_counts_is_named_what_counts() -> None:
    """FED-296: what the store says comes before the verdict."""
    rig = Rig(engine(gateways={GATEWAY: CAP}))
    rig.start(GATEWAY, "ann")
    counted = claim_of(UpdateId("0-stranger"))
    rig.counted = counted
    effects = rig.offer(GATEWAY, 0, num_examples=0, members=counted)
    told = [one.command for one in effects if isinstance(one, SendCommand) and isinstance(one.command, Receipt)]
    assert [(one.reason, one.counted) for one in told] == [(Reason.COUNTED, counted)]


def test_question_for_a_sum_of_which_some_counts_is_answered_by_its_names() -> None:
    """FED-295: and one for a single update that was claimed meanwhile has no answer: it is asked for again."""
    rig = Rig(engine(gateways={GATEWAY: CAP}))
    rig.start(GATEWAY, "ann")
    rig.counted = claim_of(UpdateId("0-ann"))
    both = rig.counted + claim_of(UpdateId("0-bob"))
    asked_for = [
        rig.offer(GATEWAY, 0, update=UpdateId("0-sum"), members=both),
        rig.offer(GATEWAY, 0, update=UpdateId("0-ann")),
    ]
    told = [[one.command for one in effects if isinstance(one, SendCommand)] for effects in asked_for]
    assert [getattr(one, "counted", None) for one in told[0]] == [rig.counted]
    assert told[1] == []

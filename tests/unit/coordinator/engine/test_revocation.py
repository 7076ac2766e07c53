"""Who has left the federation is not asked, not waited for, and counts in no version; and strangers get few answers."""

import pytest

from coordinator.engine import effects, events
from coordinator.engine.alarms import USELESS_CHUNKS_PER_S
from coordinator.engine.liveness import REBIRTH_PAUSE_S, REBIRTHS_BURST, REBIRTHS_PER_S
from coordinator.engine.settings import FederatedEvaluationSettings
from coordinator.engine.transfers import CHUNKS_UNDER_WAY_MAX, REGRANTS_BURST
from federation.protocol.messages import Decline, Presence, Reason, ReceiptStatus
from federation.types import NodeId, RoundId, RunId, UpdateId
from tests.rigs.coordinator_rig import Rig, engine, transcript

LIMIT = 1024


def enrolled(rig: Rig, *nodes: str, digest: str = "new") -> list[effects.Effect]:
    return rig.tell(events.NodesEnrolled(nodes=frozenset(map(NodeId, nodes)), digest=digest))


def one(**changes: object) -> Rig:
    rig = Rig(engine(concurrency=1, buffer=1, refill=1, nodes_min=1, **changes))
    rig.start("ann")
    assert rig.get("live") == 1
    return rig


def two(**changes: object) -> Rig:
    rig = Rig(engine(concurrency=2, buffer=2, refill=1, nodes_min=2, **changes))
    rig.start("ann", "bob")
    assert (rig.get("live"), rig.get("online")) == (2, 2)
    return rig


def test_a_revoked_node_leaves_its_slot_the_registry_and_the_broker_at_once() -> None:
    """FED-104."""
    rig = two()
    done = transcript(enrolled(rig, "bob"))
    assert "clear ann" in done
    assert "close ann in round 0" in done
    assert (rig.get("known"), rig.get("online"), rig.get("live")) == (1, 1, 1)
    assert rig.get("enrolled") == "new"
    # A version is made of who is left, and nobody asks the other one.
    rig.offer("bob", 0)
    rig.wait(10.0)
    assert rig.get("version") == 1
    assert all(NodeId("ann") not in record.nodes for round_id, record in rig.store.rounds.items() if round_id > 0)


def test_what_a_revoked_node_has_delivered_for_the_next_version_is_in_none() -> None:
    rig = two()
    rig.offer("ann", 0)
    assert rig.get("buffered") == 1
    enrolled(rig, "bob")
    assert rig.get("buffered") == 0
    verdict = rig.store.verdicts[UpdateId("0-ann")]
    assert (verdict.status, verdict.reason) == (ReceiptStatus.REFUSED, Reason.NOT_ASSIGNED)
    rig.offer("bob", 0)
    rig.wait(10.0)
    assert rig.store.verdicts[UpdateId("0-bob")].status is ReceiptStatus.APPLIED
    assert rig.store.verdicts[UpdateId("0-ann")].status is ReceiptStatus.REFUSED


def test_a_verdict_that_the_disk_has_not_taken_is_given_again_without_its_node() -> None:
    """A revoked node offers nothing any more: its update stayed stored for as long as the process ran."""
    rig = two()
    rig.offer("ann", 0)
    rig.failing, rig.failing_kinds = True, (effects.SaveVerdict,)
    enrolled(rig, "bob")
    assert rig.store.verdicts[UpdateId("0-ann")].status is ReceiptStatus.STORED
    rig.wait(1.0)
    rig.failing = False
    said = transcript(rig.wait(120.0))
    verdict = rig.store.verdicts[UpdateId("0-ann")]
    assert (verdict.status, verdict.reason) == (ReceiptStatus.REFUSED, Reason.NOT_ASSIGNED)
    assert said.count("tell ann refused 0-ann not_assigned") == 1
    assert "tell ann refused 0-ann not_assigned" not in transcript(rig.wait(600.0))


def test_a_large_update_of_a_revoked_node_gives_its_place_to_others() -> None:
    rig = two(transfers_max=1)
    rig.offer("ann", 0, payload_bytes=10, chunk_bytes=4, inline=None)
    assert rig.get("transfers") == 1
    done = enrolled(rig, "bob")
    assert any(isinstance(effect, effects.DropTransfer) for effect in done)
    assert rig.get("transfers") == 0
    assert "grant" in " ".join(transcript(rig.offer("bob", 0, payload_bytes=10, chunk_bytes=4, inline=None)))


def test_an_evaluation_does_not_wait_for_a_revoked_node() -> None:
    rig = one(federated_evaluation=FederatedEvaluationSettings(every=1))
    rig.state("bob")
    rig.offer("ann", 0)
    rig.report("ann", 1)
    done = enrolled(rig, "ann")
    assert any(isinstance(effect, effects.CloseFederatedEvaluation) for effect in done)


def test_a_list_with_everybody_in_it_changes_nothing() -> None:
    rig = two()
    before = dict(rig.machine.snapshot())
    assert enrolled(rig, "ann", "bob", "not here yet", digest="") == []
    assert dict(rig.machine.snapshot()) == before


def test_a_restarted_coordinator_does_not_wait_for_who_was_revoked_meanwhile() -> None:
    rig = two()
    rig.restart()
    rig.connect()
    assert rig.get("live") == 2
    enrolled(rig, "bob")
    assert rig.get("live") == 1


def test_a_full_disk_delays_what_must_be_saved_and_forgets_nothing() -> None:
    rig = two()
    rig.offer("ann", 0)
    rig.failing = True
    rig.offer("bob", 0)
    assert rig.get("paused") is True
    enrolled(rig, "bob")
    assert rig.get("enrolled") == ""
    rig.failing = False
    rig.wait(5.0)
    assert rig.get("enrolled") == "new"
    assert rig.store.verdicts[UpdateId("0-ann")].status is ReceiptStatus.REFUSED


def test_a_revoked_node_may_be_enrolled_again() -> None:
    rig = two()
    enrolled(rig, "bob")
    enrolled(rig, "ann", "bob", digest="newer")
    rig.state("ann")
    assert rig.get("online") == 2


# --- strangers and floods -------------------------------------------------------------------------------------------


def test_an_unknown_node_is_answered_a_few_times_and_then_seldom() -> None:
    """FED-23, FED-101."""
    rig = Rig()
    rig.connect()
    decline = Decline(run=RunId("0" * 16), round=RoundId(0), reason="x")

    def asked(count: int) -> int:
        event = events.DeclineReceived(node=NodeId("eve"), decline=decline)
        sent = [effect for _ in range(count) for effect in rig.tell(event)]
        return sum(isinstance(effect, effects.SendCommand) for effect in sent)

    assert asked(1_000) == REBIRTHS_BURST
    rig.wait(REBIRTH_PAUSE_S)
    assert asked(1_000) == 1
    assert rig.machine.snapshot()["counters"]["rebirths_withheld"] > 1_000  # type: ignore[index]


def test_many_invented_names_are_not_all_answered() -> None:
    rig = Rig()
    rig.connect()
    decline = Decline(run=RunId("0" * 16), round=RoundId(0), reason="x")
    sent = [
        effect
        for number in range(2_000)
        for effect in rig.tell(events.DeclineReceived(node=NodeId(f"eve-{number}"), decline=decline))
    ]
    assert sum(isinstance(effect, effects.SendCommand) for effect in sent) == REBIRTHS_PER_S


@pytest.mark.parametrize("born", [True, False])
def test_chunks_that_nobody_granted_are_counted_and_never_answered(*, born: bool) -> None:
    rig = Rig()
    rig.start("ann")
    if born:
        rig.state("eve", task="another")
    done = [effect for _ in range(1_000) for effect in rig.chunk("eve", "1-eve", 0, b"x")]
    assert not [effect for effect in done if isinstance(effect, effects.SendCommand)]
    blamed = [effect for effect in done if isinstance(effect, effects.CountIncident)]
    assert len(blamed) == 1_000 - CHUNKS_UNDER_WAY_MAX
    assert {(effect.node, effect.kind) for effect in blamed} == {("eve", "useless_chunk")}
    rig.wait(1.0)
    later = [effect for _ in range(100) for effect in rig.chunk("eve", "1-eve", 0, b"x")]
    assert sum(isinstance(effect, effects.CountIncident) for effect in later) == 100 - USELESS_CHUNKS_PER_S


def test_chunks_that_come_twice_after_a_reconnect_are_no_incident() -> None:
    rig = one()
    rig.offer("ann", 0, payload_bytes=400, chunk_bytes=4, inline=None)
    for index in range(50):
        rig.chunk("ann", "0-ann", index, b"0123")
    again = [effect for index in range(50) for effect in rig.chunk("ann", "0-ann", index, b"0123")]
    assert not [effect for effect in again if isinstance(effect, effects.CountIncident)]


def test_a_node_that_offers_again_and_again_gets_few_grants() -> None:
    """A grant can be a hundred times larger than the offer that asks for it."""
    rig = one()
    rig.offer("ann", 0, payload_bytes=10, chunk_bytes=4, inline=None)
    done = [e for _ in range(200) for e in rig.offer("ann", 0, payload_bytes=10, chunk_bytes=4, inline=None)]
    assert sum(isinstance(effect, effects.SendCommand) for effect in done) == REGRANTS_BURST


@pytest.mark.parametrize(
    ("payload_bytes", "chunk_bytes", "taken"),
    [(65_536, 1, False), (LIMIT * 257, LIMIT - 1, False), (LIMIT * 257, LIMIT, True), (256, 1, True)],
)
def test_an_update_in_crumbs_is_refused(*, payload_bytes: int, chunk_bytes: int, taken: bool) -> None:
    """FED-103."""
    rig = one(payload_bytes_max=1_000_000)
    rig.offer("ann", 0, payload_bytes=payload_bytes, chunk_bytes=chunk_bytes, inline=None)
    assert rig.get("transfers") == int(taken)
    if not taken:
        assert rig.store.verdicts[UpdateId("0-ann")].reason is Reason.MALFORMED_FRAME


def test_a_node_that_is_gone_is_forgotten_when_it_is_revoked() -> None:
    rig = two()
    rig.state("ann", Presence.LOST)
    enrolled(rig, "bob")
    assert rig.get("known") == 1


def test_a_process_that_does_not_lead_yet_gives_nobody_a_verdict() -> None:
    """FED-97: who was revoked while it was away is read before the broker is there."""
    rig = two()
    rig.offer("ann", 0)
    rig.restart()
    told = enrolled(rig, "bob")
    assert not [effect for effect in told if isinstance(effect, effects.SendCommand)]
    assert not rig.store.verdicts[UpdateId("0-ann")].status.final
    rig.connect()
    rig.state("bob")
    rig.wait(60.0)
    assert rig.store.verdicts[UpdateId("0-ann")].reason is Reason.NOT_ASSIGNED

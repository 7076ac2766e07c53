"""Slots and leases."""

from coordinator.engine.assignments import LEASE_RESTARTS_MAX, Assignments, Slot
from federation.types import ModelVersion, NodeId, RoundId

ANN, BOB, CID = NodeId("ann"), NodeId("bob"), NodeId("cid")


def three() -> Assignments:
    """Ann and bob in round 1 of version 0, cid in round 2 of version 1."""
    slots = Assignments()
    slots.begin(ANN, Slot(round=RoundId(1), version=ModelVersion(0)), 10.0)
    slots.begin(BOB, Slot(round=RoundId(1), version=ModelVersion(0)), 20.0)
    slots.begin(CID, Slot(round=RoundId(2), version=ModelVersion(1)), 30.0)
    return slots


def test_a_slot_ends_once() -> None:
    slots = three()
    ended = slots.end(ANN)
    assert ended is not None
    assert ended.round == 1
    assert slots.end(ANN) is None
    assert slots.get(ANN) is None
    assert slots.of_round(RoundId(1)) == (BOB,)
    slots.end(BOB)
    assert slots.rounds == 1
    assert list(slots) == [CID]


def test_leases_end_in_order_and_can_be_restarted_a_few_times() -> None:
    slots = three()
    assert slots.next_lease() == 10.0
    assert [slots.restart(ANN, 40.0) for _ in range(LEASE_RESTARTS_MAX + 1)] == [True] * LEASE_RESTARTS_MAX + [False]
    slots.extend(BOB, 50.0)
    assert [node for node, _ in slots.expired(35.0)] == [CID]
    assert [node for node, _ in slots.expired(60.0)] == [ANN, BOB]
    assert len(slots) == 3


def test_work_from_old_versions_is_found() -> None:
    slots = three()
    assert slots.older_than(ModelVersion(0)) == []
    assert [node for node, _ in slots.older_than(ModelVersion(1))] == [ANN, BOB]
    assert [(node, slot.round) for node, slot in slots.older_than(ModelVersion(2))] == [(ANN, 1), (BOB, 1), (CID, 2)]

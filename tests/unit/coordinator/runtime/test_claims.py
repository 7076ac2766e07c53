"""A final verdict on a sum: its claims are looked at and taken in the same step, whatever it is refused for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.engine.claims.effects import JudgeClaimed, WithdrawClaims
from coordinator.engine.claims.events import ClaimedJudged, ClaimsWithdrawn
from coordinator.engine.events import UpdateRejected
from coordinator.records import UpdateRecord, Verdict
from coordinator.runtime.claims import ClaimsExecution
from coordinator.storage.sqlite_store import SqliteStore
from federation.protocol.claims import claim_of
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import NodeId, UpdateId
from tests.rigs.model_values import arrived, initialised, update

ANN, BOB = UpdateId("0-ann"), UpdateId("0-bob")
NORTH, SOUTH = UpdateId("0-north"), UpdateId("1-south")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path)
    initialised(made)
    yield made
    made.close()


def sum_of(name: UpdateId, *members: UpdateId) -> UpdateRecord:
    """A gateway's sum with these members."""
    round_id, _, node = name.partition("-")
    record = arrived(node, update(0.0), round_id=int(round_id)).record
    return replace(record, members=b"".join(sorted(map(claim_of, members))))


def judged(record: UpdateRecord, reason: Reason) -> JudgeClaimed:
    """Whatever it is of no use for."""
    status = ReceiptStatus.STALE if reason is Reason.TOO_STALE else ReceiptStatus.REFUSED
    verdict = Verdict(update=record.update, node=record.node, status=status, reason=reason)
    return JudgeClaimed(verdict=verdict, record=record)


@pytest.mark.parametrize("reason", [Reason.TOO_STALE, Reason.NORM, Reason.BAD_NUM_EXAMPLES, Reason.QUOTA])
def test_sum_of_which_some_counts_elsewhere_has_no_verdict(store: SqliteStore, reason: Reason) -> None:
    """FED-296: its gateway leaves that out, and its nodes are told by themselves."""
    counts = list[UpdateId]()
    execution = ClaimsExecution(store, lambda verdict, _record: counts.append(verdict.update))
    store.save_update(sum_of(NORTH, ANN), b"body")
    found = execution.run(judged(sum_of(SOUTH, ANN, BOB), reason))
    assert isinstance(found, UpdateRejected)
    assert (found.reason, found.counted) == (Reason.COUNTED, claim_of(ANN))
    assert store.verdict(SOUTH) is None
    assert counts == []
    assert isinstance(execution.run(judged(sum_of(SOUTH, BOB), reason)), ClaimedJudged)
    assert counts == [SOUTH]


def test_what_was_given_back_at_one_site_cannot_count_at_another(store: SqliteStore) -> None:
    """FED-296: the late sum came first, and one with the same member comes after its verdict."""
    execution = ClaimsExecution(store, lambda _verdict, _record: None)
    execution.run(judged(sum_of(NORTH, ANN), Reason.TOO_STALE))
    refused = execution.elsewhere(sum_of(SOUTH, ANN, BOB))
    assert refused is not None
    assert refused.counted == claim_of(ANN)
    fate = store.verdict(ANN)
    assert fate is not None
    assert fate.status is ReceiptStatus.STALE


def test_claims_are_withdrawn_together_or_not_at_all(store: SqliteStore) -> None:
    """FED-295."""
    execution = ClaimsExecution(store, lambda _verdict, _record: None)
    store.save_update(sum_of(NORTH, ANN), b"body")
    both = claim_of(ANN) + claim_of(BOB)
    asked = WithdrawClaims(node=NodeId("south"), update=SOUTH, claims=both)
    assert execution.run(asked) == ClaimsWithdrawn(
        node=NodeId("south"), update=SOUTH, claims=both, counted=claim_of(ANN)
    )
    assert store.verdict(BOB) is None
    alone = replace(asked, claims=claim_of(BOB))
    for _ in range(2):
        assert execution.run(alone) == ClaimsWithdrawn(node=NodeId("south"), update=SOUTH, claims=claim_of(BOB))
    assert store.verdict(BOB) is not None

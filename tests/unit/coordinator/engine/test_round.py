"""The two decisions: what an offer is worth, and whether to wait, ask or commit."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies

from coordinator.engine.round import (
    ACCEPTED,
    Ask,
    AskReason,
    Commit,
    CommitReason,
    Facts,
    Judgement,
    Ruling,
    Situation,
    Wait,
    WaitReason,
    decide,
    identify,
    judge,
    reason_to_commit,
    wanted,
)
from coordinator.engine.settings import EngineSettings
from federation.protocol.messages import Reason
from federation.types import Digest, ModelVersion, NodeId, RoundId, RunId, UpdateId
from tests.rigs.coordinator_rig import RUN, digest_of, engine, offer_of

ANN = NodeId("ann")


def facts(**changes: object) -> Facts:
    """Head 5, two versions back, ann was asked in round 3."""
    plain = Facts(
        settings=engine(max_staleness=2, num_examples_max=1000, payload_bytes_max=5_000),
        run=RUN,
        head=ModelVersion(5),
        recent={ModelVersion(version): digest_of(version) for version in (3, 4, 5)},
        next_round=RoundId(9),
        finished=False,
        used=0,
        asked=ModelVersion(5),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


HEALTHY = facts()


def ruling(known: Facts = HEALTHY, /, **changes: object) -> Judgement:
    offer = {"base_version": ModelVersion(5), "base_digest": digest_of(5), **changes}
    if known.asked is not None:  # honest work has the base that its round asked for
        known = replace(known, asked=offer["base_version"])  # type: ignore[arg-type]
    return judge(offer_of("ann", 3, **offer), ANN, known)


def test_an_honest_offer_is_accepted() -> None:
    assert ruling() == ACCEPTED


def test_a_base_from_before_the_round_is_refused_and_a_newer_one_is_not() -> None:
    """FED-95: a node that pulls the model finds a newer version where the named one was replaced."""
    offer = offer_of("ann", 3, base_version=ModelVersion(4), base_digest=digest_of(4))
    assert judge(offer, ANN, facts(asked=ModelVersion(5))).reason is Reason.BASE_MISMATCH
    assert judge(offer, ANN, facts(asked=ModelVersion(3))) == ACCEPTED


def test_a_number_of_fetched_bytes_that_no_row_can_hold_is_refused() -> None:
    assert ruling(fetched_bytes=2**53 - 1) == ACCEPTED
    assert ruling(fetched_bytes=2**53).reason is Reason.TOO_LARGE
    assert ruling(fetched_bytes=2**64 - 1).reason is Reason.TOO_LARGE


def test_another_node_s_id_is_refused_without_claiming_it() -> None:
    """FED-45: the id may belong to honest work that comes later."""
    judgement = ruling(update=UpdateId("3-bob"))
    assert judgement == Judgement(ruling=Ruling.REFUSED, reason=Reason.NOT_ASSIGNED, durable=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"run": RunId("f" * 16)}, Ruling.FOREIGN),
        ({"round": RoundId(9), "update": UpdateId("9-ann")}, Ruling.AHEAD),
        ({"base_version": ModelVersion(6)}, Ruling.AHEAD),
    ],
)
def test_what_only_somebody_else_can_judge_gets_no_verdict(changes: dict[str, object], expected: Ruling) -> None:
    """FED-97, FED-98: another run's coordinator may have it on disk, and so may a later one of this run."""
    assert ruling(**changes) == Judgement(ruling=expected, durable=False)


def test_a_round_below_our_highest_that_was_never_reserved_is_unknown() -> None:
    """FED-97: only then it is certain. Nothing is kept under its id."""
    judgement = judge(offer_of("ann", 3), ANN, facts(known=False, asked=None))
    assert judgement == Judgement(ruling=Ruling.REFUSED, reason=Reason.UNKNOWN_ROUND, durable=False)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("base", [4, 6])
def test_a_restored_run_judges_what_it_has_lost(base: int, *, known: bool) -> None:
    """FED-120: rounds and versions of after the backup are nobody's any more, so their work goes back once."""
    offer = offer_of("ann", 3, base_version=ModelVersion(base), base_digest=digest_of(base))
    lost = facts(known=known, asked=ModelVersion(4) if known else None, restored_round=RoundId(9))
    judgement = judge(offer, ANN, lost)
    if known and base == 4:
        assert judgement == ACCEPTED
    else:
        reason = Reason.BASE_MISMATCH if known else Reason.UNKNOWN_ROUND
        assert judgement == Judgement(ruling=Ruling.REFUSED, reason=reason, durable=known)
    # What was asked since the restore, and what is newer than all of it, is somebody else's as ever.
    since = facts(known=known, asked=None, restored_round=RoundId(3))
    ahead = judge(offer_of("ann", 3, base_version=ModelVersion(6)), ANN, since)
    assert ahead == Judgement(ruling=Ruling.AHEAD, durable=False)
    newest = offer_of("ann", 9, base_version=ModelVersion(base))
    assert judge(newest, ANN, lost).ruling is Ruling.AHEAD


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_examples": 0}, Reason.BAD_NUM_EXAMPLES),
        ({"num_examples": -1}, Reason.BAD_NUM_EXAMPLES),
        ({"num_examples": 2**53 - 1}, Reason.BAD_NUM_EXAMPLES),
        ({"payload_bytes": 0, "inline": None}, Reason.MALFORMED_FRAME),
        ({"chunk_bytes": 0}, Reason.MALFORMED_FRAME),
        ({"payload_bytes": 5_001, "inline": None}, Reason.TOO_LARGE),
        ({"payload_bytes": 4}, Reason.DIGEST_MISMATCH),
        ({"base_digest": Digest(b"x" * 16)}, Reason.BASE_MISMATCH),
    ],
)
def test_a_bad_header_is_refused_with_its_reason(changes: dict[str, object], reason: Reason) -> None:
    """FED-45: refusal is a verdict, not an exception."""
    assert ruling(**changes) == Judgement(ruling=Ruling.REFUSED, reason=reason)


def test_more_chunks_than_a_bitmap_may_have_are_refused() -> None:
    limits = engine(payload_bytes_max=10**9)
    judgement = ruling(facts(settings=limits), payload_bytes=10**6, chunk_bytes=1, inline=None)
    assert judgement.reason is Reason.TOO_LARGE


def test_a_node_that_was_not_asked_is_refused() -> None:
    """FED-45: not_assigned."""
    assert ruling(facts(asked=None)).reason is Reason.NOT_ASSIGNED


def test_one_update_more_than_the_quota_is_refused() -> None:
    """FED-45: a fast node does not own the model."""
    assert ruling(facts(used=1)).reason is Reason.QUOTA


@pytest.mark.parametrize(("base", "status"), [(5, Ruling.ACCEPT), (3, Ruling.ACCEPT), (2, Ruling.STALE)])
def test_staleness_comes_from_the_message(base: int, status: Ruling) -> None:
    """FED-44: the head minus the offer's base."""
    assert ruling(base_version=ModelVersion(base), base_digest=digest_of(base)).ruling is status


def test_a_version_that_the_store_no_longer_knows_is_stale() -> None:
    gone = facts(recent={ModelVersion(5): digest_of(5)})
    judgement = ruling(gone, base_version=ModelVersion(4))
    assert judgement == Judgement(ruling=Ruling.STALE, reason=Reason.TOO_STALE)


def test_after_the_last_version_everything_is_stale() -> None:
    """FED-33: finished."""
    assert ruling(facts(finished=True)) == Judgement(ruling=Ruling.STALE, reason=Reason.FINISHED)


def test_identity_is_run_node_and_id_together() -> None:
    assert identify(offer_of("ann", 3), ANN, RUN) is None
    assert identify(offer_of("ann", 3), NodeId("bob"), RUN) is not None


# --- decide ---------------------------------------------------------------------------------------------------------


def situation(**changes: object) -> Situation:
    """Connected, running, three nodes idle, nothing in flight."""
    plain = Situation(
        connected=True,
        settled=True,
        started=True,
        committing=False,
        online=3,
        candidates=3,
        suspects=0,
        live=0,
        transfers=0,
        asked=0,
        buffered=0,
        overdue=False,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


SYNC = engine(concurrency=3, buffer=3, refill=3, quorum=2)
BUFF = engine(concurrency=5, buffer=2, refill=1, quorum=1, max_staleness=4)


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        (SYNC, {}, AskReason.FREE_SLOTS),
        (SYNC, {"committing": True, "buffered": 3}, WaitReason.COMMITTING),
        (SYNC, {"buffered": 3}, CommitReason.BUFFER_FULL),
        (SYNC, {"buffered": 3, "connected": False}, CommitReason.BUFFER_FULL),
        (SYNC, {"buffered": 2, "live": 1, "overdue": True}, CommitReason.MAX_WAIT),
        (SYNC, {"buffered": 1, "live": 2, "overdue": True}, WaitReason.ASSIGNMENTS),
        (SYNC, {"buffered": 2, "asked": 3}, CommitReason.NOBODY_LEFT),
        (SYNC, {"buffered": 2, "asked": 2, "candidates": 0}, CommitReason.NOBODY_LEFT),
        (SYNC, {"buffered": 2, "asked": 3, "connected": False}, WaitReason.BROKER),
        (SYNC, {"buffered": 2, "asked": 3, "settled": False}, WaitReason.SETTLING),
        (SYNC, {"buffered": 2, "asked": 3, "transfers": 1, "candidates": 0}, WaitReason.TRANSFERS),
        (SYNC, {"buffered": 1, "asked": 3}, AskReason.FREE_SLOTS),
        (SYNC, {"live": 1, "candidates": 2}, WaitReason.ASSIGNMENTS),
        (SYNC, {"candidates": 0}, WaitReason.NO_CANDIDATES),
        (SYNC, {"candidates": 0, "suspects": 2}, AskReason.NOBODY_ELSE),
        (SYNC, {"candidates": 0, "suspects": 2, "transfers": 1}, WaitReason.TRANSFERS),
        (SYNC, {"connected": False}, WaitReason.BROKER),
        (SYNC, {"settled": False}, WaitReason.SETTLING),
        (SYNC, {"started": False, "online": 0}, WaitReason.NODES_MIN),
        (SYNC, {"buffered": 3, "resting": True}, WaitReason.INTERVAL),
        (SYNC, {"buffered": 3, "resting": True, "connected": False}, WaitReason.BROKER),
        (SYNC, {"committing": True, "resting": True}, WaitReason.COMMITTING),
        (BUFF, {"live": 4, "candidates": 1}, AskReason.FREE_SLOTS),
        (BUFF, {"live": 5}, WaitReason.ASSIGNMENTS),
    ],
)
def test_the_engine_waits_asks_or_commits_for_a_reason(
    settings: EngineSettings, changes: dict[str, object], reason: WaitReason | AskReason | CommitReason
) -> None:
    """The kind of a reason says what is done."""
    assert decide(situation(**changes), settings).reason is reason


def test_without_staleness_what_is_buffered_counts_against_the_concurrency() -> None:
    assert wanted(situation(buffered=2), SYNC) == 1
    assert wanted(situation(buffered=1, live=4), BUFF) == 1


def test_over_selection_stays_in_a_replacement() -> None:
    assert wanted(situation(buffered=1), engine(concurrency=5, buffer=3, refill=5)) == 4


def test_a_small_concurrency_fills_a_large_buffer_step_by_step() -> None:
    slow = engine(concurrency=2, buffer=5, refill=2)
    assert wanted(situation(buffered=2), slow) == 2
    assert wanted(situation(buffered=4), slow) == 1


counts = strategies.integers(0, 6)


@given(
    buffered=counts, live=counts, candidates=counts, suspects=counts, transfers=counts, asked=counts,
    concurrency=strategies.integers(1, 6), buffer=strategies.integers(1, 6), refill=strategies.integers(1, 6),
    quorum=strategies.integers(0, 6), max_staleness=strategies.integers(0, 2), overdue=strategies.booleans(),
)  # fmt: skip
def test_whoever_waits_waits_for_somebody(
    *, concurrency: int, buffer: int, refill: int, quorum: int, max_staleness: int, **seen: object
) -> None:
    """With a healthy broker and no one to ask, the only silent waits are below the quorum with nobody in flight."""
    limits = engine(concurrency=concurrency, buffer=buffer, refill=refill, quorum=quorum, max_staleness=max_staleness)
    now = situation(**seen)
    decision = decide(now, limits)
    match decision:
        case Wait(reason=reason):
            idle = now.live + now.transfers == 0
            assert not idle or now.candidates + now.suspects == 0 or wanted(now, limits) == 0
            assert reason in (WaitReason.ASSIGNMENTS, WaitReason.TRANSFERS, WaitReason.NO_CANDIDATES)
        case Commit(reason=commits):
            assert now.buffered >= min(buffer, max(1, quorum))
            assert reason_to_commit(now, limits) is commits
        case Ask(reason=AskReason.FREE_SLOTS, count=count):
            assert 0 < count <= min(now.candidates, concurrency - now.live)
        case Ask(count=count):
            assert now.candidates == 0
            assert 0 < count <= now.suspects


def test_a_gateway_claims_the_examples_of_as_many_nodes_as_it_may_have() -> None:
    known = facts(settings=engine(max_staleness=2, num_examples_max=1000, payload_bytes_max=5_000, gateways={ANN: 3}))
    assert ruling(known, num_examples=3_000) == ACCEPTED
    assert ruling(known, num_examples=3_001).reason is Reason.BAD_NUM_EXAMPLES
    assert ruling(num_examples=1_001).reason is Reason.BAD_NUM_EXAMPLES

"""What every coordinator store promises, whether it waits for the disk at each change or for many together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.records import (
    Attendance,
    Attended,
    Member,
    NodeResult,
    NodesEvaluation,
    NodeSpent,
    RoundRecord,
    TransferRecord,
    Verdict,
)
from coordinator.storage.participation import OTHERS, REASONS_MAX
from coordinator.storage.seals import sealed_updates
from coordinator.storage.sqlite_store import INLINE_BYTES_MAX, SqlStore
from coordinator.storage.store import Commit, CoordinatorStore, CurveKind, Figures
from coordinator.strategies.strategy import StrategySettings, make_strategy
from federation.errors import LocalProtocolError, StorageError
from federation.protocol.chunking import payload_digest
from federation.protocol.cohort import EVERYONE, cohort_of
from federation.protocol.messages import EvaluationReport, PartKind, Reason, ReceiptStatus
from federation.types import (
    ExamplePrivacy,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    SampledSteps,
    UpdateId,
)
from fedmq.audit.audit import recompute_head
from tests.rigs.masked_rig import masked_report
from tests.rigs.model_values import INITIAL, MANIFEST, Arrived, arrived, committer, initialised, update
from tests.rigs.postgres import store_at
from update_codec import CodecSpec


@dataclass
class Bench:
    """One state that processes come and go on."""

    store: CoordinatorStore
    again: Callable[[CoordinatorStore], CoordinatorStore]

    def restart(self) -> CoordinatorStore:
        """The next process on the same state."""
        self.store = self.again(self.store)
        return self.store

    def settle(self) -> None:
        """What a process does before it speaks."""
        assert isinstance(self.store, SqlStore)
        self.store.sync()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SqlStore]:
    """Opens a store, the same one each time."""
    url = request.getfixturevalue("postgres").new_database() if request.param == "postgresql" else None
    return partial(store_at, tmp_path / "store", url)


@pytest.fixture(params=["each", "later"])
def bench(request: pytest.FixtureRequest, empty: Callable[[], SqlStore]) -> Iterator[Bench]:
    def reopen(store: CoordinatorStore) -> CoordinatorStore:
        store.close()
        return empty()

    store = empty()
    made = Bench(store=store, again=reopen)
    initialised(store)
    if request.param == "later":
        store.wait_later()
    yield made
    made.store.close()


def a_round(number: int, *nodes: str, version: int = 0) -> RoundRecord:
    names = tuple(NodeId(node) for node in nodes)
    cohort = cohort_of(made_run, RoundId(number), names) if names else EVERYONE
    return RoundRecord(round=RoundId(number), version=ModelVersion(version), nodes=names, cohort=cohort)


made_run = RunId("0" * 16)


def a_verdict(sent: Arrived, status: ReceiptStatus, reason: Reason) -> Verdict:
    return Verdict(update=sent.record.update, node=sent.record.node, status=status, reason=reason)


def commit_of(store: CoordinatorStore, *sent: Arrived, settings: CommitterSettings | None = None) -> None:
    """Store these updates and make a version of them."""
    for one in sent:
        store.save_update(one.record, one.payload)
    made = committer(store, settings).commit(
        [one.member for one in sent], "buffer_full", Figures(wall_s=1.5, bytes_up=7)
    )
    assert not hasattr(made, "culprits")


def test_a_new_store_has_version_zero_and_nothing_else(bench: Bench) -> None:
    state = bench.store.recovered(recent=5)
    assert (state.head.version, state.head.previous, state.head.seed) == (0, b"", 3)
    assert state.head.digest == INITIAL.digest()
    assert dict(state.recent) == {0: state.head.digest}
    assert (state.next_round, state.open_rounds, state.stored, state.transfers) == (0, (), (), ())
    assert bench.store.manifest() == MANIFEST


def test_a_store_is_initialised_once(bench: Bench) -> None:
    with pytest.raises(LocalProtocolError):
        initialised(bench.store)


def test_the_epoch_counts_up_at_every_start_and_the_run_stays(bench: Bench) -> None:
    run, epoch = bench.store.run, bench.store.epoch
    assert bench.restart().epoch == epoch + 1
    assert bench.restart().epoch == epoch + 2
    assert bench.store.run == run == bench.store.recovered(recent=1).run
    assert bench.store.recovered(recent=1).epoch == epoch + 2


def test_a_reserved_round_is_never_given_out_again(bench: Bench) -> None:
    bench.store.save_round(a_round(0, "a", "b"))
    bench.store.save_round(a_round(1, "c"))
    bench.store.close_round(RoundId(1), [NodeId("c")])
    assert bench.restart().recovered(recent=1).next_round == 2
    with pytest.raises(LocalProtocolError):
        bench.store.save_round(a_round(1, "d"))


def test_saving_the_newest_round_again_does_nothing(bench: Bench) -> None:
    bench.store.save_round(a_round(0, "a", "b"))
    bench.store.close_round(RoundId(0), [NodeId("a")])
    bench.store.save_round(a_round(0, "a", "b"))
    (opened,) = bench.restart().recovered(recent=1).open_rounds
    assert opened.nodes == (NodeId("b"),)


def test_open_assignments_keep_their_order_their_cohort_and_their_version(bench: Bench) -> None:
    record = a_round(4, "z", "a", "m", version=0)
    bench.store.save_round(record)
    assert bench.restart().recovered(recent=1).open_rounds == (record,)


def test_a_cohort_of_everybody_survives_its_64_bits(bench: Bench) -> None:
    record = replace(a_round(0), nodes=(NodeId("a"),))
    bench.store.save_round(record)
    (opened,) = bench.restart().recovered(recent=1).open_rounds
    assert opened.cohort == EVERYONE


def test_a_round_without_open_assignments_is_over(bench: Bench) -> None:
    bench.store.save_round(a_round(0, "a", "b"))
    bench.store.close_round(RoundId(0), [NodeId("a"), NodeId("nobody")])
    bench.store.close_round(RoundId(0), [NodeId("b")])
    bench.store.close_round(RoundId(9), [NodeId("b")])
    assert bench.restart().recovered(recent=1).open_rounds == ()


def test_a_delivered_update_of_an_open_round_is_known_after_a_crash(bench: Bench) -> None:
    bench.store.save_round(a_round(0, "a", "b"))
    sent = arrived("a", update(1.0))
    bench.store.save_update(sent.record, sent.payload)
    state = bench.restart().recovered(recent=1)
    assert state.delivered == {UpdateId("0-a")}
    assert state.stored == (sent.record,)
    assert bench.store.payload(sent.record.update) == sent.payload


def test_stored_updates_come_back_in_order_of_arrival(bench: Bench) -> None:
    names = ["c", "a", "b"]
    for name in names:
        sent = arrived(name, update(1.0))
        bench.store.save_update(sent.record, sent.payload)
    assert [record.node for record in bench.restart().recovered(recent=1).stored] == names


def test_an_update_is_stored_once(bench: Bench) -> None:
    sent = arrived("a", update(1.0))
    bench.store.save_update(sent.record, sent.payload)
    with pytest.raises(LocalProtocolError):
        bench.store.save_update(sent.record, sent.payload)
    assert len(list(bench.store.updates())) == 1


def test_every_field_of_an_update_survives(bench: Bench) -> None:
    sent = arrived("a", update(1.0), round_id=7, num_examples=12, codec=CodecSpec.parse("edge"))
    record = replace(sent.record, fetched_bytes=99, train_s=0.25, metrics={"loss": 1.5})
    bench.store.save_update(record, sent.payload)
    (row,) = bench.restart().updates()
    assert row.record == record
    assert row.verdict == Verdict(update=record.update, node=record.node, status=ReceiptStatus.STORED)


def test_a_stored_update_that_became_stale_is_settled(bench: Bench) -> None:
    sent = arrived("a", update(1.0))
    bench.store.save_update(sent.record, sent.payload)
    verdict = a_verdict(sent, ReceiptStatus.STALE, Reason.TOO_STALE)
    bench.store.save_verdict(verdict, None)
    assert bench.restart().verdict(sent.record.update) == verdict
    assert bench.store.recovered(recent=1).stored == ()
    with pytest.raises(StorageError):
        bench.store.payload(sent.record.update)


def test_an_update_that_was_never_stored_is_refused_with_its_record(bench: Bench) -> None:
    sent = arrived("a", update(1.0))
    verdict = a_verdict(sent, ReceiptStatus.REFUSED, Reason.NORM)
    bench.store.save_verdict(verdict, sent.record)
    bench.store.save_verdict(verdict, sent.record)
    assert bench.restart().verdict(sent.record.update) == verdict
    assert [row.record for row in bench.store.updates()] == [sent.record]


def test_a_final_verdict_is_final(bench: Bench) -> None:
    sent = arrived("a", update(1.0))
    bench.store.save_verdict(a_verdict(sent, ReceiptStatus.REFUSED, Reason.NORM), sent.record)
    with pytest.raises(LocalProtocolError):
        bench.store.save_verdict(a_verdict(sent, ReceiptStatus.STALE, Reason.TOO_STALE), sent.record)


def test_a_verdict_on_an_unknown_update_needs_its_record(bench: Bench) -> None:
    sent = arrived("a", update(1.0))
    with pytest.raises(LocalProtocolError):
        bench.store.save_verdict(a_verdict(sent, ReceiptStatus.STALE, Reason.TOO_STALE), None)
    assert bench.store.verdict(sent.record.update) is None


def test_a_commit_makes_version_members_and_head_in_one_step(bench: Bench) -> None:
    first, second, late = arrived("a", update(1.0)), arrived("b", update(3.0)), arrived("c", update(9.0))
    bench.store.save_update(late.record, late.payload)
    commit_of(bench.store, first, second)
    state = bench.restart().recovered(recent=2)
    assert state.head.version == 1
    assert state.head.accepted == 2
    assert state.head.previous == state.recent[ModelVersion(0)]
    assert set(state.recent) == {0, 1}
    assert state.stored == (late.record,)
    verdict = bench.store.verdict(first.record.update)
    assert verdict is not None
    assert (verdict.status, verdict.version) == (ReceiptStatus.APPLIED, 1)
    assert verdict.reason is Reason.NONE


def test_the_model_and_the_parts_of_the_head_survive(bench: Bench) -> None:
    commit_of(bench.store, arrived("a", update(1.0, statistics=2.0, counters=(5, 8))))
    head = bench.restart().recovered(recent=1).head
    model = bench.store.model(head.version)
    assert model.shadow.digest() == head.digest
    np.testing.assert_array_equal(model.parameters, INITIAL.parameters + np.float32(1.0))
    for part in head.parts:
        assert len(bench.store.frame(part)) == part.payload_bytes
    assert bench.store.model(ModelVersion(0)).shadow.digest() == INITIAL.digest()


def test_the_strategys_state_and_the_exact_model_survive(bench: Bench) -> None:
    settings = CommitterSettings(
        strategy=make_strategy(StrategySettings(name="fedadam")),
        downlink=DownlinkSettings(spec=CodecSpec.parse("edge")),
    )
    commit_of(bench.store, arrived("a", update(np.linspace(-1, 1, 45, dtype=np.float32))), settings=settings)
    before = bench.store.model(ModelVersion(1))
    after = bench.restart().model(ModelVersion(1))
    assert set(after.strategy) == {"m", "v"}
    np.testing.assert_array_equal(after.strategy["v"], before.strategy["v"])
    assert after.exact is not None
    np.testing.assert_array_equal(after.parameters, before.parameters)


def test_models_of_older_versions_are_let_go(bench: Bench) -> None:
    for number in range(3):
        commit_of(bench.store, arrived("a", update(1.0), round_id=number))
    bench.settle()
    assert bench.store.model(ModelVersion(2)).version == 2
    with pytest.raises(StorageError):
        bench.store.model(ModelVersion(1))


def test_payloads_are_kept_for_one_audit_and_then_let_go(bench: Bench) -> None:
    sent = [arrived("a", update(1.0), round_id=number) for number in range(2)]
    commit_of(bench.store, sent[0])
    assert bench.store.payload(sent[0].record.update) == sent[0].payload
    commit_of(bench.store, sent[1])
    with pytest.raises(StorageError):
        bench.store.payload(sent[0].record.update)
    assert bench.store.payload(sent[1].record.update) == sent[1].payload


def test_a_commit_that_skips_a_version_is_our_own_bug(bench: Bench) -> None:
    head, model = bench.store.recovered(recent=1).head, bench.store.model(ModelVersion(0))
    with pytest.raises(LocalProtocolError):
        bench.store.commit(Commit(record=replace(head, version=ModelVersion(2)), model=model, frames={}))


def test_a_member_that_is_not_stored_undoes_the_whole_commit(bench: Bench) -> None:
    sent = arrived("a", update(1.0))
    bench.store.save_update(sent.record, sent.payload)
    ghost = Member(update=UpdateId("0-ghost"), node=NodeId("ghost"), num_examples=1, staleness=0)
    head, model = bench.store.recovered(recent=1).head, bench.store.model(ModelVersion(0))
    record = replace(head, version=ModelVersion(1), parts=())
    with pytest.raises(LocalProtocolError):
        bench.store.commit(
            Commit(record=record, model=replace(model, version=record.version), frames={}, members=[sent.member, ghost])
        )
    state = bench.restart().recovered(recent=1)
    assert state.head.version == 0
    assert state.stored == (sent.record,)


def test_an_update_has_the_sum_of_what_is_kept_of_it_at_each_step(bench: Bench) -> None:
    def whole() -> list[bool | None]:
        assert isinstance(bench.store, SqlStore)
        return [row.whole for row in sealed_updates(bench.store._database)]

    said = {"loss": 0.5, 'a "quoted" é\x7f\u2028 name': 1e-300}
    applied, waiting, refused = (arrived(node, update(1.0)) for node in ("a", "b", "c"))
    applied = replace(applied, record=replace(applied.record, train_s=3, metrics=said, fetched_bytes=2**40))
    for sent in (applied, waiting):
        bench.store.save_update(sent.record, sent.payload)
    bench.store.save_verdict(a_verdict(refused, ReceiptStatus.REFUSED, Reason.NORM), refused.record)
    assert whole() == [True, True, True]
    committer(bench.store).commit([applied.member], "buffer_full", Figures(wall_s=1.5, bytes_up=7))
    bench.store.save_verdict(a_verdict(waiting, ReceiptStatus.STALE, Reason.TOO_STALE), None)
    assert whole() == [True, True, True]
    bench.restart()
    assert whole() == [True, True, True]


def test_parts_are_obsolete_two_versions_later_and_only_until_they_are_cleared(bench: Bench) -> None:
    def obsolete() -> list[tuple[PartKind, int]]:
        parts = bench.store.obsolete_parts(bench.store.recovered(recent=1).head)
        return [(part.kind, part.version) for part in parts]

    commit_of(bench.store, arrived("a", update(1.0)))
    assert obsolete() == []
    commit_of(bench.store, arrived("a", update(1.0), round_id=1))
    assert (PartKind.KEYFRAME, 0) in obsolete()
    bench.restart()
    head = bench.store.recovered(recent=1).head
    bench.store.mark_cleared(bench.store.obsolete_parts(head))
    assert obsolete() == []


def test_a_large_update_arrives_in_chunks_across_a_crash(bench: Bench) -> None:
    body = bytes(range(256)) * 10
    record = replace(arrived("a", update(1.0)).record, payload_bytes=len(body), payload_digest=payload_digest(body))
    transfer = TransferRecord(record=record, chunk_bytes=1000)
    bench.store.open_transfer(transfer)
    bench.store.save_chunk(record.update, 2, body[2000:])
    bench.store.save_chunk(record.update, 0, body[:1000])
    assert bench.restart().recovered(recent=1).transfers == (replace(transfer, arrived=frozenset({0, 2})),)
    bench.store.open_transfer(transfer)
    bench.store.save_chunk(record.update, 1, body[1000:2000])
    bench.store.save_chunk(record.update, 1, body[1000:2000])
    assert bench.store.transfer_payload(record.update) == body
    bench.store.save_update(record, body)
    assert bench.store.recovered(recent=1).transfers == ()
    assert bench.restart().payload(record.update) == body
    with pytest.raises(StorageError):
        bench.store.transfer_payload(record.update)


def test_a_frame_larger_than_a_row_is_kept_and_dropped(bench: Bench) -> None:
    body = b"x" * (INLINE_BYTES_MAX + 1)
    sent = arrived("a", update(1.0))
    record = replace(sent.record, payload_bytes=len(body), payload_digest=payload_digest(body))
    bench.store.save_update(record, body)
    assert bench.restart().payload(record.update) == body
    with pytest.raises(LocalProtocolError):
        bench.store.save_update(record, b"y" * (INLINE_BYTES_MAX + 1))
    assert bench.store.payload(record.update) == body
    bench.store.save_verdict(a_verdict(sent, ReceiptStatus.STALE, Reason.FINISHED), None)
    with pytest.raises(StorageError):
        bench.restart().payload(record.update)


def test_a_head_can_be_published_in_other_parts(bench: Bench) -> None:
    head = bench.store.recovered(recent=1).head
    (part,) = head.parts
    other = replace(part, payload_digest=payload_digest(b"other"), payload_bytes=5)
    bench.store.replace_parts(replace(head, parts=(other,), seed=None), {other: b"other"})
    again = bench.restart()
    assert again.recovered(recent=1).head == replace(head, parts=(other,), seed=None)
    assert again.frame(other) == b"other"


def test_the_largest_numbers_that_nodes_may_say_can_be_added(bench: Bench) -> None:
    most = 2**63 - 1
    for number in range(3):
        sent = arrived("a", update(1.0), round_id=number)
        bench.store.save_update(replace(sent.record, fetched_bytes=most), sent.payload)
    (node,) = bench.store.participation()
    assert node.bytes_down == 3 * most


def test_a_dropped_transfer_takes_no_more_chunks(bench: Bench) -> None:
    record = arrived("a", update(1.0)).record
    bench.store.open_transfer(TransferRecord(record=record, chunk_bytes=1000))
    bench.store.drop_transfer(record.update)
    bench.store.drop_transfer(record.update)
    with pytest.raises(LocalProtocolError):
        bench.store.save_chunk(record.update, 0, b"x")
    assert bench.restart().recovered(recent=1).transfers == ()


def test_a_refused_update_ends_its_transfer(bench: Bench) -> None:
    sent = arrived("a", update(1.0))
    bench.store.open_transfer(TransferRecord(record=sent.record, chunk_bytes=1000))
    bench.store.save_verdict(a_verdict(sent, ReceiptStatus.REFUSED, Reason.CODEC), sent.record)
    assert bench.restart().recovered(recent=1).transfers == ()


def test_the_history_says_what_each_version_cost_and_reached(bench: Bench) -> None:
    refused, stale = arrived("r", update(1.0)), arrived("s", update(1.0))
    bench.store.save_verdict(a_verdict(refused, ReceiptStatus.REFUSED, Reason.NORM), refused.record)
    commit_of(bench.store, arrived("a", update(1.0)))
    bench.store.save_verdict(a_verdict(stale, ReceiptStatus.STALE, Reason.TOO_STALE), stale.record)
    commit_of(bench.store, arrived("a", update(1.0), round_id=1))
    bench.store.save_evaluation(ModelVersion(1), {"accuracy": 0.5})
    zero, one, two = bench.restart().history()
    assert [row.record.version for row in (zero, one, two)] == [0, 1, 2]
    assert (one.refused, one.stale, two.refused, two.stale) == (1, 0, 0, 1)
    assert (one.figures, one.reason) == (Figures(wall_s=1.5, bytes_up=7), "buffer_full")
    assert (dict(one.metrics), dict(two.metrics)) == ({"accuracy": 0.5}, {})


def test_participation_names_also_a_node_whose_work_was_never_used(bench: Bench) -> None:
    used, unused = arrived("a", update(1.0)), arrived("b", update(1.0))
    record = replace(used.record, fetched_bytes=50)
    bench.store.save_update(record, used.payload)
    committer(bench.store).commit([replace(used.member, staleness=2)], "full", Figures())
    bench.store.save_verdict(a_verdict(unused, ReceiptStatus.STALE, Reason.TOO_STALE), unused.record)
    ann, bob = bench.restart().participation()
    assert (ann.node, ann.count(ReceiptStatus.APPLIED), ann.staleness_mean) == ("a", 1, 2.0)
    assert (ann.bytes_up, ann.bytes_down) == (len(used.payload), 50)
    assert (bob.count(ReceiptStatus.STALE), dict(bob.reasons)) == (1, {Reason.TOO_STALE: 1})
    assert (bob.count(ReceiptStatus.APPLIED), bob.staleness_mean) == (0, 0.0)


def seen(incarnations: dict[str, int], absences: dict[str, dict[str, int]] | None = None) -> Attendance:
    return Attendance(
        incarnations={NodeId(node): Incarnation(number) for node, number in incarnations.items()},
        absences={NodeId(node): counts for node, counts in (absences or {}).items()},
    )


def test_participation_names_also_a_node_that_never_sent_an_update(bench: Bench) -> None:
    bench.store.save_round(a_round(0, "a", "b"))
    bench.store.save_round(a_round(0, "a", "b"))
    bench.store.save_attendance(seen({"c": 4}, {"b": {"no answer": 1}}))
    bench.store.save_attendance(seen({}, {"b": {"no answer": 2, "battery is low": 1}}))
    found = {node.node: node.attended for node in bench.restart().participation()}
    assert found == {
        "a": Attended(asked=1),
        "b": Attended(asked=1, absences={"no answer": 3, "battery is low": 1}),
        "c": Attended(incarnation=Incarnation(4)),
    }


def test_restarts_are_counted_by_boot_number_across_restarts_of_the_coordinator(bench: Bench) -> None:
    sent = arrived("a", update(1.0))
    bench.store.save_update(sent.record, sent.payload)
    for incarnation in (7, 7, 8):
        bench.store.save_attendance(seen({"a": incarnation}))
    bench.restart().save_attendance(seen({"a": 10}))  # it has started twice while nobody looked
    bench.store.save_attendance(seen({"a": 1}))  # its state folder began anew
    (ann,) = bench.store.participation()
    assert ann.attended == Attended(incarnation=Incarnation(1), restarts=4)


def test_a_node_cannot_fill_the_store_with_reasons(bench: Bench) -> None:
    bench.store.save_attendance(seen({}, {"a": {f"reason {number}": 1 for number in range(REASONS_MAX + 5)}}))
    (ann,) = bench.store.participation()
    assert len(ann.attended.absences) == REASONS_MAX + 1
    assert ann.attended.absences[OTHERS] == 5


@pytest.mark.parametrize("down", ["lossless", "edge"])
@pytest.mark.parametrize("strategy", ["fedavg", "fedyogi"])
def test_the_head_is_the_same_bytes_when_it_is_made_again(bench: Bench, strategy: str, down: str) -> None:
    """I7."""
    settings = CommitterSettings(
        strategy=make_strategy(StrategySettings(name=strategy)), downlink=DownlinkSettings(spec=CodecSpec.parse(down))
    )
    rng = np.random.default_rng(5)
    for number in range(3):
        sent = [
            arrived(name, update(rng.normal(size=45).astype(np.float32)), round_id=number, num_examples=number + 3)
            for name in ("a", "b")
        ]
        commit_of(bench.store, *sent, settings=settings)
        assert recompute_head(bench.restart(), settings) == bench.store.recovered(recent=1).head.digest


def test_there_is_nothing_to_audit_before_the_first_commit(bench: Bench) -> None:
    with pytest.raises(StorageError):
        recompute_head(bench.store, CommitterSettings())


def test_an_empty_store_cannot_be_recovered(empty: Callable[[], SqlStore]) -> None:
    store = empty()
    with pytest.raises(LocalProtocolError):
        store.recovered(recent=1)
    store.close()


def test_a_part_that_nobody_lists_is_not_there(bench: Bench) -> None:
    (part,) = bench.store.recovered(recent=1).head.parts
    with pytest.raises(StorageError):
        bench.store.frame(replace(part, version=ModelVersion(77)))


def surveyed(store: CoordinatorStore, *, share: int = 2**64 - 1) -> None:
    """A round of version 0 whose announcement asks for an evaluation."""
    nodes = (NodeId("a"), NodeId("b"))
    cohort = cohort_of(store.run, RoundId(0), nodes)
    store.save_round(
        RoundRecord(round=RoundId(0), version=ModelVersion(0), nodes=nodes, cohort=cohort, evaluation=share)
    )


def result(node: str, examples: int, *, counted: bool = True, **metrics: float) -> NodeResult:
    """What a node found at version 0."""
    return NodeResult(
        version=ModelVersion(0), node=NodeId(node), num_examples=examples, metrics=metrics, counted=counted
    )


def test_an_evaluation_on_the_nodes_is_reserved_with_its_round_and_survives(bench: Bench) -> None:
    surveyed(bench.store)
    bench.store.save_node_result(result("a", 10, accuracy=0.5))
    bench.settle()
    recovered = bench.restart().recovered(recent=1)
    assert recovered.surveyed == (NodesEvaluation(version=ModelVersion(0), share=2**64 - 1),)
    assert recovered.reported == {"a": 10}
    assert recovered.open_rounds[0].evaluation == 2**64 - 1


def test_a_masked_report_that_was_kept_and_does_not_count_waits_for_no_sum(bench: Bench) -> None:
    """A process ends between the two: its node says it again."""
    surveyed(bench.store)
    for node in ("a", "b"):
        report = EvaluationReport(
            run=bench.store.run,
            version=ModelVersion(0),
            digest=bench.store.recovered(recent=1).head.digest,
            num_examples=0,
            masked=masked_report(node, 0),
        )
        bench.store.batches.keep_report(NodeId(node), report)
    bench.store.save_node_result(result("a", 0))
    bench.settle()
    (waiting,) = bench.restart().recovered(recent=1).masked_reports
    assert waiting.reports.keys() == {"a"}


def test_all_rounds_of_a_version_have_one_evaluation(bench: Bench) -> None:
    surveyed(bench.store)
    other = RoundRecord(round=RoundId(1), version=ModelVersion(0), nodes=(), cohort=EVERYONE, evaluation=7)
    with pytest.raises(LocalProtocolError, match="another share"):
        bench.store.save_round(other)
    assert bench.store.recovered(recent=1).next_round == 1


def test_a_nodes_first_word_on_a_version_stays(bench: Bench) -> None:
    surveyed(bench.store)
    first = result("a", 10, accuracy=0.5)
    assert bench.store.save_node_result(first) == first
    assert bench.store.save_node_result(result("a", 99, accuracy=0.9)) == first
    assert bench.store.node_result(ModelVersion(0), NodeId("a")) == first
    assert bench.store.node_result(ModelVersion(0), NodeId("b")) is None


def test_the_mean_over_the_nodes_weighs_by_test_examples_and_is_made_once(bench: Bench) -> None:
    surveyed(bench.store)
    for found in (
        result("b", 30, accuracy=1.0, loss=2.0),
        result("a", 10, accuracy=0.5),
        result("c", 0),
        result("late", 1000, counted=False, accuracy=0.0),
    ):
        bench.store.save_node_result(found)
    made = bench.store.close_evaluation(ModelVersion(0))
    assert (made.nodes, made.num_examples, made.closed) == (2, 40, True)
    assert made.metrics == {"accuracy": (10 * 0.5 + 30 * 1.0) / 40, "loss": 2.0}
    bench.store.save_node_result(result("d", 1000, counted=False, accuracy=0.0))
    assert bench.store.close_evaluation(ModelVersion(0)) == made
    bench.settle()
    assert bench.restart().recovered(recent=1).surveyed == (made,)


def test_an_evaluation_that_nobody_answered_has_no_mean(bench: Bench) -> None:
    surveyed(bench.store)
    made = bench.store.close_evaluation(ModelVersion(0))
    assert (made.nodes, made.metrics, made.closed) == (0, {}, True)


def test_a_result_of_an_evaluation_that_was_never_reserved_is_our_own_bug(bench: Bench) -> None:
    with pytest.raises(LocalProtocolError, match="reserved"):
        bench.store.save_node_result(result("a", 10))
    with pytest.raises(LocalProtocolError, match="reserved"):
        bench.store.close_evaluation(ModelVersion(0))


def versions_after(bench: Bench, count: int) -> None:
    for number in range(count):
        sent = arrived("a", update(0.1), round_id=number)
        bench.store.save_update(sent.record, sent.payload)
        committer(bench.store).commit([sent.member], "full", Figures())


def test_the_best_version_and_what_is_being_evaluated_are_kept_and_nothing_else(bench: Bench) -> None:
    bench.store.retain([ModelVersion(0)], None)
    versions_after(bench, 3)
    before = bench.store.model(ModelVersion(0)).shadow.digest()
    bench.store.retain([], ModelVersion(0))
    bench.settle()
    store = bench.restart()
    assert store.best() == 0
    assert store.model(ModelVersion(0)).shadow.digest() == before
    with pytest.raises(StorageError):
        store.model(ModelVersion(1))
    store.retain([], ModelVersion(3))
    assert bench.store.best() == 3
    with pytest.raises(StorageError):
        bench.store.model(ModelVersion(0))


def test_a_version_whose_arrays_are_gone_cannot_become_the_best(bench: Bench) -> None:
    versions_after(bench, 3)
    bench.settle()
    bench.store.retain([], ModelVersion(0))
    assert bench.store.best() is None


def test_the_curves_hold_every_report_by_version_kind_and_node(bench: Bench) -> None:
    surveyed(bench.store)
    bench.store.save_node_result(result("b", 30, accuracy=1.0))
    bench.store.save_node_result(result("a", 10, accuracy=0.5))
    bench.store.save_node_result(result("mute", 0))
    bench.store.close_evaluation(ModelVersion(0))
    sent = arrived("a", update(0.1), round_id=0)
    bench.store.save_update(replace(sent.record, metrics={"loss": 0.25}), sent.payload)
    unused = arrived("b", update(0.1), round_id=0)
    bench.store.save_update(replace(unused.record, metrics={"loss": 9.0}), unused.payload)
    committer(bench.store).commit([sent.member], "full", Figures())
    bench.store.save_evaluation(ModelVersion(1), {"accuracy": 0.75})
    points = [(p.version, p.kind, p.node, p.num_examples, dict(p.metrics)) for p in bench.store.curves()]
    assert points == [
        (0, CurveKind.NODE, "a", 10, {"accuracy": 0.5}),
        (0, CurveKind.NODE, "b", 30, {"accuracy": 1.0}),
        (0, CurveKind.NODES, None, 40, {"accuracy": 0.875}),
        (1, CurveKind.CENTRAL, None, 0, {"accuracy": 0.75}),
        (1, CurveKind.TRAINING, "a", 10, {"loss": 0.25}),
    ]
    assert bench.store.curves()[-1].base_version == 0


def test_what_a_node_has_spent_never_goes_down(bench: Bench) -> None:
    """FED-183."""
    privacy = ExamplePrivacy(clip=1.0, noise=2.0, sampling_rate=0.1, epsilon=3.0, delta=1e-5)

    def spent(node: str, count: int, round_id: int) -> NodeSpent:
        steps = (SampledSteps(sampling_rate=0.1, noise=2.0, steps=count),)
        return NodeSpent(node=NodeId(node), steps=steps, round=RoundId(round_id), privacy=privacy)

    bench.store.save_spent(spent("a", 10, 1))
    bench.store.save_spent(spent("b", 5, 1))
    bench.store.save_spent(spent("a", 30, 4))
    bench.store.save_spent(spent("a", 20, 3))
    assert bench.store.spent() == {"a": spent("a", 30, 4), "b": spent("b", 5, 1)}
    bench.restart()
    assert bench.store.spent() == {"a": spent("a", 30, 4), "b": spent("b", 5, 1)}

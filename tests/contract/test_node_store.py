"""What every node store promises, with large arrays in its database and in files beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edge_node.records import OutboxEntry, RecoveredNode, Seen, StateChange
from edge_node.storage import bodies
from edge_node.storage.database import RUNS_OWED_MAX
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.store import NodeStore
from federation.errors import LocalProtocolError, StorageError
from federation.protocol.messages import Proof
from federation.types import Epoch, ModelVersion, RoundId, RunId, SampledSteps, Start, StateId
from tests.rigs.node_values import OTHER_RUN, RUN, entry, model, residual


@dataclass
class Bench:
    """One state that processes come and go on."""

    store: NodeStore
    again: Callable[[NodeStore], NodeStore]

    def crash(self) -> NodeStore:
        """The next process on the same state."""
        self.store = self.again(self.store)
        return self.store


@pytest.fixture(params=["sqlite", "sqlite with files"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if request.param == "sqlite with files":
        monkeypatch.setattr(bodies, "LARGE_BYTES", 4)

    def again(store: NodeStore) -> NodeStore:
        store.close()
        return SqliteNodeStore(tmp_path / "state")

    bench = Bench(SqliteNodeStore(tmp_path / "state"), again)
    yield bench
    bench.store.close()


def test_new_store_knows_nothing(bench: Bench) -> None:
    assert bench.store.recovered() == RecoveredNode()
    assert bench.store.held_model() is None
    assert bench.store.residual() is None
    assert bench.store.entry(entry(1).offer.update) is None
    assert bench.store.frame(entry(1).offer.update) is None


def test_incarnation_counts_up_at_every_start(bench: Bench) -> None:
    assert [bench.store.incarnation, bench.crash().incarnation, bench.crash().incarnation] == [1, 2, 3]


def test_a_state_has_an_identity_that_no_other_has(bench: Bench, tmp_path: Path) -> None:
    """FED-99."""
    known = bench.store.state_id
    assert 1 <= known < 2**64
    assert bench.crash().state_id == known
    other = SqliteNodeStore(tmp_path / "new card")
    assert (other.state_id != known, other.incarnation) == (True, 1)
    other.close()


def test_an_identity_may_be_any_number_of_64_bits(tmp_path: Path) -> None:
    for _ in range(2):
        store = SqliteNodeStore(tmp_path, draw=lambda: StateId(2**64 - 1))
        assert store.state_id == 2**64 - 1
        store.close()


def test_update_residual_and_round_survive_a_crash_together(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame of the update", residual(0.5))
    store = bench.crash()
    assert store.recovered() == RecoveredNode(run=RUN, last_round=RoundId(7), outbox=(entry(7),))
    assert store.frame(entry(7).offer.update) == b"frame of the update"
    assert store.entry(entry(7).offer.update) == entry(7)
    np.testing.assert_array_equal(store.residual(), residual(0.5))


def test_outbox_keeps_the_order_of_saving(bench: Bench) -> None:
    for number in (3, 1, 2):
        bench.store.save_outbox(entry(number), b"frame", None)
    assert [kept.offer.round for kept in bench.crash().recovered().outbox] == [3, 1, 2]


def test_update_that_is_in_the_outbox_cannot_be_replaced(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", residual(0.5))
    with pytest.raises(LocalProtocolError, match="already"):
        bench.store.save_outbox(entry(7), b"other", residual(9.0))
    assert bench.crash().frame(entry(7).offer.update) == b"frame"


def test_inline_payload_is_not_kept_in_the_offer(bench: Bench) -> None:
    with_payload = OutboxEntry(offer=replace(entry(7).offer, inline=b"frame of the update"))
    bench.store.save_outbox(with_payload, b"frame of the update", None)
    assert bench.crash().recovered().outbox == (entry(7),)


def test_stored_mark_survives_a_crash(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", None)
    bench.store.mark_stored(entry(7).offer.update)
    assert bench.store.entry(entry(7).offer.update) == OutboxEntry(offer=entry(7).offer, stored=True)
    assert bench.crash().recovered().outbox == (OutboxEntry(offer=entry(7).offer, stored=True),)


def test_settled_update_is_gone_and_its_residual_is_kept(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", residual(0.5))
    bench.store.save_outbox(entry(8), b"other", residual(0.25))
    bench.store.settle(entry(7).offer.update, residual(0.75))
    store = bench.crash()
    assert [kept.offer.round for kept in store.recovered().outbox] == [8]
    assert store.frame(entry(7).offer.update) is None
    np.testing.assert_array_equal(store.residual(), residual(0.75))


def test_settling_twice_changes_nothing_the_second_time(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", residual(0.5))
    bench.store.settle(entry(7).offer.update, residual(0.75))
    bench.store.settle(entry(7).offer.update, residual(9.0))
    bench.store.mark_stored(entry(7).offer.update)
    np.testing.assert_array_equal(bench.store.residual(), residual(0.75))
    np.testing.assert_array_equal(bench.crash().residual(), residual(0.75))


def test_a_residual_says_from_which_version_its_update_was_trained_also_after_a_crash(bench: Bench) -> None:
    assert bench.store.residual_version() is None
    bench.store.save_outbox(entry(7), b"frame", residual(0.5))
    assert bench.store.residual_version() == 4
    bench.store.settle(entry(7).offer.update, residual(0.75))
    store = bench.crash()
    assert store.residual_version() == 4
    store.enter_run(OTHER_RUN)
    assert store.residual_version() is None
    store.enter_run(RUN)
    assert store.residual_version() == 4


def test_residual_can_become_none(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", residual(0.5))
    bench.store.settle(entry(7).offer.update, None)
    assert bench.crash().residual() is None


def test_residual_that_does_not_change_stays(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", residual(0.5))
    bench.store.settle(entry(7).offer.update, bench.store.residual())
    np.testing.assert_array_equal(bench.crash().residual(), residual(0.5))


def test_last_round_never_goes_back_within_a_run(bench: Bench) -> None:
    bench.store.save_progress(RUN, RoundId(9))
    bench.store.save_outbox(entry(7), b"frame", None)
    bench.store.save_progress(RUN, RoundId(8))
    assert bench.crash().recovered().last_round == 9


def test_another_run_begins_its_own_count(bench: Bench) -> None:
    bench.store.save_progress(RUN, RoundId(9))
    bench.store.save_progress(OTHER_RUN, RoundId(2))
    recovered = bench.crash().recovered()
    assert (recovered.run, recovered.last_round) == (OTHER_RUN, 2)


def test_held_model_survives_a_crash(bench: Bench) -> None:
    bench.store.enter_run(RUN)
    bench.store.save_model(model(4))
    bench.store.save_model(model(5))
    store = bench.crash()
    held = store.held_model()
    assert held is not None
    assert (held.version, held.digest, held.manifest_digest) == (5, model(5).digest, bytes(16))
    np.testing.assert_array_equal(held.vectors.parameters, model(5).vectors.parameters)
    np.testing.assert_array_equal(held.vectors.counters, model(5).vectors.counters)
    assert (store.recovered().held_version, store.recovered().held_digest) == (5, model(5).digest)


def lived(store: NodeStore, run: RunId, value: float) -> None:
    """One round in a run: a model, an update with a pending change, a residual, a state of the task."""
    store.enter_run(run)
    store.save_model(model(int(value)))
    change = StateChange(kept={"head": np.full(2, value)}, pending={"control": np.full(2, 1.0)})
    store.save_outbox(entry(7, run=run), f"frame of {run}".encode(), residual(value), change, context=run.encode())
    store.save_seen(Seen(run=run, epoch=Epoch(int(value)), start=Start(2**64 - 2), round=RoundId(8)))


def check_life(store: NodeStore, run: RunId, value: float) -> None:
    """Everything of it is there."""
    update = entry(7).offer.update
    recovered, held = store.recovered(), store.held_model()
    assert (recovered.run, recovered.last_round, recovered.outbox) == (run, 7, (entry(7, run=run),))
    assert recovered.seen == Seen(run=run, epoch=Epoch(int(value)), start=Start(2**64 - 2), round=RoundId(8))
    assert held is not None
    assert (recovered.held_version, held.version) == (value, value)
    assert store.frame(update) == f"frame of {run}".encode()
    assert store.context(update) == run.encode()
    assert store.residual_version() == 4
    np.testing.assert_array_equal(store.residual(), residual(value))
    np.testing.assert_array_equal(store.task_state()["head"], np.full(2, value))
    np.testing.assert_array_equal(store.pending(update)["control"], np.full(2, 1.0))


@pytest.mark.parametrize("crashes", [False, True])
def test_two_runs_in_turn_lose_nothing_of_each_other(bench: Bench, crashes: bool) -> None:
    """FED-113: also with one update id in both."""
    for run, value in ((RUN, 5.0), (OTHER_RUN, 3.0)):
        lived(bench.store, run, value)
    for run, value in ((RUN, 5.0), (OTHER_RUN, 3.0), (RUN, 5.0)):
        assert (bench.crash() if crashes else bench.store).enter_run(run) == ()
        check_life(bench.crash() if crashes else bench.store, run, value)
    (hidden,) = bench.store.recovered().hidden
    assert (hidden.run, hidden.last_round, hidden.held_version) == (OTHER_RUN, 7, 3)
    assert hidden.outbox == (entry(7, run=OTHER_RUN),)


def test_a_receipt_settles_the_update_of_its_run_only(bench: Bench) -> None:
    """FED-113, FED-50."""
    for run, value in ((OTHER_RUN, 3.0), (RUN, 5.0)):
        lived(bench.store, run, value)
    update = entry(7).offer.update
    bench.store.mark_stored(update)
    bench.store.settle(update, residual(9.0), applied=True)
    np.testing.assert_array_equal(bench.store.task_state()["control"], np.full(2, 1.0))
    bench.store.enter_run(OTHER_RUN)
    check_life(bench.crash(), OTHER_RUN, 3.0)


def test_a_new_run_begins_with_nothing(bench: Bench) -> None:
    """FED-113."""
    lived(bench.store, RUN, 5.0)
    bench.store.enter_run(OTHER_RUN)
    for crashes in (False, True):
        store = bench.crash() if crashes else bench.store
        assert replace(store.recovered(), hidden=()) == RecoveredNode(run=OTHER_RUN)
        assert (store.held_model(), store.residual(), store.task_state()) == (None, None, {})
        assert store.frame(entry(7).offer.update) is None


def numbered(number: int) -> RunId:
    return RunId(f"{number:016x}")


def kept_runs(store: NodeStore) -> set[RunId | None]:
    recovered = store.recovered()
    return {recovered.run, *(one.run for one in recovered.hidden)}


def test_the_longest_unheard_run_goes_first(bench: Bench, tmp_path: Path) -> None:
    """FED-114: with its files; what the coordinator has received keeps no run."""
    for number in range(4):
        lived(bench.store, numbered(number), 5.0)
        bench.store.mark_stored(entry(7).offer.update)
    bench.store.enter_run(numbered(0))  # it is heard again
    assert bench.store.enter_run(numbered(4)) == (numbered(1),)
    assert kept_runs(bench.crash()) == set(map(numbered, (0, 2, 3, 4)))
    assert not list((tmp_path / "state").glob(f"*{numbered(1)}*"))
    assert len(list((tmp_path / "state").glob("*.body"))) in (0, 3 * 5)
    bench.store.enter_run(numbered(1))
    assert bench.store.recovered().outbox == ()


def test_a_run_with_an_update_that_nobody_has_received_stays_for_30_days(tmp_path: Path) -> None:
    """FED-114."""
    now = [1.8e9]
    store = SqliteNodeStore(tmp_path, wall=lambda: now[0])
    lived(store, numbered(0), 5.0)
    for number in range(1, 8):
        store.enter_run(numbered(number))
    assert kept_runs(store) == set(map(numbered, (0, 5, 6, 7)))
    now[0] += 29.9 * 86_400
    assert store.enter_run(numbered(8)) == (numbered(5),)
    now[0] += 0.2 * 86_400
    assert store.enter_run(numbered(9)) == (numbered(0),)
    store.close()


@pytest.mark.parametrize("stamped_s", [0.0, 1.9e9])
def test_a_clock_that_was_never_set_or_went_back_makes_no_update_old(stamped_s: float, tmp_path: Path) -> None:
    """FED-114: a board without a clock of its own thinks that it is 1970."""
    now = [stamped_s]
    store = SqliteNodeStore(tmp_path, wall=lambda: now[0])
    lived(store, numbered(0), 5.0)
    now[0] = 1.8e9
    for number in range(1, 8):
        store.enter_run(numbered(number))
    assert numbered(0) in kept_runs(store)
    store.close()


def test_a_node_that_owes_updates_to_too_many_runs_enters_no_other_one_and_says_what_to_do(tmp_path: Path) -> None:
    """FED-114: bounded, and never at the cost of what nobody has received."""
    store = SqliteNodeStore(tmp_path)
    for number in range(RUNS_OWED_MAX):
        lived(store, numbered(number), 5.0)
    with pytest.raises(StorageError, match=r"32 runs have updates.*start one of their coordinators again"):
        store.enter_run(numbered(99))
    assert store.enter_run(numbered(0)) == ()
    store.close()
    store = SqliteNodeStore(tmp_path)
    assert kept_runs(store) == set(map(numbered, range(RUNS_OWED_MAX)))
    check_life(store, numbered(0), 5.0)
    store.close()


def test_the_newest_that_was_heard_survives_a_crash_of_each_run(bench: Bench) -> None:
    """FED-79, FED-110."""
    seen = Seen(run=RUN, epoch=Epoch(2), began_ms=5, round=RoundId(9), version=ModelVersion(4))
    for one in (seen, replace(seen, epoch=Epoch(3), start=Start(2**64 - 1), round=None, version=None)):
        bench.store.save_seen(one)
        assert bench.crash().recovered().seen == one
    bench.store.enter_run(OTHER_RUN)
    assert bench.crash().recovered().seen is None
    (hidden,) = bench.store.recovered().hidden
    assert hidden.seen == one


def test_what_proves_what_was_heard_survives_a_crash_of_each_run(bench: Bench) -> None:
    """FED-130: it has the largest size that it can have, and nothing without it removes it."""
    proof = Proof(state=b"s" * 4_096, announcement=b"r" * 4_096, receipt=b"v" * 512)
    seen = Seen(run=RUN, epoch=Epoch(2), start=Start(3), proof=proof)
    bench.store.save_seen(replace(seen, proof=Proof(state=b"former")))
    bench.store.save_seen(seen)
    assert bench.crash().recovered().seen == seen
    bench.store.enter_run(OTHER_RUN)
    assert bench.crash().recovered().seen is None
    (hidden,) = bench.store.recovered().hidden
    assert hidden.seen == seen


def test_the_newest_version_that_was_applied_survives_a_crash_of_each_run_and_goes_with_its_start(bench: Bench) -> None:
    """FED-112."""
    seen = Seen(run=RUN, epoch=Epoch(2), start=Start(3), applied=ModelVersion(2**32 - 1))
    bench.store.save_seen(replace(seen, applied=ModelVersion(0)))
    bench.store.save_seen(seen)
    assert bench.crash().recovered().seen == seen
    bench.store.enter_run(OTHER_RUN)
    (hidden,) = bench.crash().recovered().hidden
    assert hidden.seen == seen
    bench.store.save_seen(replace(seen, start=Start(9), applied=None))
    (hidden,) = bench.crash().recovered().hidden
    assert hidden.seen == replace(seen, start=Start(9), applied=None)


def test_rounds_beyond_what_a_restored_coordinator_says_are_asked_again(bench: Bench) -> None:
    """FED-111: the machine has given them up, and a restart must not find them again."""
    bench.store.save_progress(RUN, RoundId(500))
    bench.store.save_seen(Seen(run=RUN, epoch=Epoch(4)))
    assert bench.crash().recovered().last_round == 500
    bench.store.save_seen(Seen(run=RUN, epoch=Epoch(4), round=RoundId(500)))
    assert bench.crash().recovered().last_round == 500
    bench.store.save_seen(Seen(run=RUN, epoch=Epoch(5), round=RoundId(401)))
    assert bench.crash().recovered().last_round is None
    bench.store.save_progress(RUN, RoundId(401))
    assert bench.crash().recovered().last_round == 401


def test_what_a_frame_needs_to_be_decoded_stays_as_long_as_the_frame(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", None, context=b"classes of the parameters")
    bench.store.save_outbox(entry(8), b"other", None)
    store = bench.crash()
    assert store.context(entry(7).offer.update) == b"classes of the parameters"
    assert store.context(entry(8).offer.update) is None
    store.settle(entry(7).offer.update, None)
    assert bench.crash().context(entry(7).offer.update) is None


def test_the_average_of_the_global_updates_is_kept_with_the_model(bench: Bench) -> None:
    average = np.linspace(0, 1, 3, dtype=np.float32)
    bench.store.enter_run(RUN)
    bench.store.save_model(replace(model(4), average=average))
    held = bench.crash().held_model()
    assert held is not None
    np.testing.assert_array_equal(held.average, average)


# --- differential privacy -------------------------------------------------------------------------------------------


def spent(steps: int, noise: float = 1.0) -> SampledSteps:
    return SampledSteps(sampling_rate=0.1, noise=noise, steps=steps)


def private(round_id: int, *steps: SampledSteps, run: RunId = RUN) -> OutboxEntry:
    made = entry(round_id)
    return replace(made, offer=replace(made.offer, spent=steps, run=run))


def test_an_update_is_charged_in_the_step_that_saves_it(bench: Bench) -> None:
    """FED-180."""
    bench.store.save_outbox(private(1, spent(10)), b"one", None)
    bench.store.save_outbox(private(2, spent(20), spent(5, 2.0)), b"two", None)
    ledger = {RUN: (spent(20), spent(5, 2.0))}
    assert bench.store.spent() == ledger
    assert bench.crash().recovered().spent == ledger
    with pytest.raises(LocalProtocolError):
        bench.store.save_outbox(private(2, spent(30)), b"again", None)
    assert bench.store.spent() == ledger


def test_a_ledger_only_grows(bench: Bench) -> None:
    """FED-180, FED-183: not by a verdict, not by a lower count, and not when its run is forgotten."""
    bench.store.save_outbox(private(1, spent(10)), b"one", None)
    bench.store.settle(private(1).offer.update, None)
    bench.store.save_spent(RUN, (spent(7),))
    assert bench.store.spent() == {RUN: (spent(10),)}
    bench.store.save_spent(RUN, (spent(25),))
    bench.store.save_spent(RUN, (spent(25),))
    assert bench.store.spent() == {RUN: (spent(25),)}
    for number in range(6):
        bench.store.enter_run(RunId(f"{number:016x}"))
    assert bench.crash().spent() == {RUN: (spent(25),)}


def test_runs_have_ledgers_of_their_own(bench: Bench) -> None:
    bench.store.save_outbox(private(1, spent(10)), b"one", None)
    bench.store.enter_run(OTHER_RUN)
    bench.store.save_outbox(private(1, spent(30), run=OTHER_RUN), b"other", None)
    assert bench.crash().recovered().spent == {RUN: (spent(10),), OTHER_RUN: (spent(30),)}

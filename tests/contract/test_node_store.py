"""What every node store promises, with large arrays in its database and in files beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edge_node.records import OutboxEntry, RecoveredNode, Seen
from edge_node.storage import database
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.store import NodeStore
from federation.errors import LocalProtocolError
from federation.types import Epoch, ModelVersion, RoundId, StateId
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
        monkeypatch.setattr(database, "LARGE_BYTES", 4)

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
    store.forget_run(OTHER_RUN)
    assert store.residual_version() is None


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
    bench.store.save_model(model(4))
    bench.store.save_model(model(5))
    store = bench.crash()
    held = store.held_model()
    assert held is not None
    assert (held.version, held.digest, held.manifest_digest) == (5, model(5).digest, bytes(16))
    np.testing.assert_array_equal(held.vectors.parameters, model(5).vectors.parameters)
    np.testing.assert_array_equal(held.vectors.counters, model(5).vectors.counters)
    assert (store.recovered().held_version, store.recovered().held_digest) == (5, model(5).digest)


def test_forgotten_run_leaves_nothing_but_the_new_run(bench: Bench) -> None:
    bench.store.save_model(model())
    bench.store.save_outbox(entry(7), b"frame", residual(0.5))
    bench.store.forget_run(OTHER_RUN)
    assert bench.store.frame(entry(7).offer.update) is None
    store = bench.crash()
    assert store.recovered() == RecoveredNode(run=OTHER_RUN)
    assert store.held_model() is None
    assert store.residual() is None


def test_the_newest_that_was_heard_survives_a_crash_and_another_run(bench: Bench) -> None:
    """FED-79."""
    for seen in (
        Seen(run=RUN, epoch=Epoch(2), began_ms=5, round=RoundId(9), version=ModelVersion(4)),
        Seen(run=RUN, epoch=Epoch(3)),
    ):
        bench.store.save_seen(seen)
        bench.store.forget_run(OTHER_RUN)
        assert bench.crash().recovered().seen == seen


def test_same_update_id_can_be_used_again_in_another_run(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", None)
    bench.store.forget_run(OTHER_RUN)
    bench.store.save_outbox(entry(7, run=OTHER_RUN), b"other", None)
    assert bench.crash().frame(entry(7).offer.update) == b"other"


def test_what_a_frame_needs_to_be_decoded_stays_as_long_as_the_frame(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", None, context=b"classes of the parameters")
    bench.store.save_outbox(entry(8), b"other", None)
    store = bench.crash()
    assert store.context(entry(7).offer.update) == b"classes of the parameters"
    assert store.context(entry(8).offer.update) is None
    store.settle(entry(7).offer.update, None)
    assert bench.crash().context(entry(7).offer.update) is None


def test_a_new_run_forgets_what_frames_needed(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", None, context=b"classes")
    bench.store.forget_run(OTHER_RUN)
    assert bench.crash().context(entry(7).offer.update) is None


def test_the_average_of_the_global_updates_is_kept_with_the_model(bench: Bench) -> None:
    average = np.linspace(0, 1, 3, dtype=np.float32)
    bench.store.save_model(replace(model(4), average=average))
    held = bench.crash().held_model()
    assert held is not None
    np.testing.assert_array_equal(held.average, average)

"""Every node store keeps a task's state: pending with its update until a verdict, or kept at once; also in a crash."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.records import StateChange
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.store import NodeStore
from federation.errors import StorageError
from tests.contract.test_node_store import Bench, bench
from tests.rigs.node_values import OTHER_RUN, entry, residual

__all__ = ["bench"]

FIRST, SECOND = entry(7).offer.update, entry(8).offer.update


def values(value: float) -> NDArray[np.float32]:
    return np.full(5, value, np.float32)


def pending(value: float) -> StateChange:
    return StateChange(pending={"c": values(value)})


def settled(store: NodeStore) -> float:
    """The state's one value, 0 where there is none."""
    state = store.task_state()
    return float(state["c"][0]) if "c" in state else 0.0


def test_a_new_store_keeps_nothing_for_the_task(bench: Bench) -> None:
    assert bench.store.task_state() == {}
    assert bench.store.pending(FIRST) == {}


def test_a_pending_change_waits_with_its_update_through_a_crash(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", None, pending(0.5))
    store = bench.crash()
    assert settled(store) == 0.0
    np.testing.assert_array_equal(store.pending(FIRST)["c"], values(0.5))


@pytest.mark.parametrize(("applied", "expected"), [(True, 0.5), (False, 0.0)])
def test_only_an_applied_update_changes_the_state(bench: Bench, applied: bool, expected: float) -> None:
    """FED-51."""
    bench.store.save_outbox(entry(7), b"frame", None, pending(0.5))
    bench.store.settle(FIRST, None, applied=applied)
    assert settled(bench.store) == expected
    store = bench.crash()
    assert settled(store) == expected
    assert store.pending(FIRST) == {}


def test_verdicts_may_come_in_any_order_and_twice(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", None, pending(0.5))
    bench.store.save_outbox(entry(8), b"other", None, pending(0.25))
    store = bench.crash()
    store.settle(SECOND, None, applied=True)
    assert settled(store) == 0.25
    np.testing.assert_array_equal(store.pending(FIRST)["c"], values(0.5))
    store = bench.crash()
    store.settle(SECOND, None, applied=True)
    store.settle(FIRST, None, applied=True)
    assert settled(bench.crash()) == 0.75


def test_what_is_kept_is_there_at_once_whatever_the_verdict(bench: Bench) -> None:
    change = StateChange(kept={"head": values(3.0)}, pending={"c": values(0.5)})
    bench.store.save_outbox(entry(7), b"frame", None, change)
    np.testing.assert_array_equal(bench.crash().task_state()["head"], values(3.0))
    bench.store.settle(FIRST, None, applied=False)
    bench.store.save_outbox(entry(8), b"frame", None, StateChange(kept={"head": values(4.0)}))
    store = bench.crash()
    np.testing.assert_array_equal(store.task_state()["head"], values(4.0))
    assert settled(store) == 0.0


def test_state_and_residual_change_in_one_step_or_not_at_all(bench: Bench) -> None:
    bench.store.save_outbox(entry(7), b"frame", residual(0.5), pending(0.5))
    bench.store.settle(FIRST, residual(0.25), applied=True)
    store = bench.crash()
    assert settled(store) == 0.5
    np.testing.assert_array_equal(store.residual(), residual(0.25))


def test_another_run_begins_without_state(bench: Bench) -> None:
    change = StateChange(kept={"head": values(3.0)}, pending={"c": values(0.5)})
    bench.store.save_outbox(entry(7), b"frame", None, change)
    bench.store.enter_run(OTHER_RUN)
    assert bench.store.task_state() == {}
    store = bench.crash()
    assert store.task_state() == {}
    assert store.pending(FIRST) == {}


def test_a_full_disk_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    store = SqliteNodeStore(tmp_path)
    store.save_outbox(entry(7), b"frame", None, pending(0.5))
    store._db._tables.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageError):
        store.settle(FIRST, None, applied=True)
    with pytest.raises(StorageError):
        store.save_outbox(entry(8), b"frame", None, StateChange(kept={"c": values(9.0)}))
    assert settled(store) == 0.0
    store._db._tables.execute("PRAGMA query_only = 0")
    store.settle(FIRST, None, applied=True)
    assert settled(store) == 0.5
    store.close()

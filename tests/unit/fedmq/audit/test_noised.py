"""The accounts of noised sums: an honest run passes, and each kind of damage is found by its invariant."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.records import ReleaseRecord
from coordinator.storage.database import DATABASE
from coordinator.storage.releases import charge_release
from coordinator.storage.sqlite_store import SqliteStore
from federation.privacy.releases import Taking
from federation.types import Digest, ModelVersion, NodeId
from fedmq.audit.audit import AuditReport, Outcome, audit
from sum_helper.records import Charge
from sum_helper.storage.noised import pay
from sum_helper.storage.store import DATABASE as HELPER_DATABASE
from sum_helper.storage.store import HelperStore
from tests.rigs.model_values import initialised

NODES = tuple(NodeId(name) for name in ("a", "b", "c", "d", "e"))
PRICE = 1 / 16


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A coordinator that has asked for three noised sums."""
    store = SqliteStore(tmp_path / "coordinator")
    initialised(store)
    for number in range(3):
        record = ReleaseRecord(
            release=number,
            batch=Digest(bytes([number]) * 16),
            version=ModelVersion(number + 1),
            noise=4.0,
            clip=1.0,
            epsilon=3.0,
            delta=1e-5,
            prices=dict.fromkeys(NODES, PRICE),
        )
        with store._database.transaction("test"):
            charge_release(store._database, record)
    store.close()
    return tmp_path / "coordinator"


@pytest.fixture
def helper(state: Path, tmp_path: Path) -> Path:
    """A helper that has revealed two of them: the third one was lost on the way."""
    run = SqliteStore(state)
    store = HelperStore(tmp_path / "helper")
    for number in range(2):
        with store._database.transaction("test"):
            pay(store._database, run.run, Charge(release=number, prices=dict.fromkeys(NODES, PRICE)))
    store.close()
    run.close()
    return tmp_path / "helper"


def found(report: AuditReport) -> dict[str, str]:
    return {one.invariant: one.detail for one in report.findings if one.outcome is Outcome.FAIL}


def damage(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def test_an_honest_run_passes_and_says_what_it_has_not_seen(state: Path, helper: Path) -> None:
    report = audit(state, helpers=[helper])
    assert found(report) == {}
    assert {one.invariant for one in report.findings} >= {"P1", "P2", "P3", "P4", "P5"}
    skipped = [one.detail for one in audit(state).findings if one.invariant == "P5" and one.outcome is Outcome.SKIP]
    assert skipped == ["not checked: the accounts of the helpers, whose folders were not named (--helper)"]


@pytest.mark.parametrize(
    ("statement", "invariant"),
    [
        ("UPDATE takings SET spent = 0.1 WHERE node = 'c'", "P1"),
        ("UPDATE takings SET releases = 2 WHERE node = 'c'", "P1"),
        ("DELETE FROM takings WHERE node = 'c'", "P1"),
        ("DELETE FROM takings WHERE node = 'c'", "P3"),
        ("UPDATE takings SET spent = 0.01 WHERE node = 'c'", "P3"),
        ("UPDATE releases SET epsilon = 0.5", "P4"),
        ("UPDATE prices SET price = 9.0 WHERE node = 'e'", "P4"),
        ("UPDATE takings SET releases = 1 WHERE node = 'd'", "P5"),
    ],
)
def test_damage_in_the_coordinators_account_is_found(state: Path, helper: Path, statement: str, invariant: str) -> None:
    damage(state / DATABASE, statement)
    assert invariant in found(audit(state, helpers=[helper]))


def test_a_helpers_ledger_that_was_lowered_is_found(state: Path, helper: Path) -> None:
    damage(helper / HELPER_DATABASE, "UPDATE ledger SET releases = 1 WHERE node = 'b'")
    assert "b was in 2 noised sums" in found(audit(state, helpers=[helper]))["P1"]


def test_a_helper_that_knows_more_is_found(state: Path, helper: Path) -> None:
    damage(helper / HELPER_DATABASE, "UPDATE takings SET releases = 9, spent = 2.0 WHERE node = 'b'")
    damage(helper / HELPER_DATABASE, "UPDATE ledger SET releases = 9 WHERE node = 'b'")
    broken = found(audit(state, helpers=[helper]))
    assert "has charged b for 9 noised sums, the coordinator for 3" in broken["P5"]
    assert "b is reported with epsilon" in broken["P3"]


def test_what_was_taken_over_from_a_helper_is_no_damage(state: Path, helper: Path) -> None:
    store = SqliteStore(state)
    store.batches.raise_takings({NODES[0]: Taking(releases=7, last=3, spent=7 * PRICE)})
    store.close()
    assert found(audit(state, helpers=[helper])) == {}

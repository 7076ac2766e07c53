"""The ledgers of differential privacy: an honest run passes, and each kind of damage is found by its invariant."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.records import NodeSpent, RoundRecord, Verdict
from coordinator.storage.database import DATABASE
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from edge_node.records import OutboxEntry
from edge_node.storage.database import DATABASE as NODE_DATABASE
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.protocol.cohort import EVERYONE
from federation.protocol.messages import Reason, ReceiptStatus, UpdateOffer
from federation.types import (
    Digest,
    ExamplePrivacy,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    SampledSteps,
)
from fedmq.audit.audit import AuditReport, Outcome, audit
from tests.rigs.model_values import INITIAL, arrived, committer, initialised, update

PRIVACY = ExamplePrivacy(clip=1.0, noise=1.5, sampling_rate=0.04, epsilon=8.0, delta=1e-5)
TURN = 12
ROUNDS = 3
"""Rounds 0 and 1 are in versions; the update of round 2 waits, and is still in its node's outbox."""


def steps(count: int) -> tuple[SampledSteps, ...]:
    return (SampledSteps(sampling_rate=0.04, noise=1.5, steps=count),)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A coordinator that has heard three private updates of each of two nodes."""
    store = SqliteStore(tmp_path / "coordinator")
    initialised(store)
    nodes = (NodeId("a"), NodeId("b"))
    for number in range(ROUNDS):
        version = ModelVersion(number)
        store.save_round(RoundRecord(round=RoundId(number), version=version, nodes=nodes, cohort=EVERYONE))
    for number in range(ROUNDS):
        sent = [arrived(name, update(0.5 + number), round_id=number) for name in nodes]
        for one in sent:
            told = steps(TURN * (number + 1))
            store.save_spent(NodeSpent(node=one.record.node, steps=told, round=RoundId(number), privacy=PRIVACY))
            store.save_update(one.record, one.payload)
        if number < ROUNDS - 1:
            committer(store).commit([one.member for one in sent], "full", Figures())
    store.close()
    return tmp_path / "coordinator"


@pytest.fixture
def node(state: Path, tmp_path: Path) -> Path:
    """The folder of node a."""
    return node_folder(tmp_path / "a", run_of(state))


def node_folder(folder: Path, run: RunId, rounds: range = range(ROUNDS), name: str = "a") -> Path:
    store = SqliteNodeStore(folder)
    for number in rounds:
        one = arrived(name, update(0.5 + number), round_id=number)
        record = one.record
        offer = UpdateOffer(
            run=run,
            round=record.round,
            update=record.update,
            incarnation=Incarnation(1),
            base_version=ModelVersion(0),
            base_digest=Digest(INITIAL.digest()),
            num_examples=1,
            metrics={},
            codec=record.codec,
            payload_bytes=record.payload_bytes,
            payload_digest=record.payload_digest,
            chunk_bytes=61_440,
            spent=steps(TURN * (number - rounds.start + 1)),
        )
        store.save_outbox(OutboxEntry(offer=offer), one.payload, None)
        if number != rounds[-1]:
            store.settle(record.update, None, applied=True)
    store.close()
    return folder


def run_of(state: Path) -> RunId:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return RunId(str(database.execute("SELECT value FROM meta WHERE key = 'run'").fetchone()[0]))


def damage(path: Path, statement: str) -> None:
    """Run one statement behind everybody's back; it must change something."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        assert database.execute(statement).rowcount > 0


def failed(report: AuditReport) -> dict[str, str]:
    return {finding.invariant: finding.detail for finding in report.findings if finding.failed}


def outcomes(report: AuditReport) -> dict[str, Outcome]:
    return {one.invariant: one.outcome for one in report.findings if one.invariant.startswith("P")}


def told(report: AuditReport) -> list[str]:
    return [one.detail for one in report.findings if one.outcome is Outcome.SKIP and one.invariant.startswith("P")]


class TestAnHonestRun:
    def test_it_passes_with_and_without_the_nodes_folders(self, state: Path, node: Path, tmp_path: Path) -> None:
        other = node_folder(tmp_path / "b", run_of(state), name="b")
        report = audit(state, nodes=[node, other])
        assert (failed(report), told(report)) == ({}, [])
        assert set(outcomes(report)) == {"P1", "P2", "P3", "P4", "P5"}
        report = audit(state)
        assert failed(report) == {}
        assert told(report) == ["not checked: the ledgers of a; b themselves, whose folders were not named"]

    def test_a_run_without_privacy_is_reported_as_before(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "plain")
        initialised(store)
        store.close()
        assert outcomes(audit(tmp_path / "plain")) == {}

    def test_a_configuration_with_privacy_shows_the_rules_before_anything_is_spent(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "new")
        initialised(store)
        store.close()
        assert outcomes(audit(tmp_path / "new", private=True)) == dict.fromkeys(
            ("P1", "P2", "P3", "P4", "P5"), Outcome.PASS
        )

    def test_a_node_that_lost_its_state_passes_once_it_has_heard(self, state: Path, tmp_path: Path) -> None:
        lost = tmp_path / "a"
        store = SqliteNodeStore(lost)
        store.save_progress(run_of(state), RoundId(0))
        store.close()
        report = audit(state, nodes=[lost])
        assert failed(report) == {}
        assert any("has lost its state, and not heard yet what a had spent before" in detail for detail in told(report))
        store = SqliteNodeStore(lost)
        store.save_spent(run_of(state), steps(ROUNDS * TURN))
        store.close()
        report = audit(state, nodes=[lost])
        assert failed(report) == {}
        assert not any("lost" in detail for detail in told(report))

    def test_a_turn_whose_update_has_not_arrived_is_no_damage(self, state: Path, tmp_path: Path) -> None:
        damage(state / DATABASE, "DELETE FROM updates WHERE update_id = '2-a'")
        damage(state / DATABASE, "DELETE FROM payloads WHERE update_id = '2-a'")
        damage(state / DATABASE, "UPDATE spent SET steps = 24 WHERE node = 'a'")
        found = failed(audit(state, nodes=[node_folder(tmp_path / "a", run_of(state))]))
        assert not found.keys() & {"P1", "P2", "P3"}

    def test_an_update_that_was_refused_for_want_of_privacy_has_no_price(self, state: Path) -> None:
        store = SqliteStore(state)
        bad = arrived("old", update(1.0), round_id=2)
        verdict = Verdict(
            update=bad.record.update,
            node=bad.record.node,
            status=ReceiptStatus.REFUSED,
            reason=Reason.INCOMPATIBLE,
        )
        store.save_verdict(verdict, bad.record)
        store.close()
        assert failed(audit(state)) == {}


NODE_DAMAGE: dict[str, tuple[str, str, str]] = {
    "a lowered charge": ("UPDATE spent SET steps = 1 WHERE update_id = '1-a'", "P1", "knows of 11 steps"),
    "a missing row": ("DELETE FROM spent WHERE update_id = '1-a'", "P2", "1-a left without a charge"),
    "a missing row of what is in the outbox": (
        "DELETE FROM spent WHERE update_id = '2-a'",
        "P1",
        "has told of 12 steps (q 0.04, noise 1.5) that are not in its ledger",
    ),
    "no row at all": ("DELETE FROM spent", "P2", "0-a; 1-a; 2-a left without a charge"),
    "another noise": ("UPDATE spent SET noise = 9.0 WHERE update_id = '0-a'", "P1", "12 steps (q 0.04, noise 1.5)"),
    "a row that is charged twice": (
        "UPDATE spent SET steps = 24 WHERE update_id = '1-a'",
        "P2",
        "charged with 12 steps",
    ),
    "a second row of an update": (
        "INSERT INTO spent SELECT run, update_id, sampling_rate, 2.5, steps FROM spent WHERE update_id = '1-a'",
        "P2",
        "charged with 12 steps (q 0.04, noise 2.5)",
    ),
    "a doubled row under another name": (
        "INSERT INTO spent SELECT run, '7-a', sampling_rate, noise, steps FROM spent WHERE update_id = '1-a'",
        "P2",
        "a charge is for 7-a, which is no update of this node",
    ),
    "a doubled row under no name": (
        "INSERT INTO spent SELECT run, '', sampling_rate, noise, steps FROM spent WHERE update_id = '1-a'",
        "P2",
        "charged with 12 steps",
    ),
}


@pytest.mark.parametrize(("statement", "invariant", "detail"), NODE_DAMAGE.values(), ids=NODE_DAMAGE.keys())
def test_damage_in_a_node_s_ledger_is_found(
    state: Path, node: Path, statement: str, invariant: str, detail: str
) -> None:
    damage(node / NODE_DATABASE, statement)
    assert detail in failed(audit(state, nodes=[node]))[invariant]


COORDINATOR_DAMAGE: dict[str, tuple[str, str, str]] = {
    "a lowered ledger": ("UPDATE spent SET steps = 24 WHERE node = 'a'", "P1", "12 steps (q 0.04, noise 1.5)"),
    "an epsilon that is too low": ("UPDATE spent SET steps = 24 WHERE node = 'a'", "P3", "a is reported with epsilon"),
    "more noise than there was": ("UPDATE spent SET noise = 9.0 WHERE node = 'a'", "P3", "a is reported with epsilon"),
    "a missing row": ("DELETE FROM spent WHERE node = 'a'", "P1", "a has 3 updates here, and the coordinator's ledger"),
    "an epsilon that is missing": ("DELETE FROM spent WHERE node = 'a'", "P3", "nothing is reported of a"),
    "no ledger at all": ("DELETE FROM spent", "P3", "nothing is reported of a"),
    "a second row of one kind more": (
        "INSERT INTO spent SELECT node, sampling_rate, 2.5, steps, round, clip, epsilon, delta FROM spent",
        "P1",
        "the coordinator knows of 36 steps (q 0.04, noise 2.5) that are not in the ledger of a",
    ),
}


@pytest.mark.parametrize(
    ("statement", "invariant", "detail"), COORDINATOR_DAMAGE.values(), ids=COORDINATOR_DAMAGE.keys()
)
def test_damage_in_the_coordinator_s_ledger_is_found(
    state: Path, node: Path, statement: str, invariant: str, detail: str
) -> None:
    damage(state / DATABASE, statement)
    assert detail in failed(audit(state, nodes=[node]))[invariant]


ALONE: dict[str, tuple[str, str]] = {
    "a missing row": ("DELETE FROM spent WHERE node = 'a'", "P3"),
    "a lowered ledger": ("UPDATE spent SET steps = 2 WHERE node = 'a'", "P1"),
    "no ledger at all": ("DELETE FROM spent", "P1"),
}


@pytest.mark.parametrize(("statement", "invariant"), ALONE.values(), ids=ALONE.keys())
def test_the_coordinator_s_store_alone_shows_the_worst(state: Path, statement: str, invariant: str) -> None:
    damage(state / DATABASE, statement)
    assert invariant in failed(audit(state, private=True))


def test_a_ledger_that_cannot_be_read_fails(state: Path) -> None:
    damage(state / DATABASE, "UPDATE spent SET delta = 0.5")
    assert "P3" in failed(audit(state))
    with closing(sqlite3.connect(state / DATABASE)) as database:
        database.execute("DROP TABLE spent")
    assert "no such table: spent" in failed(audit(state))["I9"]


def test_a_node_that_trained_on_behind_what_is_known_of_it_is_found(state: Path, tmp_path: Path) -> None:
    behind = node_folder(tmp_path / "a", run_of(state), rounds=range(2, 3))
    found = failed(audit(state, nodes=[behind]))
    assert "the coordinator knows of 24 steps" in found["P1"]
    assert "nor of 24 steps" in found["P5"]


def test_a_ledger_beyond_its_budget_is_found(state: Path, node: Path) -> None:
    damage(state / DATABASE, "UPDATE spent SET steps = 9000 WHERE node = 'b'")
    assert "b has spent" in failed(audit(state))["P4"]
    damage(state / DATABASE, "UPDATE spent SET epsilon = 0.01, steps = 36")
    assert "has spent" in failed(audit(state, nodes=[node]))["P4"]


def test_a_charge_that_neither_store_knows_is_told_and_no_failure(state: Path, node: Path) -> None:
    damage(
        node / NODE_DATABASE,
        "INSERT INTO spent SELECT run, '02-a', sampling_rate, noise, steps FROM spent WHERE update_id = '1-a'",
    )
    report = audit(state, nodes=[node])
    assert failed(report) == {}
    assert any("02-a" in detail and "in neither store" in detail for detail in told(report))


def test_the_command_shows_the_ledgers_and_its_exit_code_says_that_one_is_damaged(state: Path, node: Path) -> None:
    arguments = ["audit", "--state", str(state), "--node", str(node), "--json"]
    result = CliRunner().invoke(make_app(arguments), arguments)
    assert result.exit_code == 0
    shown = {one["invariant"]: one["outcome"] for one in json.loads(result.output)["findings"]}
    assert shown["P1"] == shown["P3"] == "pass"
    damage(node / NODE_DATABASE, "DELETE FROM spent WHERE update_id = '1-a'")
    assert CliRunner().invoke(make_app(arguments), arguments).exit_code == 1

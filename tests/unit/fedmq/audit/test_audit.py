"""The audit: silent about a good store, and never about one that breaks a promise."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.backup.restoring import restore
from coordinator.cli import make_app
from coordinator.global_model.committer import CommitterSettings
from coordinator.records import RoundRecord, Verdict
from coordinator.storage.database import DATABASE
from coordinator.storage.files import model_file
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from coordinator.strategies.strategy import StrategySettings, make_strategy
from edge_node.records import OutboxEntry, Seen
from edge_node.storage.database import DATABASE as NODE_DATABASE
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.store import HeldModel
from federation.errors import StorageError
from federation.protocol.chunking import payload_digest
from federation.protocol.cohort import EVERYONE
from federation.protocol.messages import Reason, ReceiptStatus, UpdateOffer
from federation.types import Digest, Epoch, Incarnation, ModelVersion, NodeId, RoundId, RunId, UpdateId
from fedmq.audit.audit import AuditReport, Outcome, Witness, audit
from tests.rigs.model_values import INITIAL, MANIFEST, Arrived, arrived, committer, initialised, summed, update

SETTINGS = CommitterSettings()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A store with two versions of two updates each, one update that waits, a stale one and a refused one."""
    folder = tmp_path / "coordinator"
    store = SqliteStore(folder)
    initialised(store)
    store.save_task("digits")
    store.save_inputs("{}")
    for number in range(3):
        nodes = (NodeId("a"), NodeId("b"))
        store.save_round(RoundRecord(round=RoundId(number), version=ModelVersion(number), nodes=nodes, cohort=EVERYONE))
    for number in range(2):
        sent = [arrived(name, update(0.5 + number), round_id=number) for name in ("a", "b")]
        for one in sent:
            store.save_update(one.record, one.payload)
        committer(store).commit([one.member for one in sent], "full", Figures())
    waiting = arrived("a", update(1.0), round_id=2)
    store.save_update(waiting.record, waiting.payload)
    for name, status, reason in (
        ("b", ReceiptStatus.STALE, Reason.TOO_STALE),
        ("c", ReceiptStatus.REFUSED, Reason.NORM),
    ):
        late = arrived(name, update(1.0), round_id=2)
        store.save_verdict(
            Verdict(update=late.record.update, node=late.record.node, status=status, reason=reason), late.record
        )
    store.close()
    return folder


def run_of(state: Path) -> RunId:
    return RunId(rows(state, "SELECT value FROM meta WHERE key = 'run'")[0][0])


def rows(state: Path, statement: str, *values: object) -> list[tuple[str, ...]]:
    """Run one statement on the coordinator's database behind its back."""
    with closing(sqlite3.connect(state / DATABASE, isolation_level=None)) as database:
        return database.execute(statement, values).fetchall()


def node_with(folder: Path, run: RunId, *sent: Arrived, stored: bool, base: int = 2) -> Path:
    """A node's folder with these updates in its outbox."""
    store = SqliteNodeStore(folder)
    for one in sent:
        record = one.record
        offer = UpdateOffer(
            run=run,
            round=record.round,
            update=record.update,
            incarnation=Incarnation(1),
            base_version=ModelVersion(base),
            base_digest=Digest(INITIAL.digest()),
            num_examples=record.num_examples,
            metrics={},
            codec=record.codec,
            payload_bytes=record.payload_bytes,
            payload_digest=record.payload_digest,
            chunk_bytes=61_440,
        )
        store.save_outbox(OutboxEntry(offer=offer), one.payload, None)
        if stored:
            store.mark_stored(record.update)
    store.close()
    return folder


def failed(report: AuditReport) -> dict[str, str]:
    return {finding.invariant: finding.detail for finding in report.findings if finding.failed}


def skipped(report: AuditReport) -> list[str]:
    return [finding.detail for finding in report.findings if finding.outcome is Outcome.SKIP]


def told(update_name: str, status: ReceiptStatus, version: int | None = None) -> Witness:
    known = None if version is None else ModelVersion(version)
    return Witness(told=frozenset({(UpdateId(update_name), status, known)}))


def test_a_good_store_passes_every_check_that_stores_can_show(state: Path) -> None:
    report = audit(state, settings=SETTINGS)
    assert report.holds
    outcomes = {finding.invariant: finding.outcome for finding in report.findings}
    assert list(outcomes) == [f"I{number}" for number in range(1, 10)]
    assert [name for name, outcome in outcomes.items() if outcome is Outcome.SKIP] == ["I6"]
    assert not report.lost | report.double
    assert report.waiting == {"2-a"}


def test_a_gateways_sum_is_sound_and_a_damaged_one_is_not(state: Path) -> None:
    """It is added, and never decoded as one update is."""
    store = SqliteStore(state)
    whole, damaged = (summed(name, [arrived("n", update(1.0))]) for name in ("g", "h"))
    frame = bytes([*damaged.payload[:-1], damaged.payload[-1] ^ 1])
    for one, payload in ((whole, whole.payload), (damaged, frame)):
        record = replace(one.record, payload_digest=payload_digest(payload))
        store.save_update(record, payload)
    store.close()
    assert failed(audit(state, settings=SETTINGS)).keys() == {"I9"}
    assert failed(audit(state, settings=SETTINGS))["I9"].startswith(f"the payload of {damaged.record.update} cannot be")


def test_without_the_configuration_the_head_is_not_made_again(state: Path) -> None:
    report = audit(state)
    assert next(one for one in report.findings if one.invariant == "I7").outcome is Outcome.SKIP


def test_a_store_with_version_zero_only_passes(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    initialised(store)
    store.close()
    assert audit(tmp_path, settings=SETTINGS).holds


def test_the_audit_changes_nothing(state: Path) -> None:
    before = rows(state, "SELECT value FROM meta WHERE key = 'epoch'")
    audit(state, settings=SETTINGS)
    assert rows(state, "SELECT value FROM meta WHERE key = 'epoch'") == before


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        audit(tmp_path)


class TestCountedOnce:
    def test_a_version_that_counts_other_updates_than_name_it_fails(self, state: Path) -> None:
        rows(state, "UPDATE updates SET version = 1 WHERE update_id = '1-a'")
        assert "version 1 counts 2 updates, 3 name it" in failed(audit(state))["I1"]

    def test_an_update_that_is_refused_and_in_a_version_fails(self, state: Path) -> None:
        rows(state, "UPDATE updates SET version = 2 WHERE update_id = '2-c'")
        assert "2-c is refused in version 2" in failed(audit(state))["I1"]

    def test_an_update_of_a_version_that_does_not_exist_fails(self, state: Path) -> None:
        rows(state, "UPDATE updates SET version = 9 WHERE update_id = '1-a'")
        assert "1-a is applied in version 9" in failed(audit(state))["I1"]

    def test_an_id_that_is_not_its_node_s_fails(self, state: Path) -> None:
        rows(state, "UPDATE updates SET node = 'z' WHERE update_id = '1-a'")
        assert "1-a is not the update of z" in failed(audit(state))["I1"]

    def test_a_node_that_was_told_another_version_fails(self, state: Path) -> None:
        report = audit(state, witness=told("1-a", ReceiptStatus.APPLIED, 1))
        assert report.double == {"1-a"}
        assert "I1" in failed(report)

    def test_a_node_that_was_told_what_the_store_says_passes(self, state: Path) -> None:
        assert audit(state, witness=told("1-a", ReceiptStatus.APPLIED, 2)).holds
        assert audit(state, witness=told("2-b", ReceiptStatus.STALE)).holds
        assert audit(state, witness=told("2-a", ReceiptStatus.STORED)).holds


class TestNothingLost:
    def test_an_update_that_was_receipted_and_is_nowhere_is_lost(self, state: Path) -> None:
        for status in (ReceiptStatus.STORED, ReceiptStatus.APPLIED, ReceiptStatus.STALE):
            report = audit(state, witness=told("1-z", status, 1 if status is ReceiptStatus.APPLIED else None))
            assert report.lost == {"1-z"}
            assert "1-z is lost" in failed(report)["I2"]

    def test_a_stranger_s_refusal_is_not_kept_and_not_lost(self, state: Path) -> None:
        witness = replace(told("9-z", ReceiptStatus.REFUSED), offered=frozenset({UpdateId("9-z")}))
        assert audit(state, witness=witness).holds

    def test_an_offered_update_is_with_the_coordinator_or_in_its_outbox(self, state: Path, tmp_path: Path) -> None:
        witness = Witness(offered=frozenset({UpdateId("1-a"), UpdateId("2-d")}))
        assert audit(state, witness=witness).lost == {"2-d"}
        node = node_with(tmp_path / "d", run_of(state), arrived("d", update(1.0), round_id=2), stored=False)
        assert audit(state, nodes=[node], witness=witness).holds

    def test_an_outbox_entry_that_its_node_believes_to_be_stored_must_be(self, state: Path, tmp_path: Path) -> None:
        node = node_with(tmp_path / "d", run_of(state), arrived("d", update(1.0), round_id=2), stored=True)
        assert audit(state, nodes=[node]).lost == {"2-d"}

    def test_another_run_s_outbox_is_nobody_s_debt(self, state: Path, tmp_path: Path) -> None:
        other = RunId("00000000000000ff")
        node = node_with(tmp_path / "d", other, arrived("d", update(1.0), round_id=2), stored=True)
        assert audit(state, nodes=[node]).holds

    def test_a_stored_update_without_its_payload_fails(self, state: Path) -> None:
        rows(state, "DELETE FROM payloads WHERE update_id = '2-a'")
        assert "2-a is stored without its payload" in failed(audit(state))["I2"]


class TestVersions:
    def test_a_gap_fails(self, state: Path) -> None:
        rows(state, "DELETE FROM versions WHERE version = 1")
        assert "version 2 stands where 1 should be" in failed(audit(state))["I3"]

    def test_a_wrong_predecessor_fails(self, state: Path) -> None:
        rows(state, "UPDATE versions SET previous = x'00' WHERE version = 2")
        assert "version 2 does not name its predecessor" in failed(audit(state))["I3"]

    def test_a_damaged_model_fails(self, state: Path) -> None:
        path = state / "blobs" / model_file(2)
        path.write_bytes(path.read_bytes()[:-1])
        assert "damaged" in failed(audit(state))["I4"]

    def test_a_digest_that_is_not_the_model_s_fails(self, state: Path) -> None:
        rows(state, "UPDATE versions SET digest = x'00' WHERE version = 2")
        assert "the head's digest is another one" in failed(audit(state))["I4"]

    def test_a_head_that_is_not_what_its_updates_make_fails(self, state: Path) -> None:
        other = CommitterSettings(strategy=make_strategy(StrategySettings(server_learning_rate=0.5)))
        assert "made again is another model" in failed(audit(state, settings=other))["I7"]

    def test_a_head_whose_updates_are_gone_cannot_be_made_again(self, state: Path) -> None:
        rows(state, "DELETE FROM payloads WHERE update_id = '1-a'")
        assert "1-a is not in the store" in failed(audit(state, settings=SETTINGS))["I7"]

    def test_a_node_that_has_seen_more_than_the_head_fails(self, state: Path, tmp_path: Path) -> None:
        assert audit(state, witness=Witness(version_seen=2)).holds
        assert "a node has seen version 3" in failed(audit(state, witness=Witness(version_seen=3)))["I5"]
        ahead = arrived("d", update(1.0), round_id=2)
        node = node_with(tmp_path / "d", run_of(state), ahead, stored=False, base=7)
        assert "knows version 7" in failed(audit(state, nodes=[node]))["I5"]


class TestDisk:
    def test_what_one_crash_leaves_is_borne_and_more_is_not(self, state: Path) -> None:
        for number in range(6):
            (state / "blobs" / f".left-{number}.tmp").write_bytes(b"half")
        assert audit(state).holds
        (state / "blobs" / "model-77.safetensors").write_bytes(b"left")
        assert "7 files that no row names" in failed(audit(state))["I8"]

    def test_a_payload_of_a_refused_update_fails(self, state: Path) -> None:
        rows(state, "INSERT INTO payloads VALUES ('2-c', x'00')")
        assert "the payload of 2-c is kept for nothing" in failed(audit(state))["I8"]

    def test_a_payload_that_is_not_what_was_offered_fails(self, state: Path) -> None:
        rows(state, "UPDATE payloads SET body = x'00' WHERE update_id = '2-a'")
        assert "2-a is not what was offered" in failed(audit(state))["I9"]

    def test_a_payload_that_is_no_frame_fails(self, state: Path) -> None:
        junk = arrived("a", update(1.0), round_id=2).payload[:-4]
        digest = payload_digest(junk)
        rows(state, "UPDATE payloads SET body = ? WHERE update_id = '2-a'", junk)
        rows(
            state,
            "UPDATE updates SET payload_bytes = ?, payload_digest = ? WHERE update_id = '2-a'",
            len(junk),
            digest,
        )
        assert "2-a cannot be decoded" in failed(audit(state))["I9"]

    def test_an_update_of_a_round_that_was_never_reserved_fails(self, state: Path) -> None:
        rows(state, "DELETE FROM rounds WHERE round = 2")
        assert "no such round" in failed(audit(state))["I9"]


DAMAGES = {
    "the weight of a member": ("UPDATE updates SET num_examples = 30 WHERE update_id = '0-a'", "I3", "version 1: row"),
    "the staleness of a member": ("UPDATE updates SET staleness = 1 WHERE update_id = '0-a'", "I3", "version 1: row"),
    "the base of a member": ("UPDATE updates SET base_version = 1 WHERE update_id = '0-a'", "I3", "version 1: row"),
    "two members that change places": (
        "UPDATE updates SET version = 3 - version WHERE node = 'a' AND version IS NOT NULL",
        "I3",
        "version 1; 2: row",
    ),
    "the weight of an update that waits": ("UPDATE updates SET num_examples = 30 WHERE update_id = '2-a'", "I9", "2-a"),
    "the reason of a refusal": ("UPDATE updates SET reason = 'codec' WHERE update_id = '2-c'", "I9", "2-c is not what"),
    "a refused update that is gone": ("DELETE FROM updates WHERE update_id = '2-c'", "I9", "arrival number 7"),
    "a stale update that is gone": ("DELETE FROM updates WHERE update_id = '2-b'", "I9", "arrival number 6"),
    "why a version was made": ("UPDATE versions SET reason = 'x' WHERE version = 1", "I3", "version 1: row"),
    "the digest of a version and its mention": (
        "UPDATE versions SET digest = iif(version = 1, x'11', digest), previous = iif(version = 2, x'11', previous)",
        "I3",
        "version 1; 2: row",
    ),
    "a head that is gone": ("DELETE FROM versions WHERE version = 2", "I3", "version 1: row"),
    "an epoch that went back": ("UPDATE meta SET value = 0 WHERE key = 'epoch'", "I3", "run, epoch or manifest"),
    "another run": ("UPDATE meta SET value = 'ff' WHERE key = 'run'", "I3", "run, epoch or manifest"),
    "an epoch that is gone": ("DELETE FROM meta WHERE key = 'epoch'", "I3", "run, epoch or manifest"),
    "another task": ("UPDATE meta SET value = 'x' WHERE key = 'task'", "I3", "run, epoch or manifest, task"),
    "a task that is gone": ("DELETE FROM meta WHERE key = 'task'", "I3", "run, epoch or manifest, task"),
    "other inputs": ("UPDATE meta SET value = 'x' WHERE key = 'inputs'", "I3", "run, epoch or manifest, task"),
    "masked versions that never were": (
        "UPDATE meta SET value = replace(value, '\"versions\": 0', '\"versions\": 9') WHERE key = 'masked_past'",
        "I3",
        "run, epoch or manifest, task",
    ),
    "the sum of the identity that is gone": (
        "DELETE FROM meta WHERE key = 'identity_seal'",
        "I3",
        "run, epoch or manifest, task",
    ),
    "a number that is text": ("UPDATE versions SET accepted = 'two' WHERE version = 1", "I3", "accepted is 'two'"),
    "text that is a number": ("UPDATE versions SET reason = x'ff' WHERE version = 1", "I3", "cannot be read"),
    "a manifest of zeros": ("UPDATE meta SET value = zeroblob(9) WHERE key = 'manifest'", "I9", "manifest"),
    "a round that is gone": ("DELETE FROM rounds WHERE round = 2", "I3", "the rounds since 0"),
    "another cohort": ("UPDATE rounds SET fingerprints = x'00' WHERE round = 1", "I3", "the rounds since 0"),
    "a frame of zeros": ("UPDATE parts SET frame = zeroblob(length(frame))", "I9", "of version 2 is damaged"),
    "a frame that is gone": ("UPDATE parts SET frame = NULL", "I9", "is not in"),
    "a part that is gone": ("DELETE FROM parts WHERE version = 2", "I9", "is listed, and is not in the store"),
    "a part's digest": ("UPDATE parts SET payload_digest = x'00' WHERE version = 2", "I3", "version 2: row"),
    "metrics that are no JSON": ("UPDATE updates SET metrics = '{' WHERE update_id = '0-a'", "I1", "cannot be read"),
    "a status of no name": ("UPDATE updates SET status = 'lost' WHERE update_id = '0-a'", "I1", "cannot be read"),
    "a table that is gone": ("DROP TABLE payloads", "I2", "no such table"),
    "a part's chunks": ("UPDATE parts SET chunk_bytes = -1 WHERE version = 2", "I9", "version 2 is damaged"),
    "chunks that nobody can announce": ("UPDATE parts SET chunk_bytes = 61441", "I9", "version 2 is damaged"),
    "sums that are gone": ("UPDATE updates SET seal = NULL", "I9", "0-a is not what was written"),
    "an evaluation that is no JSON": ("INSERT INTO evaluations VALUES (1, '{')", "I9", "cannot be read"),
    "a table that the head does not need": ("DROP TABLE transfers", "I9", "no such table"),
    "no version": ("DELETE FROM versions", "I3", "there is no version"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_found_and_never_a_traceback(name: str, state: Path) -> None:
    statement, invariant, said = DAMAGES[name]
    rows(state, statement)
    report = audit(state, settings=SETTINGS)
    assert said in failed(report)[invariant]


class TestFilesAndFolders:
    def test_an_older_model_that_is_kept_is_checked(self, state: Path) -> None:
        path = state / "blobs" / model_file(1)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert "the model of version 1 is damaged" in failed(audit(state))["I4"]

    def test_a_best_model_whose_file_is_gone_is_seen(self, state: Path) -> None:
        """It is neither the head's nor the one before: nothing else would ask for it before an export does."""
        rows(state, "INSERT INTO retained VALUES (0, 1)")
        assert "the model of version 0 is kept, and its file is gone" in failed(audit(state))["I4"]

    def test_a_database_that_is_gone_or_empty_beside_models_fails(self, state: Path) -> None:
        (state / DATABASE).write_bytes(b"")
        assert "cannot be read" in failed(audit(state))["I3"]
        (state / DATABASE).unlink()
        assert "cannot be read" in failed(audit(state))["I3"]

    def test_models_that_are_gone_fail(self, state: Path) -> None:
        shutil.rmtree(state / "blobs")
        assert failed(audit(state)).keys() >= {"I4", "I8", "I9"}

    def test_what_no_sum_covers_is_said(self, state: Path) -> None:
        rows(state, "UPDATE versions SET seal = NULL WHERE version < 2")
        rows(state, "UPDATE versions SET seal = NULL WHERE version = 2")
        rows(state, "UPDATE updates SET seal = NULL")
        rows(state, "DELETE FROM meta WHERE key LIKE '%seal%'")
        report = audit(state, settings=SETTINGS)
        assert report.holds
        assert "not covered by sums: versions 0 to 2, made by a former release" in skipped(report)

    def test_a_head_whose_sum_was_taken_away_fails(self, state: Path) -> None:
        rows(state, "UPDATE versions SET seal = NULL WHERE version = 2")
        assert "version 2: row" in failed(audit(state))["I3"]


class TestNodesFolders:
    def test_folders_that_say_nothing_of_this_run_are_named(self, state: Path, tmp_path: Path) -> None:
        sent = arrived("d", update(1.0), round_id=2)
        other = node_with(tmp_path / "d", RunId("00000000000000ff"), sent, stored=False)
        said = skipped(audit(state, nodes=[other, tmp_path / "nowhere"]))
        assert f"not checked: {other}: of another run (00000000000000ff)" in said
        assert f"not checked: {tmp_path / 'nowhere'}: no node's store is there" in said
        assert "not checked: 3 nodes took part, 0 folders of this run were named" in said

    def test_a_node_that_has_heard_of_a_later_version_in_a_receipt_fails(self, state: Path, tmp_path: Path) -> None:
        """A copy from before it lacks what the leader has made."""
        heard = Seen(run=run_of(state), epoch=Epoch(1), round=RoundId(2), applied=ModelVersion(3))
        store = SqliteNodeStore(tmp_path / "d")
        store.save_progress(heard.run, RoundId(2))
        store.save_seen(heard)
        store.close()
        assert "knows version 3, the head is 2" in failed(audit(state, nodes=[tmp_path / "d"]))["I5"]
        with closing(sqlite3.connect(tmp_path / "d" / NODE_DATABASE, isolation_level=None)) as database:
            database.execute("UPDATE body SET inline = 'text' WHERE name = 'applied'")
        assert not audit(state, nodes=[tmp_path / "d"]).holds

    def test_what_a_node_keeps_beside_its_tables_is_checked(self, state: Path, tmp_path: Path) -> None:
        """A residual is what an update has not sent: of a damaged one the node says nothing, and the mass is lost."""
        sent = arrived("d", update(1.0), round_id=2)
        folder = node_with(tmp_path / "d", run_of(state), sent, stored=False)
        assert audit(state, nodes=[folder]).holds
        with closing(sqlite3.connect(folder / NODE_DATABASE, isolation_level=None)) as database:
            database.execute(
                "INSERT INTO body (run, name, digest, inline) SELECT run, 'residual', digest, zeroblob(9) FROM body"
            )
        assert f"{folder}: residual is not what was written" in failed(audit(state, nodes=[folder]))["I9"]

    def test_a_node_that_has_heard_of_more_than_the_store_knows_fails(self, state: Path, tmp_path: Path) -> None:
        store = SqliteNodeStore(tmp_path / "d")
        run = run_of(state)
        store.save_progress(run, RoundId(9))
        store.save_seen(Seen(run=run, epoch=Epoch(7), round=RoundId(9), version=ModelVersion(8)))
        store.save_model(
            HeldModel(
                version=ModelVersion(2),
                digest=Digest(INITIAL.digest()),
                manifest_digest=MANIFEST.digest,
                vectors=INITIAL,
            )
        )
        store.close()
        wrong = failed(audit(state, nodes=[tmp_path / "d"]))["I5"]
        assert "knows version 8, the head is 2" in wrong
        assert "holds another version 2" in wrong
        assert "knows round 9, 3 were reserved" in wrong
        assert "and 1 more" in wrong

    def test_a_node_whose_frame_is_gone_has_lost_its_update(self, state: Path, tmp_path: Path) -> None:
        folder = node_with(tmp_path / "d", run_of(state), arrived("d", update(1.0), round_id=2), stored=False)
        with closing(sqlite3.connect(folder / NODE_DATABASE, isolation_level=None)) as database:
            database.execute("UPDATE body SET inline = x'00'")
        assert "the frame of 2-d is gone or damaged" in failed(audit(state, nodes=[folder]))["I2"]

    @pytest.mark.parametrize(
        "damage",
        [
            "DROP TABLE outbox",
            "UPDATE runs SET last_round = 'x'",
            "UPDATE runs SET start = 'x'",
            "UPDATE meta SET value = 'x'",
        ],
    )
    def test_a_node_s_store_that_cannot_be_read_fails(self, damage: str, state: Path, tmp_path: Path) -> None:
        folder = node_with(tmp_path / "d", run_of(state), arrived("d", update(1.0), round_id=2), stored=False)
        with closing(sqlite3.connect(folder / NODE_DATABASE, isolation_level=None)) as database:
            database.execute(damage)
        assert "cannot be read" in failed(audit(state, nodes=[folder]))["I3"]


def node_that_knows(folder: Path, seen: Seen) -> Path:
    """A node's folder that has heard this, and holds a version 4 that no store of these tests has."""
    store = SqliteNodeStore(folder)
    store.save_progress(seen.run, seen.round or RoundId(0))
    store.save_seen(seen)
    store.save_model(
        HeldModel(version=ModelVersion(4), digest=Digest(b"l" * 16), manifest_digest=MANIFEST.digest, vectors=INITIAL)
    )
    store.close()
    return folder


class TestRestored:
    """What a run that was begun again from a backup cannot know is said, and is no violation."""

    @pytest.fixture
    def again(self, state: Path, tmp_path: Path) -> Path:
        restore(state, tmp_path / "again")
        return tmp_path / "again"

    def test_what_nodes_know_from_after_the_backup_is_said(self, state: Path, again: Path, tmp_path: Path) -> None:
        seen = Seen(run=run_of(state), epoch=Epoch(7), round=RoundId(9), version=ModelVersion(4))
        node = node_that_knows(tmp_path / "d", seen)
        lost = node_with(tmp_path / "e", run_of(state), arrived("e", update(1.0), round_id=8), stored=True, base=4)
        assert set(failed(audit(state, nodes=[node, lost]))) == {"I2", "I5"}
        report = audit(again, nodes=[node, lost])
        assert (failed(report), report.lost) == ({}, frozenset())
        checked = [finding.invariant for finding in report.findings]
        assert checked == sorted(checked), "what was not checked of I5 stood after I9"
        said = skipped(report)
        assert "restored from version 2: what was made after the backup is not in this store" in said
        assert "after the backup: acknowledged then, and given back by their nodes: 8-e" in said
        assert f"after the backup: these have not heard the restored run yet: {node}; {lost}" in said
        assert "after the backup: nodes know versions of then, up to 4" in said

    def test_what_a_witness_heard_before_the_backup_was_restored_is_no_violation(self, again: Path) -> None:
        before = frozenset({UpdateId("8-e"), UpdateId("1-a")})
        receipts = frozenset({(UpdateId("8-e"), ReceiptStatus.APPLIED, ModelVersion(4))})
        both = frozenset({(UpdateId("1-a"), ReceiptStatus.APPLIED, ModelVersion(4))})
        assert audit(again, witness=Witness(offered=before, told=receipts | both, version_seen=4)).holds

    def test_a_node_that_obeys_the_restored_run_must_not_know_more_than_it(
        self, state: Path, again: Path, tmp_path: Path
    ) -> None:
        with ReadOnlyStore(again) as store:
            restored = store.restored()
        assert restored is not None
        heard = Seen(
            run=run_of(state), epoch=restored.epoch, round=RoundId(restored.next_round + 3), version=ModelVersion(3)
        )
        wrong = failed(audit(again, nodes=[node_that_knows(tmp_path / "d", heard)]))["I5"]
        assert "knows version 3, the head is 2" in wrong
        assert f"knows round {restored.next_round + 3}, {restored.next_round} were reserved" in wrong

    def test_what_is_acknowledged_after_the_restore_must_be_there(
        self, state: Path, again: Path, tmp_path: Path
    ) -> None:
        with ReadOnlyStore(again) as store:
            number = store.rounds_reserved()
        sent = arrived("d", update(1.0), round_id=number)
        node = node_with(tmp_path / "d", run_of(state), sent, stored=True)
        assert audit(again, nodes=[node]).lost == {sent.record.update}
        witness = Witness(told=frozenset({(sent.record.update, ReceiptStatus.APPLIED, ModelVersion(3))}))
        assert audit(again, witness=witness).lost == {sent.record.update}

    def test_a_node_that_holds_a_lost_version_and_has_heard_is_no_violation(
        self, state: Path, again: Path, tmp_path: Path
    ) -> None:
        with ReadOnlyStore(again) as store:
            restored = store.restored()
        assert restored is not None
        heard = Seen(run=run_of(state), epoch=Epoch(restored.epoch + 1), round=RoundId(0), version=ModelVersion(2))
        store_of_run = SqliteStore(again)
        store_of_run.close()
        report = audit(again, nodes=[node_that_knows(tmp_path / "d", heard)])
        assert failed(report) == {}
        assert "after the backup: nodes know versions of then, up to 4" in skipped(report)
        assert not any("have not heard" in said for said in skipped(report))


class TestCommand:
    def test_a_good_store_is_0_and_prints_a_table(self, state: Path) -> None:
        result = CliRunner().invoke(make_app(["audit"]), ["audit", "--state", str(state)])
        assert result.exit_code == 0, result.output
        assert "I9" in result.output
        assert "1 update stored, waiting" in result.output

    def test_a_broken_store_is_1_and_says_what_in_json(self, state: Path) -> None:
        rows(state, "UPDATE versions SET previous = x'00' WHERE version = 2")
        result = CliRunner().invoke(make_app(["audit"]), ["audit", "--state", str(state), "--json"])
        assert result.exit_code == 1
        found = json.loads(result.output)
        assert found["holds"] is False
        assert [one["invariant"] for one in found["findings"] if one["outcome"] == "fail"] == ["I3"]

    def test_the_configuration_names_the_store_and_the_strategy(self, state: Path, tmp_path: Path) -> None:
        file = tmp_path / "coordinator.toml"
        sections = ('[federation]\nid = "t"', '[broker]\nurl = "mqtt://127.0.0.1"', f'[store]\nfolder = "{state}"')
        file.write_text("\n".join([*sections, '[codec]\nup = "lossless"\n']))
        result = CliRunner().invoke(make_app(["audit"]), ["audit", "--config", str(file), "--json"])
        assert result.exit_code == 0, result.output
        outcomes = {one["invariant"]: one["outcome"] for one in json.loads(result.output)["findings"]}
        assert outcomes["I7"] == "pass"

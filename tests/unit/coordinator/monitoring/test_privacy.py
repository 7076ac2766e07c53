"""The statement of what was promised says unit, adjacency and delta with every epsilon, and what was not promised."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.monitoring.masked_sums import NOT_PROMISED_BY_MASKS, MaskedVersions, masked_versions
from coordinator.monitoring.privacy import (
    NOT_PROMISED,
    WIDTH,
    privacy_line,
    privacy_report,
    privacy_row,
    read_privacy,
    show_privacy,
)
from coordinator.records import BatchRecord, NodeSpent
from coordinator.storage.batches import MaskedPast
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.protocol.messages import ReceiptStatus
from federation.protocol.sum_messages import SumRequest
from federation.protocol.wire import encode_message
from federation.types import Digest, ExamplePrivacy, ModelVersion, NodeId, RoundId, SampledSteps
from tests.rigs.coordinator_rig import RUN
from tests.rigs.masked_rig import terms
from tests.rigs.model_values import arrived, committer, initialised, update
from tests.rigs.status_values import snapshot, status_file

PRIVACY = ExamplePrivacy(clip=0.5, noise=1.5, sampling_rate=0.04, epsilon=8.0, delta=1e-5)


def spent(node: str, steps: int) -> NodeSpent:
    taken = (SampledSteps(sampling_rate=0.04, noise=1.5, steps=steps),)
    return NodeSpent(node=NodeId(node), steps=taken, round=RoundId(3), privacy=PRIVACY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = SqliteStore(tmp_path / "state")
    store.save_spent(spent("press-1", 2250))
    store.save_spent(spent("press-2", 10))
    store.close()
    return tmp_path / "state"


def test_the_statement_can_be_filed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_privacy(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "Largest epsilon of any node: 6.7688 at delta 1e-05 (press-1)." in said
    assert "add or remove one row" in said
    assert "press-1: epsilon 6.7688 at delta 1e-05, budget 8; 2,250 steps (q 0.04, noise 1.5); clip 0.5" in said
    assert "press-2: epsilon" in said
    for line in NOT_PROMISED:
        assert line in said


def test_the_numbers_can_be_read_by_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_privacy(folder, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["privacy"]["unit"] == "examples"
    assert found["privacy"]["adjacency"] == "add or remove one row"
    assert found["privacy"]["largest_epsilon"] == pytest.approx(6.76878, rel=1e-3)
    assert found["privacy"]["nodes"]["press-1"]["delta"] == 1e-5
    assert found["privacy"]["nodes"]["press-1"]["spent"] == [{"sampling_rate": 0.04, "noise": 1.5, "steps": 2250}]
    assert found["not_promised"] == list(NOT_PROMISED)


def test_one_line_has_unit_adjacency_and_delta_too(folder: Path) -> None:
    said = privacy_line(read_privacy(folder))
    for part in ("epsilon 6.769 of 8", "delta 1e-05", "2 nodes", "examples", "add or remove one row"):
        assert part in said


@dataclass(frozen=True)
class Batches:
    """Of a run whose versions have so many masked members each; None: that one was not masked."""

    members: tuple[int | None, ...]

    def history(self) -> list[Any]:
        return [SimpleNamespace(record=SimpleNamespace(version=version)) for version in range(len(self.members) + 1)]

    def batch(self, version: int) -> Any:
        members = self.members[version - 1]
        terms = SimpleNamespace(count=4, threshold=3)
        if members is None:
            return None
        request = SimpleNamespace(terms=terms, tickets=(None,) * members)
        return SimpleNamespace(requests=(request,), request=request, version=version)

    def masked_past(self) -> MaskedPast:
        return MaskedPast(since=1)


def test_the_fewest_nodes_of_any_sum_are_told_and_the_versions_that_were_not_masked() -> None:
    assert masked_versions(Batches((9, 8, None, 12))) == MaskedVersions(
        masked=3, plain=1, members_least=8, helpers=4, threshold=3, tolerated=1
    )
    assert masked_versions(Batches((None,))) is None
    assert masked_versions(Batches(())) is None


def test_sums_and_sealing_are_stated_beside_the_rows(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_privacy(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "Masked sums: none yet. No version has been made of updates." in said
    assert "no coordinator has said whether this run is sealed" in said
    assert NOT_PROMISED_BY_MASKS[0] not in said
    found = MaskedVersions(masked=3, plain=1, members_least=8, helpers=4, threshold=3, tolerated=1)
    monkeypatch.setattr("coordinator.monitoring.privacy.masked_versions", lambda _: found)
    status_file(folder, lambda: snapshot(sealed=True)).write()
    show_privacy(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "Masked sums: 3 of 4 versions." in said
    assert "at least 8 nodes" in said
    assert "Of the newest one 4 helpers held the seeds, and 3 had to answer for a sum." in said
    assert (
        "Over all of them up to 1 helper may be on the coordinator's side, and it still sees no update of one node."
        in said
    )
    assert "Of 1 version it has seen each update by itself." in said
    assert "Sealing: on, as the coordinator was started last." in said
    for line in (*NOT_PROMISED, *NOT_PROMISED_BY_MASKS):
        assert line in said
    assert "names, times, sizes, who takes part" in said
    show_privacy(folder, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["masked"]["members_least"], told["sealed"]) == (8, True)


def test_a_run_without_noise_promises_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SqliteStore(tmp_path / "state").close()
    show_privacy(tmp_path / "state")
    assert "nothing is promised" in capsys.readouterr().out
    assert (read_privacy(tmp_path / "state"), privacy_line(None)) == (None, "")


def test_the_statement_says_of_what_it_is_and_when_it_was_made(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who files it compares it with a later one; what had no protection is named."""
    made = datetime(2026, 11, 30, 9, 5, tzinfo=UTC)
    show_privacy(folder, now=made)
    said = capsys.readouterr().out
    with ReadOnlyStore(folder) as store:
        run = store.run
    assert f"Statement on privacy: run {run}, no version yet\nMade on 2026-11-30 09:05 UTC" in said
    assert max(map(len, said.splitlines())) <= WIDTH
    assert "Without an account" not in said
    stale = SimpleNamespace(node=NodeId("press-3"), statuses={ReceiptStatus.STALE: 1})
    idle = SimpleNamespace(node=NodeId("press-4"), statuses={})
    monkeypatch.setattr(ReadOnlyStore, "participation", lambda _: [stale, idle])
    show_privacy(folder, now=made)
    assert "updates have come from: press-3." in " ".join(capsys.readouterr().out.split())
    show_privacy(folder, as_json=True, now=made)
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["version"], told["made"]) == (run, None, "2026-11-30 09:05 UTC")
    assert told["nodes_without_account"] == ["press-3"]


def masked_batch(version: int, members: int = 8, *, count: int = 2, threshold: int = 2) -> BatchRecord:
    return BatchRecord(
        version=ModelVersion(version),
        request=SumRequest(
            run=RUN,
            version=ModelVersion(version),
            batch=Digest(bytes([version]) * 16),
            terms=terms(count=count, threshold=threshold),
            members=b"".join(number.to_bytes(16, "big") for number in range(members)),
            classes=(0,),
        ),
        members=(),
        reason="quorum",
    )


def grown(store: SqliteStore, *batches: BatchRecord | None, first: int = 1) -> None:
    """A version of each batch, whose sums are no matter here; None: of one that was not masked."""
    for number, batch in enumerate(batches, first):
        sent = arrived("ann", update(number), round_id=number)
        store.save_update(sent.record, sent.payload)
        committer(store).commit([sent.member], "quorum", Figures())
        if batch is not None:
            row = {"version": number, "request": encode_message(batch.request), "members": "[]", "reason": batch.reason}
            with store._database.transaction("test"):
                store._database.insert("batches", row)


def told(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    show_privacy(folder)
    said = " ".join(capsys.readouterr().out.split())
    show_privacy(folder, as_json=True)
    return said, json.loads(capsys.readouterr().out)


def test_versions_stay_masked_in_the_statement_when_their_batches_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch is kept for the audit of the head alone; what was promised is of all versions."""
    store = SqliteStore(tmp_path)
    initialised(store)
    grown(store, masked_batch(1, 9), masked_batch(2, 8, count=4, threshold=3), masked_batch(3, 12), None, None)
    store.close()
    said, row = told(tmp_path, capsys)
    assert "Masked sums: 3 of 5 versions." in said
    assert "sums over at least 8 nodes, and no update by itself." in said
    assert "Of the newest one 2 helpers held the seeds, and 2 had to answer for a sum." in said
    assert "Of 2 versions it has seen each update by itself." in said
    assert row["masked"] == {
        "masked": 3,
        "plain": 2,
        "members_least": 8,
        "helpers": 2,
        "threshold": 2,
        "tolerated": 1,
        "unknown": 0,
    }


def test_of_versions_of_an_earlier_release_nothing_is_claimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SqliteStore(tmp_path)
    initialised(store)
    grown(store, masked_batch(1), masked_batch(2))
    # As it kept them: the newest batch alone.
    with store._database.transaction("test"):
        store._database.execute("DELETE FROM meta WHERE key = 'masked_past'")
    assert told(tmp_path, capsys)[1]["masked"]["unknown"] == 1
    grown(store, masked_batch(3), None, first=3)
    store.close()
    said, row = told(tmp_path, capsys)
    assert "Masked sums: 2 of 4 versions." in said
    assert "Of 1 version it has seen each update by itself." in said
    assert "Of 1 version of an earlier release these records do not say whether it has." in said
    assert (row["masked"]["masked"], row["masked"]["plain"], row["masked"]["unknown"]) == (2, 1, 1)


def test_one_helper_alone_may_not_be_on_the_coordinators_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SqliteStore(tmp_path)
    initialised(store)
    grown(store, masked_batch(1, count=1, threshold=1), masked_batch(2))
    store.close()
    assert (
        "Over all of them no helper may be on the coordinator's side, or it can see the update of one node."
        in told(tmp_path, capsys)[0]
    )


def test_a_delta_is_never_smaller_than_that_of_the_epsilon_beside_it(tmp_path: Path) -> None:
    """Two starts of a run may ask for two deltas; a node that left keeps the former one."""
    store = SqliteStore(tmp_path)
    strict, lax = replace(PRIVACY, delta=1e-7, epsilon=2.0), PRIVACY
    store.save_spent(replace(spent("press-1", 10), privacy=strict))
    store.save_spent(replace(spent("press-2", 2250), privacy=lax))
    report = privacy_report(store)
    store.close()
    assert "epsilon 6.769 of 8 (delta 1e-05," in privacy_line(report)
    row = privacy_row(report)
    assert row is not None
    assert row["delta"] == 1e-5

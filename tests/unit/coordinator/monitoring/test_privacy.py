"""The statement of what was promised says unit, adjacency and delta with every epsilon, and what was not promised."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.monitoring.privacy import (
    NOT_PROMISED,
    NOT_PROMISED_BY_MASKS,
    WIDTH,
    MaskedVersions,
    masked_versions,
    privacy_line,
    read_privacy,
    show_privacy,
)
from coordinator.records import NodeSpent
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from federation.protocol.messages import ReceiptStatus
from federation.types import ExamplePrivacy, NodeId, RoundId, SampledSteps
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
        return SimpleNamespace(requests=(request,), request=request)


def test_the_fewest_nodes_of_any_sum_are_told_and_the_versions_that_were_not_masked() -> None:
    assert masked_versions(Batches((9, 8, None, 12))) == MaskedVersions(
        masked=3, plain=1, members_least=8, helpers=4, threshold=3
    )
    assert masked_versions(Batches((None,))) is None
    assert masked_versions(Batches(())) is None


def test_sums_and_sealing_are_stated_beside_the_rows(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_privacy(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "Masked sums: none. The coordinator has seen each update by itself." in said
    assert "no coordinator has said whether this run is sealed" in said
    assert NOT_PROMISED_BY_MASKS[0] not in said
    found = MaskedVersions(masked=3, plain=1, members_least=8, helpers=4, threshold=3)
    monkeypatch.setattr("coordinator.monitoring.privacy.masked_versions", lambda _: found)
    status_file(folder, lambda: snapshot(sealed=True)).write()
    show_privacy(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "Masked sums: 3 of 4 versions." in said
    assert "at least 8 nodes" in said
    assert "Of the newest one 4 helpers held the seeds" in said
    assert "without 3 of them" in said
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
    applied = SimpleNamespace(node=NodeId("press-3"), count=lambda status: int(status is ReceiptStatus.APPLIED))
    idle = SimpleNamespace(node=NodeId("press-4"), count=lambda _status: 0)
    monkeypatch.setattr(ReadOnlyStore, "participation", lambda _: [applied, idle])
    show_privacy(folder, now=made)
    assert "updates have come from: press-3." in " ".join(capsys.readouterr().out.split())
    show_privacy(folder, as_json=True, now=made)
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["version"], told["made"]) == (run, None, "2026-11-30 09:05 UTC")
    assert told["nodes_without_account"] == ["press-3"]

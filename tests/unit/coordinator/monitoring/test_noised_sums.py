"""What noised sums tell of whole nodes: an epsilon with unit, adjacency and delta wherever it is said."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator.monitoring.noised_sums import (
    NODES_ADJACENCY,
    NOT_PROMISED_BY_COORDINATOR,
    NOT_PROMISED_OF_NODES,
    nodes_line,
    nodes_report,
)
from coordinator.monitoring.privacy import SIMULATED, show_privacy
from coordinator.monitoring.status import read_status
from coordinator.records import ReleaseLedger, ReleaseRecord
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.releases import charge_release
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import LocalProtocolError
from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.releases import Taking
from federation.privacy.taking import Drawn, Participation, Plan
from federation.types import Digest, ModelVersion, NodeId

A, B = NodeId("press-1"), NodeId("press-2")


def record(number: int, *nodes: NodeId) -> ReleaseRecord:
    return ReleaseRecord(
        release=number,
        batch=Digest(bytes([number]) * 16),
        version=ModelVersion(number + 1),
        noise=4.0,
        clip=1.0,
        epsilon=8.0,
        delta=1e-5,
        prices=dict.fromkeys(nodes, 1 / 16),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = SqliteStore(tmp_path / "state")
    for number in range(10):
        with store._database.transaction("test"):
            charge_release(store._database, record(number, A, *([B] if number < 3 else [])))
            charge_release(store._database, record(number, A, *([B] if number < 3 else [])))
    store.close()
    return tmp_path / "state"


def test_a_sum_is_charged_once_and_its_number_belongs_to_one_batch(folder: Path) -> None:
    with ReadOnlyStore(folder) as store:
        assert store.released().takings == {
            A: Taking(releases=10, last=9, spent=10 / 16),
            B: Taking(releases=3, last=2, spent=3 / 16),
        }
        assert [one.prices.keys() for one in store.releases()][2:4] == [{A, B}, {A}]
    written = SqliteStore(folder)
    with pytest.raises(LocalProtocolError, match="another batch"), written._database.transaction("test"):
        charge_release(written._database, replace(record(3, B), batch=Digest(b"x" * 16)))
    written.close()


def test_what_a_helper_knows_better_never_lowers_an_account(folder: Path) -> None:
    store = SqliteStore(folder)
    store.batches.raise_takings({A: Taking(releases=2, last=30, spent=0.1), B: Taking(releases=7, last=1, spent=1.0)})
    assert store.released().takings == {
        A: Taking(releases=10, last=30, spent=10 / 16),
        B: Taking(releases=7, last=2, spent=1.0),
    }
    store.close()


def test_the_statement_says_what_it_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Vector z 4, k 10: 3.34141."""
    show_privacy(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "Largest epsilon of any node: 3.3414 at delta 1e-05 (press-1), of a budget of 8." in said
    assert NODES_ADJACENCY in said
    assert (
        "In 10 sums each helper has added Gaussian noise with a standard deviation of at least 4 times the clip" in said
    )
    assert "longest contribution: at most 1." in said
    assert "press-2: epsilon" in said
    assert "nothing is promised of any row" not in said
    for line in NOT_PROMISED_OF_NODES:
        assert line in said
    show_privacy(folder, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["nodes_privacy"]["nodes"]["press-1"]["epsilon"] == pytest.approx(3.34141, abs=1e-5)
    assert (found["nodes_privacy"]["unit"], found["privacy"]) == ("nodes", None)
    assert (found["nodes_privacy"]["noise"], found["nodes_privacy"]["clip"]) == (4.0, 1.0)


def test_correlated_noise_is_stated_with_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is promised holds for nodes that lie as the plan allows, and a reader must know of it."""
    planned = Plan(bandwidth=4, participation=Participation(releases=30, separation=5, participations=3))
    store = SqliteStore(tmp_path)
    for number in range(2):
        with store._database.transaction("test"):
            charge_release(store._database, replace(record(number, A), plan=planned))
    assert store.released().drawn.plan == planned
    store.close()
    show_privacy(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "This noise is correlated: that of each sum depends on 3 sums before it. It was planned for 30 sums" in said
    assert "is an upper bound for Gaussian noise" in said
    assert "one node is in 3 of them at most, with at least 4 other sums between two of them" in said
    show_privacy(tmp_path, as_json=True)
    found = json.loads(capsys.readouterr().out)["nodes_privacy"]["correlated"]
    assert found == {"bandwidth": 4, "releases": 30, "separation": 5, "participations": 3}


def test_of_noise_that_is_drawn_anew_no_plan_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_privacy(folder)
    assert "correlated" not in capsys.readouterr().out
    assert read_status(folder)["nodes_privacy"]["correlated"] is None  # type: ignore[index]


def test_a_simulated_run_is_said_to_be_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_privacy(folder)
    assert "simulation" not in capsys.readouterr().out
    store = SqliteStore(folder)
    store.save_task("digits", simulated=True)
    store.close()
    show_privacy(folder)
    assert SIMULATED in " ".join(capsys.readouterr().out.split())
    show_privacy(folder, as_json=True)
    assert json.loads(capsys.readouterr().out)["simulated"] is True


def test_status_has_it_in_one_line_and_as_data(folder: Path) -> None:
    with ReadOnlyStore(folder) as store:
        said = nodes_line(nodes_report(store))
    for part in ("epsilon 3.341 of 8", "delta 1e-05", "2 nodes", "unit nodes", NODES_ADJACENCY):
        assert part in said
    row = read_status(folder)["nodes_privacy"]
    assert isinstance(row, dict)
    assert row["largest_epsilon"] == pytest.approx(gaussian_epsilon((10 / 16) ** 0.5, 1e-5))


def by_coordinator(folder: Path, first: int, count: int) -> None:
    store = SqliteStore(folder)
    for number in range(first, first + count):
        with store._database.transaction("test"):
            charge_release(store._database, record(number, A), by_coordinator=True)
    store.close()


def test_a_coordinator_that_adds_the_noise_is_named_as_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Vector z 4, k 10: 3.34141."""
    by_coordinator(tmp_path, 0, 10)
    show_privacy(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "by noise that the coordinator has added to the sums" in said
    assert "Largest epsilon of any node: 3.3414 at delta 1e-05 (press-1)" in said
    assert "it has seen each update, and whoever gets a model has not" in said
    for line in NOT_PROMISED_BY_COORDINATOR:
        assert line in said
    for line in set(NOT_PROMISED_OF_NODES) - set(NOT_PROMISED_BY_COORDINATOR):
        assert line not in said
    row = read_status(tmp_path)["nodes_privacy"]
    assert isinstance(row, dict)
    assert row["noise_by"] == "coordinator"
    with ReadOnlyStore(tmp_path) as store:
        assert "the coordinator adds the noise and sees every update" in nodes_line(nodes_report(store))


def test_who_has_added_the_noise_is_told_of_a_run_that_changed_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_coordinator(folder, 10, 2)
    show_privacy(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 12, and seen their updates; helpers have added it to the others" in said
    for line in (*NOT_PROMISED_BY_COORDINATOR, *NOT_PROMISED_OF_NODES):
        assert line in said


def test_a_run_without_noise_says_nothing_of_nodes(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    assert nodes_report(store) is None
    assert nodes_line(None) == ""
    store.close()


def test_versions_without_noise_are_told_beside_those_that_have_some(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise may be switched off at any start, and no epsilon speaks of what was made then."""
    rows = [SimpleNamespace(record=SimpleNamespace(version=ModelVersion(version))) for version in range(13)]
    monkeypatch.setattr(ReadOnlyStore, "history", lambda _: rows)
    show_privacy(folder)
    assert "2 of 12 versions have no noise: of them nothing is promised." in capsys.readouterr().out
    show_privacy(folder, as_json=True)
    assert json.loads(capsys.readouterr().out)["versions_without_noise"] == 2


def test_after_a_restore_nodes_that_are_not_listed_have_an_epsilon_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backup from before the first sum knows of nobody, and ten sums may have been made since."""
    store = SqliteStore(tmp_path)
    ledger = ReleaseLedger(floor=Taking(releases=10, last=-1, spent=10 / 16), drawn=Drawn(here=4.0))
    store.batches.take_over(ledger)
    store.close()
    show_privacy(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "Largest epsilon of any node: 3.3414 at delta 1e-05 (of each)." in said
    assert "Every node that is not listed is counted with epsilon 3.3414" in said
    assert "by noise that the coordinator has added to the sums" in said, "no helper's accounts are ever lost"
    assert "is an upper bound for Gaussian noise" in said
    assert NOT_PROMISED_OF_NODES[0] not in said
    row = read_status(tmp_path)["nodes_privacy"]
    assert isinstance(row, dict)
    assert row["epsilon_of_others"] == pytest.approx(3.34141, abs=1e-5)

"""The best version and early stopping, as ``coordinator status`` tells them from a state folder."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coordinator.cli import why
from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.monitoring import status
from coordinator.monitoring.run_progress import Best, read_run_progress
from coordinator.monitoring.state_files import StoppingRule, helper_lines, read_helper_trouble
from coordinator.records import NodeResult, RoundRecord
from coordinator.storage.files import STATUS
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.protocol.cohort import NOBODY
from federation.types import ModelVersion, NodeId, RoundId
from tests.rigs.model_values import arrived, committer, initialised, update
from tests.rigs.status_values import snapshot, status_file


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store with version 0."""
    made = SqliteStore(tmp_path)
    initialised(made)
    yield made
    made.close()


def found(store: SqliteStore, accuracies: Sequence[float], best: int) -> None:
    """So many versions, each evaluated by the coordinator."""
    for version, accuracy in enumerate(accuracies, start=1):
        sent = arrived("a", update(1.0), round_id=version)
        store.save_update(sent.record, sent.payload)
        committer(store).commit([sent.member], "full", Figures())
        store.save_evaluation(ModelVersion(version), {"accuracy": accuracy})
        store.retain([], ModelVersion(best) if best <= version else None)


def write_stopping(folder: Path, settings: StoppingSettings, *, versions: int) -> None:
    """A coordinator has started with these settings."""
    status_file(folder, snapshot, stopping=StoppingRule(settings=settings, versions=versions)).write()


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    status.show_status(folder)
    return capsys.readouterr().out


def test_a_run_without_evaluations_says_nothing_of_a_best_version(
    store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.best() is None
    assert read_run_progress(tmp_path) is None
    assert "best" not in shown(tmp_path, capsys)
    status.show_status(tmp_path, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["best"], told["stopping"]) == (None, None)


def test_the_best_version_is_shown_with_its_metric_and_value(
    store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found(store, [0.5, 0.75, 0.7], best=2)
    text = shown(tmp_path, capsys)
    assert "best version: 2, accuracy 75.00%" in text
    assert "early" not in text
    status.show_status(tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["best"] == {"version": 2, "metric": "accuracy", "value": 0.75}


def test_a_run_that_waits_for_improvement_says_how_far_it_is(
    store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stopping(tmp_path, StoppingSettings(patience=5), versions=20)
    assert "0 of 5 evaluations without improvement" in shown(tmp_path, capsys)
    found(store, [0.75, 0.5, 0.6, 0.7], best=1)
    assert "3 of 5 evaluations without improvement" in shown(tmp_path, capsys)
    status.show_status(tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["stopping"] == {
        "source": "central",
        "evaluations": 4,
        "waited": 3,
        "patience": 5,
        "stopped_early": False,
    }


def test_a_run_that_stopped_early_says_so_and_one_with_all_its_versions_does_not(
    store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found(store, [0.75, 0.5, 0.6], best=1)
    write_stopping(tmp_path, StoppingSettings(patience=2), versions=20)
    assert "stopped early: 2 evaluations in a row without improvement" in shown(tmp_path, capsys)
    write_stopping(tmp_path, StoppingSettings(patience=2), versions=3)
    run_progress = read_run_progress(tmp_path)
    assert run_progress is not None
    assert not run_progress.stopped_early


def test_the_nodes_evaluations_are_the_ones_that_count_where_the_settings_say_so(
    store: SqliteStore, tmp_path: Path
) -> None:
    found(store, [0.1], best=1)
    record = RoundRecord(round=RoundId(50), version=ModelVersion(1), nodes=(), cohort=NOBODY, evaluation=2**64 - 1)
    store.save_round(record)
    store.save_node_result(
        NodeResult(version=ModelVersion(1), node=NodeId("a"), num_examples=12, metrics={"distance": 0.75})
    )
    settings = StoppingSettings(source=Source.NODES, metric="distance", goal=Goal.MIN)
    write_stopping(tmp_path, settings, versions=0)
    assert read_run_progress(tmp_path) is None
    store.close_evaluation(ModelVersion(1))
    run_progress = read_run_progress(tmp_path)
    assert run_progress is not None
    assert run_progress.best == Best(version=ModelVersion(1), metric="distance", value=0.75)


def test_a_disk_that_is_full_or_a_file_that_is_damaged_is_borne(store: SqliteStore, tmp_path: Path) -> None:
    found(store, [0.75], best=1)
    write_stopping(tmp_path / "absent", StoppingSettings(), versions=1)
    wrong = '{"stopping": {"versions": 1, "stopping": {"source": "elsewhere", "goal": null}}}'
    for text in ("", "[]", "{}", wrong):
        (tmp_path / STATUS).write_text(text)
        run_progress = read_run_progress(tmp_path)
        assert run_progress is not None
        assert run_progress.best == Best(version=ModelVersion(1), metric="accuracy", value=0.75)


def test_the_helpers_are_told_and_one_that_is_away_first_of_all(
    store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where three of four suffice nobody waits for the fourth, and nobody would hear of it."""
    assert store.best() is None
    status_file(tmp_path, lambda: snapshot("assignments")).write()
    assert "helper" not in shown(tmp_path, capsys)
    helpers = {"acme": {"online": True}, "dyne": {"online": False}}
    status_file(tmp_path, lambda: {**snapshot("assignments"), "helpers": helpers}).write()
    told = shown(tmp_path, capsys)
    assert "helpers that are not online: dyne\n" in told
    assert "masked: the coordinator reads sums only; helpers acme, dyne" in told
    status.show_status(tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["helpers"] == {"acme": True, "dyne": False}
    store.close()  # its coordinator has stopped
    assert "helpers that were not online: dyne\n" in shown(tmp_path, capsys)


def test_a_helper_that_others_doubt_is_named(
    store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ADR 45: whom the run goes on without, and whose claims are not believed, people should know."""
    sound = {"online": True, "refuses": False, "doubted": 0}
    helpers = {"acme": sound, "dyne": sound | {"refuses": True}, "epsi": sound | {"doubted": 3}}
    assert store.best() is None
    status_file(tmp_path, lambda: {**snapshot("assignments"), "helpers": helpers}).write()
    said = list(helper_lines(tmp_path))
    assert said == [
        "helper dyne refuses seeds or sums, and is left out where the others suffice: ask its people",
        "helper epsi claims that 3 nodes spent more than can be, and is not believed: ask its people",
    ]
    assert said[0] in " ".join(shown(tmp_path, capsys).split()), "whatever the width of the terminal"
    status.show_status(tmp_path, as_json=True)
    trouble = {"dyne": {"refuses": True, "doubted": 0}, "epsi": {"refuses": False, "doubted": 3}}
    assert json.loads(capsys.readouterr().out)["helper_trouble"] == trouble
    why(config=None, state=tmp_path, as_json=False)
    told = capsys.readouterr().out
    assert all(line in told for line in said)
    why(config=None, state=tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["helper_trouble"] == trouble


def test_a_status_file_of_an_earlier_release_says_nothing_of_trouble(tmp_path: Path) -> None:
    helpers = {"acme": {"online": True}}
    status_file(tmp_path, lambda: {**snapshot("assignments"), "helpers": helpers}).write()
    assert list(helper_lines(tmp_path)) == []
    assert read_helper_trouble(tmp_path) == {}

"""A run is read from wherever it is kept, compared with others, and written for TensorBoard."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.artifacts.plots.cli import compare
from coordinator.artifacts.plots.compare import compare_runs, comparison_row
from coordinator.artifacts.plots.run import Run, load_run, load_runs, run_of_report
from coordinator.artifacts.plots.tensorboard import write_events
from coordinator.cli import make_app
from coordinator.monitoring.report import build_report
from coordinator.records import NodeResult, RoundRecord
from coordinator.storage.database import DATABASE
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.errors import ConfigError, StorageError
from federation.protocol.cohort import cohort_of
from federation.types import ModelVersion, NodeId, RoundId
from tests.rigs.former_state import made_older
from tests.rigs.model_values import arrived, committer, initialised, update
from tests.rigs.run_values import report, written


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fine the pixels are is nothing that is tested here, and most of the work."""
    monkeypatch.setattr("coordinator.artifacts.plots.canvas.DOTS_PER_INCH", 50)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """Two versions, the second of which was evaluated."""
    made = SqliteStore(tmp_path / "plant" / "state")
    initialised(made)
    commits = committer(made)
    for version, nodes in ((1, "ab"), (2, "a")):
        sent = [arrived(node, update(float(version)), round_id=version - 1) for node in nodes]
        for one in sent:
            made.save_update(one.record, one.payload)
        commits.commit([one.member for one in sent], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
    made.save_round(
        RoundRecord(
            round=RoundId(2),
            version=ModelVersion(2),
            nodes=(),
            cohort=cohort_of(made.run, RoundId(2), ()),
            evaluation=9,
        )
    )
    for node, accuracy in (("a", 0.5), ("b", 1.0)):
        made.save_node_result(
            NodeResult(version=ModelVersion(2), node=NodeId(node), num_examples=10, metrics={"accuracy": accuracy})
        )
    made.close_evaluation(ModelVersion(2))
    made.save_evaluation(ModelVersion(2), {"accuracy": 0.75, "loss": 0.5, "f1": 0.7})
    yield made
    made.close()


@pytest.mark.thorough
@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 5e-324, float("inf"), float("nan")])
def test_any_stored_number_and_any_name_can_be_compared(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = report(2, 3)
    for row in said["rounds"]:  # type: ignore[attr-defined]
        row["metrics"] = {"[/red]": value, "accuracy": value}
    file = written(tmp_path / "[bold]a.json", said)
    for metric in ("accuracy", "[/red]"):
        compare([file, file], metric=metric, target=value, out=tmp_path / "pictures")
    out = capsys.readouterr().out
    assert "[bold]a" in out
    assert max(map(len, out.splitlines())) <= 200, "no number of 300 digits"
    assert (tmp_path / "pictures" / "compare.png").exists()


def test_a_report_of_numbers_that_are_no_counts_is_refused(tmp_path: Path) -> None:
    said = report(2, 3)
    said["rounds"][0]["bytes_up"] = float("inf")  # type: ignore[index]
    with pytest.raises(ConfigError, match="no report of a run"):
        load_run(written(tmp_path / "a.json", said))


def test_a_state_folder_a_configuration_and_a_report_are_the_same_run(store: SqliteStore, tmp_path: Path) -> None:
    state = tmp_path / "plant" / "state"
    (tmp_path / "plant" / "coordinator.toml").write_text(
        '[broker]\nurl = "mqtt://127.0.0.1"\n'
        f'[federation]\nid = "plant"\n[task]\nname = "digits"\n[store]\nfolder = "{state}"\n'
    )
    file = written(tmp_path / "plant.json", build_report(store, strategy="fedavg", codec="edge"))
    by_state, by_folder, by_file = (load_run(path) for path in (state, tmp_path / "plant", file))
    assert [point.version for point in by_state.versions] == [0, 1, 2]
    assert by_state.versions == by_folder.versions
    assert by_state.versions[1:] == by_file.versions
    assert by_state.nodes == by_file.nodes
    assert by_state.updates == by_file.updates
    assert by_file.versions[-1].metrics == {"accuracy": 0.75, "loss": 0.5, "f1": 0.7, "nodes_accuracy": 0.75}
    assert by_state.evaluations == by_file.evaluations
    assert [(point.node, point.accuracy) for point in by_file.evaluations] == [("a", 0.5), ("b", 1.0)]
    assert (by_file.versions[-1].time_s, by_file.versions[-1].bytes_total) == (4.0, 280)
    assert [node.applied for node in by_state.nodes] == [2, 1]
    assert (by_state.name, by_folder.name) == ("plant/state", "plant")
    assert by_file.metric_names() == ["accuracy", "loss", "nodes_accuracy", "f1"]


def test_a_store_of_a_release_without_evaluations_on_nodes_is_read(store: SqliteStore, tmp_path: Path) -> None:
    store.close()
    state = tmp_path / "plant" / "state"
    made_older(state / DATABASE, "surveys", "node_results", "retained", "attendance")
    old = load_run(state)
    assert old.evaluations == ()
    assert old.versions[-1].metrics == {"accuracy": 0.75, "loss": 0.5, "f1": 0.7}


def test_a_report_of_an_older_release_is_read_without_its_updates(tmp_path: Path) -> None:
    old = {key: value for key, value in report(3, 2).items() if key != "updates"}
    assert load_run(written(tmp_path / "old.json", old)).updates == ()


@pytest.mark.parametrize("content", ["[]", '{"rounds": 3}', '{"rounds": [{"version": 1}]}'])
def test_another_json_file_is_no_report(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ConfigError, match="no report"):
        load_run(tmp_path / "other.json")


def test_a_file_that_is_no_json_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(StorageError, match="report"):
        load_run(tmp_path / "picture.png")


def test_runs_of_one_name_are_numbered_and_long_names_are_cut(tmp_path: Path) -> None:
    paths = []
    for folder in "ab":
        (tmp_path / folder).mkdir()
        paths.append(written(tmp_path / folder / "run.json", report(2, 2)))
    paths.append(written(tmp_path / ("x" * 60 + ".json"), report(2, 2)))
    names = [run.name for run in load_runs(paths)]
    assert names[:2] == ["run", "run #2"]
    assert len(names[2]) == 32


def run(versions: int) -> Run:
    return run_of_report(report(3, versions), Path("r.json"))


def test_a_comparison_says_what_the_target_took() -> None:
    (one,) = compare_runs([run(20)], target=0.9)
    row = comparison_row(one)
    assert (row["final"], row["best_version"]) == (pytest.approx(0.955), 20)
    assert (row["target_version"], row["target_time_s"], row["target_bytes"]) == (9, 13.5, 36_000)
    (other,) = compare_runs([run(20)], metric="loss", target=0.5)
    assert comparison_row(other)["target_version"] == 4
    (never,) = compare_runs([run(20)], target=0.99)
    assert comparison_row(never)["target_version"] is None


def not_drawn(_figure: object, folder: Path, name: str) -> list[Path]:
    """Files without pictures in them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        path.write_bytes(b"")
    return paths


def test_the_commands_print_tables_json_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures themselves are the matter of test_pictures.py."""
    monkeypatch.setattr("coordinator.artifacts.plots.gallery.save_figure", not_drawn)
    paths = [str(written(tmp_path / f"{name}.json", report(3, 12, seed=len(name)))) for name in ("fast", "slow-one")]
    runner = CliRunner()
    app = make_app(["compare"])
    shown = runner.invoke(app, ["compare", *paths, "--target", "0.9"])
    assert shown.exit_code == 0, shown.output
    assert "92.50%" in shown.output
    assert "to reach accuracy 90.00%" in shown.output
    rows = json.loads(runner.invoke(app, ["compare", *paths, "--json"]).stdout)
    assert [row["run"] for row in rows] == ["fast", "slow-one"]
    drawn = runner.invoke(app, ["compare", *paths, "--metric", "f1", "-o", str(tmp_path / "out")])
    assert (tmp_path / "out" / "compare.svg").exists()
    assert "there is accuracy, loss" in drawn.output
    plot = make_app(["plot"])
    told = json.loads(runner.invoke(plot, ["plot", *paths, "-o", str(tmp_path / "p"), "--json"]).stdout)
    assert len(told["files"]) == 24
    assert (tmp_path / "p" / "fast" / "staleness.png").exists()
    alone = runner.invoke(plot, ["plot", paths[0], "-o", str(tmp_path / "q")])
    assert str(tmp_path / "q" / "learning.png") in alone.stdout.split()
    assert isinstance(runner.invoke(plot, ["plot", paths[0]]).exception, ConfigError)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar by its tag, read from the records with TensorBoard's own message type."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found: dict[str, list[tuple[int, float]]] = {}
    (file,) = folder.iterdir()
    body = file.read_bytes()
    while body:
        (length,) = struct.unpack("<Q", body[:8])
        content = body[12 : 12 + length]
        assert struct.unpack("<I", body[12 + length : 16 + length])[0] == masked_crc32c(content)
        event = Event.FromString(content)
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        body = body[16 + length :]
    return found


def test_tensorboard_files_hold_evaluations_bytes_and_every_nodes_loss(tmp_path: Path) -> None:
    one = load_run(written(tmp_path / "run.json", report(3, 4)))
    for _ in range(2):
        folder = write_events(one, tmp_path / "events")
        scalars = events(folder)
    assert folder == tmp_path / "events" / "run"
    step, value = scalars["evaluation/accuracy"][-1]
    assert (step, round(value, 6)) == (4, 0.775)
    assert [step for step, _ in scalars["bytes/up"]] == [1, 2, 3, 4]
    assert scalars["bytes/up"][-1][1] == 4000
    assert [tag for tag in scalars if tag.startswith("node-loss/")] == [f"node-loss/node-{n}" for n in range(3)]
    assert [step for step, _ in scalars["node-loss/node-1"]] == [0, 1, 2, 3]
    assert [step for step, _ in scalars["node-accuracy/node-1"]] == [1, 2, 3, 4]


def test_without_tensorboardx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"fedmq\[tensorboard\]"):
        write_events(run(2), tmp_path)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="TensorBoard"):
        write_events(run(2), tmp_path / "file")

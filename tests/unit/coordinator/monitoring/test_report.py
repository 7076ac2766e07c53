"""What a person reads of a run: the report, the status tables, the exported model, the command line."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console

from coordinator import cli
from coordinator.artifacts.export import export_model
from coordinator.cli import make_app
from coordinator.monitoring import screen, status
from coordinator.monitoring.curves import read_curves, series
from coordinator.monitoring.report import build_report
from coordinator.records import Attendance, NodeResult, NodeSpent, RoundRecord, Verdict
from coordinator.storage.database import DATABASE
from coordinator.storage.files import STATUS
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import CoordinatorStore, CurveKind, Figures
from federation.errors import ConfigError, FederationError, StorageError, StoreLocked, TaskError, TransportError
from federation.protocol.cohort import NOBODY
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import ExamplePrivacy, Incarnation, ModelVersion, NodeId, RoundId, SampledSteps
from tests.rigs.former_state import made_older
from tests.rigs.model_values import INITIAL, MANIFEST, arrived, committer, initialised, update
from tests.rigs.status_values import snapshot, status_file

starts_programs = pytest.mark.usefixtures("programs_start_warm")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """One version of two updates, and one that was refused."""
    made = SqliteStore(tmp_path / "store")
    initialised(made)
    sent = [arrived("a", update(1.0)), arrived("b", update(3.0))]
    for one in sent:
        made.save_update(replace(one.record, fetched_bytes=7), one.payload)
    bad = arrived("c", update(1.0))
    verdict = Verdict(update=bad.record.update, node=bad.record.node, status=ReceiptStatus.REFUSED, reason=Reason.NORM)
    made.save_verdict(verdict, bad.record)
    committer(made).commit([one.member for one in sent], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
    made.save_evaluation(ModelVersion(1), {"accuracy": 0.75, "loss": 0.5})
    yield made
    made.close()


def test_the_report_has_every_figure_that_the_demo_and_the_bench_read(store: CoordinatorStore) -> None:
    report = build_report(store, strategy="fedavg", codec="edge", tail=(5, 6))
    assert report["rounds"] == [
        {
            "version": 1,
            "accuracy": 0.75,
            "loss": 0.5,
            "wall_s": 2.0,
            "accepted": 2,
            "stale": 0,
            "refused": 1,
            "bytes_up": 100,
            "bytes_down": 40,
            "reason": "full",
            "metrics": {"accuracy": 0.75, "loss": 0.5},
        }
    ]
    assert report["updates"] == {
        "node": ["a", "b", "c"],
        "base_version": [0, 0, 0],
        "version": [1, 1, None],
        "status": ["applied", "applied", "refused"],
        "staleness": [0, 0, 0],
        "loss": [None, None, None],
        "train_s": [0.0, 0.0, 0.0],
    }
    assert (report["final_accuracy"], report["loop_wall_s"], report["model_parameters"]) == (0.75, 2.0, 45)
    assert (report["bytes_up_total"], report["bytes_down_total"]) == (105, 46)
    assert report["bytes_up_fp32"] == report["bytes_down_fp32"] == 3 * MANIFEST.fp32_bytes
    detail = report["nodes_detail"]
    assert isinstance(detail, list)
    assert [node["id"] for node in detail] == ["a", "b", "c"]
    assert (detail[0]["updates_applied"], detail[0]["bytes_down"]) == (1, 7)
    assert (detail[2]["updates_refused"], detail[2]["reasons"]) == (1, {"norm": 1})
    json.dumps(report)


def test_the_report_has_epsilon_with_unit_adjacency_and_delta(store: SqliteStore) -> None:
    assert build_report(store, strategy="fedavg", codec="edge")["privacy"] is None
    privacy = ExamplePrivacy(clip=0.5, noise=1.5, sampling_rate=0.04, epsilon=8.0, delta=1e-5)
    for node, count in (("a", 2250), ("b", 10)):
        taken = (SampledSteps(sampling_rate=0.04, noise=1.5, steps=count),)
        store.save_spent(NodeSpent(node=NodeId(node), steps=taken, round=RoundId(0), privacy=privacy))
    told = build_report(store, strategy="fedavg", codec="edge")["privacy"]
    assert isinstance(told, dict)
    assert (told["unit"], told["adjacency"]) == ("examples", "add or remove one row")
    assert told["largest_epsilon"] == told["nodes"]["a"]["epsilon"] == pytest.approx(6.76878, rel=1e-3)
    assert told["nodes"]["b"]["delta"] == 1e-5
    json.dumps(told)


def test_a_run_that_was_never_evaluated_has_no_accuracy(tmp_path: Path) -> None:
    made = SqliteStore(tmp_path / "other")
    initialised(made)
    report = build_report(made, strategy="fedavg", codec="edge")
    assert (report["final_accuracy"], report["rounds"]) == (None, [])
    made.close()


def test_the_status_is_shown_as_tables_and_as_json(
    store: CoordinatorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status.show_status(tmp_path / "store", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [version["version"] for version in shown["versions"]] == [0, 1]
    assert len(shown["nodes"]) == 3
    status.show_status(tmp_path / "store")
    text = capsys.readouterr().out
    assert "75.00%" in text


def test_a_node_that_never_helped_is_named_with_the_reason(
    store: CoordinatorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (NodeId("mute"), NodeId("tired"))
    store.save_round(RoundRecord(round=RoundId(50), version=ModelVersion(1), nodes=asked, cohort=NOBODY))
    seen = {NodeId("idle"): Incarnation(1), NodeId("a"): Incarnation(1)}
    store.save_attendance(Attendance(incarnations=seen, absences={NodeId("tired"): {"[low] battery": 2}}))
    store.save_attendance(Attendance(incarnations={NodeId("a"): Incarnation(3)}))
    monkeypatch.setenv("COLUMNS", "160")
    status.show_status(tmp_path / "store")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    said = {line.split()[0]: line.rpartition(" B ")[2].strip() for line in lines}
    assert said["a"] == "restarts 2"
    assert said["c"] == "norm 1 (nothing of it was ever used)"
    assert said["idle"] == "never asked"
    assert said["mute"] == "asked once, never sent an update"
    assert said["tired"] == "[low] battery 2 (asked once, never sent an update)"
    status.show_status(tmp_path / "store", as_json=True)
    told = {node["id"]: node for node in json.loads(capsys.readouterr().out)["nodes"]}
    assert (told["a"]["restarts"], told["a"]["asked"], told["a"]["absences"]) == (2, 0, {})
    assert (told["tired"]["asked"], told["tired"]["absences"]) == (1, {"[low] battery": 2})


def test_the_status_says_that_nobody_trains_and_why(
    store: CoordinatorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = snapshot("no_candidates", version=0)
    found["waiting_for"] |= {"failing": {"ann": "[no] data"}, "failed": 1, "nobody_trains": True}
    status_file(tmp_path / "store", lambda: found).write()
    read = status.read_status(tmp_path / "store")
    assert (read["nobody_trains"], read["failing"]) == (True, {"ann": "[no] data"})
    status.show_status(tmp_path / "store")
    assert re.search(r"nobody trains after version \d+: node ann: \[no\] data", capsys.readouterr().out)
    found["waiting_for"] |= {"nobody_trains": False}
    status_file(tmp_path / "store", lambda: found).write()
    status.show_status(tmp_path / "store")
    assert "what comes to nothing: node ann: [no] data" in capsys.readouterr().out


def test_a_store_of_an_older_release_has_a_status_too(store: SqliteStore, tmp_path: Path) -> None:
    made_older(tmp_path / "store" / DATABASE, "attendance")
    nodes = status.read_status(tmp_path / "store")["nodes"]
    assert isinstance(nodes, list)
    assert [(node["id"], node["restarts"]) for node in nodes] == [("a", 0), ("b", 0), ("c", 0)]
    store.close()
    again = SqliteStore(tmp_path / "store")
    again.save_attendance(Attendance(incarnations={NodeId("d"): Incarnation(1)}))
    assert [node.node for node in again.participation()] == ["a", "b", "c", "d"]
    again.close()


def test_watching_ends_with_ctrl_c(store: CoordinatorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    status.watch_status(tmp_path / "store")
    assert waited == [status.REFRESH_S] * 2


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 16), (200, 50)])
def test_what_is_watched_fits_the_screen_and_begins_with_what_is_waited_for(
    store: CoordinatorStore, tmp_path: Path, width: int, height: int
) -> None:
    seen = {NodeId(f"press-{index:03d}"): Incarnation(1) for index in range(300)}
    store.save_attendance(Attendance(incarnations=seen, absences={NodeId("press-299"): {"low battery": 2}}))
    status_file(tmp_path / "store", lambda: snapshot("nodes_min", online=1)).write()
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    lines = console.render_lines(screen.fitted_screen(tmp_path / "store", console), pad=False)
    text = ["".join(segment.text for segment in line) for line in lines]
    assert len(text) <= height
    assert "more nodes to come online" in text[0]
    assert "1 of 2 online" in " ".join(text[:2])
    rows = text[next(at for at, line in enumerate(text) if line.startswith("nodes (303")) + 1 :]
    assert "…" not in rows[0]
    assert [line.split()[0] for line in rows[2:4]] == ["c", "press-299"]  # something happened to these two
    assert any(line.startswith("versions (2") for line in text)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (200, 50)])
def test_long_names_and_reasons_leave_room_for_nodes_and_versions(
    store: CoordinatorStore, tmp_path: Path, width: int, height: int
) -> None:
    """The sentence alone was longer than the screen, and no node and no version was on it."""
    names = [f"press-shop-hall-{number}-{'x' * 40}" for number in range(9)]
    found = snapshot("assignments", *names[:5])
    failing = {name: f"train() raised ValueError: shapes of {name} do not match" for name in names}
    found["waiting_for"] |= {"gone": names, "failing": failing, "failed": 9}
    del store
    status_file(tmp_path / "store", lambda: found).write()
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    lines = console.render_lines(screen.fitted_screen(tmp_path / "store", console), pad=False)
    text = ["".join(segment.text for segment in line) for line in lines]
    assert len(text) <= height
    assert sum(line.startswith(("nodes (", "versions (")) for line in text) == 2
    assert width == 200 or any("more lines: coordinator why" in line for line in text)


def test_what_has_scrolled_away_is_said_once_more_at_the_end(
    store: CoordinatorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del store
    status_file(tmp_path / "store", lambda: snapshot("nodes_min", online=1)).write()
    for height, times in ((5, 2), (100, 1)):
        console = Console(width=300, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
        monkeypatch.setattr(screen, "make_console", lambda made=console: made)
        status.show_status(tmp_path / "store")
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().count("waiting for more nodes to come online") == times


def test_the_exported_model_has_the_tasks_names_shapes_and_types(store: CoordinatorStore, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    assert export_model(tmp_path / "store", out) == 1
    arrays = safetensors.numpy.load_file(out)
    assert set(arrays) == {"weight", "bias", "running_mean", "batches"}
    assert arrays["weight"].shape == (8, 5)
    np.testing.assert_array_equal(MANIFEST.flatten(arrays).parameters, INITIAL.parameters + np.float32(2.0))


def test_the_best_model_is_exported_by_name_and_by_number(store: CoordinatorStore, tmp_path: Path) -> None:
    folder, out = tmp_path / "store", tmp_path / "best.safetensors"
    with pytest.raises(ConfigError, match="none is the best"):
        export_model(folder, out, "best")
    store.retain([], ModelVersion(0))
    assert export_model(folder, out, "best") == 0
    by_name = out.read_bytes()
    assert export_model(folder, out, "0") == 0
    assert out.read_bytes() == by_name
    assert export_model(folder, out) == 1
    assert out.read_bytes() != by_name
    with pytest.raises(ConfigError, match="7 is not kept; there are 0, 1"):
        export_model(folder, out, "7")


def test_the_nodes_are_shown_with_what_they_reported(
    store: CoordinatorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = RoundRecord(round=RoundId(50), version=ModelVersion(1), nodes=(), cohort=NOBODY, evaluation=2**64 - 1)
    store.save_round(record)
    store.save_node_result(
        NodeResult(version=ModelVersion(1), node=NodeId("a"), num_examples=12, metrics={"accuracy": 0.75})
    )
    status.show_nodes(tmp_path / "store", as_json=True)
    told = json.loads(capsys.readouterr().out)
    found = {"kind": "node", "version": 1, "node": "a", "base_version": None, "num_examples": 12, "counted": True}
    assert found | {"metrics": {"accuracy": 0.75}} in told["curves"]
    assert {node["id"] for node in told["nodes"]} >= {"a"}
    assert read_curves(tmp_path / "store") == store.curves()
    assert series(store.curves(), "accuracy", kind=CurveKind.NODE) == {"a": [(1, 0.75)]}
    status.show_nodes(tmp_path / "store")
    assert "0.75" in capsys.readouterr().out


def test_a_damaged_model_is_not_exported(store: CoordinatorStore, tmp_path: Path) -> None:
    (tmp_path / "store" / "blobs" / "model-1.safetensors").write_bytes(b"?")
    with pytest.raises(StorageError, match="damaged"):
        export_model(tmp_path / "store", tmp_path / "out.safetensors")
    with pytest.raises(StorageError):
        export_model(tmp_path / "nothing", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("m.onx", "did you mean .onnx"), ("m.pth", "for weights: .safetensors"), ("m", "onnx, .pt2, .safetensors")],
)
def test_an_ending_that_says_nothing_is_refused_with_those_that_do(
    store: CoordinatorStore, tmp_path: Path, name: str, hint: str
) -> None:
    assert store.run
    with pytest.raises(ConfigError, match=hint):
        export_model(tmp_path / "store", tmp_path / name)
    assert not (tmp_path / name).exists()


def test_there_is_nothing_to_export_before_version_zero(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "new").close()
    with pytest.raises(StorageError, match="no model yet"):
        export_model(tmp_path / "new", tmp_path / "out.safetensors")


def test_an_export_to_nowhere_says_so(store: CoordinatorStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        export_model(tmp_path / "store", tmp_path / "no" / "folder" / "out.safetensors")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a.b", "wrong"), 2),
        (TaskError("no data"), 2),
        (StoreLocked("in use"), 3),
        (StorageError("disk full"), 3),
        (TransportError("refused"), 4),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(
    error: FederationError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "make_app", lambda _: app)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == f"coordinator: {error}\n"


def test_an_error_without_an_exit_code_is_a_bug_and_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(**_: object) -> None:
        raise FederationError("what is this")

    monkeypatch.setattr(cli, "make_app", lambda _: app)
    with pytest.raises(FederationError, match="what is this"):
        cli.main()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coordinator", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@starts_programs
def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from coordinator.cli import make_app; make_app(['--help']);"
        "print(sorted({'numpy', 'pydantic', 'paho', 'torch', 'simulation'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"
    shown = run("--help").stdout
    for command in ("demo", "simulate", "run", "status", "why", "export"):
        assert command in shown


@pytest.mark.parametrize("command", ["status", "why"])
@starts_programs
def test_a_command_that_only_looks_loads_no_arrays_and_no_settings(
    command: str, store: CoordinatorStore, tmp_path: Path
) -> None:
    waiting = {"fields": {"reason": "settling"}, "at": 0.0}
    (tmp_path / "store" / STATUS).write_text(json.dumps({"waiting": waiting}))
    heavy = {"numpy", "torch", "structlog", "paho", "safetensors", "coordinator.config"}
    script = (
        "import sys; from coordinator.cli import make_app;"
        f"make_app([{command!r}])([{command!r}, '--state', {str(tmp_path / 'store')!r}], standalone_mode=False);"
        f"print('loaded', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_a_lazy_command_is_the_real_one_when_it_is_called() -> None:
    app = make_app(["demo", "--help"])
    (command,) = [info.callback for info in app.registered_commands if info.name == "demo"]
    assert command is not None
    assert command.__module__ == "fedmq.demo.cli"


@starts_programs
def test_the_status_command_reads_the_folder_of_a_flag_or_a_file(store: CoordinatorStore, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    by_flag = run("status", "--state", str(folder), "--json")
    file = tmp_path / "c.toml"
    file.write_text(f'[federation]\nid = "x"\n[broker]\nurl = "mqtt://h"\n[store]\nfolder = "{folder}"\n')
    by_file = run("status", "--config", str(file), "--json")
    assert json.loads(by_flag.stdout) == json.loads(by_file.stdout)


@starts_programs
def test_a_status_without_a_store_is_exit_code_3() -> None:
    failed = run("status", "--state", "/no/such/folder")
    assert failed.returncode == 3
    assert failed.stderr.count("\n") == 1


@starts_programs
def test_a_run_without_a_broker_url_is_exit_code_2_and_names_the_key() -> None:
    failed = run("run", "--federation", "x")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("coordinator: broker.url")


@starts_programs
def test_the_export_command_says_which_version_it_wrote(store: CoordinatorStore, tmp_path: Path) -> None:
    done = run("export", str(tmp_path / "m.safetensors"), "--state", str(tmp_path / "store"))
    assert done.returncode == 0
    assert "version 1" in done.stdout

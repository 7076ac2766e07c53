"""``coordinator analyze`` as it is called, and which folder it takes."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.enrolment.cli import init
from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import ConfigError, StorageError
from federation.task import TaskContext
from federation.tasks.builtin.synthetic import build_null
from federation.tasks.statistics.layout import PASSES, statistics_manifest
from federation.tasks.statistics.scaler import Scaler
from federation.tasks.statistics.task import StatisticsTask
from fedmq.statistics.cli import _table
from fedmq.statistics.findings import findings_of, folder_for, passes_done
from fedmq.statistics.simulated import simulated
from update_codec import Manifest

HERE = ("--task", "digits", "--simulate", "3")


def called(*arguments: str) -> Any:
    return CliRunner().invoke(make_app(["analyze"]), ["analyze", *arguments])


def test_json_has_figures_the_scaler_and_the_picture(tmp_path: Path) -> None:
    scaler, picture = tmp_path / "s.json", tmp_path / "p.png"
    done = called(*HERE, "--json", "--scaler", str(scaler), "--plot", str(picture))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["rows"], len(said["columns"]), len(said["nodes"])) == (1438, 64, 3)
    assert said["scaler"]["digest"] == Scaler.read(scaler).digest
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bound", "0=1"], "is not COLUMN=LOW:HIGH"),
        (["--bound", "0=a:b"], "is not COLUMN=LOW:HIGH"),
        (["--plot", "p.pdf"], "must end in .png or .svg"),
        (["--plot", "."], "is a folder"),
        (["--scaler", "none/s.json"], "there is no folder"),
        (["--columns", "5000"], "1 to 1024"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_counted(arguments: Sequence[str], words: str) -> None:
    done = called(*HERE, *arguments)
    assert isinstance(done.exception, ConfigError)
    assert words in str(done.exception)


@pytest.mark.parametrize(("width", "shown"), [(80, {"mean", "50%"}), (160, {"mean", "50%", "95%", "bin"})])
def test_a_narrow_terminal_is_shown_fewer_figures(width: int, shown: set[str]) -> None:
    flags = {"broker.url": "mqtt://localhost", "federation.id": "s", "statistics.only": True, "task.name": "digits"}
    found = simulated(read_config(None, flags, environ={}), 2)
    longer = replace(found.statistics.columns[1], name="Volume Flow RateRMS")
    found = replace(found, statistics=replace(found.statistics, columns=(longer,)))
    out = io.StringIO()
    Console(file=out, width=width).print(_table(found, narrow=width < 120))
    text = out.getvalue()
    assert {word for word in ("mean", "50%", "95%", "bin") if word in text} == shown
    assert "Volume Flow RateRMS" in text
    assert "…" not in text


def config(folder: Path) -> CoordinatorConfig:
    flags = {"broker.url": "mqtt://localhost", "federation.id": "s", "store.folder": folder / "run"}
    return read_config(None, flags, environ={})


def store_with(folder: Path, arrays: Any, manifest: Manifest) -> None:
    store = SqliteStore(folder)
    store.initialise(manifest, first_commit(manifest.flatten(dict(arrays)), manifest, DownlinkSettings(), seed=None))
    store.close()


def test_a_run_that_trains_is_not_one_that_counts(tmp_path: Path) -> None:
    task = build_null(TaskContext(node_index=None, node_count=1), size=3)
    arrays = task.initial_parameters(0)
    store_with(tmp_path / "run", arrays, Manifest.of(dict(arrays)))
    with pytest.raises(ConfigError, match="has a run that trains"):
        passes_done(tmp_path / "run")


def test_the_folder_lies_beside_the_trainings_and_one_that_is_not_over_goes_on(tmp_path: Path) -> None:
    settings, plain = config(tmp_path), tmp_path / "run-statistics"
    assert folder_for(settings, None, again=False) == plain
    assert folder_for(settings, tmp_path / "given", again=True) == tmp_path / "given"
    assert passes_done(plain) is None
    with pytest.raises(StorageError, match="has no run"):
        findings_of(plain)
    task = StatisticsTask(build_null(TaskContext(node_index=None, node_count=1), size=3), 2)
    store_with(plain, task.initial_parameters(0), statistics_manifest(2))
    assert passes_done(plain) == 0
    assert folder_for(settings, None, again=True) == plain


def test_again_takes_the_next_folder_once_a_run_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run-statistics").mkdir()
    monkeypatch.setattr("fedmq.statistics.findings.passes_done", lambda _folder: PASSES)
    assert folder_for(config(tmp_path), None, again=False) == tmp_path / "run-statistics"
    assert folder_for(config(tmp_path), None, again=True) == tmp_path / "run-statistics-2"
    (tmp_path / "run-statistics-2").mkdir()
    assert folder_for(config(tmp_path), None, again=False) == tmp_path / "run-statistics-2"
    assert folder_for(config(tmp_path), None, again=True) == tmp_path / "run-statistics-3"


def test_an_analysis_may_start_the_folders_broker_as_a_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the quickstart nothing else starts it: the analysis waited for ever."""
    init(tmp_path / "plant", host=["localhost"], evaluate=False)
    said: list[str] = []

    @contextmanager
    def broker(folder: Path, _hear: object) -> Iterator[None]:
        said.append(f"started in {folder.name}")
        yield
        said.append("ended")

    def count(*_: object, **__: object) -> None:
        said.append("counted")
        raise StorageError("enough")

    monkeypatch.setattr("coordinator.enrolment.broker.FleetBroker", broker)
    monkeypatch.setattr("fedmq.statistics.cli._count", count)
    done = called("--config", str(tmp_path / "plant"), "--with-broker")
    assert (str(done.exception), said) == ("enough", ["started in broker", "counted"])
    done = called("--config", str(tmp_path / "plant" / "coordinator.toml"), "--with-broker")
    assert "needs --config with the folder" in str(done.exception)

"""``fedmq new``: every kind of project passes its own test, and a wrong wish leaves nothing behind."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fedmq
from coordinator.config.sections import read_config
from edge_node.config import read_config as read_node_config
from federation.errors import ConfigError, StorageError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks.check import check_task
from federation.tasks.registry import load_task
from fedmq.cli import make_app
from fedmq.new.project import Kind, Wish, make_project

NEEDED = {Kind.FLOWER: "flwr", Kind.LORA: "peft"}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(make_app(["new"]), ["new", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("programs_start_warm")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.frameworks] if kind in NEEDED else []) for kind in Kind]
)
def test_a_new_project_passes_its_own_test(kind: Kind, tmp_path: Path) -> None:
    if kind in NEEDED and find_spec(NEEDED[kind]) is None:
        pytest.skip(f"{NEEDED[kind]} is not installed (make test-frameworks)")
    folder = tmp_path / "press"
    said = run(str(folder), "--from", kind)
    assert f"{folder / 'task.py'}" in said
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_two_nodes_of_one_file_have_a_state_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(Wish(folder=tmp_path / "press", kind=Kind.CSV))
    monkeypatch.chdir(tmp_path / "press")
    one, other = (read_node_config(Path("node.toml"), {"node.id": name}, environ={}) for name in ("node-1", "node-2"))
    assert one.state_folder != other.state_folder


def test_a_new_projects_readme_has_only_options_that_there_are(tmp_path: Path) -> None:
    make_project(Wish(folder=tmp_path / "press", kind=Kind.TORCH))
    text = (tmp_path / "press" / "README.md").read_text()
    commands = [line.partition(" #")[0].split() for line in text.splitlines() if line.startswith("fedmq ")]
    assert ["fedmq", "coordinator", "init", "plant"] in [command[:4] for command in commands]
    for command in commands:
        words = command[1:3] if command[1] in {"coordinator", "node"} else command[1:2]
        done = CliRunner().invoke(make_app(words), [*words, "--help"], env={"COLUMNS": "200"})
        assert {word for word in command if word.startswith("--")} <= set(done.stdout.split()), command


def test_the_settings_of_a_new_project_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(Wish(folder=tmp_path / "press", kind=Kind.CSV))
    monkeypatch.chdir(tmp_path / "press")
    coordinator = read_config(tmp_path / "press" / "coordinator.toml", {}, environ={})
    node = read_node_config(tmp_path / "press" / "node.toml", {}, environ={})
    assert coordinator.federation.id == node.federation.id == "press"
    assert load_task(coordinator.task.name)(TaskContext(node_index=0, node_count=1, data=tmp_path / "press" / "data"))


@pytest.mark.parametrize(
    ("text", "target", "told"),
    [
        ("heat;state\n1,5;ok\n2,5;worn\n", None, ("('heat',)", "'state'", "('ok', 'worn')", "cross_entropy")),
        ("state,heat\n0,1.5\n1,2.5\n0,3\n", "state", ("('heat',)", "'state'", "('0', '1')", "cross_entropy")),
        (
            "when;heat;state\n2026-11-29;1,5;ok\n;2,5;worn\n",
            None,
            ("('heat',)  # left out, not numbers: when", "'state'", "('ok', 'worn')", "cross_entropy"),
        ),
        ("a;b;price\n1;2;10,5\n2;3;11,25\n", None, ("('a', 'b')", "'price'", "()", "mse_loss")),
        ("a,b,price\n1,2,10.5\n2,3,11.25\n", None, ("('a', 'b')", "'price'", "()", "mse_loss")),
    ],
)
def test_the_own_table_says_what_the_task_learns(
    text: str, target: str | None, told: tuple[str, str, str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.csv").write_text(text)
    make_project(Wish(folder=tmp_path / "press", kind=Kind.CSV, table=tmp_path / "mine.csv", target=target))
    task = (tmp_path / "press" / "task.py").read_text()
    features, column, classes, loss = told
    assert f"FEATURES = {features}\n" in task
    assert f"TARGET = {column}\n" in task
    assert f"CLASSES = {classes} " in task
    assert f"functional.{loss}" in task
    assert ("decimal=','" in task) is (";" in text)
    assert (tmp_path / "press" / "data" / "readings.csv").read_text() == text


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e5])
def test_a_number_is_learnt_whatever_its_unit(unit: float, tmp_path: Path) -> None:
    """A price in euros diverged at once: no update was accepted."""
    drawn = np.random.default_rng(1)
    heat, flow = drawn.normal(60, 10, 240), drawn.normal(3, 1, 240)
    rows = zip(heat, flow, unit * (40 + heat - 5 * flow), strict=True)
    text = "heat,flow,price\n" + "".join(f"{one:.3f},{two:.3f},{three:.6f}\n" for one, two, three in rows)
    (tmp_path / "mine.csv").write_text("# exported\n" + text)
    make_project(Wish(folder=tmp_path / "press", kind=Kind.CSV, table=tmp_path / "mine.csv"))
    study = fedmq.simulate(
        f"{tmp_path / 'press' / 'task.py'}:build", data=tmp_path / "press" / "data", nodes=3, rounds=8, progress=False
    )
    assert study.final("loss") < 0.2
    answers = study.model(torch.tensor([[60.0, 3.0], [70.0, 3.0]])).detach().numpy()[:, 0] / unit
    assert np.allclose(answers, [85, 95], atol=8)


@pytest.mark.parametrize("cells", ["3,,7\n", "3,NA,7\n", '3,"a\n b",7\n'])
def test_a_table_with_empty_cells_is_looked_at_without_a_target(cells: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("heat,flow,price\n1,2,3.5\n2,3,4.5\n" + cells)
    make_project(Wish(folder=tmp_path / "press", kind=Kind.CSV, table=tmp_path / "mine.csv"))
    assert "TARGET = 'price'" in (tmp_path / "press" / "task.py").read_text()


@pytest.mark.parametrize("kind", [Kind.CSV, Kind.SKLEARN])
def test_a_table_with_decimal_commas_and_times_is_read_by_the_task(kind: Kind, tmp_path: Path) -> None:
    rows = "".join(f"2026-11-{day:02};{day}.000;{day},5;{'worn' if day % 3 else 'ok'}\n" for day in range(1, 29))
    (tmp_path / "mine.csv").write_text(f"when;cycles;heat;state\n{rows}")
    make_project(Wish(folder=tmp_path / "press", kind=kind, table=tmp_path / "mine.csv"))
    # A point beside a comma divides thousands: nobody but the table's owner knows what such a column says.
    assert "('heat',)  # left out, not numbers: when, cycles" in (tmp_path / "press" / "task.py").read_text()
    context = TaskContext(node_index=0, node_count=1, data=tmp_path / "press" / "data")
    check_task(load_task(f"{tmp_path / 'press' / 'task.py'}:build")(context))


@pytest.mark.parametrize(
    "packed",
    [
        str.encode,
        lambda text: text.encode("utf-16"),
        lambda text: gzip.compress(text.encode()),
        lambda text: f"sep=,\n{text}".encode(),
        lambda text: text.replace("\n", ",\n").encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
    ],
)
def test_a_table_as_people_export_it_is_learnt_from(packed: Callable[[str], bytes], tmp_path: Path) -> None:
    rows = "".join(
        f"{day},{day}.5,{'NA' if day == 3 else day / 2},{'none' if day % 3 else 'worn'}\n" for day in range(28)
    )
    (tmp_path / "mine.csv").write_bytes(packed(f",heat,flow,state\n{rows}"))
    make_project(Wish(folder=tmp_path / "press", kind=Kind.CSV, table=tmp_path / "mine.csv"))
    task = (tmp_path / "press" / "task.py").read_text()
    assert "FEATURES = ('heat', 'flow')\n" in task
    assert "CLASSES = ('none', 'worn') " in task
    assert 'missing="drop"' in task
    made: Any = load_task(f"{tmp_path / 'press' / 'task.py'}:build")(
        TaskContext(node_index=0, node_count=1, data=tmp_path / "press" / "data")
    )
    check_task(made)
    assert made.train(made.initial_parameters(0), TrainSettings(), bool).num_examples == 22


def test_a_wish_that_cannot_be_granted_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="'c' is no column: there are a, b"):
        make_project(Wish(folder=tmp_path / "x", kind=Kind.CSV, table=tmp_path / "mine.csv", target="c"))
    with pytest.raises(ConfigError, match="is for --from csv and sklearn"):
        make_project(Wish(folder=tmp_path / "x", kind=Kind.TORCH, table=tmp_path / "mine.csv"))
    (tmp_path / "mine.csv").write_text("a,b\nred,2\nblue,3\n")
    with pytest.raises(ConfigError, match="no column of numbers beside b"):
        make_project(Wish(folder=tmp_path / "x", kind=Kind.CSV, table=tmp_path / "mine.csv"))
    (tmp_path / "mine.csv").write_text("a,a,b\n1,1,2\n3,4,5\n")
    with pytest.raises(ConfigError, match="two columns are called 'a': rename one"):
        make_project(Wish(folder=tmp_path / "x", kind=Kind.CSV, table=tmp_path / "mine.csv"))
    (tmp_path / "mine.csv").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match="an Excel workbook, or another zip archive: save it as"):
        make_project(Wish(folder=tmp_path / "x", kind=Kind.CSV, table=tmp_path / "mine.csv"))
    (tmp_path / "mine.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as a table"):
        make_project(Wish(folder=tmp_path / "x", kind=Kind.CSV, table=tmp_path / "mine.csv"))
    assert not (tmp_path / "x").exists()
    with pytest.raises(StorageError, match="is not empty"):
        make_project(Wish(folder=tmp_path, kind=Kind.TORCH))


def test_the_files_are_told_as_json(tmp_path: Path) -> None:
    said = json.loads(run(str(tmp_path / "press"), "--from", "torch", "--json"))
    assert said["files"] == ["README.md", "coordinator.toml", "data", "node.toml", "task.py", "test_task.py"]

"""``fedmq.simulate``: the same run as the command's, in one call, and what it says of wrong arguments."""

import json
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fedmq
from coordinator.artifacts.plots.run import load_run
from coordinator.cli import make_app
from federation.task import TaskContext
from fedmq.api.curve import curve_points

ROWS = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
CLASSES = (ROWS[:, :3].sum(1) > ROWS[:, 3:].sum(1)).long()


def linear() -> torch.nn.Module:
    return torch.nn.Linear(6, 2)


def study(**given: object) -> fedmq.Study:
    options: dict[str, object] = {
        "model": linear,
        "data": (ROWS, CLASSES),
        "nodes": 4,
        "rounds": 3,
        "learning_rate": 0.2,
        "progress": False,
    }
    made: fedmq.Study = fedmq.simulate(**(options | given))  # type: ignore[arg-type]
    return made


def test_a_model_and_its_data_are_enough() -> None:
    found = study(rounds=6, local_epochs=2)
    assert found.final("accuracy") > 0.9
    assert [point["version"] for point in rows(found.curve())] == [1, 2, 3, 4, 5, 6]
    answer = found.model(ROWS[:5])
    expected = ROWS[:5] @ torch.from_numpy(np.array(found.parameters["weight"])).T
    assert torch.allclose(answer, expected + torch.from_numpy(np.array(found.parameters["bias"])))


def rows(table: object) -> list[Mapping[str, float]]:
    """A curve as dictionaries, whether pandas is installed or not."""
    return table if isinstance(table, list) else table.to_dict("records")  # type: ignore[attr-defined]


def test_the_same_seed_is_the_commands_run_to_the_bit() -> None:
    found = fedmq.simulate("digits", nodes=3, rounds=2, seeds=[7], progress=False)
    words = "simulate --train --task digits --nodes 3 --per-round 3 --rounds 2 --seed 7 --json"
    shown = CliRunner().invoke(make_app(words.split()), words.split())
    assert found.seeds[0].digest == json.loads(shown.stdout)["digest"]


def test_seeds_differ_and_the_curve_has_their_mean_and_spread() -> None:
    found = study(seeds=3, split="dirichlet:0.3", strategy="fedprox", proximal_mu=0.1)
    assert [one.seed for one in found.seeds] == [0, 1, 2]
    assert len({one.digest for one in found.seeds}) == 3
    each = [run.versions[-1].metrics["loss"] for run in found.runs]
    last = curve_points(found.runs, "loss")[-1]
    assert (last.low, last.high, last.runs) == (min(each), max(each), 3)
    assert last.mean == pytest.approx(np.mean(each))
    assert last.std == pytest.approx(np.std(each, ddof=1))
    assert last.low < last.mean < last.high


def test_a_function_gives_each_node_its_own_data() -> None:
    asked: set[int | None] = set()

    def own(context: TaskContext) -> tuple[torch.Tensor, torch.Tensor]:
        asked.add(context.node_index)
        part = slice(context.node_index or 0, None, context.node_count)
        return ROWS[part], CLASSES[part]

    found = study(data=own, test=(ROWS, CLASSES), loss=torch.nn.functional.cross_entropy)
    assert {0, 1, 2, 3} <= asked
    assert found.final("accuracy") > 0.5


def test_numbers_as_targets_are_a_regression() -> None:
    found = study(model=lambda: torch.nn.Linear(6, 1), data=(ROWS, ROWS.sum(1)), rounds=8, local_epochs=3)
    assert found.final("loss") < 0.5


def test_a_studys_folder_is_read_back_and_by_the_command(tmp_path: Path) -> None:
    found = study(seeds=2, name="two seeds")
    again = fedmq.load(found.save(tmp_path / "study"))
    assert isinstance(again, fedmq.Study)
    assert rows(again.curve()) == rows(found.curve())
    assert all(np.array_equal(again.parameters[name], found.parameters[name]) for name in found.parameters)
    assert load_run(tmp_path / "study" / "seed-1.json").versions == found.runs[1].versions
    with pytest.raises(fedmq.StorageError, match="is not empty"):
        found.save(tmp_path / "study")
    with pytest.raises(fedmq.ConfigError, match=r"take \.parameters"):
        _ = again.model
    (tmp_path / "study" / "seed-0.safetensors").write_bytes(b"")
    with pytest.raises(fedmq.StorageError, match=r"seed-0\.safetensors has another content"):
        fedmq.load(tmp_path / "study")


def test_studies_are_drawn_and_compared(tmp_path: Path) -> None:
    first, second = study(seeds=2, name="plain"), study(seeds=2, name="adam", strategy="fedadam")
    figure = first.plot(second, to=tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["plain (2 seeds)", "adam (2 seeds)"]
    # A notebook showed `<Figure size 700x420 with 1 Axes>`, and of the comparison a wall of dictionaries.
    assert vars(figure)["_repr_png_"]().startswith(b"\x89PNG")
    compared = first.compare(second, target=0.0)
    printer = MagicMock()
    compared._repr_pretty_(printer, cycle=False)
    assert "final accuracy" in printer.text.call_args[0][0]
    assert [row["run"] for row in compared.rows] == ["plain, seed 0", "plain, seed 1", "adam, seed 0", "adam, seed 1"]
    assert all(row["target_version"] == 1 for row in compared.rows)
    with pytest.raises(fedmq.ConfigError, match=r"\.png, \.svg, \.pdf"):
        first.plot(to="both.jpg")


class Listener:
    """A tracker that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def begin(self, name: str, settings: Mapping[str, object]) -> None:
        self.heard.append((name, settings["seed"], settings["train.learning_rate"]))

    def log(self, version: int, metrics: Mapping[str, float]) -> None:
        self.heard.append((version, sorted(metrics)))

    def end(self) -> None:
        self.heard.append("end")


def test_a_tracker_hears_every_version_while_it_is_made() -> None:
    listener = Listener()
    study(log_to=[listener], rounds=2, evaluate_every=2, name="heard")
    assert listener.heard == [("heard, seed 0", 0, "0.2"), (1, []), (2, ["accuracy", "loss"]), "end"]


def test_that_nothing_is_learnt_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    study(rounds=2, loss=lambda output, _target: (output * 0).sum(), name="still", progress=True)
    assert "still, seed 0: nothing is learnt: the training has changed no parameter" in capsys.readouterr().err


def test_a_tracker_is_ended_where_the_training_fails() -> None:
    listener = Listener()
    with pytest.raises(fedmq.FederationError):
        study(log_to=[listener], learning_rate=1e30)
    assert listener.heard[-1] == "end"


def test_tensorboard_gets_a_folder_for_each_seed(tmp_path: Path) -> None:
    study(log_to=[f"tensorboard:{tmp_path}"], seeds=2, name="board")
    found = {file.parent.name for file in tmp_path.glob("*/events.out.tfevents.*")}
    assert found == {"board, seed 0", "board, seed 1"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"learning_rte": 0.1}, "did you mean learning_rate"),
        ({"banana": 1}, "local training has local_epochs"),
        ({"seeds": 0}, "1 to 1000 different ones"),
        ({"seeds": [1, 1]}, "1 to 1000 different ones"),
        ({"nodes": 0}, "nodes: must be a whole number of at least 1, not 0"),
        ({"nodes": 2.0}, "nodes: must be a whole number"),
        ({"rounds": 0}, "rounds: must be a whole number of at least 1, not 0"),
        ({"workers": True}, "workers: must be a whole number"),
        ({"split": lambda: 1}, "split: must be text"),
        ({"settings": ["a"]}, "settings: must be a dict"),
        ({"data": None}, "give a task, or model= and data="),
        ({"task": "digits"}, "has its own model and data"),
        ({"split": "dirichlet"}, "needs a number"),
        ({"strategy": "fedavgg"}, "fedavg"),
        ({"settings": {"round.bufer": 2}}, "did you mean 'buffer'"),
        ({"log_to": ["papyrus"]}, "choose tensorboard, mlflow, wandb"),
        ({"data": lambda _context: (ROWS, CLASSES)}, "say which, such as torch.nn.functional.cross_entropy"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_right(given: dict[str, object], told: str) -> None:
    with pytest.raises(fedmq.ConfigError, match=told):
        study(**given)


def test_a_metric_that_nobody_measured_is_told_with_those_there_are() -> None:
    with pytest.raises(fedmq.ConfigError, match="there are accuracy, loss"):
        study().curve("f1")
    with pytest.raises(fedmq.ConfigError, match="give test data"):
        study(evaluate_every=0).curve()


def test_importing_the_front_door_loads_no_arrays(capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    code = "import sys, fedmq; print(sorted({'numpy', 'torch', 'pydantic'} & set(sys.modules)), dir(fedmq)[:2])"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert capfd.readouterr().out == "[] ['ConfigError', 'FederationError']\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fedmq.nothing
    assert all(getattr(fedmq, name) is not None for name in fedmq.__all__)


def test_lists_and_numpys_numbers_are_taken_as_arrays_and_numbers_are() -> None:
    plain, listed = study(), study(data=(ROWS.tolist(), CLASSES.tolist()), nodes=np.int64(4), rounds=np.int64(3))
    assert plain.seeds[0].digest == listed.seeds[0].digest
    assert len(study(seeds=np.int64(2), rounds=1).seeds) == 2


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ((ROWS, CLASSES[:-1]), r"\[300, 299\] rows"),
        (
            (ROWS.numpy(), np.array(["a", "b"])[CLASSES]),
            "must be numbers: row 0 has '[ab]'",
        ),
    ],
)
def test_data_that_cannot_be_is_told_as_a_task_tells_it(data: object, told: str) -> None:
    with pytest.raises(fedmq.FederationError, match=told):
        study(data=data)

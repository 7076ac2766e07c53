"""Real training in virtual time: deterministic, and the same by every way."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from coordinator.artifacts.export import TaskSource, export_model
from coordinator.artifacts.plots.gallery import draw_run
from coordinator.artifacts.plots.run import load_run
from coordinator.cli import make_app
from coordinator.monitoring.status import read_status
from federation.errors import ConfigError, FederationError
from federation.types import NodeId
from fedmq.simulation.experiment.cli import COMPLAINTS_SHOWN, Complaints, TrainOptions, build_experiment, train
from fedmq.simulation.experiment.experiment import Experiment, NobodyTrains, Result
from fedmq.simulation.experiment.node_answers import FrameWork, NodeWork, VectorWork
from fedmq.simulation.experiment.options import ROUNDS, resolve
from fedmq.simulation.experiment.outages import parse_outages

TASK = """
import numpy as np
import torch
from federation.tasks import TorchTask
from federation.protocol.messages import TrainSettings

DEFAULT_SETTINGS = TrainSettings(local_epochs=1, batch_size=8, learning_rate=0.2)

def build(context):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 3))).argmax(1)
    return TorchTask(context, model=lambda: torch.nn.Linear(6, 3), loss=torch.nn.functional.cross_entropy,
                     train_data=(x[:300], y[:300]), test_data=(x[300:], y[300:]))
"""


@pytest.fixture(name="options")
def _options(tmp_path: Path) -> TrainOptions:
    file = tmp_path / "small_task.py"
    file.write_text(TASK)
    return TrainOptions(task=str(file), nodes=8, rounds=6, per_round=4, stacked=False)


def run(options: TrainOptions) -> Result:
    return build_experiment(options).run()


def test_it_learns_and_the_same_seed_gives_the_same_model(options: TrainOptions) -> None:
    first, second = run(options), run(options)
    assert first.digest == second.digest
    assert first.versions[-1].metrics["accuracy"] > first.versions[0].metrics["accuracy"]
    assert [figures.version for figures in first.versions] == [1, 2, 3, 4, 5, 6]
    assert all(figures.updates == 4 and len(figures.losses) == 4 for figures in first.versions)
    assert first.verdicts == {"applied": 24}
    assert run(replace(options, seed=1)).digest != first.digest


class Framed(Experiment):
    def _make_work(self) -> NodeWork:
        return FrameWork(self._trainers, self.manifest, self.names)


@pytest.mark.parametrize("buffer", [None, 2])
def test_without_frames_the_model_is_that_of_lossless_frames(options: TrainOptions, buffer: int | None) -> None:
    built = build_experiment(replace(options, buffer=buffer))
    assert isinstance(built.work, VectorWork)
    direct, framed = built.run(), Framed(built.plan, built.pool).run()
    assert direct.digest == framed.digest
    assert [f.metrics for f in direct.versions] == [f.metrics for f in framed.versions]
    assert [f.losses for f in direct.versions] == [f.losses for f in framed.versions]


@pytest.mark.parametrize("codec", ["lossless", "edge"])
def test_two_processes_make_the_same_model_as_one(options: TrainOptions, codec: str) -> None:
    options = replace(options, codec=codec)
    assert run(replace(options, workers=2)).digest == run(options).digest


@pytest.mark.parametrize(("codec", "outages"), [("lossless", ""), ("edge", "share=0.5,away_s=20")])
def test_scaffolds_control_variates_add_up_to_what_the_model_carries(
    options: TrainOptions, codec: str, outages: str
) -> None:
    chosen = replace(options, strategy="scaffold", rounds=15, buffer=2, codec=codec, outages=outages)
    experiment = build_experiment(chosen)
    result = experiment.run()
    assert isinstance(experiment.work, FrameWork)
    model = experiment.manifest.unflatten(experiment.coordinator.model)
    settled = experiment.work.states.settled.values()
    for name in ("control.weight", "control.bias"):
        kept = np.sum([state[name] for state in settled], axis=0, dtype=np.float32)
        np.testing.assert_array_equal(model[name], kept)
        assert np.abs(kept).max() > 0
    assert result.versions[-1].metrics["accuracy"] > result.versions[0].metrics["accuracy"]
    assert run(replace(chosen, workers=2)).digest == run(replace(chosen, stacked=True)).digest == result.digest


def test_an_update_that_was_refused_leaves_its_nodes_control_variate_alone(options: TrainOptions) -> None:
    experiment = build_experiment(replace(options, strategy="scaffold", settings=("limits.update_norm_max=1e-9",)))
    with pytest.raises(FederationError, match="norm"):
        experiment.run()
    assert isinstance(experiment.work, FrameWork)
    assert experiment.work.states.settled == {}


def test_stacked_training_is_the_same_within_rounding(options: TrainOptions) -> None:
    plain, stacked = run(options), run(replace(options, stacked=True))
    for one, other in zip(plain.versions, stacked.versions, strict=True):
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], abs=1e-3)


def test_more_nodes_than_one_announcement_names_are_one_version(options: TrainOptions) -> None:
    result = run(replace(options, nodes=300, per_round=300, rounds=2, partition="iid"))
    assert [figures.updates for figures in result.versions] == [300, 300]


def test_nodes_go_away_and_come_back_late_and_nothing_counts_twice(options: TrainOptions) -> None:
    options = replace(options, buffer=2, rounds=15, outages="share=0.5,away_s=20", codec="edge")
    result = run(options)
    # A version is also made of half a buffer when the others stay away for too long.
    assert 15 <= result.verdicts["applied"] == sum(figures.updates for figures in result.versions) <= 30
    assert max(figures.staleness_mean for figures in result.versions) > 0
    assert run(options).digest == result.digest


def test_as_many_nodes_as_said_are_away_at_any_time_and_come_back_with_their_updates(options: TrainOptions) -> None:
    options = replace(options, per_round=8, buffer=2, rounds=15, outages="away=3,change_s=4")
    result = run(options)
    assert result.away_share == pytest.approx(3 / 8, abs=0.02)
    # A node that was away while it trained answers with an older base.
    assert result.verdicts["applied"] == sum(figures.updates for figures in result.versions) == 30
    assert run(options).digest == result.digest
    assert run(replace(options, outages="")).away_share == 0.0


def test_a_model_that_diverges_ends_the_experiment_with_a_reason(options: TrainOptions) -> None:
    with pytest.raises(FederationError, match="version 0"):
        run(replace(options, settings=("train.learning_rate=1e38", "train.local_epochs=5")))


def test_the_configuration_of_a_coordinator_is_obeyed(options: TrainOptions, tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    head = '[federation]\nid = "f"\n'
    file.write_text(head + '[strategy]\nname = "fedavgm"\n[train]\nlearning_rate = 0.05\n[codec]\nup = "lossless"\n')
    by_file = run(replace(options, config=file))
    by_option = run(replace(options, strategy="fedavgm", settings=("train.learning_rate=0.05",)))
    assert by_file.digest == by_option.digest != run(options).digest


def test_the_file_says_what_no_option_says_and_an_option_wins_over_it(options: TrainOptions, tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(
        f'[federation]\nid = "f"\n[task]\nname = "{options.task}"\nseed = 4\n[codec]\nup = "edge"\n[strategy]\n'
        'name = "fedavgm"\n[round]\nconcurrency = 3\nversions = 2\nselector = "fair"\n[evaluation]\nevery = 2\n'
    )
    said = TrainOptions(config=file, nodes=8)
    found, config = resolve(said)
    assert (found.task, found.seed, found.codec, found.strategy) == (options.task, 4, "edge", "fedavgm")
    assert (found.per_round, found.rounds, found.selector, found.evaluate_every) == (3, 2, "fair", 2)
    assert (config.round.concurrency, config.round.versions) == (3, 2)
    by_file = run(said)
    assert [bool(figures.metrics) for figures in by_file.versions] == [False, True]
    given = replace(said, seed=0, codec="lossless", strategy="fedprox", per_round=2, rounds=3, selector="uniform")
    found, config = resolve(replace(given, evaluate_every=1, buffer=1))
    assert (found.seed, found.codec, found.strategy, found.per_round) == (0, "lossless", "fedprox", 2)
    assert (found.rounds, found.selector, found.evaluate_every, config.round.buffer) == (3, "uniform", 1, 1)
    with pytest.raises(ConfigError, match="asks 3 of 2"):
        resolve(TrainOptions(config=file, nodes=2))
    assert resolve(replace(said, settings=("round.fraction=0.5",)))[0].per_round == 8


def test_nothing_said_is_a_small_lossless_experiment() -> None:
    found, _ = resolve(TrainOptions())
    assert (found.task, found.codec, found.selector, found.seed) == ("digits", "lossless", "uniform", 0)
    assert (found.per_round, found.rounds, found.evaluate_every) == (10, ROUNDS, 1)


def test_what_a_node_keeps_is_there_wherever_it_trains(options: TrainOptions, tmp_path: Path) -> None:
    """Another process each time would begin with the layers of another round."""
    file = tmp_path / "personal_task.py"
    file.write_text(TASK.replace("loss=", 'local=["bias"], loss='))
    personal = replace(options, task=str(file), per_round=3)
    apart, together = run(replace(personal, workers=2)), run(personal)
    assert apart.digest == together.digest
    assert together.digest != run(replace(options, per_round=3)).digest


@pytest.mark.parametrize(
    "change",
    [
        {"per_round": 9},
        {"settings": ("train.learning_rate",)},
        {"settings": ("train.learning_rat=1",)},
        {"outages": "share=2"},
        {"outages": "away_s=0"},
        {"outages": "share=x"},
        {"outages": "away=7"},
        {"outages": "away=1.5"},
        {"outages": "away=1,change_s=0"},
        {"outages": "away=1,share=0.5"},
        {"partition": "shards"},
        {"nodes": 700, "per_round": 700, "buffer": 5},
    ],
)
def test_options_that_cannot_be_are_refused(options: TrainOptions, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        run(replace(options, **change))  # type: ignore[arg-type]


def test_nothing_said_is_no_outage() -> None:
    assert parse_outages("", 8).share == 0.0


def test_the_command_prints_json_with_every_version_and_the_digest(options: TrainOptions) -> None:
    arguments = ["simulate", "--train", "--task", str(options.task), "--nodes", "8", "--rounds", "3", "--json"]
    result = CliRunner().invoke(make_app(arguments), [*arguments, "--per-round", "4"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (len(found["versions"]), found["nodes"], len(found["digest"])) == (3, 8, 32)


def test_the_command_shows_a_table(options: TrainOptions) -> None:
    arguments = ["simulate", "--train", "--task", str(options.task), "--nodes", "4", "--rounds", "2"]
    arguments += ["--per-round", "4"]
    result = CliRunner().invoke(make_app(arguments), arguments)
    assert result.exit_code == 0, result.output
    assert "model digest" in result.stdout
    assert "accuracy" in result.stdout


def test_an_experiment_that_gets_no_better_stops_early_and_says_so(options: TrainOptions) -> None:
    """The patience is two evaluations, and nothing is an improvement of a thousand after the first version."""
    patient = replace(options, settings=("stopping.patience=2", "stopping.min_delta=1000.0"))
    result = run(patient)
    assert result.stopped_early
    assert [figures.version for figures in result.versions] == [1, 2, 3]
    assert not run(replace(patient, rounds=3)).stopped_early
    assert run(replace(patient, rounds=20, evaluate_every=2)).versions[-1].version == 6


@pytest.mark.parametrize(
    ("settings", "every", "key"),
    [(("evaluation.nodes_every=1", "stopping.on=nodes"), 1, "stopping.on"), ((), 0, "--evaluate-every")],
)
def test_evaluations_that_nobody_makes_are_not_waited_for(
    options: TrainOptions, settings: tuple[str, ...], every: int, key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_experiment(replace(options, settings=("stopping.patience=2", *settings), evaluate_every=every))
    assert caught.value.key == key


def test_a_stopping_metric_that_the_task_lacks_is_refused_before_anything_is_trained(options: TrainOptions) -> None:
    with pytest.raises(ConfigError, match="it reports accuracy, loss"):
        train(replace(options, settings=("stopping.metric=f1",)), as_json=True)


FAILING = """
import numpy as np
from federation.errors import TaskError
from federation.task import TrainResult

class Failing:
    def __init__(self, index, share, later):
        self.index, self.share, self.later = index, share, later

    def initial_parameters(self, seed):
        return {"w": np.zeros(1, np.float32)}

    def roles(self):
        return {}

    def train(self, parameters, settings, stop):
        if self.index < self.share or (self.later and parameters["w"][0] < 1):
            return TrainResult(parameters={"w": parameters["w"] + 1}, num_examples=1)
        raise TaskError(f"part {self.index} has no data")

    def evaluate(self, parameters):
        return {}

def build(context):
    return Failing(context.node_index, 0, False)

def some(context):
    return Failing(context.node_index, 2, False)

def later(context):
    return Failing(context.node_index, 0, True)
"""


@pytest.fixture(name="failing")
def _failing(tmp_path: Path) -> TrainOptions:
    file = tmp_path / "failing_task.py"
    file.write_text(FAILING)
    return TrainOptions(task=str(file), nodes=3, rounds=3)


@pytest.mark.parametrize("more", [{}, {"per_round": 1}, {"workers": 2}, {"codec": "edge"}, {"buffer": 1}])
def test_an_experiment_in_which_nobody_trains_ends_with_every_reason(
    failing: TrainOptions, more: dict[str, Any]
) -> None:
    heard: list[str] = []
    experiment = build_experiment(replace(failing, **more))
    with pytest.raises(NobodyTrains) as caught:
        experiment.run(failed=lambda node, reason: heard.append(f"{node}: {reason}"))
    reasons = [f"node-{index}: part {index} has no data" for index in range(3)]
    assert sorted(heard) == reasons
    assert str(caught.value) == "nobody trains after version 0: " + "; ".join(f"node {each}" for each in reasons)


def test_trainings_that_fail_later_have_a_second_chance_and_then_end_it(failing: TrainOptions) -> None:
    experiment = build_experiment(replace(failing, task=f"{failing.task}:later"))
    with pytest.raises(NobodyTrains, match="nobody trains after version 1: node node-0: part 0"):
        experiment.run()
    assert experiment.work.failures.count == 6


def test_some_nodes_that_fail_are_in_the_result(failing: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    options = replace(failing, task=f"{failing.task}:some")
    result = train(options, as_json=False)
    assert len(result.versions) == 3
    assert result.failures["node-2"].keys() == {"part 2 has no data"}
    assert result.failures.keys() == {"node-2"}
    told = capsys.readouterr()
    assert "node-2 fails: part 2 has no data" in told.err
    assert "trainings failed" in told.out


@pytest.mark.parametrize("more", [{}, {"codec": "edge"}, {"stacked": True}])
def test_that_nothing_is_learnt_is_told_once_with_what_to_look_at(
    options: TrainOptions, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss times zero gave version after version of the first model, and no word."""
    train(replace(options, rounds=3, **more), as_json=True)
    assert "nothing is learnt" not in capsys.readouterr().err
    file = Path(str(options.task)).with_name("still_task.py")
    file.write_text(TASK.replace("torch.nn.functional.cross_entropy", "lambda a, b: (a * 0).sum()"))
    train(replace(options, task=str(file), rounds=3, **more), as_json=True)
    assert capsys.readouterr().err.count("nothing is learnt: the training has changed no parameter") == 1


def test_a_version_that_lacks_its_quorum_is_given_up_with_the_reason(failing: TrainOptions) -> None:
    settings = ("round.quorum=3", "round.max_wait_s=3e7")
    with pytest.raises(NobodyTrains, match=r"no update after version 0 .*: node node-2: part 2 has no data"):
        build_experiment(replace(failing, task=f"{failing.task}:some", settings=settings)).run()


def test_trainings_of_a_stack_that_diverge_are_told_with_their_nodes(options: TrainOptions) -> None:
    wild = replace(options, stacked=True, settings=("train.learning_rate=1e38",))
    with pytest.raises(NobodyTrains, match=r"nobody trains after version 0: .*node-2.*diverged: lower learning_rate"):
        build_experiment(wild).run()


def test_of_many_complaints_the_first_are_shown() -> None:
    out = io.StringIO()
    complaints = Complaints(Console(file=out, width=200))
    for number in range(COMPLAINTS_SHOWN + 3):
        complaints.hear(NodeId(f"n{number}"), "no [data]")
    lines = out.getvalue().splitlines()
    assert lines[0] == "n0 fails: no [data]"
    assert lines[COMPLAINTS_SHOWN:] == ["more nodes fail; the report (--json) has all"]


def test_the_command_ends_with_one_line_and_code_1(failing: TrainOptions) -> None:
    arguments = ["simulate", "--train", "--task", str(failing.task), "--nodes", "3", "--rounds", "3"]
    ended = CliRunner().invoke(make_app(["simulate"]), arguments)
    assert ended.exit_code == 1
    assert "simulation failed: nobody trains after version 0" in ended.stderr


@pytest.mark.xdist_group("export")
def test_what_was_trained_can_be_kept_exported_and_looked_at(
    options: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "it is" / "kept"
    result = train(replace(options, keep=kept), as_json=False)
    told = capsys.readouterr().err
    assert f"coordinator export model.safetensors --state '{kept}'\n" in told
    assert "a torch model also as model.onnx, with --task" in told
    status = read_status(kept)
    versions = status["versions"]
    assert isinstance(versions, list)
    assert [one["accuracy"] for one in versions[1:]] == [one.metrics["accuracy"] for one in result.versions]
    # Updates were tokens of ten bytes: what nodes had sent was far too little, and an audit could decode none.
    nodes: Any = status["nodes"]
    assert sum(node["bytes_up"] for node in nodes) == result.payload_bytes
    # Versions had no bytes up at all, and those down of announcements that nobody heard.
    assert sum(one["bytes_up"] for one in versions) == result.payload_bytes
    assert [one["bytes_down"] for one in versions] == [0] * len(versions)
    best = max(result.versions, key=lambda one: (one.metrics["accuracy"], -one.version))
    source = TaskSource(name=str(options.task), data=None)
    assert export_model(kept, tmp_path / "m.onnx", "best", source) == best.version
    assert export_model(kept, tmp_path / "m.safetensors") == 6
    assert list(draw_run(load_run(kept), tmp_path / "pictures").files)
    with pytest.raises(ConfigError, match="is not empty, it has blobs"):
        train(replace(options, keep=kept), as_json=False)


def test_what_was_trained_before_nobody_did_any_more_is_kept(failing: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(typer.Exit):
        train(replace(failing, task=f"{failing.task}:later", keep=tmp_path / "kept"), as_json=True)
    assert export_model(tmp_path / "kept", tmp_path / "m.safetensors") == 1


def test_keeping_is_for_training(tmp_path: Path) -> None:
    ended = CliRunner().invoke(make_app(["simulate"]), ["simulate", "--nodes", "3", "--keep", str(tmp_path / "kept")])
    assert isinstance(ended.exception, ConfigError)
    assert ended.exception.key == "--keep"


def test_an_optimizer_and_a_schedule_are_settings(options: TrainOptions) -> None:
    plain = replace(options, settings=("train.learning_rate=0.05",))
    adam = replace(plain, settings=(*plain.settings, "train.optimizer=adam", "train.clip_norm=0.5"))
    found = [run(replace(each, stacked=stacked)).digest for each in (plain, adam) for stacked in (False, True)]
    assert found[2] == found[3]  # it is not stacked
    assert found[0] != found[2]
    falling = replace(plain, settings=(*plain.settings, "train.schedule=step", "train.decay_every=2"))
    assert run(falling).digest != found[0]
    scaffold = replace(plain, strategy="scaffold", settings=(*plain.settings, "train.clip_norm=0.5"))
    with pytest.raises(ConfigError, match="no adam, adamw or clip_norm"):
        run(scaffold)


def test_nodes_that_check_in_train_as_well_and_are_seldom_there(options: TrainOptions) -> None:
    """FED-325: connected for ten seconds of ten minutes, or as long as an update has no verdict."""
    paced = replace(options, nodes=40, per_round=2, buffer=1, rounds=8, settings=("round.pace_s=600",))
    first, second = run(paced), run(paced)
    assert (first.digest, first.connected_peak) == (second.digest, second.connected_peak)
    assert len(first.versions) == 8
    assert 0 < first.connected_peak <= 8
    assert first.away_share > 0.9
    assert run(replace(paced, settings=())).connected_peak == 0

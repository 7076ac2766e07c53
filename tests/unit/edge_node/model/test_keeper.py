"""A device takes a version that is good on its own data, tells whom it shall, and stays with what it has otherwise."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from structlog.testing import capture_logs

from edge_node.config import ModelSection
from edge_node.model.hooks import read_told
from edge_node.model.keeper import ModelKeeper, figure_of, make_keeper, worse
from edge_node.model.program import Programs
from edge_node.model.versions import Figure
from edge_node.training.adoption import manifest_of
from edge_node.training.evaluation import EvaluationJob, evaluation_event
from edge_node.training.worker import TrainingSetup
from federation.errors import ConfigError, PayloadTooLarge
from federation.picture import PictureInput
from federation.runtime.clock import MonotonicClock
from federation.task import Array, Parameters, ProgramForm, TaskContext
from federation.tasks import TorchTask
from federation.types import Digest, ModelVersion
from tests.rigs.node_doubles import MANIFEST, NODE, RUN, ToyTask, training_setup, vectors

SAID: list[tuple[str, bytes]] = []


class JudgedTask(ToyTask):
    """Is as good as its first weight says."""

    def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
        return {"accuracy": float(np.asarray(parameters["weight"])[0, 0]), "test_examples": 4.0}


def keeper(folder: Path, **changes: object) -> ModelKeeper:
    SAID.clear()
    section = ModelSection.model_validate({"folder": folder, "form": "safetensors", **changes})
    made = make_keeper(section, "toy", lambda topic, body: SAID.append((topic, body)))
    assert made is not None
    return made


def offer(to: ModelKeeper, version: int, value: float, task: ToyTask | None = None) -> str:
    """Offer a version as the worker does; returns what was logged."""
    setup = training_setup(task or JudgedTask())
    model = vectors(value)
    job = EvaluationJob(
        run=RUN,
        version=ModelVersion(version),
        digest=Digest(model.digest()),
        model=model,
        manifest_digest=MANIFEST.digest,
        uses=True,
    )
    report = evaluation_event(setup.task, MANIFEST, job, MonotonicClock()).report
    with capture_logs() as lines:
        to.offer(setup, job, report)
    return " ".join(f"{line['event']} {line.get('reason', '')}".strip() for line in lines)


def present(of: ModelKeeper) -> int | None:
    written = of.versions.present()
    return None if written is None else written.notes.version


def test_a_version_is_taken_unless_it_is_worse_by_more_than_the_margin(tmp_path: Path) -> None:
    made = keeper(tmp_path, worse_max=0.1)
    assert offer(made, 1, 0.8) == "model_taken"
    assert offer(made, 2, 0.73) == "model_taken"
    told = offer(made, 3, 0.6)
    assert told == "model_not_taken its accuracy is 0.6 here, and the present version's 0.73"
    assert present(made) == 2
    written = made.versions.present()
    assert written is not None
    assert written.figure is not None
    assert (written.figure.name, written.figure.examples) == ("accuracy", 4)
    assert written.figure.value == pytest.approx(0.73)
    assert written.figure.present == pytest.approx(0.8)


def test_the_present_version_is_judged_on_the_data_of_now(tmp_path: Path) -> None:
    """After the machine has changed, what was good is not, and must not keep others out."""
    made = keeper(tmp_path, worse_max=0.0)
    offer(made, 1, 0.9)

    class Changed(JudgedTask):
        def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
            return {"accuracy": 1.0 - float(np.asarray(parameters["weight"])[0, 0])}

    assert offer(made, 2, 0.5, Changed()) == "model_taken"


def test_a_device_that_has_nothing_to_evaluate_on_takes_what_comes(tmp_path: Path) -> None:
    made = keeper(tmp_path)
    assert offer(made, 1, 0.5, ToyTask()) == "model_taken"
    written = made.versions.present()
    assert written is not None
    assert written.figure is None


def test_a_model_that_cannot_be_evaluated_is_not_taken(tmp_path: Path) -> None:
    class Broken(ToyTask):
        def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
            raise RuntimeError("out of memory")

    made = keeper(tmp_path)
    assert "out of memory" in offer(made, 1, 0.5, Broken())
    assert present(made) is None


def test_the_same_version_is_not_written_again_after_a_restart(tmp_path: Path) -> None:
    offer(keeper(tmp_path), 1, 0.5)
    assert offer(keeper(tmp_path), 1, 0.5) == ""


def test_a_held_version_stays(tmp_path: Path) -> None:
    made = keeper(tmp_path)
    offer(made, 1, 0.5)
    offer(made, 2, 0.6)
    made.versions.go_back()
    assert "held" in offer(made, 3, 0.9)
    assert present(made) == 1


def test_a_version_of_another_shape_replaces_what_is_there(tmp_path: Path) -> None:
    made = keeper(tmp_path)
    offer(made, 1, 0.9)
    other = replace(made, label="another")
    assert offer(other, 2, 0.1) == "model_taken"


def test_a_figure_that_the_task_does_not_say_is_named(tmp_path: Path) -> None:
    assert "says no f1 here, only accuracy" in offer(keeper(tmp_path, figure="f1"), 1, 0.5)


def test_a_folder_that_cannot_be_written_costs_the_version_only(tmp_path: Path) -> None:
    (tmp_path / "versions").write_text("a file")
    assert "model_not_written" in offer(keeper(tmp_path), 1, 0.5)


@pytest.mark.parametrize(
    ("value", "before", "larger", "is_worse"),
    [
        (0.5, None, True, False),
        (float("nan"), None, True, True),
        (0.9, float("nan"), True, False),
        (0.951, 1.0, True, False),
        (0.94, 1.0, True, True),
        (1.049, 1.0, False, False),
        (1.06, 1.0, False, True),
        (2.0, 1.0, True, False),
    ],
)
def test_worse_is_by_a_share_of_the_present_figure(
    value: float, before: float | None, *, larger: bool, is_worse: bool
) -> None:
    figure = Figure(name="loss", value=value, present=before)
    assert bool(worse(figure, 0.05, larger=larger)) is is_worse


def test_the_figure_is_the_one_that_was_chosen_or_the_accuracy_or_the_loss() -> None:
    assert figure_of({"loss": 1, "accuracy": 1}, None) == "accuracy"
    assert figure_of({"loss": 1}, None) == "loss"
    assert figure_of({"loss": 1, "f1": 1}, "f1") == "f1"
    assert figure_of({"f1": 1}, None) is None


def test_a_task_that_writes_no_program_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use safetensors"):
        keeper(tmp_path, form="onnx").check(ToyTask())
    assert make_keeper(ModelSection(), "toy", lambda *_: None) is None


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_a_command_gets_the_names_and_a_topic_the_note(tmp_path: Path) -> None:
    line = "import os, pathlib; pathlib.Path(os.environ['OUT']).write_text(os.environ['FEDMQ_MODEL_FILE'])"
    out = tmp_path / "out"
    command = [sys.executable, "-c", line.replace("os.environ['OUT']", repr(str(out)))]
    made = keeper(tmp_path / "model", command=command, topic="plant/pump/model")
    offer(made, 1, 0.5)
    made.hooks.close(20)
    assert Path(out.read_text()).name == "model.safetensors"
    assert Path(out.read_text()).exists()
    ((topic, body),) = SAID
    assert (topic, json.loads(body)["version"]) == ("plant/pump/model", 1)
    assert read_told(tmp_path / "model")["hooks"] == {"topic": "", "command": ""}


def test_a_hook_that_fails_or_hangs_is_ended_and_said(tmp_path: Path) -> None:
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    made = keeper(tmp_path, command=hangs, hook_s=0.2, reload_unit="no-such.service", topic="t")

    def too_large(topic: str, body: bytes) -> None:
        raise PayloadTooLarge(topic)

    made.hooks._publish = too_large
    offer(made, 1, 0.5)
    made.hooks.close(20)
    hooks = read_told(tmp_path)["hooks"]
    assert isinstance(hooks, dict)
    assert "took longer than 0.2 s and was killed" in hooks["command"]
    assert "systemctl" in hooks["reload_unit"]
    assert hooks["topic"]
    assert present(made) == 1


def test_a_command_that_is_not_there_or_fails_is_said_in_its_own_words(tmp_path: Path) -> None:
    made = keeper(tmp_path, command=["/no/such/program"])
    offer(made, 1, 0.5)
    made.hooks.close(20)
    assert "cannot be started" in str(read_told(tmp_path)["hooks"])
    made = keeper(tmp_path, command=[sys.executable, "-c", "import sys; sys.exit('no PLC')"])
    offer(made, 2, 0.6)
    made.hooks.close(20)
    assert "ended with 1: no PLC" in str(read_told(tmp_path)["hooks"])


# --- programs --------------------------------------------------------------------------------------------------------


def two_layers() -> "object":
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))


def personal_task() -> TorchTask:
    import torch

    x, y = torch.randn(12, 3), torch.arange(12) % 2
    return TorchTask(
        TaskContext(node_index=0, node_count=1, device="cpu"),
        model=two_layers,  # type: ignore[arg-type]
        train_data=(x, y),
        own_test=(x, y),
        loss=torch.nn.functional.cross_entropy,
        local=["2.*"],
        input_shape=(3,),
        classes=("no", "yes"),
    )


def test_a_program_has_the_personal_layers_and_is_traced_twice_only(tmp_path: Path) -> None:
    task = personal_task()
    setup = TrainingSetup(node=NODE, task=task, manifest=manifest_of(task))
    made = keeper(tmp_path, form="onnx", worse_max=1e9)
    made.check(task)
    inputs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for version in range(1, 5):
        rng = np.random.default_rng(version)
        arrays = task.initial_parameters(0)
        shared = {name: rng.normal(size=each.shape).astype(np.float32) for name, each in arrays.items()}
        head = {f"local.2.{name}": rng.normal(size=shape).astype(np.float32) for name, shape in HEAD.items()}
        model = setup.manifest.flatten(shared)
        job = EvaluationJob(
            run=RUN,
            version=ModelVersion(version),
            digest=Digest(model.digest()),
            model=model,
            manifest_digest=setup.manifest.digest,
            state=head,
            uses=True,
        )
        made.offer(setup, job, evaluation_event(task, setup.manifest, job, MonotonicClock()).report)
        file = made.versions.file
        assert file is not None
        program = onnx.load(file)
        (answer,) = ReferenceEvaluator(program).run(None, {"input": inputs})
        whole = {**setup.manifest.unflatten(model), **{key.removeprefix("local."): each for key, each in head.items()}}
        expected = np.asarray(task.predict(whole, inputs), np.float32)
        np.testing.assert_allclose(np.asarray(answer, np.float32), expected, rtol=1e-4, atol=1e-5)
        (note,) = (json.loads(each.value) for each in program.metadata_props)
        assert (note["version"], note["classes"]) == (version, ["no", "yes"])
    written = made.versions.present()
    assert written is not None
    assert written.signature["inputs"] == [{"name": "input", "type": "float", "shape": [-1, 3]}]
    assert made._programs is not None
    assert made._programs.traced == 2


class FoldingTask:
    """Writes a program that has not its parameter, but something that was computed from it."""

    classes: Sequence[str] = ()
    picture: PictureInput | None = None

    def export(self, parameters: Parameters, form: ProgramForm, notes: Mapping[str, str]) -> bytes:
        tensor = onnx.numpy_helper.from_array(np.asarray(parameters["weight"]) * 2, "folded")
        output = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [2])
        node = onnx.helper.make_node("Identity", ["folded"], ["output"])
        made: bytes = onnx.helper.make_model(
            onnx.helper.make_graph([node], "g", [], [output], [tensor])
        ).SerializeToString()
        return made

    def predict(self, parameters: Parameters, inputs: Array) -> Array:
        return inputs


def test_a_program_with_parts_that_were_computed_from_parameters_is_traced_each_time() -> None:
    programs = Programs(FoldingTask(), ProgramForm.ONNX)
    for value in range(1, 5):
        program = onnx.load_from_string(programs.make({"weight": np.full(2, value, np.float32)}, {}))
        (answer,) = ReferenceEvaluator(program).run(None, {})
        np.testing.assert_array_equal(answer, [2.0 * value] * 2)
    assert programs.traced == 4


def test_a_parameter_that_changes_late_is_seen_in_a_traced_program_first() -> None:
    """What has not changed while both were compared may stand in the program as something else."""

    class Half(FoldingTask):
        def export(self, parameters: Parameters, form: ProgramForm, notes: Mapping[str, str]) -> bytes:
            model = onnx.load_from_string(super().export(parameters, form, notes))
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(parameters["bias"]), "bias"))
            return bytes(model.SerializeToString())

    programs = Programs(Half(), ProgramForm.ONNX)
    for bias, weight in ((0, 1), (1, 1), (2, 1), (3, 2), (4, 3)):
        arrays = {"weight": np.full(2, weight, np.float32), "bias": np.full(2, bias, np.float32)}
        program = onnx.load_from_string(programs.make(arrays, {}))
        found = {each.name: onnx.numpy_helper.to_array(each)[0] for each in program.graph.initializer}
        assert found == {"folded": 2 * weight, "bias": bias}
    assert programs.traced == 4


HEAD = {"weight": (2, 4), "bias": (2,)}

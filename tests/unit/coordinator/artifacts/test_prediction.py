"""A model leaves the store as a program that answers as torch does, and says what a picture shows."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors
import safetensors.numpy
import torch
from matplotlib.image import imread
from onnx.reference import ReferenceEvaluator
from PIL import Image
from typer.testing import CliRunner, Result

from coordinator.artifacts.cli import BAR_CELLS, bar
from coordinator.artifacts.export import TaskSource, export_model
from coordinator.artifacts.plots.gallery import draw_answer
from coordinator.artifacts.prediction import predict_with_file, predict_with_store
from coordinator.cli import make_app
from federation.errors import ConfigError, StorageError, TaskError
from federation.model_notes import ModelNotes, notes_of
from federation.picture import PictureInput
from federation.task import ProgramForm
from federation.tasks import TorchTask
from federation.tasks.builtin.digits import build, digits
from tests.rigs.trained_digits import CONTEXT, digit_file, digits_store, trained

pytestmark = pytest.mark.xdist_group("export")

DIGITS = TaskSource(name="digits")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_store(tmp_path_factory.mktemp("state") / "store")


@pytest.fixture(scope="module")
def exported(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("exported")
    for suffix in ("onnx", "pt2", "safetensors"):
        assert export_model(state, folder / f"model.{suffix}", source=DIGITS) == 0
    return lambda suffix: folder / f"model.{suffix}"


def answer_of(model: Any, inputs: Any) -> Any:
    """What ONNX's own evaluator gives."""
    (answer,) = ReferenceEvaluator(model).run(None, {"input": inputs})
    return answer


def answers() -> tuple[Any, Any]:
    """All test digits, and what the task's own model answers."""
    images, _ = digits(train=False)
    return images, build(CONTEXT).predict(trained(), images)


def test_the_onnx_file_answers_as_torch_does_for_any_number_of_inputs(exported: Callable[[str], Path]) -> None:
    model: Any = onnx.load(exported("onnx"))
    onnx.checker.check_model(model, full_check=True)
    images, expected = answers()
    for count in (1, 2, 100):
        got = answer_of(model, images[:count])
        np.testing.assert_allclose(got, expected[:count], rtol=1e-5, atol=1e-5)


def test_the_torch_program_answers_as_torch_does_for_any_number_of_inputs(exported: Callable[[str], Path]) -> None:
    texts = {"fedmq": ""}
    program: Any = torch.export.load(exported("pt2"), extra_files=texts)
    images, expected = answers()
    for count in (1, 2, 100):
        got = program.module()(torch.from_numpy(images[:count])).detach().numpy()
        np.testing.assert_allclose(got, expected[:count], rtol=1e-6, atol=1e-6)
    assert notes_of(texts, exported("pt2")).task == "digits"


def test_the_model_tells_nearly_all_digits_apart_so_the_comparison_means_something() -> None:
    _, labels = digits(train=False)
    assert (answers()[1].argmax(1) == labels).mean() > 0.9


def test_a_network_with_convolutions_and_batch_norm_is_exported_as_it_evaluates() -> None:
    def net() -> torch.nn.Module:
        layers = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Dropout(0.5)
        return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))

    pictured = PictureInput(height=8, width=8)
    task = TorchTask(CONTEXT, model=net, train_data=([], []), loss=lambda *_: torch.zeros(()), picture=pictured)
    parameters = dict(task.initial_parameters(1))
    parameters["1.running_mean"] = np.full(4, 0.3, np.float32)
    inputs = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    expected: Any = task.predict(parameters, inputs)
    model = onnx.load_from_string(task.export(parameters, ProgramForm.ONNX, {"a": "b"}))
    got = answer_of(model, inputs)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    program: Any = torch.export.load(io.BytesIO(task.export(parameters, ProgramForm.PT2, {})))
    np.testing.assert_allclose(program.module()(torch.from_numpy(inputs)).detach().numpy(), expected, rtol=1e-5)


def test_the_input_is_known_from_its_shape_or_the_test_data_and_asked_for_otherwise() -> None:
    def task(**more: Any) -> TorchTask:
        return TorchTask(
            CONTEXT, model=lambda: torch.nn.Linear(3, 2), train_data=([], []), loss=torch.nn.MSELoss(), **more
        )

    for known in ({"input_shape": (3,)}, {"test_data": (np.zeros((4, 3)), np.zeros((4, 2)))}):
        one = task(**known)
        assert one.export(one.initial_parameters(0), ProgramForm.PT2, {})
    with pytest.raises(TaskError, match="input_shape"):
        task().export(task().initial_parameters(0), ProgramForm.PT2, {})


def test_a_model_that_cannot_be_traced_is_a_task_error() -> None:
    class Fickle(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name
            return super().forward(input) if input.sum().item() > 0 else input

    task = TorchTask(
        CONTEXT, model=lambda: Fickle(3, 2), train_data=([], []), loss=torch.nn.MSELoss(), input_shape=(3,)
    )
    with pytest.raises(TaskError, match=r"torch\.export"):
        task.export(task.initial_parameters(0), ProgramForm.PT2, {})


@pytest.mark.parametrize("suffix", ["onnx", "safetensors"])
def test_a_real_digit_on_paper_is_recognised_by_the_exported_model(
    exported: Callable[[str], Path], tmp_path: Path, suffix: str
) -> None:
    label = digit_file(tmp_path / "digit.png", 3, size=120, paper=True)
    found = predict_with_file(tmp_path / "digit.png", exported(suffix))
    assert found.ranked()[0][0] == str(label)
    assert found.ranked()[0][1] > 0.9
    assert sum(share for _, share in found.ranked()) == pytest.approx(1)
    assert (found.notes.task, found.notes.version) == ("digits", 0)


def test_a_version_of_the_store_gives_the_same_answer(
    state: Path, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    digit_file(tmp_path / "digit.png", 5, size=50)
    kept = predict_with_store(tmp_path / "digit.png", state, "newest", DIGITS)
    file = predict_with_file(tmp_path / "digit.png", exported("onnx"))
    np.testing.assert_allclose(kept.scores, file.scores, atol=1e-6)


def test_a_torch_program_is_not_loaded_because_it_could_run_code(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    digit_file(tmp_path / "digit.png")
    with pytest.raises(ConfigError, match=r"\.onnx or \.safetensors"):
        predict_with_file(tmp_path / "digit.png", exported("pt2"))


def test_a_program_needs_a_task_that_can_write_one(state: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--task"):
        export_model(state, tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="Exportable"):
        export_model(state, tmp_path / "model.onnx", source=TaskSource(name="null"))
    with pytest.raises(TaskError, match="tensors"):
        export_model(state, tmp_path / "model.pt2", source=TaskSource(name="mnist-mlp"))
    assert not (tmp_path / "model.pt2").exists()


def test_a_task_that_reads_no_pictures_says_so(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="name its task"):
        predict_with_file(tmp_path / "digit.png", tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="PictureInput"):
        predict_with_file(tmp_path / "digit.png", tmp_path / "m.safetensors", TaskSource(name="har"))


def test_files_of_others_are_refused(tmp_path: Path, exported: Callable[[str], Path]) -> None:
    digit_file(tmp_path / "digit.png")
    for name in ("m.onnx", "m.safetensors"):
        (tmp_path / name).write_bytes(b"\xff" * 40)
        with pytest.raises(StorageError):
            predict_with_file(tmp_path / "digit.png", tmp_path / name)
    model = onnx.load(exported("onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ConfigError, match="notes"):
        predict_with_file(tmp_path / "digit.png", tmp_path / "bare.onnx")


def test_a_model_whose_input_is_not_what_its_notes_say_is_a_task_error(
    tmp_path: Path, exported: Callable[[str], Path]
) -> None:
    digit_file(tmp_path / "digit.png")
    model = onnx.load(exported("onnx"))
    wrong = ModelNotes(version=0, picture=PictureInput(height=3, width=3, flat=True))
    onnx.helper.set_model_props(model, dict(wrong.to_texts()))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(TaskError, match="cannot be run"):
        predict_with_file(tmp_path / "digit.png", tmp_path / "wrong.onnx")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "task": "", "classes": [], "picture": 3}']
)
def test_notes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="notes"):
        notes_of({"fedmq": text}, Path("m.onnx"))


def test_the_missing_extra_is_named(
    tmp_path: Path, state: Path, exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    digit_file(tmp_path / "digit.png")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(TaskError, match=r"fedmq\[onnx\]"):
        export_model(state, tmp_path / "model.onnx", source=DIGITS)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"fedmq\[onnx\]"):
        predict_with_file(tmp_path / "digit.png", exported("onnx"))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(make_app(list(arguments)), list(arguments))


def test_the_commands_export_and_predict(state: Path, tmp_path: Path) -> None:
    image, model = str(tmp_path / "digit.png"), str(tmp_path / "model.onnx")
    label = digit_file(tmp_path / "digit.png", 3, size=64)
    told = json.loads(invoke("export", model, "--state", str(state), "--task", "digits", "--json").stdout)
    assert told == {"version": 0, "file": model, "bytes": (tmp_path / "model.onnx").stat().st_size}
    shown = invoke("predict", "--image", image, "--model", model, "--plot", str(tmp_path / "answer.png"))
    assert shown.exit_code == 0, shown.output
    rows = [line.split() for line in shown.stdout.splitlines() if "%" in line]
    assert rows[0][0] == str(label)
    assert len(rows) == 10
    assert set(rows[0][2]) <= set("█▏▎▍▌▋▊▉")
    assert imread(tmp_path / "answer.png").ndim == 3
    kept = invoke("predict", "--image", image, "--state", str(state), "--task", "digits", "--json")
    answer = json.loads(kept.stdout)
    assert answer["class"] == str(label)
    assert answer["probabilities"][str(label)] == answer["probability"]
    assert isinstance(invoke("predict", "--image", image).exception, ConfigError)


def test_a_regression_prints_its_number(tmp_path: Path) -> None:
    (tmp_path / "brightness.py").write_text(
        "import torch\nfrom federation.picture import PictureInput\nfrom federation.tasks import TorchTask\n"
        "def model():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))\n"
        "def build(context):\n    return TorchTask(context, model=model, train_data=([], []), loss=None,\n"
        "        picture=PictureInput(height=2, width=2))\n"
    )
    arrays = {"1.weight": np.full((1, 4), 0.25, np.float32), "1.bias": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors")
    Image.fromarray(np.full((6, 6), 51, np.uint8)).save(tmp_path / "grey.png")
    arguments = ["predict", "--image", str(tmp_path / "grey.png"), "--model", str(tmp_path / "m.safetensors")]
    arguments += ["--task", f"{tmp_path / 'brightness.py'}:build"]
    assert invoke(*arguments).stdout == "0.2\n"
    assert json.loads(invoke(*arguments, "--json").stdout)["output"] == [pytest.approx(0.2)]


def test_a_bar_is_as_long_as_its_share() -> None:
    assert [bar(0), bar(1), bar(0.5)] == ["", "█" * BAR_CELLS, "█" * (BAR_CELLS // 2)]
    assert bar(1 / (8 * BAR_CELLS)) == "▏"


def test_an_answer_is_drawn_as_png_or_svg_only(tmp_path: Path, exported: Callable[[str], Path]) -> None:
    digit_file(tmp_path / "digit.png")
    found = predict_with_file(tmp_path / "digit.png", exported("onnx"))
    draw_answer(found, tmp_path / "answer.svg")
    assert "what the model saw" in (tmp_path / "answer.svg").read_text()
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        draw_answer(found, tmp_path / "answer.gif")
    with pytest.raises(StorageError):
        draw_answer(found, tmp_path / "no" / "answer.png")

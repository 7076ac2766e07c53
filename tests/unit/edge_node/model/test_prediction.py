"""``edge-node predict``: rows by the names of their columns, answers as lines, and errors that say what to do."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from edge_node.cli import app, main
from edge_node.model.prediction import predictions, read_rows, read_table, written
from edge_node.model.runner import load_model
from federation.errors import ConfigError, StorageError
from federation.model_notes import ModelNotes
from federation.readings.windows import WindowSpec
from federation.tasks.sensors.plan import Kind
from federation.tasks.sensors.rules import Scaler, ScoreRule

RULE = ScoreRule(
    kind=Kind.RECONSTRUCTION,
    window=WindowSpec(columns=("a", "b"), length=3),
    scaler=Scaler((0.0, 0.0), (1.0, 1.0)),
    threshold=1.5,
)


def program(path: Path, notes: ModelNotes | None, *, rows: int | None = None) -> Path:
    """A model of two inputs that doubles, or one of windows that answers with nothing but zeros."""
    shape: list[str | int | None] = ["n", 2] if rows is None else ["n", rows, 2]
    factor = onnx.numpy_helper.from_array(np.array(2.0 if rows is None else 0.0, np.float32), "factor")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("input", "output")]
    node = onnx.helper.make_node("Mul", ["input", "factor"], ["output"])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [factor])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    if notes is not None:
        onnx.helper.set_model_props(model, dict(notes.to_texts()))
    onnx.save(model, path)
    return path


def lines(model: Path, text: str, *, as_csv: bool = False) -> list[str]:
    asked = load_model(model)
    rule = asked.notes.score
    wanted = asked.notes.features if rule is None else rule.window.columns
    return list(written(predictions(asked, read_table(io.StringIO(text), wanted)), as_csv=as_csv))


def test_columns_are_taken_by_name_whatever_their_order(tmp_path: Path) -> None:
    model = program(tmp_path / "m.onnx", ModelNotes(version=3, task="toy", features=("a", "b")))
    assert [json.loads(line) for line in lines(model, "b;what;a\n2;yes;1\n\n4;;3\n")] == [
        {"row": 1, "output": [2.0, 4.0]},
        {"row": 2, "output": [6.0, 8.0]},
    ]


def test_classes_have_names_and_shares_and_columns_of_their_own_in_csv(tmp_path: Path) -> None:
    model = program(tmp_path / "m.onnx", ModelNotes(version=3, classes=("no", "yes")))
    found = lines(model, "0,0\n0,100", as_csv=True)
    assert found == ["row,class,probability,p_no,p_yes", "1,no,0.5,0.5,0.5", "2,yes,1.0,1.3838965267367376e-87,1.0"]


def test_a_model_of_windows_scores_each_row_that_ends_one(tmp_path: Path) -> None:
    model = program(tmp_path / "m.onnx", ModelNotes(version=3, score=RULE), rows=3)
    found = [json.loads(line) for line in lines(model, "b,a,t\n1,1,x\n1,1,x\n1,1,x\n4,4,x\n,1,x\n1,1,x\n")]
    assert found == [
        {"row": 3, "score": 1.0, "threshold": 1.5, "anomaly": False},
        {"row": 4, "score": 2.0, "threshold": 1.5, "anomaly": True},
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the input is empty"),
        ("a,c\n1,2\n", "the model needs b; there are a, c"),
        ("a,b\n1\n", "line 2: has 1 cells, and the first line has 2"),
        ("a,b\n1,x\n", "line 2: b is 'x', no number"),
        ("a,b\n1,\n", "row 1: b is empty"),
        ("1,2,3\n", "the model takes a, b: begin with the line that names the columns"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    model = program(tmp_path / "m.onnx", ModelNotes(version=3, features=("a", "b")))
    with pytest.raises(ConfigError, match=problem):
        lines(model, text)


def test_too_few_rows_and_too_many_numbers_are_said(tmp_path: Path) -> None:
    windows = program(tmp_path / "w.onnx", ModelNotes(version=3, score=RULE), rows=3)
    with pytest.raises(ConfigError, match="a window takes 3 rows, and there are 1"):
        lines(windows, "a,b\n1,2\n")
    with pytest.raises(
        ConfigError, match="row 3: a window takes 3 rows without a gap, and there is none: here b is empty"
    ):
        lines(windows, "a,b\n1,2\n1,2\n1,\n1,2\n1,2\n")
    model = program(tmp_path / "m.onnx", ModelNotes(version=3))
    with pytest.raises(ConfigError, match="rows have 3 numbers, and the model takes 2"):
        lines(model, "1,2,3\n")


@pytest.mark.parametrize("rows", [["a"], ["a=x"], ["=1"], ["a=1", "b=1"]])
def test_a_row_that_is_none_is_said(rows: list[str]) -> None:
    with pytest.raises(ConfigError, match="--row"):
        read_rows(rows)


def test_a_file_that_is_no_model_is_said(tmp_path: Path) -> None:
    for name, error in (("m.onnx", StorageError), ("m.pt2", ConfigError), ("m.bin", ConfigError)):
        (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(error):
            load_model(tmp_path / name)
    with pytest.raises(ConfigError, match="notes cannot be read"):
        load_model(program(tmp_path / "bare.onnx", None))
    with pytest.raises(StorageError):
        load_model(tmp_path / "missing.onnx")


def test_the_command_reads_rows_files_and_standard_input(tmp_path: Path) -> None:
    model = program(tmp_path / "m.onnx", ModelNotes(version=3, features=("a", "b")))
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n")
    for arguments, given in ((["--row", "b=2,a=1"], ""), ([str(file)], ""), (["-"], "a,b\n1,2\n")):
        result = CliRunner().invoke(app, ["predict", *arguments, "--model", str(model)], input=given)
        assert json.loads(result.output) == {"row": 1, "output": [2.0, 4.0]}


@pytest.mark.parametrize("arguments", [[], ["--folder", "/nowhere"], ["x.csv", "--row", "a=1", "--folder", "/nowhere"]])
def test_what_is_missing_ends_with_exit_code_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["edge-node", "predict", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


def test_arrays_need_the_task_that_they_belong_to(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from federation.task import TaskContext
    from federation.tasks.builtin.digits import build

    task = build(TaskContext(node_index=None, node_count=1, device="cpu"))
    path = tmp_path / "m.safetensors"
    save_file(dict(task.initial_parameters(0)), path, dict(ModelNotes(version=1, task="digits").to_texts()))
    with pytest.raises(ConfigError, match="arrays of the task digits"):
        load_model(path, "mnist-mlp")
    answer = load_model(path, "digits").ask(np.zeros((2, 64), np.float32))
    assert answer.shape == (2, 10)

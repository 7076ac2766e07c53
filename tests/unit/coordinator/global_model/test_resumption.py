"""A run that goes on keeps its task and its model: another one is refused, and both are named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coordinator.global_model import resumption
from coordinator.global_model.initial import InitialRequest, initial_model
from coordinator.global_model.resumption import check_resumed, differences
from federation.errors import ConfigError
from update_codec import Manifest, Role

BUILTIN = "quadratic-12"

pytestmark = pytest.mark.usefixtures("programs_start_warm")

GROWN = """
import os
from federation.tasks.builtin.synthetic import build_quadratic

def build(context):
    return build_quadratic(context, size=int(os.environ["WIDTH"]))
"""

Store = Callable[[str], Manifest]


def manifest(task: str) -> Manifest:
    return initial_model(InitialRequest(task=task)).manifest


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's task whose width is in the environment, as a name."""
    monkeypatch.setenv("WIDTH", "8")
    (tmp_path / "grown.py").write_text(GROWN)
    return f"{tmp_path / 'grown.py'}:build"


def test_another_name_is_refused_with_both_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"trains 'quadratic-12', with a model of 12 values, and 'digits' is set.*"
        rf"another store\.folder.* set back .*{tmp_path}",
    ):
        check_resumed(manifest(BUILTIN), BUILTIN, InitialRequest(task="digits"), tmp_path)


def test_the_same_builtin_task_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "described_apart", None)
    assert check_resumed(manifest(BUILTIN), BUILTIN, InitialRequest(task=BUILTIN), tmp_path) == ""


def test_a_store_of_before_that_has_no_name_is_compared_by_its_model(tmp_path: Path) -> None:
    assert check_resumed(manifest(BUILTIN), None, InitialRequest(task=BUILTIN), tmp_path) == ""
    with pytest.raises(ConfigError, match=r"a model of 12 values, and 'quadratic-13' now makes a model of 13 values"):
        check_resumed(manifest(BUILTIN), None, InitialRequest(task="quadratic-13"), tmp_path)


def test_a_wider_model_of_the_same_task_is_refused(tmp_path: Path, grown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    began, request = manifest(grown), InitialRequest(task=grown)
    assert check_resumed(began, "grown.py:build", request, tmp_path) == ""
    monkeypatch.setenv("WIDTH", "16")
    with pytest.raises(
        ConfigError, match=r"a model of 8 values, and 'grown.py:build' now .* 16 values: .* \(8, .* then,"
    ):
        check_resumed(began, "grown.py:build", request, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors"] == []


def test_the_same_file_in_another_folder_is_the_same_task(tmp_path: Path, grown: str) -> None:
    began = manifest(grown)
    (tmp_path / "moved").mkdir()
    (tmp_path / "grown.py").rename(tmp_path / "moved" / "grown.py")
    moved = InitialRequest(task=f"{tmp_path / 'moved' / 'grown.py'}:build")
    assert check_resumed(began, "grown.py:build", moved, tmp_path) == ""


def test_a_task_that_cannot_be_made_here_any_more_does_not_end_the_run(
    tmp_path: Path, grown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = manifest(grown)
    monkeypatch.delenv("WIDTH")
    assert "WIDTH" in check_resumed(began, "grown.py:build", InitialRequest(task=grown), tmp_path)


def test_a_model_that_takes_too_long_is_not_waited_for(
    tmp_path: Path, grown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumption, "PATIENCE_S", 0.01)
    assert "longer" in check_resumed(manifest(grown), "grown.py:build", InitialRequest(task=grown), tmp_path)


def test_every_difference_between_two_models_is_told() -> None:
    began = Manifest.of({"a": np.zeros(3, np.float32), "b": np.zeros((), np.float32), "n": np.zeros(1, np.int64)})
    roles = {"a": Role.STATISTIC, "control.a": Role.CONTROL, "sums": Role.CONTROL}
    sums = {"control.a": np.zeros(3, np.float32), "sums": np.zeros(3, np.float32)}
    now = Manifest.of({"a": np.zeros(3, np.float32), "b": np.zeros((), np.float64), **sums}, roles)
    assert list(differences(began, now)) == [
        "a (3, float32, parameter) then, a (3, float32, statistic) now",
        "b (one value, float32, parameter) then, b (one value, float64, parameter) now",
        "n (1, int64, counter) then, sums (3, float32, control) now",
    ]


def test_what_scaffold_adds_is_no_other_model(tmp_path: Path) -> None:
    with_controls = initial_model(InitialRequest(task=BUILTIN, controls=True)).manifest
    assert list(differences(with_controls, manifest(BUILTIN))) == []
    assert check_resumed(with_controls, None, InitialRequest(task=BUILTIN), tmp_path) == ""


def test_many_differences_are_counted(tmp_path: Path) -> None:
    many = Manifest.of({f"w{index}": np.zeros(1, np.float32) for index in range(6)})
    with pytest.raises(ConfigError, match="and 3 more"):
        check_resumed(many, None, InitialRequest(task=BUILTIN), tmp_path)


NAMED = """
import os
from federation.inputs import Inputs
from federation.tasks.builtin.synthetic import build_quadratic

def build(context):
    task = build_quadratic(context, size=3)
    task.inputs = lambda: Inputs(classes=tuple(os.environ["CLASSES"].split()))
    task.adopt_inputs = lambda wanted: None
    return task
"""


def test_a_run_does_not_go_on_with_its_classes_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was evaluated, exported and asked with the names of the other class, silently."""
    (tmp_path / "named.py").write_text(NAMED)
    request = InitialRequest(task=f"{tmp_path / 'named.py'}:build")
    monkeypatch.setenv("CLASSES", "ok worn")
    began = initial_model(request)
    assert began.inputs is not None
    assert check_resumed(began.manifest, "named.py:build", request, tmp_path, began.inputs) == ""
    monkeypatch.setenv("CLASSES", "worn ok")
    assert check_resumed(began.manifest, "named.py:build", request, tmp_path) == ""
    with pytest.raises(ConfigError, match=r"of 'named.py:build' its classes are worn, ok, and the run's are ok, worn"):
        check_resumed(began.manifest, "named.py:build", request, tmp_path, began.inputs)

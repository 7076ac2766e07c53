"""Finding a task by name."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from federation.errors import ConfigError, TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks import registry
from federation.tasks.registry import BUILTIN_TASKS, default_rounds, default_settings, load_task

NODE = TaskContext(node_index=0, node_count=2)

OWN_TASK = """
from federation.protocol.messages import TrainSettings
from federation.tasks.builtin.synthetic import NullTask

DEFAULT_SETTINGS = TrainSettings(local_epochs=7)
DEFAULT_ROUNDS = 3

def build(context):
    return NullTask(context, size=4)

def tiny(context):
    return NullTask(context, size=2)
"""


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_every_built_in_task_gives_the_same_initial_bits_for_the_same_seed(name: str) -> None:
    factory = load_task(name)
    some = factory(NODE).initial_parameters(5)
    other = factory(TaskContext(node_index=None, node_count=2)).initial_parameters(5)
    assert {key: array.tobytes() for key, array in some.items()} == {
        key: array.tobytes() for key, array in other.items()
    }
    different = factory(NODE).initial_parameters(6)
    assert any(some[key].tobytes() != different[key].tobytes() for key in some)


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_every_built_in_task_has_settings_and_rounds_of_its_own(name: str) -> None:
    assert default_settings(name) == BUILTIN_TASKS[name].settings
    assert default_rounds(name) == BUILTIN_TASKS[name].rounds >= 1


def test_a_coordinator_starts_every_built_in_task_without_torch() -> None:
    code = (
        "import sys\n"
        "from federation.task import TaskContext\n"
        "from federation.tasks.registry import BUILTIN_TASKS, load_task, default_settings\n"
        "for name in BUILTIN_TASKS:\n"
        "    task = load_task(name)(TaskContext(node_index=None, node_count=3))\n"
        "    task.initial_parameters(0), task.roles(), default_settings(name)\n"
        "print(sorted({'torch', 'sklearn', 'torchvision'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["null", "quadratic"])
def test_a_size_in_the_name_is_the_number_of_parameters(name: str) -> None:
    parameters = load_task(f"{name}-37")(NODE).initial_parameters(0)
    assert sum(array.size for array in parameters.values()) == 37
    assert default_rounds(f"{name}-37") == default_rounds(name)


@pytest.mark.parametrize("name", ["null-0", "null-", "null-1e3", "digits-5", "null-9999999999"])
def test_a_size_that_makes_no_sense_is_no_task(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no task"):
        load_task(name)


def test_an_unknown_name_lists_the_names_and_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'digits'") as caught:
        load_task("digist")
    assert caught.value.key == "task"
    assert all(name in str(caught.value) for name in BUILTIN_TASKS)


def test_a_function_in_a_file_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "my_task.py"
    path.write_text(OWN_TASK)
    assert load_task(f"{path}:tiny")(NODE).initial_parameters(0)["weights"].shape == (2,)
    assert load_task(str(path))(NODE).initial_parameters(0)["weights"].shape == (4,)
    assert default_settings(f"{path}:build") == TrainSettings(local_epochs=7)
    assert default_rounds(f"{path}:build") == 3


def test_a_file_is_run_once_per_process(tmp_path: Path) -> None:
    path = tmp_path / "loaded_once.py"
    path.write_text("def build(context): ...\n")
    assert vars(load_task(f"{path}:build"))["__wrapped__"] is vars(load_task(f"{path}:build"))["__wrapped__"]


def test_a_file_finds_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "fedmq_neighbour_of_test.py").write_text("SIZE = 9\n")
    path = tmp_path / "with_neighbour.py"
    path.write_text("from fedmq_neighbour_of_test import SIZE\ndef build(context): return SIZE\n")
    assert load_task(f"{path}:build")(NODE) == 9  # type: ignore[comparison-overlap]


def test_a_function_in_a_module_is_a_task() -> None:
    task = load_task("federation.tasks.builtin.synthetic:build_null")(NODE)
    assert task.initial_parameters(0)["weights"].shape == (1000,)
    assert default_settings("federation.tasks.builtin.synthetic:build_null") == TrainSettings()
    assert default_rounds("federation.tasks.builtin.synthetic:build_null") == 10


def test_a_missing_function_names_a_near_one(tmp_path: Path) -> None:
    path = tmp_path / "typo.py"
    path.write_text("def build(context): ...\n")
    with pytest.raises(ConfigError, match="did you mean 'build'"):
        load_task(f"{path}:biuld")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_task(f"{tmp_path / 'absent.py'}:build")


def test_a_missing_module_is_named() -> None:
    with pytest.raises(ConfigError, match="there is no module 'no_such_package_of_ours'"):
        load_task("no_such_package_of_ours.tasks:build")


def test_what_a_module_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "needs_more_for_test.py").write_text("import no_such_library_of_ours\n")
    for name in ("needs_more_for_test:build", f"{tmp_path / 'needs_more_for_test.py'}:build"):
        with pytest.raises(ConfigError, match="needs the module 'no_such_library_of_ours'"):
            load_task(name)


def test_what_an_extra_brings_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    (tmp_path / "of_flower_for_test.py").write_text("import flwr\n")
    with pytest.raises(ConfigError, match=r"needs the module 'flwr': pip install 'fedmq\[flower\]'"):
        load_task(f"{tmp_path / 'of_flower_for_test.py'}:build")


def test_the_extras_that_are_named_are_there() -> None:
    known = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    assert set(registry._EXTRAS.values()) <= known["optional-dependencies"].keys()


def test_a_file_that_fails_can_be_corrected_and_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "broken_at_first.py"
    path.write_text("raise ZeroDivisionError\n")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError \(broken_at_first\.py, line 1"):
        load_task(f"{path}:build")
    path.write_text("build = lambda context: 9  # mended, and of another length\n")
    assert load_task(f"{path}:build")(NODE) == 9  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("way", ["sys.exit(0)", "sys.exit('bye')", "raise SystemExit"])
def test_a_file_that_ends_the_process_is_told_to_have_a_guard(tmp_path: Path, way: str) -> None:
    path = tmp_path / "ends_here.py"
    path.write_text(f"import sys\n{way}\n")
    with pytest.raises(ConfigError, match=r"ended the process.*ends_here\.py, line 2.*__name__"):
        load_task(f"{path}:build")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("raise SystemExit(3)", r"SystemExit: 3 \(failing\.py, line 2, in build\)"),
        ("return next(iter([]))", r"StopIteration \(failing\.py, line 2, in build\)"),
        ("return context.no_such_thing", "AttributeError"),
        ("pass", "returns nothing"),
        ("return type(context)", "returns the class TaskContext, which is no task: return TorchTask"),
        ("return type('Net', (), {'forward': 1})()", "returns a Net, which is no task"),
        ("yield context", "returns a generator, which is no task"),
        ("return context,", "returns a tuple, which is no task"),
    ],
)
def test_whatever_a_factory_raises_is_told_with_its_place(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "failing.py"
    path.write_text(f"def build(context):\n    {line}\n")
    with pytest.raises(TaskError, match=f"the task failing.py:build cannot be built: .*{words}"):
        load_task(f"{path}:build")(NODE)


def test_a_file_has_its_own_name_where_that_finds_it_and_another_where_not(tmp_path: Path) -> None:
    for name in ("found_by_its_name", "json", "no-name"):
        path = tmp_path / f"{name}.py"
        path.write_text("def build(context):\n    return __name__\n")
        found = str(load_task(f"{path}:build")(NODE))
        assert (found == name) == (name == "found_by_its_name")
        assert found in sys.modules


@pytest.mark.parametrize("line", ["DEFAULT_SETTINGS = {'local_epochs': 1}", "DEFAULT_ROUNDS = 0"])
def test_defaults_of_the_wrong_kind_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "wrong_defaults.py"
    path.write_text(f"build = print\n{line}\n")
    read = default_settings if "SETTINGS" in line else default_rounds
    with pytest.raises(ConfigError, match="DEFAULT_"):
        read(f"{path}:build")


def test_numpys_numbers_in_the_defaults_are_plain_ones(tmp_path: Path) -> None:
    path = tmp_path / "counted.py"
    path.write_text(
        "import numpy as np\nfrom federation.protocol.messages import TrainSettings\n"
        "DEFAULT_SETTINGS = TrainSettings(batch_size=np.int64(4), learning_rate=np.float32(0.5))\n"
        "DEFAULT_ROUNDS = np.int64(3)\n"
    )
    settings = default_settings(f"{path}:build")
    assert (type(settings.batch_size), type(settings.learning_rate)) == (int, float)
    assert type(default_rounds(f"{path}:build")) is int

"""The how-to for a user's own task says what works."""

import ast
import re
from pathlib import Path

import pytest

from federation.task import TaskContext
from federation.tasks import registry
from federation.tasks.check import check_task
from federation.tasks.registry import BUILTIN_TASKS, default_rounds, default_settings, load_task

HOW_TO = Path(__file__).parents[4] / "docs" / "how-to" / "own-task.md"


def code_with(text: str) -> str:
    """The one Python block that has this text."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    (found,) = [block for block in blocks if text in block]
    return found


@pytest.mark.parametrize("text", ["torch.randn(2000", "class MeanTask"])
def test_the_tasks_of_the_how_to_keep_the_contract(tmp_path: Path, text: str) -> None:
    path = tmp_path / "my_task.py"
    path.write_text(code_with(text))
    for index in (0, 1):
        check_task(load_task(f"{path}:build")(TaskContext(node_index=index, node_count=2)))


def test_the_first_task_has_at_most_ten_lines_and_learns(tmp_path: Path) -> None:
    code = code_with("torch.randn(2000")
    assert len(code.strip().splitlines()) <= 10
    path = tmp_path / "my_task.py"
    path.write_text(code)
    task = load_task(str(path))(TaskContext(node_index=0, node_count=2))
    before = task.initial_parameters(0)
    after = task.train(before, default_settings(str(path)), lambda: False)
    assert after.num_examples == 800
    assert task.evaluate(after.parameters)["loss"] < task.evaluate(before)["loss"]


def test_data_of_a_devices_own_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "readings.csv").write_text("0.5,1.5,0\n1.5,0.5,1\n0.25,1.0,0\n")
    path = tmp_path / "own_readings.py"
    code = code_with("readings.csv")
    path.write_text(
        "import numpy, torch\nfrom federation.tasks import TorchTask\nmake_model = lambda: torch.nn.Linear(2, 2)\n"
        + code
    )
    task = load_task(str(path))(TaskContext(node_index=3, node_count=9, data=tmp_path))
    check_task(task)
    result = task.train(task.initial_parameters(0), default_settings(str(path)), lambda: False)
    assert result.num_examples == 3


def test_the_defaults_of_the_how_to_are_found(tmp_path: Path) -> None:
    path = tmp_path / "with_defaults.py"
    path.write_text("build = print\n" + code_with("DEFAULT_ROUNDS"))
    assert default_settings(str(path)).momentum == 0.9
    assert default_rounds(str(path)) == 20


def test_the_how_to_names_every_built_in_task() -> None:
    text = HOW_TO.read_text()
    assert all(f"`{name}`" in text for name in BUILTIN_TASKS)


@pytest.mark.parametrize("page", ["jax", "keras", "lora", "scikit-learn", "coming-from-flower"])
def test_what_a_page_s_example_imports_comes_with_the_line_that_installs_it(page: str) -> None:
    """The digits of two pages are scikit-learn's, which nothing in their first line brought."""
    text = (HOW_TO.parent / f"{page}.md").read_text()
    extras = set(re.search(r"pip install 'fedmq\[([a-z,]+)\]'", text)[1].split(","))  # type: ignore[index]
    brought = {module for module, extra in registry._EXTRAS.items() if extra in extras}
    brought |= {"federation", "my_app"} | ({"sklearn"} if "demo" in extras else set())
    code = text.split("```python\n")[1].split("```")[0]
    imported = {node.module or "" for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import) for name in node.names}
    assert {name.partition(".")[0] for name in imported} <= brought

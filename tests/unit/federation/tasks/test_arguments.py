"""Arguments of a task: in its name, in a file, in a configuration."""

from pathlib import Path
from typing import Any

import pytest

import coordinator.config.sections
import edge_node.config
from federation.errors import ConfigError
from federation.task import TaskContext, task_label
from federation.tasks.arguments import divided, joined
from federation.tasks.registry import default_rounds, default_settings, is_builtin, load_task

OWN_TASK = """
from federation.tasks.builtin.synthetic import NullTask

def build(context):
    return NullTask(context, size=context.arguments.get("size", 1))
"""

ALL = {"window": 60, "model": "conv", "columns": ["a b", "c"], "share": 0.5, "keep": True}


@pytest.mark.parametrize(
    "name",
    [
        'some?{"window":60,"model":"conv","columns":["a b","c"],"share":0.5,"keep":true}',
        'some?window=60&model=conv&columns=["a b", "c"]&share=0.5&keep=true',
        "some?window=60&model='conv'&columns=['a b','c']&&share=0.5&keep=true&",
    ],
)
def test_a_name_says_arguments_as_json_or_as_pairs(name: str) -> None:
    assert divided(name) == ("some", ALL)
    assert divided(joined(name, {})) == ("some", ALL)
    assert divided(joined(name, {"window": 7})) == ("some", ALL | {"window": 7})
    assert task_label(name) == "some"


def test_a_file_stands_for_a_name_and_its_arguments(tmp_path: Path) -> None:
    file = tmp_path / "pump.toml"
    file.write_text('task = "some?model=conv&window=1"\nwindow = 60\ncolumns = ["a b", "c"]\n')
    assert divided(str(file)) == ("some", {"window": 60, "model": "conv", "columns": ["a b", "c"]})
    assert divided(f"{file}?window=9")[1]["window"] == 9
    assert task_label(str(file)) == "pump.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("task = 3", "names no task"),
        ("columns = []", 'begin it with a line such as task = "sensors/autoencoder"'),
        ('task = "other.toml"', "names no task"),
        ("task = ", "cannot be read"),
        ("#" * 70_000, "more than 65,536 bytes"),
    ],
)
def test_a_file_that_names_no_task_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "pump.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_task(str(file))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("null?size", "is not KEY=VALUE"),
        ("null?=3", "is not KEY=VALUE"),
        ("null?{", "no JSON"),
        ("null?" + "[" * 70_000, "more than 65,536 bytes"),
        ("null?{" + '"a":' * 5_000, "no JSON"),
    ],
)
def test_arguments_that_cannot_be_read_are_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_task(name)


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_only_plain_values_become_part_of_a_name(value: object) -> None:
    with pytest.raises(ConfigError, match="must be text, numbers"):
        joined("null", {"size": value})


def test_a_task_of_ones_own_gets_them_in_its_context(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_TASK)
    name = f"{tmp_path / 'mine.py'}:build"
    context = TaskContext(node_index=0, node_count=1)
    assert [array.size for array in load_task(f"{name}?size=5")(context).initial_parameters(0).values()] == [5]
    (tmp_path / "mine.toml").write_text(f'task = "{name}"\nsize = 3\n')
    file = str(tmp_path / "mine.toml")
    assert [array.size for array in load_task(file)(context).initial_parameters(0).values()] == [3]
    assert (default_rounds(f"{name}?size=5"), default_settings(file)) == (10, default_settings(name))


def test_a_model_that_depends_on_arguments_does_not_follow_from_its_name() -> None:
    assert is_builtin("digits")
    assert not is_builtin("sensors/autoencoder?columns=a&window=3")
    assert default_rounds("digits?x=1") == default_rounds("digits")


@pytest.mark.parametrize("role", ["node", "coordinator"])
def test_a_configuration_tells_the_task(role: str) -> None:
    flags: dict[str, Any] = {
        "broker.url": "mqtt://localhost",
        "federation.id": "plant",
        "task.name": "some?model=gru",
        "task.arguments": {"columns": ["a", "b"], "window": 60},
    }
    read: Any = edge_node.config.read_config if role == "node" else coordinator.config.sections.read_config
    config = read(None, flags | ({"node.id": "a"} if role == "node" else {}), environ={})
    assert divided(config.task.name) == ("some", {"model": "gru", "columns": ["a", "b"], "window": 60})
    assert task_label(config.task.name) == "some"

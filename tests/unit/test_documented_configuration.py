"""The configuration reference and the example files say what the code accepts."""

from pathlib import Path

import pytest
from pydantic import BaseModel

import coordinator.config.sections
import edge_node.config
import sum_helper.config
from coordinator.config.settings import engine_settings

ROOT = Path(__file__).parents[2]


def keys(model: type[BaseModel]) -> list[str]:
    found = []
    for section, field in model.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        found += [f"{section}.{inner.alias or name}" for name, inner in field.annotation.model_fields.items()]
    return found


def documented(title: str) -> set[str]:
    text = (ROOT / "docs/reference/configuration.md").read_text().split(f"## `{title}`")[1].split("\n## ")[0]
    found, section = set(), ""
    for line in text.splitlines():
        if line.startswith("### `["):
            section = line.removeprefix("### `[").removesuffix("]`")
        elif line.startswith("| `"):
            found.add(f"{section}.{line.split('`')[1]}")
            assert line.rstrip("| ").count("|") == 3, f"no meaning: {line}"
    return found


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("coordinator run --config coordinator.toml", coordinator.config.sections.CoordinatorConfig),
        ("edge-node run --config node.toml", edge_node.config.NodeConfig),
        ("fedmq helper run --config helper.toml", sum_helper.config.HelperConfig),
    ],
)
def test_every_key_is_documented_and_no_other(title: str, model: type[BaseModel]) -> None:
    assert documented(title) == set(keys(model))


def test_the_example_of_a_coordinator_is_accepted() -> None:
    config = coordinator.config.sections.read_config(ROOT / "deploy/examples/coordinator.toml", {}, environ={})
    settings = engine_settings(config)
    assert (settings.concurrency, settings.buffer, settings.nodes_min, settings.versions) == (20, 2, 2, 200)


def test_the_example_of_a_node_is_accepted() -> None:
    config = edge_node.config.read_config(ROOT / "deploy/examples/edge-node.toml", {}, environ={})
    assert (config.node.id, config.bounds.local_epochs_max) == ("press-7", 20)

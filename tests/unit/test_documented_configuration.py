"""The configuration reference and the example files say what the code accepts."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import coordinator.config.sections
import edge_node.config
import site_gateway.config
import sum_helper.config
from coordinator.config.settings import engine_settings

ROOT = Path(__file__).parents[2]


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting is, or of which it has some, or may be none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := section_in(each)) is not None), None)


def keys(model: type[BaseModel], above: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner, key = section_in(field.annotation), f"{above}{field.alias or name}"
        assert above or inner is not None
        found += [key] if above else []
        found += [] if inner is None else keys(inner, f"{key}.")
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
        ("fedmq gateway run --config FOLDER", site_gateway.config.GatewayConfig),
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

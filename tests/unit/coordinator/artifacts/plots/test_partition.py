"""``coordinator partition``: the table, the JSON and the picture."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app

ARGUMENTS = ["partition", "--task", "digits", "--nodes", "6", "--partition", "dirichlet:0.2"]


def run(*more: str) -> str:
    result = CliRunner().invoke(make_app(ARGUMENTS), [*ARGUMENTS, *more])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_counts_every_training_example_once() -> None:
    found = json.loads(run("--json"))
    assert found["partition"] == "dirichlet:0.2"
    assert found["labels"] == [str(digit) for digit in range(10)]
    assert sum(map(sum, found["nodes"])) == 1438


def test_the_table_has_a_row_for_each_node() -> None:
    shown = run()
    assert "dirichlet:0.2" in shown
    assert [line.split()[0] for line in shown.splitlines()[4:10]] == list("012345")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_picture_is_written(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / f"parts.{kind}"
    run("-o", str(out))
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    assert len(content) > 5000

"""Every proof that the table of faults names exists: tests by their names, scenarios of the campaign by theirs."""

import re
from pathlib import Path

from benchmarks.chaos.__main__ import PRIVATE, SCENARIOS

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "reference" / "faults.md").read_text("utf-8")


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", TABLE)
    assert len(named) > 20
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text("utf-8")] == []


def test_every_scenario_is_named_and_every_named_one_exists() -> None:
    named = {
        name
        for group in re.findall(r"chaos ((?:`[\w-]+`(?:, )?)+)", TABLE)
        for name in re.findall(r"`([\w-]+)`", group)
    }
    assert named == {scenario.name for scenario in (*SCENARIOS, *PRIVATE)}

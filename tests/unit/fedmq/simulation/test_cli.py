"""``coordinator simulate``: its options, its table, its JSON, and what it says when something is wrong."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.engine.registry import NODES_MAX
from federation.errors import ConfigError
from fedmq.simulation.cli import command
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.protocol.options import FleetOptions, fleet_scenario

SMALL = ["--nodes", "12", "--rounds", "3"]


def run(*options: str) -> tuple[int, str, str]:
    arguments = ["simulate", *SMALL, *options]
    result = CliRunner().invoke(make_app(arguments), arguments)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_table_shows_what_came_of_it() -> None:
    code, shown, progress = run("--faults", "mild")
    assert code == 0
    assert "12 nodes, 3 versions of quadratic" in shown
    assert all(word in shown for word in ("virtual time", "staleness", "crashes", "wall time", "transcript"))
    assert "version 3 of 3" in progress


def test_the_json_has_the_options_and_the_transcript_of_a_seed() -> None:
    first, second, other = (json.loads(run("--json", "--seed", seed)[1]) for seed in ("5", "5", "6"))
    assert len(bytes.fromhex(first["transcript"])) == 16
    assert first["transcript"] == second["transcript"] != other["transcript"]
    assert (first["nodes"], first["versions"], first["violations"]) == (12, 3, [])
    assert first["staleness"] == {"0": 30}


def test_a_buffer_below_the_cohort_is_asynchronous() -> None:
    shown = json.loads(run("--json", "--buffer", "2", "--per-round", "6", "--stragglers", "none")[1])
    assert len(shown["staleness"]) > 1
    assert shown["applied"] == 6


def test_a_violation_shows_the_last_steps_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checker, "close", lambda self, _store, _lost: self.violations.append("I9: planted"))
    code, _, shown = run("--seed", "7", "--faults", "mild,drop=0")
    assert code == 1
    assert "I9: planted" in shown
    assert "the faults are over" in shown
    again = next(line for line in shown.splitlines() if line.startswith("again: "))
    assert "--seed 7" in again
    assert "--faults mild,drop=0" in again


def test_the_command_leaves_out_what_was_not_given() -> None:
    words = shlex.split(command(FleetOptions(nodes=3, faults="mild, drop=0.1")))
    assert words[:4] == ["coordinator", "simulate", "--nodes", "3"]
    assert "mild, drop=0.1" in words
    assert not {"--per-round", "--buffer", "--stragglers"} & set(words)


@pytest.mark.parametrize(
    "options",
    [
        FleetOptions(nodes=0),
        FleetOptions(nodes=NODES_MAX + 1),
        FleetOptions(rounds=0),
        FleetOptions(per_round=2000),
        FleetOptions(buffer=101),
        FleetOptions(codec="smallest"),
        FleetOptions(task="nothing-like-it"),
        FleetOptions(faults="wild=1"),
        FleetOptions(stragglers="slow"),
    ],
)
def test_nonsense_is_a_configuration_error(options: FleetOptions) -> None:
    with pytest.raises(ConfigError):
        fleet_scenario(options)


def test_defaults_follow_the_fleet() -> None:
    engine = fleet_scenario(FleetOptions(nodes=1000)).engine
    assert (engine.concurrency, engine.buffer, engine.refill, engine.quorum) == (100, 100, 100, 50)
    assert fleet_scenario(FleetOptions(nodes=20)).engine.concurrency == 10
    assert fleet_scenario(FleetOptions(nodes=NODES_MAX)).nodes == 100_000  # as many as one coordinator remembers
    assert fleet_scenario(FleetOptions(nodes=4)).engine.concurrency == 4
    assert fleet_scenario(FleetOptions(nodes=50, per_round=20, buffer=5)).engine.max_staleness > 0

"""Small federations under random faults: no invariant is violated, and they all come to their end."""

from collections.abc import Generator, Sequence
from dataclasses import replace

import pytest

from fedmq.simulation.protocol import campaign
from fedmq.simulation.protocol.campaign import main, random_scenario, run_seed
from fedmq.simulation.protocol.scenario import Outcome
from tests.rigs.repetitions import PARTS

SEEDS_PER_TEST = 25
FEW = (1, 2, 4, 8, 10, 11, 14, 15, 21)
"""Seeds in which, taken together, each kind of fault happens."""
ALL: list[Sequence[int]] = [range(part * SEEDS_PER_TEST, (part + 1) * SEEDS_PER_TEST) for part in range(PARTS)] or [FEW]
"""`make coverage` takes eight times 25 seeds, and the campaign itself as many as you like."""


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ALL)
def test_no_invariant_is_violated(seeds: Sequence[int]) -> None:
    """Seeds with loss, crashes, power cuts, partitions and full disks (`make simulate SEEDS=n` runs more)."""
    kinds = (
        "coordinator_crashes",
        "node_crashes",
        "coordinator_power_cuts",
        "node_power_cuts",
        "broker_crashes",
        "dropped",
        "duplicated",
        "stopped_processes",
        "evaluated_nodes",
        "failed_syncs",
        "bad_updates",
        "stale_copies",
        "restores",
        "second_runs",
        "twins",
    )
    totals = dict.fromkeys(kinds, 0)
    for seed in seeds:
        outcome, tail = run_seed(seed)
        assert not outcome.violations, "\n".join([*tail, *outcome.violations, f"seed {seed}"])
        assert outcome.ended_early or outcome.versions == random_scenario(seed).engine.versions
        for name in totals:
            totals[name] += getattr(outcome, name)
    assert all(totals.values()), f"a kind of fault never happened: {totals}"


def test_the_campaign_prints_a_table_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "3 simulated federations" in shown
    assert "seeds with violations" in shown


def test_a_slice_that_ends_with_its_time_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "40", "--first", "6", "--jobs", "1", "--minutes", "0"]) == 0
    assert "go on: --first 7 --seeds 39" in capsys.readouterr().out


def test_a_failing_seed_shows_its_last_steps_and_how_to_see_them_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = lambda seed: replace(random_scenario(seed), patience_s=300.0)  # noqa: E731 - one line reads best here
    monkeypatch.setattr("fedmq.simulation.protocol.campaign.random_scenario", impatient)
    monkeypatch.setattr("fedmq.simulation.protocol.checker.Checker.unsettled", lambda _self, _lost: ["1-node-1"])
    assert main(["--first", "7", "--seeds", "2", "--jobs", "1"]) == 1
    shown = capsys.readouterr().err
    assert "I2: 1-node-1" in shown
    assert "the faults are over" in shown
    assert "again: python -m fedmq.simulation.protocol.campaign --first 7 --seeds 1 --jobs 1" in shown
    assert "further seeds: 8" in shown
    assert shown.index("seed 7: I2: 1-node-1") < shown.index("the faults are over"), "at once, not after hours"


def test_an_interrupted_campaign_says_what_it_has_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = campaign.run_seed(0)

    def interrupted(_seeds: range, *, jobs: int) -> Generator[tuple[Outcome, list[str]]]:
        assert jobs == 1
        yield first
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "campaign", interrupted)
    assert campaign.main(["--seeds", "5", "--jobs", "1"]) == 130
    said = capsys.readouterr().out
    assert "1 simulated federations" in said
    assert "go on: --first 1 --seeds 4" in said

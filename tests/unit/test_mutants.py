"""The list of planted bugs fits the code, and the tool tells a caught one from one that survives."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import Mutant, load_mutants, plant

ROOT = Path(__file__).parents[2]


def test_every_planted_bug_fits_the_code_and_names_tests_that_exist() -> None:
    found = load_mutants()
    assert len(found) >= 60
    wrong = []
    for mutant in found:
        text = (ROOT / mutant.file).read_text()
        if text.count(mutant.old) != 1 or mutant.old == mutant.new:
            wrong.append(f"{mutant.file}: {mutant.name} (found {text.count(mutant.old)} times)")
        wrong += [f"{mutant.name}: {test}" for test in mutant.tests if not (ROOT / test.partition("::")[0]).exists()]
        compile(plant(mutant, text), mutant.file, "exec")
    assert wrong == [], "tests/mutants must follow the code"


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_caught_bug_and_a_survivor_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    caught = next(one for one in load_mutants() if one.name.startswith("The connected clock forgets"))
    caught = replace(caught, tests=("tests/unit/coordinator/engine/test_timers.py",))
    harmless = Mutant(
        name="a harmless one",
        file=caught.file,
        old='"""Keyed timers',
        new='"""Timers with keys',
        costs="work",
        tests=caught.tests,
    )
    monkeypatch.setattr(mutants, "load_mutants", lambda: [caught, harmless])
    assert mutants.main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["caught"] == 1
    assert [bool(one["caught_by"]) for one in told["mutants"]] == [True, False]
    assert mutants.main(["--only", "connected clock"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_where_a_test_fails_anyway_nothing_is_called_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would catch every bug."""
    clock = next(one for one in load_mutants() if one.name.startswith("The connected clock forgets"))
    tests = ("tests/unit/coordinator/engine/test_timers.py::test_that_is_not_there",)
    monkeypatch.setattr(mutants, "load_mutants", lambda: [replace(clock, tests=tests)])
    assert mutants.main([]) == 2
    said = capsys.readouterr()
    assert "a test fails without any bug: ERROR" in said.err
    assert said.out == ""

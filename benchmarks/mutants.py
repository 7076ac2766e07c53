"""Planted bugs: does a test or a simulated campaign notice each? The list is in ``tests/mutants``.

``python -m benchmarks.mutants`` copies the project, plants one bug after the other, and runs what must catch it. A bug
is one replaced piece of text; what it would cost is said beside it: ``work`` is lost or counted twice, ``time`` is a
lease or a timer too long. First all tests that are named run without any bug: one that fails anyway would catch
everything, and ends it with exit code 2. The exit code is 1 where a bug that costs work survives, or more than one in
twelve.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Mutant", "Verdict", "load_mutants", "main", "plant"]

ROOT = Path(__file__).parents[1]
LISTS = ROOT / "tests" / "mutants"
TIMEOUT_S = 240.0
WHOLE_S = 3_600.0
"""How long all tests together may take without a bug, in seconds."""

SURVIVORS_MAX = 1 / 12
"""Share of the planted bugs that may survive, none of them costing work."""

SEEDS_FIRST = 800_000

_TELLING = ("FAILED", "ERROR", "seed")
"""How a line begins that names what has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted bug.

    Attributes:
        name: What is wrong, as a sentence.
        file: Where, from the project's root.
        old: The text that is there once.
        new: What stands in its place.
        costs: ``work`` or ``time``.
        tests: Files or folders of tests, or single ones, that must fail.
        seeds: Simulated federations that are run where the tests pass; 0 is none.
    """

    name: str
    file: str
    old: str
    new: str
    costs: str
    tests: tuple[str, ...]
    seeds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one.

    Attributes:
        name: The mutant's.
        costs: The mutant's.
        caught_by: The test or the seed that failed; empty: it survived.
        seconds: How long that took.
    """

    name: str
    costs: str
    caught_by: str
    seconds: float


def load_mutants(folder: Path = LISTS) -> list[Mutant]:
    """Read the whole list, by file name.

    Raises:
        ValueError: Two have one name, or one says a cost that is neither work nor time.
    """
    found = [
        Mutant(**(one | {"tests": tuple(one["tests"])}))
        for path in sorted(folder.glob("*.toml"))
        for one in tomllib.loads(path.read_text())["mutant"]
    ]
    names = [mutant.name for mutant in found]
    if len(set(names)) < len(names) or any(mutant.costs not in {"work", "time"} for mutant in found):
        raise ValueError("each mutant needs a name of its own, and costs work or time")
    return found


def plant(mutant: Mutant, text: str) -> str:
    """The file's text with the bug in it.

    Raises:
        ValueError: The text to replace is not there exactly once: the code has changed, and the list must follow.
    """
    if text.count(mutant.old) != 1 or mutant.old == mutant.new:
        raise ValueError(f"{mutant.file} has the text of {mutant.name!r} {text.count(mutant.old)} times, not once")
    return text.replace(mutant.old, mutant.new)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant all of them, or those whose name or file contains ``--only``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="part of a name or of a file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args(arguments)
    chosen = [mutant for mutant in load_mutants() if options.only in mutant.name or options.only in mutant.file]
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="fedmq-mutants-") as folder:
        copy = Path(folder) / "project"
        _copy_project(copy)
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        failing = next(_failed(_pytest(tests, copy), copy, WHOLE_S), "")
        if failing:
            print(f"a test fails without any bug: {failing}", file=sys.stderr)
            return 2
        for number, mutant in enumerate(chosen, start=1):
            verdicts.append(_try(mutant, copy))
            if not options.json:
                print(f"{number:3d}/{len(chosen)} {_line(verdicts[-1])}", flush=True)
    return _tell(verdicts, as_json=options.json)


def _tell(verdicts: Sequence[Verdict], *, as_json: bool) -> int:
    survived = [verdict for verdict in verdicts if not verdict.caught_by]
    costly = [verdict.name for verdict in survived if verdict.costs == "work"]
    if as_json:
        print(
            json.dumps({"mutants": [asdict(verdict) for verdict in verdicts], "caught": len(verdicts) - len(survived)})
        )
    else:
        print(
            f"caught: {len(verdicts) - len(survived)} of {len(verdicts)}; surviving ones that cost work: {len(costly)}"
        )
    return 1 if costly or len(survived) > SURVIVORS_MAX * len(verdicts) else 0


def _line(verdict: Verdict) -> str:
    return f"{verdict.seconds:5.0f} s  {verdict.name}: {verdict.caught_by or f'SURVIVED ({verdict.costs})'}"


def _copy_project(copy: Path) -> None:
    """The tracked files, and those that are new."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


def _try(mutant: Mutant, copy: Path) -> Verdict:
    target, began = copy / mutant.file, time.monotonic()
    whole = target.read_text()
    target.write_text(plant(mutant, whole))
    try:
        caught_by = next(_failures(mutant, copy), "")
    finally:
        target.write_text(whole)
    return Verdict(
        name=mutant.name, costs=mutant.costs, caught_by=caught_by, seconds=round(time.monotonic() - began, 1)
    )


def _failures(mutant: Mutant, copy: Path) -> Iterator[str]:
    """What notices it; nothing where it survives."""
    yield from _failed(_pytest(mutant.tests, copy), copy)
    if mutant.seeds:
        seeds = ["--first", str(SEEDS_FIRST), "--seeds", str(mutant.seeds), "--jobs", "1"]
        yield from _failed(["fedmq.simulation.protocol.campaign", *seeds], copy)


def _pytest(tests: Sequence[str], copy: Path) -> list[str]:
    """With temporary folders of its own: another run of pytest takes away what a test has allowed in the common one."""
    options = ["-q", "--no-header", "-x", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return ["pytest", *options, f"--basetemp={copy.parent / 'tests'}", *tests]


def _failed(module: Sequence[str], copy: Path, limit_s: float = TIMEOUT_S) -> Iterator[str]:
    """The first line that tells of a failure; a command that does not end has failed as well."""
    environ = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{copy / 'compression'}", "PYTHONDONTWRITEBYTECODE": "1"}
    environ |= {"FEDMQ_CAMPAIGN_PARTS": "2"}  # every seed of a test, as in `make coverage`
    command = [sys.executable, "-m", *module]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environ, capture_output=True, text=True, check=False, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        yield f"{module[0]} does not end"
        return
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        yield next(
            (line[:160] for line in lines if line.startswith(_TELLING)), f"{module[0]} ends with {done.returncode}"
        )


if __name__ == "__main__":
    raise SystemExit(main())

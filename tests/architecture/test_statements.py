"""Every numbered statement of PROTOCOL.md is pinned by a test that cites its number."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATEMENTS = [int(n) for n in re.findall(r"\[FED-(\d+)\]", (ROOT / "federation" / "PROTOCOL.md").read_text("utf-8"))]
HERE = Path(__file__).parent
SOURCES = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if HERE not in path.parents]


def cited() -> dict[int, set[str]]:
    """The test files that cite each number."""
    citations: dict[int, set[str]] = {}
    for path in SOURCES:
        for number in re.findall(r"\bFED-(\d+)\b", path.read_text("utf-8")):
            citations.setdefault(int(number), set()).add(str(path.relative_to(ROOT)))
    return citations


def test_each_statement_has_a_number_of_its_own() -> None:
    """A number never changes: a later statement stands where it belongs, whatever its number."""
    assert sorted(set(STATEMENTS)) == sorted(STATEMENTS)
    assert set(range(1, 57)) <= set(STATEMENTS)


def test_every_statement_is_cited_by_a_test() -> None:
    citations = cited()
    assert [f"FED-{number}" for number in STATEMENTS if number not in citations] == []


def test_no_test_cites_a_statement_that_does_not_exist() -> None:
    assert {number: files for number, files in cited().items() if number not in STATEMENTS} == {}

"""Files and functions stay small enough to be read in one go, and a module's name says what is in it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    path
    for package in ("federation", "coordinator", "edge_node", "fedmq", "compression/update_codec", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
]
FILE_LINES_MAX = 400
BODY_LINES_MAX = 50
BODY_LINES_P90 = 20
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc"}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def bodies(path: Path) -> dict[str, int]:
    """The body length of every function of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{path.relative_to(ROOT)}:{one.lineno} {one.name}": body_lines(one) for one in functions}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_so_is_each_function(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX
    assert {name: lines for name, lines in bodies(path).items() if lines > BODY_LINES_MAX} == {}


def test_nine_functions_of_ten_are_at_most_twenty_lines() -> None:
    lengths = sorted(lines for path in MODULES for lines in bodies(path).values())
    assert lengths[len(lengths) * 9 // 10] <= BODY_LINES_P90


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_modules_name_says_what_is_in_it(path: Path) -> None:
    assert not {part.removesuffix(".py") for part in path.relative_to(ROOT).parts} & VAGUE


def test_a_body_is_counted_without_its_docstring() -> None:
    tree = ast.parse(
        'def f():\n    """Two\n    lines."""\n    one()\n\n    two()\n\n\ndef g():\n    """Only this."""\n'
    )
    assert [body_lines(node) for node in tree.body if isinstance(node, ast.FunctionDef)] == [3, 0]

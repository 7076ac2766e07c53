"""Files and functions stay small enough to be read in one go, and a module's name says what is in it."""

import ast
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from tests.rigs.source_tree import PACKAGES, files, nodes, shown, tree

pytestmark = pytest.mark.xdist_group("source")

FILES = files(*PACKAGES, "benchmarks")
FILE_LINES_MAX = 400
BODY_LINES_MAX = 50
BODY_LINES_P90 = 20
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc"}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def bodies(name: str, parsed: ast.Module) -> dict[str, int]:
    """The body length of every function of a file."""
    functions = [node for node in nodes(parsed) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{name}:{one.lineno} {one.name}": body_lines(one) for one in functions}


def all_bodies() -> dict[str, int]:
    """The body length of every function that we have."""
    return {name: lines for path in FILES for name, lines in bodies(shown(path), tree(path)).items()}


def too_long(lengths: Mapping[str, int], limit: int) -> dict[str, int]:
    """What is over a limit, and by how many lines it is long."""
    return {name: lines for name, lines in lengths.items() if lines > limit}


def vague(path: Path | PurePosixPath) -> set[str]:
    """The parts of a path that say nothing."""
    return {part.removesuffix(".py") for part in path.parts} & VAGUE


def test_a_file_is_short() -> None:
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert too_long(lengths, FILE_LINES_MAX) == {}


def test_a_function_is_short() -> None:
    assert too_long(all_bodies(), BODY_LINES_MAX) == {}


def test_nine_functions_of_ten_are_at_most_twenty_lines() -> None:
    lengths = sorted(all_bodies().values())
    assert lengths[len(lengths) * 9 // 10] <= BODY_LINES_P90


def test_a_modules_name_says_what_is_in_it() -> None:
    assert [shown(path) for path in FILES if vague(PurePosixPath(shown(path)))] == []


def test_what_is_too_long_or_vague_would_be_noticed() -> None:
    source = "def f():\n    pass\n\n\ndef g():\n" + "    one()\n" * (BODY_LINES_MAX + 1)
    assert too_long(bodies("a.py", ast.parse(source)), BODY_LINES_MAX) == {"a.py:5 g": BODY_LINES_MAX + 1}
    assert vague(PurePosixPath("a/utils/one.py")) == {"utils"}
    assert vague(PurePosixPath("a/b/base.py")) == {"base"}
    assert not vague(PurePosixPath("a/database.py"))


def test_a_body_is_counted_without_its_docstring() -> None:
    parsed = ast.parse(
        'def f():\n    """Two\n    lines."""\n    one()\n\n    two()\n\n\ndef g():\n    """Only this."""\n'
    )
    assert [body_lines(node) for node in parsed.body if isinstance(node, ast.FunctionDef)] == [3, 0]

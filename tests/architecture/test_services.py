"""What the units refuse, a role does without: `~@resources` answers changes of a priority with EPERM."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROLES = ("coordinator", "edge_node", "federation", "fedmq", "site_gateway", "sum_helper")
REFUSED = frozenset({"nice", "setpriority", "sched_setscheduler", "sched_setaffinity"})


def calls(node: ast.AST, *, caught: bool = False) -> Iterator[tuple[int, bool]]:
    """Lines of refused calls, and whether an `OSError` of each is suppressed."""
    match node:
        case ast.With(items=items):
            texts = [ast.unparse(item) for item in items]
            caught = caught or any("suppress(" in text and "OSError" in text for text in texts)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)) if name in REFUSED:
            yield node.lineno, caught
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        yield from calls(child, caught=caught)


def test_no_role_ends_of_a_priority_that_its_unit_refuses() -> None:
    found = [
        (str(file.relative_to(ROOT)), line, caught)
        for role in ROLES
        for file in sorted((ROOT / role).rglob("*.py"))
        for line, caught in calls(ast.parse(file.read_text()))
    ]
    assert len(found) >= 5
    assert [(file, line) for file, line, caught in found if not caught] == []


def test_the_units_refuse_it() -> None:
    units = sorted((ROOT / "federation" / "services").glob("*.service"))
    assert len(units) >= 5
    assert all("~@privileged @resources" in unit.read_text() for unit in units)

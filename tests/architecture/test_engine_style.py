"""All machines are written in one style: whoever owns a state changes it, and a value that waits is a value."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINES = ("coordinator/engine", "edge_node/engine", "site_gateway/engine", "sum_helper/engine")
MUTATORS = frozenset(
    {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}
)
"""Methods by which the built-in containers change."""

CONTAINERS = frozenset({"Bitmap", "Counter", "OrderedDict", "deque", "dict", "list", "set"})


def modules() -> Mapping[str, ast.Module]:
    """The engines' modules."""
    paths = [path for engine in ENGINES for path in sorted((ROOT / engine).glob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def is_own(node: ast.expr) -> bool:
    """Whether this is ``self``."""
    return isinstance(node, ast.Name) and node.id == "self"


def fields(tree: ast.Module) -> dict[str, ast.expr | None]:
    """Fields of the classes of a module by name, with the type that is written at them."""
    found: dict[str, ast.expr | None] = {}
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(owner):
            match node:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=kind):
                    found[name] = kind
                case ast.AnnAssign(target=ast.Attribute(value=base, attr=name), annotation=kind) if is_own(base):
                    found[name] = kind
                case ast.Attribute(value=base, attr=name, ctx=ast.Store()) if is_own(base):
                    found.setdefault(name, None)
                case _:
                    pass
    return found


def containers(trees: Mapping[str, ast.Module]) -> set[str]:
    """Names of fields that are built-in containers in some class of the engines."""
    written = {name: kind for tree in trees.values() for name, kind in fields(tree).items() if kind is not None}
    return {name for name, kind in written.items() if any(word in ast.unparse(kind) for word in CONTAINERS)}


def changed(tree: ast.Module, known: set[str]) -> Iterator[ast.Attribute]:
    """Every attribute that is assigned, deleted, or changed as a container, whoever has it."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()):
                yield node
            case ast.Subscript(value=ast.Attribute() as target, ctx=ast.Store() | ast.Del()):
                yield target
            case ast.Call(func=ast.Attribute(value=ast.Attribute() as target, attr=name)) if name in MUTATORS:
                if target.attr in known:
                    yield target
            case _:
                pass


def offenders(trees: Mapping[str, ast.Module]) -> list[str]:
    """Where a module changes a field of a class that another module has."""
    known = containers(trees)
    found = []
    for name, tree in trees.items():
        own = fields(tree)
        foreign = (node for node in changed(tree, known) if not is_own(node.value) and node.attr not in own)
        found += [f"{name}:{node.lineno} {ast.unparse(node)}" for node in foreign]
    return found


def test_nobody_changes_the_fields_of_anothers_class() -> None:
    """A part returns effects, or calls a method of whoever owns the state."""
    assert offenders(modules()) == []


OWNER = """
@dataclass
class Board:
    head: int
    recent: dict[int, str]
    slots: "Slots"
    def commit(self, head):
        self.head = head
        self.recent[head] = "x"
"""


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("board.head = 1", True),
        ("self._board.head += 1", True),
        ("board.head, x = 1, 2", True),
        ("board.recent[3] = 'y'", True),
        ("del self._board.recent[3]", True),
        ("self._board.recent.pop(3)", True),
        ("board.commit(3)", False),
        ("board.slots.extend(3)", False),
        ("x = board.head", False),
        ("self.mine = 1", False),
        ("entry.strikes = 1", False),
    ],
)
def test_an_offender_would_be_found(line: str, *, changes: bool) -> None:
    other = f"class Entry:\n    strikes: int = 0\nclass Part:\n    def step(self, board, entry):\n        {line}\n"
    found = offenders({"owner.py": ast.parse(OWNER), "part.py": ast.parse(other)})
    assert bool(found) is changes, found


@pytest.mark.parametrize("engine", ENGINES)
def test_each_event_has_one_case_that_calls_one_method(engine: str) -> None:
    """The machine's dispatch is flat: no match inside of a match, and each ends with ``assert_never``."""
    tree = ast.parse((ROOT / engine / "machine.py").read_text(encoding="utf-8"))
    matches = [node for node in ast.walk(tree) if isinstance(node, ast.Match)]
    assert matches
    for one in matches:
        assert [node for node in ast.walk(one) if isinstance(node, ast.Match)] == [one]
        assert "assert_never" in ast.unparse(one.cases[-1])

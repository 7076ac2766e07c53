"""Our own source, for the tests of its shape: files, folders, syntax trees, and who imports whom."""

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PACKAGES = ("federation", "coordinator", "edge_node", "sum_helper", "site_gateway", "fedmq", "compression/update_codec")
FOLDERS = {Path(folder).name: ROOT / folder for folder in (*PACKAGES, "benchmarks")}
"""Where each top-level name is imported from."""
UNCOUNTED = {"__init__.py", "__main__.py"}
"""Files that are no modules of a room: its name, and its door."""

Imports = Mapping[str, frozenset[str]]
"""Each module, and the modules that it imports."""


@cache
def files(*folders: str) -> tuple[Path, ...]:
    """All Python files in these folders of the repository; by default in our packages."""
    return tuple(path for folder in folders or PACKAGES for path in sorted((ROOT / folder).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(of: ast.AST) -> tuple[ast.AST, ...]:
    """All nodes of a tree, and the tree."""
    return tuple(ast.walk(of))


def shown(path: Path) -> str:
    """A file as people name it: its path in the repository."""
    return str(path.relative_to(ROOT))


@cache
def imports() -> Imports:
    """What each module of ours imports, wherever in the file, and what it names by a dotted path; benchmarks too."""
    graph = grimp.build_graph(*FOLDERS, cache_dir=None)
    return {
        module: frozenset(graph.find_modules_directly_imported_by(module))
        | (dotted_paths(tree(file_of(module))) & graph.modules) - {module}
        for module in graph.modules
    }


def dotted_paths(of: ast.AST) -> set[str]:
    """Strings that look like the path of a module, with or without a name behind it: ``a.b`` or ``a.b:c``."""
    strings = {node.value for node in nodes(of) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text.partition(":")[0] for text in strings if re.fullmatch(r"\w+(\.\w+)+(:\w+)?", text)}


def file_of(module: str) -> Path:
    """The file of a module of ours."""
    top, *names = module.split(".")
    place = FOLDERS[top].joinpath(*names)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def room_of(module: str, packages: Iterable[str]) -> str:
    """The folder in which a module lies; a folder lies in itself."""
    return module if module in packages else module.rpartition(".")[0]

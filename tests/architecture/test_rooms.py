"""A folder is a room: small, with one sentence, without circles, and without splinters that belong elsewhere."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import PurePosixPath

import pytest

from coordinator.cli import LAZY_COMMANDS
from tests.rigs.source_tree import UNCOUNTED, Imports, file_of, files, imports, room_of, shown, tree

pytestmark = pytest.mark.xdist_group("source")

MODULES_MAX = 20
"""Modules of one room; its ``__init__`` and ``__main__`` are not counted, in no law of this file."""

ROOT_MODULES_MAX = {"coordinator": 6, "edge_node": 6, "fedmq/simulation": 6, "federation/tasks": 8}
"""Modules that lie beside the rooms, by package."""

SMALL_LINES = 60

MAY_BE_SMALL = {
    "coordinator.config.statistics": "a section like those of alerts and privacy; sections.py has no room for it",
    "coordinator.monitoring.curves": "what people import to read a run; its docstring shows how",
    "fedmq.page.options": "the command and the process that it becomes share it; neither loads the other",
    "edge_node.storage.state_folder": "the folder of a node's state, which its database and its model file share",
    "edge_node.runtime.disk_trouble": "a part around the executor, whose file has no room for it",
    "edge_node.engine.uplink": "a measurement that knows nothing of the outbox that asks it",
    "update_codec.kernel.wheel": "a hook that hatchling loads when a wheel is built; no wheel has it",
}
"""Modules under 60 lines that one room uses, and why they stay: at most ten."""

ABOVE_THE_COORDINATOR = {
    "analyze": "fedmq.statistics.cli",
    "alerts": "fedmq.alerts.cli",
    "demo": "fedmq.demo.cli",
    "demo-sensors": "fedmq.demo.sensors.cli",
    "audit": "fedmq.audit.cli",
    "serve": "fedmq.page.cli",
    "simulate": "fedmq.simulation.cli",
}
"""Commands of the coordinator that need more than the coordinator may import, and where they are."""


def modules_by_folder(paths: Iterable[str]) -> Counter[str]:
    """How many modules each folder has."""
    places = [PurePosixPath(path) for path in paths]
    return Counter(str(place.parent) for place in places if place.name not in UNCOUNTED)


def crowded(paths: Iterable[str]) -> dict[str, int]:
    """Rooms with too many modules, and roots of packages with too many modules beside their rooms."""
    counted = modules_by_folder(paths)
    return {folder: count for folder, count in counted.items() if count > ROOT_MODULES_MAX.get(folder, MODULES_MAX)}


def splinters(lines: Mapping[str, int], imported: Imports) -> set[str]:
    """Modules under the limit that nobody or one room uses."""
    packages = {module.rpartition(".")[0] for module in lines} | {module for module in imported if module not in lines}
    users: dict[str, set[str]] = {module: set() for module in lines}
    for module, targets in imported.items():
        for target in targets & users.keys():
            users[target].add(room_of(module, packages))
    return {module for module, rooms in users.items() if lines[module] < SMALL_LINES and len(rooms) < 2}


def circles(imported: Imports) -> set[tuple[str, ...]]:
    """Groups of modules of which each leads back to itself through the others."""
    reached = {module: _reached(module, imported) for module in imported}
    return {
        tuple(sorted(other for other in behind if module in reached.get(other, ())))
        for module, behind in reached.items()
        if module in behind
    }


def _reached(start: str, imported: Imports) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        found = imported.get(waiting.pop(), frozenset()) - seen
        seen |= found
        waiting += found
    return seen


def without_sentence(sentences: Mapping[str, str | None]) -> set[str]:
    """Rooms whose ``__init__`` does not say their one job: one sentence on its first line, and nobody else's."""
    first = {room: (text or "").split("\n\n")[0] for room, text in sentences.items()}
    used = Counter(first.values())
    return {room for room, line in first.items() if not re.fullmatch(r"[A-Z][^\n]+\.", line) or used[line] > 1}


def test_no_room_is_crowded() -> None:
    assert crowded(shown(path) for path in files()) == {}


def test_a_crowded_room_would_be_noticed() -> None:
    room = [f"coordinator/engine/m{number}.py" for number in range(MODULES_MAX)]
    root = [f"coordinator/m{number}.py" for number in range(ROOT_MODULES_MAX["coordinator"])]
    doors = ["coordinator/__init__.py", "coordinator/__main__.py", "coordinator/engine/__init__.py"]
    assert crowded(room + root + doors) == {}
    assert crowded([*room, "coordinator/engine/more.py", *root]) == {"coordinator/engine": MODULES_MAX + 1}
    assert crowded([*room, *root, "coordinator/more.py"]) == {"coordinator": ROOT_MODULES_MAX["coordinator"] + 1}


def test_the_roots_that_are_counted_are_there() -> None:
    counted = modules_by_folder(shown(path) for path in files())
    assert {folder: counted[folder] for folder in ROOT_MODULES_MAX if not counted[folder]} == {}


def test_a_small_module_serves_two_rooms_or_has_a_reason() -> None:
    lines = {
        module: len(file_of(module).read_text("utf-8").splitlines())
        for module in imports()
        if file_of(module).name not in UNCOUNTED and not module.startswith("benchmarks.")
    }
    found = splinters(lines, imports())
    assert found - MAY_BE_SMALL.keys() == set()
    assert MAY_BE_SMALL.keys() - found == set()  # no longer small, or no longer there
    assert len(MAY_BE_SMALL) <= 10


def test_a_splinter_would_be_noticed() -> None:
    lines = {"a.one.small": 59, "a.one.large": 60, "a.two.user": 80, "a.two.nobodys": 10, "a.cli": 90}
    beside: dict[str, frozenset[str]] = {"a": frozenset(), "a.one": frozenset(), "a.two": frozenset()}
    beside |= {module: frozenset() for module in lines}
    used = beside | {"a.one.large": frozenset({"a.one.small"})}
    assert splinters(lines, used) == {"a.one.small", "a.two.nobodys"}
    assert splinters(lines, used | {"a.cli": frozenset({"a.one.small"})}) == {"a.two.nobodys"}
    assert splinters(lines, used | {"a.one": frozenset({"a.one.small"})}) == {"a.one.small", "a.two.nobodys"}


def test_no_modules_import_each_other_in_a_circle_not_even_late() -> None:
    """Imports in functions count, and so do modules that are loaded by their dotted path."""
    assert "fedmq.demo.cli" in imports()["coordinator.cli"]  # by its path
    assert "coordinator.app" in imports()["coordinator.cli"]  # in a function
    assert circles(imports()) == set()


def test_a_circle_would_be_noticed() -> None:
    line = {"a": frozenset({"b", "outside"}), "b": frozenset({"c"}), "c": frozenset[str](), "d": frozenset({"a"})}
    assert circles(line) == set()
    assert circles(line | {"c": frozenset({"a"})}) == {("a", "b", "c")}


def test_every_room_says_its_one_job() -> None:
    rooms = {path.parent for path in files()}
    sentences = {
        shown(room): ast.get_docstring(tree(room / "__init__.py")) if (room / "__init__.py").exists() else None
        for room in rooms
    }
    assert without_sentence(sentences) == set()


def test_a_room_without_a_sentence_would_be_noticed() -> None:
    said = {
        "a": "One job.",
        "b": "Another: this and that.\n\nMore words.",
        "c": None,
        "d": "No end",
        "e": "Two\nlines.",
    }
    assert without_sentence(said) == {"c", "d", "e"}
    assert without_sentence({"a": "One job.", "b": "One job."}) == {"a", "b"}


def test_the_commands_that_are_loaded_late_are_there() -> None:
    missing = {
        name: f"{module}.{function}"
        for name, (module, function, _) in LAZY_COMMANDS.items()
        if not callable(getattr(import_module(module), function, None))
    }
    assert missing == {}


def test_the_commands_from_above_the_coordinator_are_these() -> None:
    above = {name: module for name, (module, _, _) in LAZY_COMMANDS.items() if not module.startswith("coordinator.")}
    assert above == ABOVE_THE_COORDINATOR

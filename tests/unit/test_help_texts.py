"""``--help`` of every command shows how it is called."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "coordinator": "coordinator.cli",
    "edge-node": "edge_node.cli",
    "fedmq": "fedmq.cli",
    "fedmq helper": "sum_helper.cli",
    "fedmq gateway": "site_gateway.cli",
}

ROLES = frozenset({"coordinator", "node", "helper", "gateway"})
"""Commands of ``fedmq`` that have a program of their own above."""


def made(module: str) -> Callable[[Sequence[str]], typer.Typer]:
    """What makes a program for its arguments."""
    found: Any = import_module(module)
    if hasattr(found, "make_app"):
        make: Callable[[Sequence[str]], typer.Typer] = found.make_app
        return make
    return lambda _: found.app


def leaves(command: Any, path: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """All commands below one, by what is typed."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
        return
    for name, each in inner.items():
        yield from leaves(each, [*path, name])


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_has_an_example_of_itself(program: str) -> None:
    make, lacking = made(PROGRAMS[program]), []
    top = getattr(get_command(make([])), "commands", {})
    assert len(top) > 2
    for name in top.keys() - (ROLES if program == "fedmq" else set()):
        whole: Any = get_command(make([name]))
        for typed, command in leaves(whole.commands[name], [program, name]):
            _, found, shown = (command.help or "").partition("\nExample")
            if not found or f" {typed.split()[-1]} " not in shown.replace("\n", " "):
                lacking.append(typed)
    assert lacking == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_word_of_the_help_is_cut_at_80_columns(program: str) -> None:
    """A word that is longer than its column ends in an ellipsis, such as `docs/how-to/home-assista…`."""
    make, cut = made(PROGRAMS[program]), []
    for name in getattr(get_command(make([])), "commands", {}).keys() - (ROLES if program == "fedmq" else set()):
        whole: Any = get_command(make([name]))
        for typed, _ in leaves(whole.commands[name], [name]):
            told = CliRunner().invoke(make([name]), [*typed.split(), "--help"], env={"COLUMNS": "80"})
            cut += [line for line in told.output.splitlines() if "…" in line or len(line) > 80]
    assert cut == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_every_command_prints_as_json_is_written_down(program: str) -> None:
    """The page said so of all, and lacked a dozen."""
    make, lacking = made(PROGRAMS[program]), []
    page = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    top = getattr(get_command(make([])), "commands", {})
    for name in top.keys() - (ROLES if program == "fedmq" else set()):
        whole: Any = get_command(make([name]))
        for typed, command in leaves(whole.commands[name], [program, name]):
            prints = any("--json" in parameter.opts for parameter in command.params)
            named = (
                typed.replace("fedmq", "coordinator", 1),
                typed,
            )  # those of the coordinator are in the front door, too
            if prints and not any(f"`{one} --json`" in page for one in named):
                lacking.append(typed)
    assert lacking == []

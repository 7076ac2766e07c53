"""The ``fedmq`` command: both roles under one name, a version, hints and completion."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import fedmq
from fedmq.cli import COMMANDS, ROLES, make_app


def shown(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(arguments), list(arguments))
    return result.exit_code, result.output


def test_the_help_lists_both_roles_and_all_commands() -> None:
    code, said = shown("--help")
    assert code == 0
    assert all(f" {name} " in said for name in (*ROLES, *COMMANDS))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("coordinator", "status", "--help"), "Show the versions of a run"),
        (("coordinator", "plot", "--help"), "Draw a run"),
        (("node", "run", "--help"), "Take part in a federation"),
        (("simulate", "--help"), "in virtual time"),
        (("--version",), f"fedmq {fedmq.__version__}"),
    ],
)
def test_a_command_of_a_role_is_the_roles_own(arguments: tuple[str, ...], told: str) -> None:
    code, said = shown(*arguments)
    assert code == 0
    assert told in " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--help",), ["demo", "new", "coordinator", "node", "helper", "gateway", "units"]),
        (("coordinator", "--help"), ["demo", "init", "enroll", "run", "status", "export", "backup", "audit"]),
        (("node", "--help"), ["request", "join", "doctor", "run", "status", "predict", "upgrade"]),
    ],
)
def test_a_help_lists_the_commands_in_the_order_in_which_people_need_them(
    arguments: tuple[str, ...], wanted: list[str]
) -> None:
    _, said = shown(*arguments)
    listed = re.findall(r"^│ ([a-z-]+) {2,}\S", said, re.MULTILINE)
    assert [name for name in listed if name in wanted] == wanted


@pytest.mark.parametrize("role", ["coordinator", "node", "helper", "gateway"])
def test_the_exit_codes_fill_their_lines(role: str) -> None:
    """A line break of the source was one on the screen, too."""
    _, said = shown(role, "--help")
    *lines, _ = said[said.index("Exit codes:") :].strip().splitlines()
    assert all(len(line) > 60 for line in lines), lines


@pytest.mark.parametrize(
    "arguments", [("coordinator", "predict"), ("node", "predict"), ("node", "run"), ("helper", "doctor")]
)
def test_a_help_breaks_its_lines_where_the_screen_ends(arguments: tuple[str, ...]) -> None:
    """Below the first paragraph lines broke where the docstring's do, in the middle of the screen."""
    _, said = shown(*arguments, "--help")
    text = "\n".join(line.strip() for line in said[: said.index("Examples:")].splitlines())
    paragraphs = [part.splitlines() for part in text.strip().split("\n\n")[2:] if part.strip()]
    assert paragraphs
    for lines in paragraphs:
        for line, after in pairwise(lines):
            assert len(line) + 1 + len(after.split()[0]) > 77, (line, after)


@pytest.mark.parametrize(
    ("arguments", "hint"), [(("nod",), "'node'"), (("coordinator", "statu"), "'status'"), (("node", "jion"), "'join'")]
)
def test_a_mistyped_command_gets_a_hint(arguments: tuple[str, ...], hint: str) -> None:
    code, said = shown(*arguments)
    assert code == 2
    assert f"Did you mean {hint}" in " ".join(said.split())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("fedmq no", {"node"}), ("fedmq coordinator comp", {"compare"}), ("fedmq simulate --stra", {"--strategy"})],
)
def test_a_shell_completes_commands_and_options(typed: str, offered: set[str]) -> None:
    environ = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_FEDMQ_COMPLETE": "complete_bash"}
    command = [sys.executable, "-m", "fedmq"]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=True)
    assert offered <= set(done.stdout.split())


@pytest.mark.parametrize("program", ["coordinator", "edge_node", "fedmq"])
def test_each_command_says_its_release(program: str) -> None:
    done = subprocess.run([sys.executable, "-m", program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fedmq {fedmq.__version__}\n"


def commands(found: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all below it; a role's are there once it is named."""
    yield path, found
    for name, below in getattr(found, "commands", {}).items():
        role = (*path, name)
        yield from commands(below, *role)


def all_commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of ``fedmq``, with its own help."""
    for role, (module, _) in ROLES.items():
        lazy = getattr(import_module(module), "LAZY_COMMANDS", {})
        for name in ("", *lazy):
            yield from commands(typer.main.get_command(make_app([role, name])), "fedmq")
    for name in COMMANDS:
        yield from commands(typer.main.get_command(make_app([name])), "fedmq")


def test_no_help_has_brackets_that_the_terminal_takes_for_a_style() -> None:
    """``[gateways]`` in a help text is markup of the library that prints it: it would be missing on the screen."""
    markup, seen = re.compile(r"(?<!\\)\[[a-z_/@#][^\[\]]*\]"), 0
    lost = {}
    for path, command in all_commands():
        texts = [command.help, command.epilog, *(getattr(one, "help", None) for one in command.params)]
        for text in filter(None, texts):
            seen += 1
            if found := markup.findall(text):
                lost[path] = found
    assert seen > 300
    assert lost == {}

"""The pages on privacy: settings are accepted, commands have the options that are named, and demos run."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coordinator.cli
import edge_node.cli
import fedmq.cli
from coordinator.config.sections import read_config
from coordinator.config.settings import committer_settings, engine_settings

PAGES = Path(__file__).parents[3] / "docs" / "how-to"
PRIVACY = (PAGES / "privacy.md").read_text(encoding="utf-8")
TEXTS = PRIVACY + (PAGES / "helper.md").read_text(encoding="utf-8")
BASE: dict[str, object] = {"federation.id": "plant", "broker.url": "mqtt://broker", "task.name": "mnist-mlp"}
SIGNED: dict[str, object] = {
    "security.require_signatures": True,
    "security.signing_key": "coordinator.key",
    "security.node_keys": "nodes.json",
}
APPS = {"coordinator": coordinator.cli.make_app, "edge-node": lambda _: edge_node.cli.app, "fedmq": fedmq.cli.make_app}


def blocks(language: str) -> list[str]:
    return [re.sub(r"^ {3}", "", block, flags=re.MULTILINE) for block in _blocks(language)]


def _blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PRIVACY, re.DOTALL)
    return found


def commands() -> list[list[str]]:
    """Every command of the text that names a role, as words: inline, or a line of a block without a language."""
    code = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
    alone = [line for language, block in code.findall(TEXTS) if not language for line in block.splitlines()]
    inline = re.findall(r"`([^`]+)`", code.sub("", TEXTS).replace("\n", " "))
    lines = [line.partition("  ")[0].strip() for line in (*inline, *alone)]
    return [shlex.split(line) for line in lines if re.match(r"(coordinator|edge-node|fedmq) [a-z]", line)]


@pytest.mark.parametrize("number", range(len(_blocks("toml"))))
def test_the_settings_of_the_page_are_accepted(number: int) -> None:
    text = re.sub(
        r"\"([a-z-]+)=[0-9a-f]{4}…\"",
        lambda name: f'"{name[1]}={name[1].encode().hex()[:2] * 32}"',
        blocks("toml")[number],
    )
    given = {f"{section}.{key}": value for section, keys in tomllib.loads(text).items() for key, value in keys.items()}
    if "privacy.bandwidth" in given:  # what the page adds to the settings before
        earlier = tomllib.loads(
            next(block for block in blocks("toml") if 'unit = "nodes"' in block).replace("…", "0" * 60)
        )
        given = {f"privacy.{key}": value for key, value in earlier["privacy"].items()} | given
        given["round.concurrency"] = 100
    config = read_config(None, BASE | SIGNED | given, environ={})
    engine_settings(config)
    committer_settings(config)


def test_there_are_settings_and_commands_on_the_page() -> None:
    assert len(blocks("toml")) >= 5
    assert len(commands()) >= 15
    assert ["coordinator", "privacy", "--state", "DIR"] in commands()


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_pages_has_the_options_that_are_named(words: list[str]) -> None:
    program, *rest = words
    depth = 2 if rest[0] == "helper" else 1
    path, options = rest[:depth], [word.partition("=")[0] for word in rest[depth:] if word.startswith("--")]
    arguments = [*path, "--help"]
    result = CliRunner().invoke(APPS[program](arguments), arguments, env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    missing = [option for option in options if option not in result.output]
    assert missing == []


def test_every_benchmark_of_the_pages_exists() -> None:
    named = set(re.findall(r"python\s+-m\s+(benchmarks\.[a-z_.]*[a-z])", TEXTS))
    assert len(named) >= 4
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


@pytest.mark.thorough
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("line", [line for block in _blocks("sh") for line in block.splitlines()])
def test_the_demos_of_the_page_run(line: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", *shlex.split(line), "--rounds", "6"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "each update masked" in done.stdout
    assert ("noise on sums" in done.stdout) is ("--epsilon" in line)

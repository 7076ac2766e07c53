"""Roles that still start, as real processes: SIGTERM and Ctrl-C end them in order, and they say what they wait for."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from site_gateway.cli import app as gateway_command

LIMIT_S = 30.0

SLOW = f"""
import sys
import time


def build(context):
    sys.stderr.write("reading the data\\n")
    sys.stderr.flush()
    time.sleep({LIMIT_S})
"""
"""A task that takes its time to be built."""

ENDS = [(signal.SIGTERM, 0), (signal.SIGINT, 130)]


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts programs, and ends what is still alive."""
    processes: list[subprocess.Popen[str]] = []

    def start_one(*words: str) -> "subprocess.Popen[str]":
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def ended(process: "subprocess.Popen[str]", said: str, number: signal.Signals) -> tuple[int, str]:
    """Its exit code and what it said after the signal, which it gets once it has said that."""
    assert process.stdout is not None
    assert any(said in line for line in process.stdout)
    process.send_signal(number)
    told, _ = process.communicate(timeout=LIMIT_S / 2)
    return process.returncode, told


@pytest.mark.parametrize(("number", "code"), ENDS)
@pytest.mark.parametrize("role", ["coordinator", "edge_node"])
def test_while_the_task_is_built(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, role: str, number: signal.Signals, code: int
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    state = str(tmp_path / "state")
    words = ["run", "--broker", "mqtt://127.0.0.1:1", "--federation", "it", "--task", f"{tmp_path}/slow.py:build"]
    process = start(role, *words, "--state", state, *(["--id", "n"] if role == "edge_node" else []))
    found, told = ended(process, "reading the data", number)
    assert found == code, told
    assert "Traceback" not in told


@pytest.mark.parametrize(("number", "code"), ENDS)
def test_while_a_gateway_looks_for_the_run_above(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The broker above takes the connection, and says nothing: that is said at once, and not after its patience."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        above = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        options = ["--above", above, "--below", "mqtt://127.0.0.1:1", "--task", "digits", "--federation", "it"]
        made = CliRunner().invoke(gateway_command, ["init", str(tmp_path / "g"), *options])
        assert made.exit_code == 0, made.output
        process = start("site_gateway", "run", "--config", str(tmp_path / "g"))
        found, told = ended(process, "looking_above", number)
    assert found == code, told
    assert "Traceback" not in told

"""A program that the settings name is ended with all that it has started, and what it was given is repeated nowhere."""

import json
import os
import sys
from pathlib import Path

import pytest

from federation.programs import run_program

PYTHON = (sys.executable, "-c")


def test_it_reads_what_it_is_told_and_has_more_in_its_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = f"import os, sys; open({str(out)!r}, 'w').write(sys.stdin.read() + os.environ['WHAT'])"
    assert run_program([*PYTHON, text], limit_s=60, told=b"told ", environment={"WHAT": "more"}) == ""
    assert out.read_text() == "told more"


def test_one_that_hangs_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    """A shell was killed, and the program that it waited for went on."""
    place = tmp_path / "pid"
    os.mkfifo(place)
    child = f"import signal; held = open({str(place)!r}, 'w'); held.write('began'); held.flush(); signal.pause()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, 'SECRET'])"
    reader = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    said = run_program([*PYTHON, parent, "--token", "SECRET"], limit_s=2.0)
    assert said == f"{sys.executable} took longer than 2 s and was killed"
    os.set_blocking(reader, True)
    with os.fdopen(reader) as opened:
        # It comes to its end when nobody is left who holds the other one: with the child.
        assert opened.read() in ("began", "")  # a machine that is too slow has never begun it


def test_what_a_failed_one_says_has_none_of_its_arguments() -> None:
    text = "import sys; sys.exit(f'{sys.argv[1]} {sys.argv[2]} is no token')"
    said = run_program([*PYTHON, text, "--token", "SECRET"], limit_s=60)
    assert said == f"{sys.executable} ended with 1: --token … is no token"
    assert "SECRET" not in json.dumps(run_program(["/none", "SECRET"], limit_s=1))


@pytest.mark.parametrize("command", [["/there/is/none"], ["a\0b"]])
def test_one_that_cannot_be_started_is_told(command: list[str]) -> None:
    assert f"{command[0]} cannot be started" in run_program(command, limit_s=1)

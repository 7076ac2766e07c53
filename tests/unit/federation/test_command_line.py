"""A program ends when its work is done, whatever a user's task has left running."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from federation.command_line import arrange, call

BEGIN = """
import multiprocessing, sys, threading, time
from federation.command_line import ending_in_time
with ending_in_time("edge-node", within_s=0.2):
"""

THREAD = "    threading.Thread(target=threading.Event().wait, name='theirs').start()\n"
PROCESS = "    multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,), name='theirs').start()\n"


def ended(code: str) -> tuple[int, str]:
    """Exit code and standard error of a program."""
    done = subprocess.run([sys.executable, "-c", BEGIN + code], check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("left", "what"), [(THREAD, "the thread theirs"), (PROCESS, "the process theirs")])
@pytest.mark.parametrize(("end", "exit_code"), [("    pass", 0), ("    sys.exit(3)", 3), ("    sys.exit('no')", 1)])
def test_what_a_task_has_left_running_does_not_hold_up_the_end(left: str, what: str, end: str, exit_code: int) -> None:
    code, told = ended(left + end)
    assert code == exit_code
    assert f"edge-node: {what} goes on: ended without it" in told


def test_what_failed_is_told_before_it_ends() -> None:
    code, told = ended(THREAD + "    raise ValueError('mine')")
    assert code == 1
    assert "ValueError: mine" in told


def test_a_program_that_leaves_nothing_ends_at_once_and_as_ever() -> None:
    code, told = ended("    import atexit; atexit.register(print, 'bye', file=sys.stderr); sys.exit(4)")
    assert (code, told) == (4, "bye\n")


def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[object, str, str]:
    """Exit code, standard output and standard error of a small program."""
    app = typer.Typer()

    @app.command()
    def look(*, count: int = 0, as_json: bool = typer.Option(False, "--json")) -> None:
        typer.echo(json.dumps(count) if as_json else f"{count} there")
        raise typer.Exit(count)

    @app.command()
    def place(*, name: list[str] | None = None, config: str = "", state: str = "") -> None:
        typer.echo(f"{name} {config} {state}")

    @app.command()
    def shut(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
        typer.echo(str(folder))

    arrange(app, {"All": ["look", "place", "shut"]})
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["look-around", *arguments])
    with pytest.raises(SystemExit) as ended:
        call(app, "look-around")
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_what_was_typed_wrongly_is_json_where_json_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(monkeypatch, capsys, "look", "--cuont", "3", "--json")
    assert code == 2
    assert json.loads(out)["exit_code"] == 2
    assert "--cuont" in json.loads(out)["error"]
    assert "--cuont" in err
    code, out, err = told(monkeypatch, capsys, "look", "--cuont", "3")
    assert (code, out) == (2, "")
    assert "--cuont" in err


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_an_exit_code_is_the_same_with_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    assert told(monkeypatch, capsys, "look", "--count", "3", *more)[0] == 3
    assert told(monkeypatch, capsys, "look", *more)[0] == 0


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (("--name", "a", "b", "c", "--state", "x"), "--name takes one at a time: --name a --name b --name c"),
        (("plant",), "A place is named with its option: --config plant"),
        (("plant/coordinator.toml",), "A place is named with its option: --config plant/coordinator.toml"),
        (("plant/state",), "A place is named with its option: --state plant/state"),
    ],
)
def test_a_value_that_belongs_to_an_option_is_told_which(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    typed: tuple[str, ...],
    hint: str,
) -> None:
    """`init plant --enroll a b` and `status plant` were unexpected extra arguments, and no more."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plant" / "state").mkdir(parents=True)
    (tmp_path / "plant" / "coordinator.toml").touch()
    code, out, err = told(monkeypatch, capsys, "place", *typed)
    assert (code, out) == (2, "")
    assert hint in err


def test_an_option_of_other_commands_is_told_to_be_an_argument_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = told(monkeypatch, capsys, "shut", "--config", "plant")
    assert code == 2
    assert "No such option: --config" in err
    assert "Here the folder is named without an option: shut plant" in err
    assert "Here the folder" not in told(monkeypatch, capsys, "look", "--config", "plant")[2]
    assert "Here the folder" not in told(monkeypatch, capsys, "shut", "--state", "plant")[2]
    assert told(monkeypatch, capsys, "shut", "plant")[0] == 0


@pytest.mark.parametrize("typed", [("nowhere",), ("--name", "a", "--state", "b", "c")])
def test_what_belongs_to_no_option_is_told_as_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: tuple[str, ...]
) -> None:
    code, _, err = told(monkeypatch, capsys, "place", *typed)
    assert code == 2
    assert f"({typed[-1]}) " in err
    assert told(monkeypatch, capsys, "place", "--name", "a", "--name", "b", "--config", "x")[0] == 0


def test_a_crash_in_a_library_says_the_lines_of_python() -> None:
    code, said = ended("    def theirs(): import faulthandler; faulthandler._sigsegv()\n    theirs()")
    assert code == -signal.SIGSEGV
    assert said.startswith("Fatal Python error: Segmentation fault")
    assert "in theirs" in said

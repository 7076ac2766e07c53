"""What a task prints, in whatever way, is not in a program's standard output."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from federation.runtime.standard_output import OURS

pytestmark = pytest.mark.usefixtures("programs_start_warm")

TASK = """
import multiprocessing, os, subprocess, sys, threading
import numpy as np
from federation.task import TrainResult

print("said when imported")

def worker():
    print("said by a worker", flush=True)

class Talking:
    def initial_parameters(self, seed):
        print("said when made")
        return {"w": np.zeros(1, np.float32)}

    def roles(self):
        return {}

    def train(self, parameters, settings, stop):
        print("said in training")
        sys.stdout.buffer.write(b"said in bytes\\n")
        sys.stdout.writelines(["said in lines\\n"])
        thread = threading.Thread(target=lambda: print("said by a thread"))
        thread.start()
        thread.join()
        os.write(1, b"said below Python\\n")
        subprocess.run([sys.executable, "-c", "print('said by another program')"], check=True)
        if multiprocessing.current_process().daemon:
            worker()
        else:
            process = multiprocessing.get_context("fork").Process(target=worker)
            process.start()
            process.join()
        return TrainResult(parameters={"w": np.ones(1, np.float32)}, num_examples=1)

    def evaluate(self, parameters):
        print("said in evaluation")
        return {"loss": 1.0}

def build(context):
    print("said when built")
    return Talking()
"""

SAID = (
    *("imported", "made", "built"),
    *(
        "in training",
        "in bytes",
        "in lines",
        "a thread",
        "below Python",
        "another program",
        "a worker",
        "in evaluation",
    ),
)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``coordinator`` as a program."""
    return subprocess.run(
        [sys.executable, "-m", "coordinator", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=120,
    )


def test_json_of_a_command_stays_json_whatever_a_task_prints(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(TASK)
    task = ("--task", "talks.py", "--nodes", "2", "--rounds", "1", "--json")
    for more in ((), ("--workers", "2")):
        ended = run(tmp_path, "simulate", "--train", *task, *more)
        assert ended.returncode == 0, ended.stderr
        assert len(json.loads(ended.stdout)["versions"]) == 1
        assert [what for what in SAID if what not in ended.stderr] == []


def test_tables_and_help_go_to_standard_output_still(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(TASK)
    ended = run(tmp_path, "simulate", "--train", "--task", "talks.py", "--nodes", "2", "--rounds", "1")
    assert "model digest" in ended.stdout
    assert "said" not in ended.stdout
    told = run(tmp_path, "--help")
    assert "Exit codes" in told.stdout
    assert told.stderr == ""


def test_a_process_that_has_another_stream_for_its_standard_output_keeps_it_too(tmp_path: Path) -> None:
    """As a forked process of the demo has; the code of ``-c`` is nobody's of ours."""
    program = (
        "import json, sys; sys.stdout = open(1, 'w', buffering=1, closefd=False)\n"
        "from federation.runtime.standard_output import reserve\n"
        "from fedmq.demo.view import PlainView\n"
        "from rich.console import Console\n"
        "reserve(); print('said by a task'); PlainView(Console()).say('said by us')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (ended.stdout, ended.stderr) == ("said by us\n", "said by a task\n")


def test_the_common_command_keeps_it_as_the_roles_do(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(TASK)
    command = [sys.executable, "-m", "fedmq", "coordinator", "simulate", "--train", "--task", "talks.py", "--json"]
    ended = subprocess.run(
        [*command, "--nodes", "2", "--rounds", "1"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert len(json.loads(ended.stdout)["versions"]) == 1


def test_a_program_without_standard_error_runs(tmp_path: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        process = subprocess.Popen(
            ["/bin/sh", "-c", '"$0" -m coordinator --help 2>&-', sys.executable], stdout=write, cwd=tmp_path
        )
        os.close(write)
        assert b"Exit codes" in reader.read()
    assert process.wait() == 0


def test_every_package_of_this_distribution_may_say_something_there() -> None:
    """Every one that has a command line: what it says is not taken for a task's words."""
    root = Path(__file__).parents[4]
    packages = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    with_commands = {one for one in packages["packages"] if (root / one / "cli.py").exists()}
    assert "sum_helper" in with_commands
    assert with_commands <= OURS


def test_a_helper_s_commands_speak_on_standard_output(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fedmq", "helper", "init", "works-council"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120)
    assert "works-council=" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_stream_that_the_caller_has_closed_is_not_the_next_file_s(closed: tuple[int, ...], tmp_path: Path) -> None:
    """``2>&-``: else a store gets the number of standard error, and what a library prints is written into it."""
    program = (
        "import os, sys\n"
        "from federation.runtime.standard_output import flush, reserve\n"
        "reserve()\n"
        f"number = os.open({str(tmp_path / 'store')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "os.write(2, b'printed by a library'); print('by us', flush=True); sys.stderr.write('told')\n"
        "assert flush() == '', flush()\n"
        "sys.exit(7 if number > 2 else 1)\n"
    )
    close = " ".join(f"{number}>&-" for number in closed)
    ended = subprocess.run(["/bin/sh", "-c", f'exec "$0" -c "$1" {close}', sys.executable, program], check=False)
    assert ended.returncode == 7
    assert (tmp_path / "store").read_bytes() == b""


@pytest.mark.parametrize(("end", "code"), [("sys.exit()", 1), ("sys.exit(3)", 3), ("sys.exit(0)", 1)])
def test_an_output_that_cannot_be_written_is_told_and_changes_no_other_exit_code(end: str, code: int) -> None:
    program = (
        "import sys\n"
        "from federation.command_line import ending_in_time\n"
        "from federation.runtime.standard_output import reserve\n"
        "reserve()\n"
        "__name__ = 'fedmq.look'\n"
        f"with ending_in_time('coordinator'): sys.stdout.write('the answer'); {end}\n"
    )
    with open("/dev/full", "w") as full:  # noqa: PTH123 - no file, a device
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == code
    assert ("the output cannot be written: [Errno 28]" in ended.stderr) == (code == 1)
    assert "Traceback" not in ended.stderr

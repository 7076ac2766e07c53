"""A program that is still being loaded: a signal ends it on the spot, and it says nothing."""

import signal
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

LIMIT_S = 30.0

NAMES = {"coordinator": "coordinator", "edge-node": "edge_node", "fedmq": "fedmq"}
"""The commands, and where they are."""

LOAD = "import os, signal, time\nfrom federation.program import Loading\n"
"""The begin of each of these programs."""


def run(code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", LOAD + code]
    return subprocess.run(command, check=False, timeout=LIMIT_S, capture_output=True, text=True)


def test_ctrl_c_while_it_is_loaded_ends_it_without_a_word() -> None:
    ended = run(f"with Loading():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep({LIMIT_S})\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_is_not_lost_where_an_exception_would_be() -> None:
    """As in the call-backs with which an import lets go of its locks: Python prints what they raise, and goes on."""
    code = "class Lock:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(0)\n"
    ended = run(code + f"with Loading():\n    Lock()\n    time.sleep({LIMIT_S})\n")
    assert (ended.returncode, ended.stderr) == (130, "")


def test_afterwards_ctrl_c_is_an_exception_again() -> None:
    ended = run("with Loading():\n    pass\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_a_shell_has_started_in_the_background_goes_on() -> None:
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    kept = "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    ended = run(f"{ignored}with Loading():\n    os.kill(os.getpid(), signal.SIGINT)\n{kept}print('went on')\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "went on\n", "")


@pytest.mark.parametrize(("pid", "code"), [(1, 143), (2, -signal.SIGTERM)])
def test_first_process_of_a_container_hears_sigterm(pid: int, code: int) -> None:
    """Nobody else has to ask for it: the system ends it."""
    ended = run(
        f"own, os.getpid = os.getpid(), lambda: {pid}\n"
        f"with Loading():\n    os.kill(own, signal.SIGTERM)\n    time.sleep({LIMIT_S})\n"
    )
    assert (ended.returncode, ended.stderr) == (code, "")


@pytest.mark.parametrize("program", ["coordinator", "edge_node", "sum_helper", "site_gateway", "fedmq"])
def test_every_program_is_prepared_before_it_is_loaded(program: str) -> None:
    """Ctrl-C comes when the first module after the preparation is asked for."""
    code = (
        "import sys\n"
        "class Strike:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.endswith('.cli'):\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Strike())\n"
        f"from {program}.__main__ import main\n"
        "main()\n"
    )
    ended = run(code)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_console_scripts_are_the_prepared_programs() -> None:
    ours = {each.name: each.value for each in entry_points(group="console_scripts") if each.name in NAMES}
    assert ours == {name: f"{room}.__main__:main" for name, room in NAMES.items()}

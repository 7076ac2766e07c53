"""What a user's task makes of a set of text is in one order in every process, whatever seed of hashes it began with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from federation.tasks import set_order
from federation.tasks.set_order import environment_for, in_one_order

TASK = """
import numpy as np

WORDS = list({"heat", "flow", "load", "speed", "torque", "wear", "noise", "angle"})

class Task:
    classes, picture = (), None

    def initial_parameters(self, seed):
        return {"w": np.zeros(1, np.float32)}

    def predict(self, parameters, inputs):
        return np.array([[WORDS.index(word) for word in sorted(WORDS)]] * len(inputs), np.float32)

    def export(self, parameters, form, notes):
        raise NotImplementedError

def build(context):
    return Task()
"""


def printed(command: list[str], seed: str | None) -> str:
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONHASHSEED"}
    environ = kept if seed is None else {**kept, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, env=environ)
    return done.stdout


def test_a_program_that_runs_a_users_task_has_the_order_of_all_others(tmp_path: Path) -> None:
    """Each node numbered its words in an order of its own, and all trained one model on them."""
    (tmp_path / "task.py").write_text(TASK)
    model = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(1, np.float32)}, model)
    name = f"{tmp_path / 'task.py'}:build"
    command = ["-m", "edge_node", "predict", "--model", str(model), "--task", name, "--row", "a=1"]
    found = {printed(command, seed) for seed in (None, "1", "7", "random", "0")}
    assert len(found) == 1
    assert "7" in found.pop()


def test_only_a_program_of_ours_that_has_another_seed_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[list[str]]()
    monkeypatch.setattr(set_order, "start_again", lambda arguments: started.append(list(arguments)))
    monkeypatch.setattr(sys, "flags", type("Flags", (), {"hash_randomization": 1, "ignore_environment": 0}))
    monkeypatch.setattr(set_order, "is_reserved", lambda: True)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "edge_node", "run", "--task", "a.py:build"])
    monkeypatch.setattr(sys, "argv", ["edge-node", "run", "--task", "a.py:build"])
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    in_one_order("digits")
    assert (started, os.environ["PYTHONHASHSEED"]) == ([], "7")
    in_one_order("a.py:build")
    in_one_order("a.py:build")  # whatever has begun again with it, and has another all the same, goes on
    assert started == [["-m", "edge_node", "run", "--task", "a.py:build"]]
    assert os.environ["PYTHONHASHSEED"] == "0"
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    in_one_order("a.py:build", ["-m", "edge_node", "run", "--config", "n"])
    assert started[1:] == [["-m", "edge_node", "run", "--config", "n"]]
    for argv in (["notebook"], ["edge-node", "run"]):
        monkeypatch.setenv("PYTHONHASHSEED", "7")
        monkeypatch.setattr(sys, "argv", argv)
        in_one_order("a.py:build")
        assert os.environ["PYTHONHASHSEED"] == "7"
    monkeypatch.setattr(sys, "argv", ["edge-node", "run", "--task", "a.py:build"])
    monkeypatch.setattr(set_order, "is_reserved", lambda: False)
    in_one_order("a.py:build")
    assert len(started) == 2


def test_what_a_task_starts_itself_has_the_order_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "flags", type("Flags", (), {"hash_randomization": 0, "ignore_environment": 0}))
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    in_one_order("a.py:build")
    assert os.environ["PYTHONHASHSEED"] == "0"


def test_the_process_of_a_users_task_has_it_and_that_of_a_built_in_one_is_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "9")
    assert environment_for("a.py:build")["PYTHONHASHSEED"] == "0"
    assert environment_for("digits")["PYTHONHASHSEED"] == "9"
    order = "import json; print(json.dumps(list({'heat', 'flow', 'load', 'speed', 'wear', 'noise'})))"
    said = [
        subprocess.check_output([sys.executable, "-c", order], env=dict(environment_for("a.py:build")))
        for _ in range(2)
    ]
    assert json.loads(said[0]) == json.loads(said[1])

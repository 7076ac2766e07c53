"""The demo's default task."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from sklearn.datasets import load_digits

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.builtin.digits import digits
from federation.tasks.check import check_task
from federation.tasks.registry import default_rounds, default_settings, load_task


def all_rows() -> list[tuple[bytes, int]]:
    rows = []
    for train in (True, False):
        images, labels = digits(train=train)
        rows += [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]
    return sorted(rows)


def test_the_two_sets_together_are_scikit_learns_digits() -> None:
    images, labels = load_digits(return_X_y=True)
    expected = [((i / 16).astype(np.float32).tobytes(), int(label)) for i, label in zip(images, labels, strict=True)]
    assert all_rows() == sorted(expected)
    assert len(digits(train=False)[0]) == 359


def test_an_installation_without_the_plain_file_gives_the_same_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = all_rows()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert all_rows() == expected


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(TaskError, match=r"fedmq\[demo\]"):
        digits(train=True)


def test_it_keeps_the_contract_of_a_task() -> None:
    check_task(load_task("digits")(TaskContext(node_index=0, node_count=5)), default_settings("digits"))


def test_five_nodes_reach_95_percent_with_the_default_settings() -> None:
    nodes = [load_task("digits")(TaskContext(node_index=index, node_count=5)) for index in range(5)]
    coordinator = load_task("digits")(TaskContext(node_index=None, node_count=5))
    parameters, accuracy = nodes[0].initial_parameters(0), 0.0
    for number in range(default_rounds("digits")):
        if accuracy >= 0.95:
            break
        settings = dataclasses.replace(default_settings("digits"), seed=number)
        results = [node.train(parameters, settings, lambda: False) for node in nodes]
        weights = [result.num_examples for result in results]
        parameters = {
            name: np.average([np.asarray(each.parameters[name]) for each in results], axis=0, weights=weights)
            for name in parameters
        }
        accuracy = coordinator.evaluate(parameters)["accuracy"]
    assert accuracy >= 0.95

"""The server optimizers are those of arXiv 2003.00295, step by step."""

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.strategies.server_optimizer import SERVER_OPTIMIZERS, ServerOptimizer, State

DELTAS = [np.array([0.5, -2.0, 0.0]), np.array([0.25, 1.0, -0.125]), np.array([-1.0, 0.5, 3.0])]
RATE, BETA1, BETA2, TAU = 0.1, 0.9, 0.99, 1e-3


def paper(name: str) -> list[NDArray[np.float64]]:
    """The equations in float64."""
    m, v, steps = np.zeros(3), np.full(3, TAU**2), []
    for delta in DELTAS:
        if name == "sgd":
            steps.append(RATE * delta)
            continue
        if name == "momentum":
            m = BETA1 * m + delta
            steps.append(RATE * m)
            continue
        beta1 = 0.0 if name == "adagrad" else BETA1
        m = beta1 * m + (1 - beta1) * delta
        match name:
            case "adam":
                v = BETA2 * v + (1 - BETA2) * delta**2
            case "yogi":
                v = v - (1 - BETA2) * delta**2 * np.sign(v - delta**2)
            case _:
                v = v + delta**2
        steps.append(RATE * m / (np.sqrt(v) + TAU))
    return steps


@pytest.mark.parametrize("name", sorted(SERVER_OPTIMIZERS))
def test_three_steps_follow_the_paper(name: str) -> None:
    optimizer = ServerOptimizer(name=name, learning_rate=RATE, beta1=BETA1, beta2=BETA2, tau=TAU)
    state: State = {}
    for delta, expected in zip(DELTAS, paper(name), strict=True):
        step, state = optimizer.step(delta.astype(np.float32), state)
        assert step.dtype == np.float32
        np.testing.assert_allclose(step, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(SERVER_OPTIMIZERS))
def test_a_zero_aggregate_at_the_start_is_no_step(name: str) -> None:
    step, _ = ServerOptimizer(name=name).step(np.zeros(4, np.float32), {})
    assert not step.any()


def test_sgd_with_rate_one_adds_the_aggregate_itself() -> None:
    delta = np.array([1e-30, -3.0], np.float32)
    step, state = ServerOptimizer().step(delta, {})
    np.testing.assert_array_equal(step, delta)
    assert state == {}


def test_the_state_of_another_model_is_not_used() -> None:
    optimizer = ServerOptimizer(name="momentum")
    _, state = optimizer.step(np.ones(3, np.float32), {})
    step, _ = optimizer.step(np.ones(5, np.float32), state)
    np.testing.assert_array_equal(step, np.ones(5, np.float32))


def test_overflow_is_infinity_and_no_warning() -> None:
    huge = np.full(2, 3e38, np.float32)
    optimizer = ServerOptimizer(name="momentum", learning_rate=1.0)
    _, state = optimizer.step(huge, {})
    step, _ = optimizer.step(huge, state)
    assert np.isinf(step).all()


def test_the_state_that_came_in_is_left_alone() -> None:
    optimizer = ServerOptimizer(name="adam")
    _, state = optimizer.step(np.ones(3, np.float32), {})
    before = {name: array.copy() for name, array in state.items()}
    optimizer.step(np.full(3, 9.0, np.float32), state)
    for name, array in state.items():
        np.testing.assert_array_equal(array, before[name])

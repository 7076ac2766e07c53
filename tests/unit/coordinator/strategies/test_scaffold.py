"""SCAFFOLD against the paper in float64, with lost, late and repeated updates, BatchNorm's buffers and counters."""

from functools import cache
from unittest.mock import patch

import numpy as np
import pytest

from federation.protocol.messages import Reason, ReceiptStatus
from tests.rigs.scaffold_nodes import NODE_COUNT, SIZE, Federation, gradient
from update_codec import CodecSpec, encode

VERSIONS = 24


def assert_like_the_paper(federation: Federation) -> None:
    paper, model = federation.paper, federation.model
    np.testing.assert_allclose(model["w"], paper.x[-1], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(model["control.w"] / NODE_COUNT, paper.c[-1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(model["mean"], paper.mean[-1], rtol=1e-5)
    for node in federation.nodes:
        np.testing.assert_allclose(node.control, paper.c_i[node.index], rtol=1e-3, atol=1e-3)


def assert_controls_add_up(federation: Federation) -> None:
    """The control c is the mean of all c_i: here as a sum, and to the bit."""
    total = np.sum([node.control for node in federation.nodes], axis=0, dtype=np.float32)
    np.testing.assert_array_equal(federation.model["control.w"], total)
    assert np.abs(total).max() > 0


@cache
def optimum() -> np.ndarray:
    """Where the nodes' slopes cancel."""
    w = np.zeros(SIZE)
    for _ in range(2_000):
        w = w - 0.1 * sum((gradient(node, w) for node in range(NODE_COUNT)), np.zeros(SIZE)) / NODE_COUNT
    return w


@pytest.mark.parametrize("cohort", [2, NODE_COUNT])
def test_synchronous_rounds_follow_the_paper(cohort: int) -> None:
    federation = Federation(cohort=cohort, buffer=cohort)
    while federation.coordinator.version < VERSIONS:
        federation.send(federation.train(*federation.next()))
    assert_like_the_paper(federation)
    assert_controls_add_up(federation)


def test_lost_late_and_repeated_updates_leave_it_with_the_paper() -> None:
    """Asynchronous: every third update is late until it is stale, every second one arrives twice, receipts get lost."""
    federation = Federation(cohort=4, buffer=2)
    held, number = [], 0
    while federation.coordinator.version < VERSIONS:
        number += 1
        question, node = federation.next()
        update = federation.train(question, node)
        if number % 3 == 0:
            held.append((update, federation.coordinator.version))
        else:
            federation.send(update, lose_receipts=number % 5 == 0)
            if number % 2 == 0:
                federation.send(update)
        if held and federation.coordinator.version > held[0][1] + (0 if number % 2 else federation.late + 1):
            federation.send(held.pop(0)[0])
        if number % 4 == 0:
            node.crash()
            federation.hear()
    for update, _ in held:
        federation.send(update)
    federation.hear()
    statuses = [receipt.status for _, receipt in federation.coordinator.receipts]
    assert statuses.count(ReceiptStatus.STALE) > 3
    assert statuses.count(ReceiptStatus.APPLIED) > 2 * VERSIONS
    assert_like_the_paper(federation)
    assert_controls_add_up(federation)


def test_updates_that_do_not_count_leave_the_nodes_control_as_it_was() -> None:
    federation = Federation(cohort=2, buffer=2)
    first, second = federation.next(), federation.next()
    update = federation.train(*first)
    federation.send(federation.train(*second))
    before = first[1].control.copy()
    first[1].settle(update, ReceiptStatus.REFUSED)
    first[1].settle(update, ReceiptStatus.APPLIED)
    np.testing.assert_array_equal(first[1].control, before)


def test_it_finds_the_optimum_from_which_local_steps_alone_drift_away() -> None:
    federation = Federation(cohort=NODE_COUNT, buffer=NODE_COUNT)
    while federation.coordinator.version < 100:
        federation.send(federation.train(*federation.next()))
    assert np.abs(federation.model["w"] - optimum()).max() < 1e-4
    drifted = np.full(SIZE, 0.5)
    for _ in range(100):
        ends = []
        for node in range(NODE_COUNT):
            y = drifted
            for _ in range(7):
                y = y - 0.05 * gradient(node, y)
            ends.append(y)
        drifted = np.mean(ends, axis=0)
    assert np.abs(drifted - optimum()).max() > 1e-2


@pytest.mark.parametrize("resolution", [1 / 64, 0.5, 2.0])
@pytest.mark.parametrize("codec", ["lossless", "fine", "deadzone(bpp=2,feedback=1)"])
def test_coarse_controls_and_lossy_updates_keep_the_sum_to_the_bit(resolution: float, codec: str) -> None:
    federation = Federation(cohort=3, buffer=2, resolution=resolution, codec=codec)
    while federation.coordinator.version < 40:
        federation.send(federation.train(*federation.next()))
    assert_controls_add_up(federation)
    assert np.abs(federation.model["w"] - optimum()).max() < 0.1


def test_counters_take_the_largest_and_examples_do_not_weigh() -> None:
    federation = Federation(cohort=NODE_COUNT, buffer=NODE_COUNT)
    for _ in range(NODE_COUNT):
        federation.send(federation.train(*federation.next()))
    assert int(federation.model["steps"]) == 7 + NODE_COUNT - 1
    np.testing.assert_allclose(federation.model["mean"], np.mean(range(NODE_COUNT)), rtol=1e-6)


@pytest.mark.parametrize("value", [1e6, np.inf, np.nan])
def test_a_control_out_of_bounds_is_refused_and_a_large_statistic_is_not(value: float) -> None:
    federation = Federation(cohort=2, buffer=1)
    question, _ = federation.next()
    arrays = {name: np.zeros_like(array) for name, array in federation.model.items()}
    with patch("update_codec.encoding.np.isfinite", np.ones_like):
        bad = encode(
            federation.manifest.flatten(arrays | {"control.w": np.full(SIZE, value, np.float32)}),
            federation.manifest,
            CodecSpec.parse("lossless"),
        ).frame
    federation.coordinator.answer(question, bad, 10)
    reasons = [receipt.reason for _, receipt in federation.coordinator.receipts]
    assert reasons == [Reason.NORM if np.isfinite(value) else Reason.NOT_FINITE]
    other, _ = federation.next()
    fine = federation.manifest.flatten(arrays | {"mean": np.full(2, 1e6, np.float32)})
    federation.coordinator.answer(other, fine, 10)
    assert federation.coordinator.version == 1

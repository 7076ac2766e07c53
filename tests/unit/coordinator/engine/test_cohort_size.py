"""A share of the fleet is asked, all of it, or more than is waited for: through the machine."""

import numpy as np
import pytest

from coordinator.engine.settings import EngineSettings
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import NodeId
from fedmq.simulation.experiment.direct import DirectCoordinator, Question, Setup
from tests.rigs.model_values import INITIAL, MANIFEST, update

NODES = [NodeId(f"n{index}") for index in range(20)]


def coordinator(selector: str = "uniform", **changes: float) -> DirectCoordinator:
    engine = EngineSettings(
        task="t",
        codec_up="lossless",
        nodes_min=len(NODES),
        evaluate_every=0,
        **{"concurrency": 100, "buffer": 100, "refill": 100, "quorum": 1, **changes},  # type: ignore[arg-type]
    )
    return DirectCoordinator(Setup(manifest=MANIFEST, initial=INITIAL, engine=engine, selector=selector), NODES)


def take(ours: DirectCoordinator) -> list[Question]:
    asked = list(ours.questions)
    ours.questions.clear()
    return asked


@pytest.mark.parametrize(("fraction", "count"), [(0.25, 5), (1.0, 20)])
def test_a_version_is_made_by_the_share_of_the_nodes_online(fraction: float, count: int) -> None:
    ours = coordinator(fraction=fraction)
    for version in range(3):
        asked = take(ours)
        assert len(asked) == count
        for question in asked:
            assert ours.version == version
            ours.answer(question, update(1.0), 10)
    np.testing.assert_allclose(ours.model.parameters, INITIAL.parameters + 3.0, rtol=1e-6)


def test_with_over_selection_the_first_answers_count_and_the_others_are_stale() -> None:
    ours = coordinator(fraction=0.5, over_selection=1.4)
    asked = take(ours)
    assert len(asked) == 14
    for question in asked:
        ours.answer(question, update(1.0), 10)
    status = [receipt.status for _, receipt in ours.receipts]
    assert (ours.version, status.count(ReceiptStatus.APPLIED), status.count(ReceiptStatus.STALE)) == (1, 10, 4)
    assert ours.receipts[-1][1].reason is Reason.TOO_STALE


def test_the_machine_tells_a_selector_whom_it_has_asked() -> None:
    ours = coordinator("fair", concurrency=6, buffer=6, refill=6)
    counts = dict.fromkeys(NODES, 0)
    for _ in range(10):
        for question in take(ours):
            counts[question.node] += 1
            ours.answer(question, update(0.0), 10)
    assert sum(counts.values()) == 60
    assert set(counts.values()) == {3}

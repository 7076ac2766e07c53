"""An update that is too long says what a person can do."""

import numpy as np

from coordinator.global_model.update_checks import check_update
from federation.protocol.messages import Reason
from tests.rigs.model_values import MANIFEST, arrived, update
from update_codec import inspect


def test_a_refusal_for_the_norm_says_that_training_diverges_and_what_to_do() -> None:
    sent = arrived("a", update(np.full(45, 1000.0, np.float32)))
    refusal = check_update(sent.record, sent.payload, lambda frame: inspect(frame, MANIFEST), 10.0)
    assert refusal is not None
    reason, words = refusal
    assert reason is Reason.NORM
    assert "the limit is 10; " in words
    assert "training diverges: lower train.learning_rate or take a codec of more bits" in words

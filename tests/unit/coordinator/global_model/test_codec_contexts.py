"""The coordinator keeps the contexts of the versions that an update may still be based on, and no others."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Aggregated, AggregateLimits, Unusable, aggregate
from coordinator.global_model.codec_contexts import KnownContexts, followed, state_of
from coordinator.global_model.update_checks import Inspections, check_update
from coordinator.records import Member, UpdateRecord
from coordinator.strategies.robust import make_rule
from coordinator.strategies.strategy import Averaging
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import Reason
from federation.types import ModelVersion, NodeId, RoundId, UpdateId
from update_codec import CodecSpec, Context, Manifest, Vectors, decode, encode, moving_average

SIDE = 150
MANIFEST = Manifest.of({"weight": np.zeros((SIDE, SIDE), np.float32), "bias": np.zeros(SIDE, np.float32)})
CODEC = "deadzone(bpp=1,feedback=1,context=1)"

State = Mapping[str, NDArray[Any]]


def moved(seed: int) -> NDArray[np.float32]:
    """The parameters of a global update."""
    return np.random.default_rng(seed).laplace(size=MANIFEST.parameter_count).astype(np.float32)


def after(versions: int, keep: int = 4) -> dict[str, NDArray[Any]]:
    """The state after so many versions."""
    state: dict[str, NDArray[Any]] = {}
    for version in range(1, versions + 1):
        state = followed(state, moved(version), version, keep)
    return state


def of_node(versions: int) -> Context:
    """What a node derives that has followed so many deltas."""
    average = np.zeros(MANIFEST.parameter_count, np.float32)
    for version in range(1, versions + 1):
        average = moving_average(average, moved(version))
    return Context.of(average)


def frame_of(seed: int, context: Context | None) -> bytes:
    update = Vectors(moved(seed), np.zeros(0, np.float32), np.zeros(0, np.int64))
    return encode(update, MANIFEST, CodecSpec.parse(CODEC), context=context).frame


def test_both_ends_derive_the_same_contexts() -> None:
    known = KnownContexts(after(3), MANIFEST.parameter_count)
    assert len(known) == 3
    for versions in (1, 2, 3):
        context = of_node(versions)
        assert known[context.key].digest == context.digest
    assert set(known) == {of_node(versions).key for versions in (1, 2, 3)}


def test_only_the_newest_versions_are_kept() -> None:
    known = KnownContexts(after(6, keep=2), MANIFEST.parameter_count)
    assert set(known) == {of_node(5).key, of_node(6).key}
    assert set(KnownContexts(after(6, keep=1), MANIFEST.parameter_count)) == {of_node(6).key}


def test_a_context_that_two_versions_share_is_kept_once() -> None:
    state = after(2)
    again = followed(state, np.zeros(MANIFEST.parameter_count, np.float32), 3, 4)
    assert len(KnownContexts(again, MANIFEST.parameter_count)) == 2


@pytest.mark.parametrize(("keep", "version"), [(0, 1), (4, 2)])
def test_nothing_is_kept_when_it_is_off_or_was_off_at_version_0(keep: int, version: int) -> None:
    assert followed({}, moved(1), version, keep) == {}
    assert followed(after(2), None, 3, 4) == {}


def test_the_strategy_does_not_see_contexts() -> None:
    momentum = np.ones(3, np.float32)
    assert state_of({**after(1), "momentum": momentum}) == {"momentum": momentum}


def members(*names: str) -> list[Member]:
    return [Member(update=UpdateId(name), node=NodeId(name), num_examples=10, staleness=0) for name in names]


@pytest.mark.parametrize("rule", ["none", "median"])
def test_updates_of_several_bases_are_aggregated(rule: str) -> None:
    frames = {"a": frame_of(10, of_node(2)), "b": frame_of(11, of_node(3)), "c": frame_of(12, None)}
    limits = AggregateLimits(rule=make_rule(rule, 0.2))
    state = after(3)
    result = aggregate(members(*frames), frames.__getitem__, Averaging(), (MANIFEST, state, limits))
    assert isinstance(result, Aggregated)
    contexts = (of_node(2), of_node(3), None)
    decoded = np.array(
        [decode(frame, MANIFEST, context=one).parameters for frame, one in zip(frames.values(), contexts, strict=True)]
    )
    expected = decoded.mean(axis=0) if rule == "none" else np.median(decoded, axis=0)
    np.testing.assert_allclose(result.step.parameters, expected, atol=1e-6)


@pytest.mark.parametrize("rule", ["none", "median"])
def test_an_update_of_an_unknown_context_is_to_blame_and_costs_only_itself(rule: str) -> None:
    frames = {"a": frame_of(10, of_node(9)), "b": frame_of(11, of_node(3))}
    limits = AggregateLimits(rule=make_rule(rule, 0.2))
    result = aggregate(members(*frames), frames.__getitem__, Averaging(), (MANIFEST, after(3), limits))
    assert isinstance(result, Unusable)
    assert result.culprits == ("a",)


def test_on_arrival_an_unknown_context_is_a_codec_that_cannot_be_read() -> None:
    frame = frame_of(10, of_node(2))
    record = UpdateRecord(
        update=UpdateId("0-a"),
        node=NodeId("a"),
        round=RoundId(0),
        base_version=ModelVersion(2),
        num_examples=1,
        codec=CODEC,
        payload_bytes=len(frame),
        payload_digest=payload_digest(frame),
    )
    known = KnownContexts(after(3), MANIFEST.parameter_count)
    assert check_update(record, frame, Inspections(MANIFEST, lambda: known), 1e9) is None
    refusal = check_update(record, frame, Inspections(MANIFEST), 1e9)
    assert refusal is not None
    assert refusal[0] is Reason.CODEC

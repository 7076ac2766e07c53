"""A trusted coordinator's sum: clipped as integers whatever was sent, and noise that can be made again."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Aggregated, AggregateLimits, Unusable, aggregate
from coordinator.global_model.noised import (
    SECRET_BYTES,
    CoordinatorNoise,
    NoisedCombine,
    clipped,
    secret_of,
    secret_state,
)
from coordinator.records import Member
from coordinator.strategies.strategy import Averaging
from federation.privacy.noise import NOISE_SIGMA_MAX, noise_key, rounded_gaussian
from federation.protocol.messages import Reason
from federation.types import NodeId, UpdateId
from update_codec import CodecSpec, Manifest, Vectors, encode

SIZE = 400
MANIFEST = Manifest.of({"w": np.zeros(SIZE, np.float32)})
NOISE = CoordinatorNoise(noise=1.5, clip=2.0, members=8)
SECRET = bytes(range(SECRET_BYTES))


def aggregated(
    updates: list[NDArray[np.float32]], noise: CoordinatorNoise = NOISE, secret: bytes = SECRET
) -> Aggregated | Unusable:
    names = [UpdateId(f"0-n{number}") for number in range(len(updates))]
    frames = {
        name: encode(
            Vectors(update, np.zeros(0, np.float32), np.zeros(0, np.int64)), MANIFEST, CodecSpec.parse("lossless")
        ).frame
        for name, update in zip(names, updates, strict=True)
    }
    members = [Member(update=name, node=NodeId(name[2:]), num_examples=9, staleness=0) for name in names]
    limits = AggregateLimits(step_norm_max=math.inf)
    combine = NoisedCombine(noise, secret, np.zeros(0, np.int64))
    return aggregate(
        members, frames.__getitem__, Averaging(importance="uniform"), (MANIFEST, {}, limits), combine=combine
    )


def updates(seed: int, count: int, length: float) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((count, SIZE)).astype(np.float32)
    return [one * np.float32(length / np.linalg.norm(one)) for one in drawn]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1, 2, 17, 3000]),
    length=st.floats(1e-6, 1e12),
    clip=st.floats(1e-6, 1e6),
    noise=st.floats(0.1, 1e4),
)
def test_no_update_is_longer_than_the_sensitivity_that_is_charged(
    seed: int, size: int, length: float, clip: float, noise: float
) -> None:
    step = CoordinatorNoise(noise=noise, clip=clip, members=1).step
    update = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    norm = float(np.linalg.norm(update.astype(np.float64)))
    integers = clipped((update * np.float32(length / norm)).astype(np.float32), clip, step)
    assert int(np.square(integers, dtype=np.int64).sum()) <= (clip / step) ** 2
    assert 0 < noise * clip / step <= NOISE_SIGMA_MAX


def test_an_update_within_the_clip_is_rounded_and_no_more() -> None:
    (update,) = updates(1, 1, 1.0)
    integers = clipped(update, 2.0, NOISE.step)
    assert np.abs(integers * NOISE.step - update).max() <= NOISE.step / 2


def test_a_longer_one_keeps_its_direction() -> None:
    (update,) = updates(2, 1, 50.0)
    said = clipped(update, 2.0, NOISE.step) * NOISE.step
    assert np.linalg.norm(said) == pytest.approx(2.0, rel=2e-3)
    assert float(said @ update) / np.linalg.norm(said) / np.linalg.norm(update) > 0.9999


def test_the_sum_is_that_of_the_integers_and_one_noise_over_the_buffer() -> None:
    given_updates = updates(3, 5, 1.7)
    made = aggregated(given_updates)
    assert isinstance(made, Aggregated)
    integers = sum(clipped(one, NOISE.clip, NOISE.step).astype(np.int64) for one in given_updates)
    sigma = NOISE.noise * NOISE.clip / NOISE.step
    integers = integers + rounded_gaussian(noise_key(SECRET, "sum of a version"), SIZE, sigma)
    assert np.array_equal(made.step.parameters, (integers * (NOISE.step / 8)).astype(np.float32))


def test_one_secret_is_one_noise_and_another_one_another() -> None:
    given_updates = updates(4, 5, 1.0)
    first, again = aggregated(given_updates), aggregated(list(given_updates))
    other = aggregated(given_updates, secret=bytes(SECRET_BYTES))
    assert isinstance(first, Aggregated)
    assert isinstance(again, Aggregated)
    assert isinstance(other, Aggregated)
    assert np.array_equal(first.step.parameters, again.step.parameters)
    assert not np.array_equal(first.step.parameters, other.step.parameters)


def test_the_noise_has_the_deviation_that_is_charged() -> None:
    zero = [np.zeros(SIZE, np.float32)] * 5
    drawn = []
    for number in range(50):
        made = aggregated(zero, secret=bytes([number]) * SECRET_BYTES)
        assert isinstance(made, Aggregated)
        drawn.append(made.step.parameters)
    deviation = float(np.concatenate(drawn).std())
    assert deviation == pytest.approx(NOISE.noise * NOISE.clip / NOISE.members, rel=0.02)


def test_what_cannot_be_read_costs_its_own_update_alone() -> None:
    combine = NoisedCombine(NOISE, SECRET, np.zeros(0, np.int64))
    members = [Member(update=UpdateId("0-bad"), node=NodeId("bad"), num_examples=1, staleness=0)]
    found = aggregate(members, lambda _: b"no frame", Averaging(), (MANIFEST, {}, AggregateLimits()), combine=combine)
    assert isinstance(found, Unusable)
    assert (found.culprits, found.reason) == ((UpdateId("0-bad"),), Reason.MALFORMED_FRAME)


def test_a_secret_is_kept_with_its_version() -> None:
    assert secret_of(secret_state(SECRET)) == SECRET
    assert secret_of({}) is None


@pytest.mark.parametrize("noise", [0.1, 1.0, 2.0, 40.0, 1e6])
def test_noise_fits_the_sampler_and_the_grid_stays_fine(noise: float) -> None:
    made = replace(NOISE, noise=noise)
    sigma = noise * made.clip / made.step
    assert 1600 <= sigma <= 2**15 * (1 + 1e-9)
    assert made.clip / made.step <= 2**14

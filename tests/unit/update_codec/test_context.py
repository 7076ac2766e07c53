"""A context that both ends hold makes frames smaller and never makes them wrong."""

import numpy as np
import pytest

from update_codec import (
    Accumulator,
    CodecSpec,
    Context,
    ContextMismatch,
    Manifest,
    Role,
    ShapeError,
    Vectors,
    decode,
    encode,
    moving_average,
)
from update_codec import inspect as inspect_frame

SIZE = 160


def updates(count: int) -> tuple[Manifest, list[Vectors]]:
    """Updates of a model whose entries move by amounts that differ and last."""
    rng = np.random.default_rng(0)
    moves = np.exp(rng.normal(size=(SIZE, SIZE)))
    found = []
    manifest = None
    for _ in range(count):
        arrays = {
            "weight": (rng.laplace(size=(SIZE, SIZE)) * moves).astype(np.float32),
            "bias": rng.normal(size=SIZE).astype(np.float32),
            "mean": rng.normal(size=4).astype(np.float32),
        }
        manifest = manifest or Manifest.of(arrays, {"mean": Role.STATISTIC})
        found.append(manifest.flatten(arrays))
    assert manifest is not None
    return manifest, found


def learned(history: list[Vectors]) -> Context:
    """The context after some versions."""
    average = np.zeros(len(history[0].parameters), np.float32)
    for update in history:
        average = moving_average(average, update.parameters)
    return Context.of(average)


@pytest.mark.parametrize("text", ["deadzone(step=2)", "deadzone(step=0.1)", "edge", "balanced"])
def test_frame_with_a_context_says_the_same_in_fewer_bytes(text: str) -> None:
    manifest, (*history, update) = updates(8)
    context = learned(history)
    spec = CodecSpec.parse(text)
    plain, split = encode(update, manifest, spec), encode(update, manifest, spec, context=context)
    decoded = decode(split.frame, manifest, context=context)
    if spec.step:
        assert len(split.frame) < 0.98 * len(plain.frame)
        without = decode(plain.frame, manifest)
        np.testing.assert_array_equal(decoded.parameters != 0, without.parameters != 0)
    else:
        assert split.nmse < plain.nmse
    if split.residual is not None:
        np.testing.assert_array_equal(split.residual, update.parameters - decoded.parameters)
    info = inspect_frame(split.frame, manifest, context=context)
    assert info.parameter_norm == pytest.approx(float(np.linalg.norm(decoded.parameters.astype(float))), rel=1e-6)
    accumulator = Accumulator(manifest)
    accumulator.add(split.frame, 3.0, context=context)
    np.testing.assert_allclose(accumulator.mean().parameters, decoded.parameters, atol=1e-8)


def test_frame_with_a_context_is_refused_without_it_or_with_another() -> None:
    manifest, (*history, update) = updates(5)
    frame = encode(update, manifest, CodecSpec.parse("edge"), context=learned(history)).frame
    short = Context(np.zeros(3, np.uint8))
    for context in (None, learned(history[1:]), short):
        with pytest.raises(ContextMismatch):
            decode(frame, manifest, context=context)
        with pytest.raises(ContextMismatch):
            Accumulator(manifest).add(frame, 1.0, context=context)


def test_empty_class_is_left_out() -> None:
    manifest, (update,) = updates(1)
    context = Context(np.full(manifest.parameter_count, 2, np.uint8))
    frame = encode(update, manifest, CodecSpec.parse("edge"), context=context).frame
    assert len(inspect_frame(frame, manifest, context=context).segments) == 3
    assert decode(frame, manifest, context=context).parameters.any()


def test_small_model_and_other_kinds_ignore_the_context() -> None:
    arrays = {"x": np.sin(np.arange(300, dtype=np.float32))}
    small = Manifest.of(arrays)
    context = Context(np.ones(300, np.uint8))
    for text in ("edge", "stateless", "eden1", "lossless"):
        frame = encode(small.flatten(arrays), small, CodecSpec.parse(text), context=context).frame
        assert decode(frame, small).parameters.shape == (300,)


def test_frame_without_a_context_is_read_by_a_decoder_that_has_one() -> None:
    manifest, (*history, update) = updates(3)
    frame = encode(update, manifest, CodecSpec.parse("edge")).frame
    with_it = decode(frame, manifest, context=learned(history))
    assert with_it.digest() == decode(frame, manifest).digest()


def test_no_history_is_one_class() -> None:
    assert not Context.of(np.zeros(50, np.float32)).classes.any()
    assert len(Context.of(np.zeros(0, np.float32)).classes) == 0


def test_classes_have_their_shares() -> None:
    average = np.random.default_rng(1).exponential(size=10_000).astype(np.float32)
    assert (np.bincount(Context.of(average).classes) / 10_000).round(2).tolist() == [0.75, 0.2, 0.05]


def test_average_decays_with_the_same_bits_everywhere() -> None:
    average = moving_average(np.array([1, 0], np.float32), np.array([0, -2], np.float32))
    assert average.view(np.uint32).tolist() == [0x3F666666, 0x3E4CCCD0]


@pytest.mark.parametrize("classes", [np.full(3, 3, np.uint8), np.zeros((1, 3), np.uint8), np.zeros(3, np.int64)])
def test_malformed_context_is_refused(classes: np.ndarray) -> None:
    with pytest.raises(ShapeError):
        Context(classes)


def test_context_of_another_model_is_refused() -> None:
    manifest, (update,) = updates(1)
    with pytest.raises(ShapeError):
        encode(update, manifest, CodecSpec.parse("edge"), context=Context(np.zeros(3, np.uint8)))


def test_context_goes_through_bytes_four_classes_in_each() -> None:
    classes = np.random.default_rng(0).integers(0, 3, 10_001).astype(np.uint8)
    context = Context(classes)
    data = context.to_bytes()
    assert len(data) == 2_501
    assert Context.from_bytes(data, 10_001).digest == context.digest
    with pytest.raises(ShapeError):
        Context.from_bytes(data, 10_005)
    with pytest.raises(ShapeError):
        Context.from_bytes(b"\xff", 4)


def test_frame_picks_its_context_from_several_by_its_key() -> None:
    manifest, (*history, update) = updates(5)
    contexts = {context.key: context for context in (learned(history[:2]), learned(history))}
    encoded = encode(update, manifest, CodecSpec.parse("edge"), context=learned(history))
    assert encoded.context is not None
    one = decode(encoded.frame, manifest, context=encoded.context)
    assert decode(encoded.frame, manifest, context=contexts).digest() == one.digest()
    assert inspect_frame(encoded.frame, manifest, context=contexts).finite
    with pytest.raises(ContextMismatch):
        decode(encoded.frame, manifest, context={})


def test_encoder_says_that_no_context_was_used() -> None:
    manifest, (*history, update) = updates(3)
    assert encode(update, manifest, CodecSpec.parse("stateless"), context=learned(history)).context is None
    assert encode(update, manifest, CodecSpec.parse("edge")).context is None

"""The shadow is exactly what nodes hold, and what a lossy downlink did not send is sent later."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from coordinator.global_model.downlink import (
    DELTAS_MAX,
    DownlinkSettings,
    Published,
    advance,
    first_model,
    follows_initial,
    parts_again,
)
from coordinator.storage.store import ModelState
from federation.protocol.limits import PARTS_MAX
from federation.protocol.messages import ModelPart, PartKind
from tests.rigs.model_values import INITIAL, MANIFEST, update
from update_codec import CodecSpec, Manifest, NonFiniteError, Vectors, decode

SPECS = ["lossless", "fine", "balanced", "edge", "deadzone(bpp=0.66)"]


def down(spec: str, **changes: object) -> DownlinkSettings:
    return DownlinkSettings(spec=CodecSpec.parse(spec), **changes)  # type: ignore[arg-type]


LARGE = Manifest.of({"x": np.zeros(4096, np.float32)})


def long_walk(versions: int, **changes: object) -> list[Published]:
    """A model whose deltas are small beside its keyframe."""
    rng, chosen = np.random.default_rng(1), down("deadzone(bpp=0.66,feedback=1)", **changes)
    initial = LARGE.flatten({"x": rng.normal(size=4096).astype(np.float32)})
    made = [first_model(initial, LARGE, chosen)]
    for _ in range(versions):
        step = LARGE.flatten({"x": (0.1 * rng.normal(size=4096)).astype(np.float32)})
        made.append(advance(made[-1].model, step, LARGE, chosen, made[-1].parts))
    return made


def kinds(published: Published) -> list[tuple[str, int]]:
    return [(part.kind.value, part.version) for part in published.parts]


def walk(spec: str, versions: int, *, scale: float = 0.1, **changes: object) -> list[Published]:
    """Version 0 and some more after it."""
    rng, chosen = np.random.default_rng(1), down(spec, **changes)
    made = [first_model(INITIAL, MANIFEST, chosen)]
    for number in range(versions):
        step = update((scale * rng.normal(size=45)).astype(np.float32), statistics=0.5, counters=(number, 9))
        made.append(advance(made[-1].model, step, MANIFEST, chosen, made[-1].parts))
    return made


def the(kind: PartKind, published: Published) -> ModelPart | None:
    return next(
        (part for part in published.parts if part.kind is kind and part.version == published.model.version), None
    )


@pytest.mark.parametrize("spec", SPECS)
def test_a_node_reaches_the_shadow_bit_by_bit_from_the_keyframe(spec: str) -> None:
    for published in walk(spec, 3, keyframe_reach=0.0):
        part = the(PartKind.KEYFRAME, published)
        assert part is not None
        held = Vectors.zeros(MANIFEST).plus(decode(published.frames[part], MANIFEST))
        assert held.digest() == published.model.shadow.digest()


@pytest.mark.parametrize("spec", SPECS)
def test_a_node_reaches_the_shadow_bit_by_bit_from_the_deltas(spec: str) -> None:
    first, *rest = walk(spec, 4, delta_worth=100.0)
    held = first.model.shadow
    for published in rest:
        part = the(PartKind.DELTA, published)
        assert part is not None
        held = held.plus(decode(published.frames[part], MANIFEST))
        assert held.digest() == published.model.shadow.digest()


def test_a_lossless_downlink_has_no_second_model() -> None:
    assert all(published.model.exact is None for published in walk("lossless", 3))


def test_a_lossy_downlink_keeps_what_it_did_not_send() -> None:
    *_, last = walk("deadzone(bpp=0.66)", 6)
    rng = np.random.default_rng(1)
    wanted = INITIAL.parameters.copy()
    for _ in range(6):
        wanted += (0.1 * rng.normal(size=45)).astype(np.float32)
    assert last.model.exact is not None
    np.testing.assert_array_equal(last.model.exact, wanted)
    assert not np.array_equal(last.model.shadow.parameters, wanted)


def test_what_was_not_sent_arrives_when_nothing_new_is_learned_from_a_lossless_delta() -> None:
    *_, last = walk("deadzone(bpp=0.66)", 3)
    settled = advance(last.model, update(0.0, counters=(0, 0)), MANIFEST, down("lossless"), last.parts)
    np.testing.assert_allclose(settled.model.shadow.parameters, last.model.parameters, rtol=1e-6, atol=1e-7)
    assert settled.model.exact is None


@settings(max_examples=15, deadline=None)
@given(scale=some.sampled_from([1e-20, 1e-3, 1.0, 1e3]), spec=some.sampled_from(SPECS))
def test_the_gap_between_model_and_shadow_stays_bounded(scale: float, spec: str) -> None:
    made = walk(spec, 12, scale=scale)
    gap = made[-1].model.parameters - made[-1].model.shadow.parameters
    assert float(np.linalg.norm(gap)) <= 60 * scale * np.sqrt(45) + 1e-5


def test_counters_never_go_back() -> None:
    *_, last = walk("lossless", 3)
    np.testing.assert_array_equal(last.model.shadow.counters, np.array([2, 9]))


def test_negative_zero_does_not_change_the_digest_on_the_way() -> None:
    initial = Vectors(np.full(45, -0.0, np.float32), INITIAL.statistics, INITIAL.counters)
    published = first_model(initial, MANIFEST, down("lossless"))
    (part,) = published.parts
    assert Vectors.zeros(MANIFEST).plus(decode(published.frames[part], MANIFEST)).digest() == (
        published.model.shadow.digest()
    )


def test_a_delta_that_saves_nothing_is_not_published() -> None:
    *_, last = walk("lossless", 2, delta_worth=0.0)
    assert [part.kind for part in last.parts] == [PartKind.KEYFRAME]
    assert set(last.frames) == set(last.parts)


def test_no_deltas_are_published_when_none_are_wanted() -> None:
    *_, last = walk("edge", 2, delta_chain_max=0)
    assert [part.kind for part in last.parts] == [PartKind.KEYFRAME]


def test_the_chain_of_deltas_is_bounded_in_number() -> None:
    *_, last = walk("edge", 6, delta_chain_max=2, delta_worth=100.0)
    versions = [part.version for part in last.parts if part.kind is PartKind.DELTA]
    assert len(versions) <= 2
    assert versions == sorted(versions, reverse=True)


def test_the_chain_ends_at_a_gap_and_at_the_keyframes_size() -> None:
    first, second, third = walk("deadzone(bpp=0.66)", 2, delta_worth=100.0)
    distant = [part for part in second.parts if part.kind is PartKind.DELTA]
    step = update(0.01)
    after_gap = advance(
        ModelState(version=third.model.version, shadow=third.model.shadow), step, MANIFEST, down("edge"), distant
    )
    assert [part.version for part in after_gap.parts if part.kind is PartKind.DELTA] in ([3], [])
    assert first.parts[0].kind is PartKind.KEYFRAME


def test_a_step_out_of_float32_is_refused() -> None:
    state = first_model(INITIAL, MANIFEST, down("lossless")).model
    with pytest.raises(NonFiniteError):
        advance(state, update(np.full(45, np.inf, np.float32)), MANIFEST, down("lossless"))


def test_a_keyframe_serves_until_the_deltas_after_it_cost_a_quarter_of_it() -> None:
    """FED-36."""
    made = long_walk(40)
    keyframes = [published.parts[0] for published in made]
    assert {part.kind for part in keyframes} == {PartKind.KEYFRAME}
    renewed = [part.version for one, part in pairwise(keyframes) if part is not one]
    assert 2 <= len(renewed) <= 8
    for published, key in zip(made[1:], keyframes[1:], strict=True):
        after = [part.payload_bytes for part in published.parts[1:] if part.version > key.version]
        assert len(after) == published.model.version - key.version
        assert sum(after) <= 0.25 * key.payload_bytes
        assert set(published.frames) <= set(published.parts)


def test_a_newcomer_reaches_the_shadow_from_an_older_keyframe() -> None:
    """FED-36."""
    made = long_walk(8)
    frames = {part: frame for published in made for part, frame in published.frames.items()}
    last = made[-1]
    key, deltas = last.parts[0], sorted(last.parts[1:], key=lambda part: part.version)
    assert key.version < last.model.version
    held = Vectors.zeros(LARGE).plus(decode(frames[key], LARGE))
    for part in deltas:
        if part.version > key.version:
            held = held.plus(decode(frames[part], LARGE))
    assert held.digest() == last.model.shadow.digest()


def test_the_chain_takes_what_one_announcement_can_list_and_no_more() -> None:
    *_, last = long_walk(DELTAS_MAX + 3, keyframe_reach=10.0)
    assert len(last.parts) == DELTAS_MAX + 1 == PARTS_MAX
    assert kinds(last)[1:] == [("delta", version) for version in range(DELTAS_MAX + 3, 3, -1)]


def test_the_chain_follows_version_0_until_it_drops_the_first_delta() -> None:
    """FED-38."""
    made = long_walk(DELTAS_MAX + 1)
    assert [follows_initial(published.parts) for published in made] == [False, *[True] * DELTAS_MAX, False]


def test_a_chain_that_a_broken_store_has_cut_gets_a_new_keyframe() -> None:
    made = long_walk(3)
    older = [part for part in made[-1].parts if part.kind is PartKind.KEYFRAME]
    again = advance(made[-1].model, LARGE.flatten({"x": np.ones(4096, np.float32)}), LARGE, down("edge"), older)
    assert kinds(again) == [("keyframe", 4), ("delta", 4)]


# --- what is made again ---------------------------------------------------------------------------------------------


def again(head: Published, lost: set[tuple[str, int]], **changes: object) -> tuple[list[tuple[str, int]], set[str]]:
    """The parts of a version of which some are lost, and the kinds of those that were made."""
    whole = [part for part in head.parts if (part.kind.value, part.version) not in lost]
    parts, made = parts_again(head.model, LARGE, down("deadzone(bpp=0.66,feedback=1)", **changes), whole)
    assert all(decode(frame, LARGE).digest() == head.model.shadow.digest() for frame in made.values())
    return [(part.kind.value, part.version) for part in parts], {part.kind.value for part in made}


def test_parts_that_are_whole_stay_and_a_keyframe_is_made_where_the_way_to_the_head_is_broken() -> None:
    head = long_walk(3)[-1]
    assert kinds(head) == [("keyframe", 0), ("delta", 3), ("delta", 2), ("delta", 1)]
    assert again(head, set()) == (kinds(head), set())
    assert again(head, {("keyframe", 0)}) == (
        [("keyframe", 3), ("delta", 3), ("delta", 2), ("delta", 1)],
        {"keyframe"},
    )
    assert again(head, {("delta", 2)}) == ([("keyframe", 3), ("delta", 3)], {"keyframe"})
    assert again(head, {("delta", 3)}) == ([("keyframe", 3)], {"keyframe"})


def test_an_older_delta_that_the_keyframe_does_not_need_goes_without_a_new_keyframe() -> None:
    head = next(one for one in long_walk(12) if 0 < one.parts[0].version < one.model.version and len(one.parts) > 3)
    oldest = kinds(head)[-1]
    assert oldest[1] <= head.parts[0].version
    assert again(head, {oldest}) == (kinds(head)[:-1], set())


def test_no_chunk_is_larger_than_the_broker_takes_now_and_none_grows() -> None:
    head = long_walk(2)[-1]
    smaller, made = parts_again(head.model, LARGE, down("lossless", chunk_bytes=1024), head.parts)
    assert [part.chunk_bytes for part in smaller] == [1024] * len(head.parts)
    assert not made
    assert parts_again(head.model, LARGE, down("lossless"), smaller) == (smaller, {})

"""Which parts of a model are pulled, and how (FED-36, FED-37, FED-40)."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.engine.effects import Note, SubscribeSegment, UnsubscribeSegment
from edge_node.engine.events import ModelChunkReceived
from edge_node.engine.fetch import CHUNKS_MISSING, KEY_LOOK_S, Fetch, path_bytes, plan
from edge_node.engine.settings import NodeSettings, TrainBounds
from edge_node.records import Held
from federation.protocol.chunking import SEGMENT_CHUNKS, split
from federation.protocol.messages import ModelPart, PartKind
from federation.types import ModelVersion
from tests.rigs.node_rig import NODE, content, delta, keyframe, model, version_digest

SETTINGS = NodeSettings(node=NODE, task="toy", bounds=TrainBounds(model_bytes_max=10_000))


def held(version: int) -> Held:
    return Held(version=ModelVersion(version), digest=version_digest(version))


def chunk(part: ModelPart, index: int, body: bytes | None = None, segment: str = "k0") -> ModelChunkReceived:
    if body is None:
        body = list(split(content(part.kind, part.version, part.payload_bytes), part.chunk_bytes))[index]
    return ModelChunkReceived(version=part.version, segment=segment, index=index % SEGMENT_CHUNKS, body=body)


def started(*parts: ModelPart) -> Fetch:
    fetch = Fetch(parts, SETTINGS)
    fetch.connected(0.0)
    return fetch


# --- plan -----------------------------------------------------------------------------------------------------------


def test_the_chain_is_taken_when_it_is_smaller() -> None:
    """FED-36."""
    ref = model(5, [keyframe(5, 30), delta(4, 10), delta(5, 10)])
    assert plan(ref, held(3)) == (delta(4, 10), delta(5, 10))


def test_the_keyframe_is_taken_when_the_chain_is_larger() -> None:
    """FED-36."""
    ref = model(5, [keyframe(5, 30), delta(4, 20), delta(5, 20)])
    assert plan(ref, held(3)) == (keyframe(5, 30),)


def test_on_equal_bytes_the_shorter_list_wins() -> None:
    ref = model(5, [delta(4, 15), delta(5, 15), keyframe(5, 30)])
    assert plan(ref, held(3)) == (keyframe(5, 30),)


def test_an_older_keyframe_leads_on_with_its_deltas() -> None:
    ref = model(5, [keyframe(3, 30), delta(4, 5), delta(5, 5)])
    assert plan(ref, None) == (keyframe(3, 30), delta(4, 5), delta(5, 5))


@pytest.mark.parametrize("version", [2, 5, 7])
def test_a_chain_with_a_gap_or_from_a_version_that_is_not_older_leads_nowhere(version: int) -> None:
    assert plan(model(5, [delta(4), delta(5)]), held(version)) is None


def test_a_missing_delta_in_the_middle_leads_nowhere() -> None:
    assert plan(model(5, [delta(1), delta(3), delta(5)]), held(2)) is None


def test_a_keyframe_of_a_later_version_is_no_way() -> None:
    assert plan(model(5, [keyframe(6)]), held(3)) is None


def test_nothing_held_and_no_keyframe_leads_nowhere() -> None:
    assert plan(model(5, [delta(5)]), None) is None


def test_every_delta_since_version_0_is_a_way_for_a_node_that_can_make_it_from_the_seed() -> None:
    """FED-36, FED-38."""
    ref = model(2, [keyframe(0, 30), delta(1, 10), delta(2, 10)], seed=5)
    assert plan(ref, None) == (delta(1, 10), delta(2, 10))
    assert plan(ref, held(7)) == (delta(1, 10), delta(2, 10))
    assert plan(ref, held(1)) == (delta(2, 10),)


def test_the_seed_is_no_way_after_it_gave_a_wrong_digest_nor_across_a_gap() -> None:
    """FED-38, FED-39."""
    ref = model(2, [keyframe(2, 30), delta(1, 10), delta(2, 10)], seed=5)
    assert plan(ref, None, from_seed=False) == (keyframe(2, 30),)
    assert plan(model(2, [keyframe(2, 30), delta(2, 10)], seed=5), None) == (keyframe(2, 30),)
    assert plan(model(2, [keyframe(2, 15), delta(1, 10), delta(2, 10)], seed=5), None) == (keyframe(2, 15),)


def test_version_0_itself_needs_its_keyframe_where_the_seed_does_not_give_it() -> None:
    """FED-38."""
    assert plan(model(0, [keyframe(0, 30)], seed=5), None) == (keyframe(0, 30),)


@settings(deadline=None)
@given(
    kinds=st.lists(
        st.tuples(st.sampled_from(PartKind), st.integers(0, 12), st.integers(1, 50)),
        max_size=16,
        unique_by=lambda p: p[:2],
    ),
    target=st.integers(0, 12),
    base=st.one_of(st.none(), st.integers(0, 12)),
)
def test_a_plan_leads_from_what_is_held_to_the_target_step_by_step(
    kinds: list[tuple[PartKind, int, int]], target: int, base: int | None
) -> None:
    parts = [keyframe(v, size) if kind is PartKind.KEYFRAME else delta(v, size) for kind, v, size in kinds]
    path = plan(model(target, parts), None if base is None else held(base))
    direct = [part for part in parts if part.kind is PartKind.KEYFRAME and part.version == target]
    if path is None:
        assert not direct
        return
    at = base
    for part in path:
        assert part in parts
        assert part.kind is PartKind.KEYFRAME or (at is not None and part.version == at + 1)
        at = part.version
    assert at == target
    assert all(path_bytes(path) <= part.payload_bytes for part in direct)


# --- fetch ----------------------------------------------------------------------------------------------------------


def test_a_part_beyond_the_limit_is_refused_before_it_is_allocated() -> None:
    """FED-40."""
    fetch = Fetch((keyframe(4, 20_000),), SETTINGS)
    assert fetch.connected(0.0) == []
    assert fetch.failed is not None
    assert "limits" in fetch.failed
    assert fetch.deadline() is None


def test_two_parts_are_pulled_one_after_the_other() -> None:
    """FED-37."""
    first, second = keyframe(3, 15), delta(4, 5)
    fetch = started(first, second)
    fetch.chunk(chunk(first, 0), 1.0)
    assert fetch.chunk(chunk(first, 1), 1.0) == [
        UnsubscribeSegment(version=first.version, segment="k0"),
        SubscribeSegment(version=second.version, segment="d0"),
    ]
    assert not fetch.complete
    fetch.chunk(chunk(second, 0, segment="d0"), 2.0)
    assert fetch.complete
    assert [payload for _, payload in fetch.payloads()] == [
        content(part.kind, part.version, part.payload_bytes) for part in fetch.parts
    ]
    assert fetch.deadline() is None


def test_chunks_of_other_segments_and_other_versions_are_ignored() -> None:
    part = keyframe(4)
    fetch = started(part)
    assert fetch.chunk(replace(chunk(part, 0), segment="k1"), 1.0) == []
    assert fetch.chunk(replace(chunk(part, 0), version=ModelVersion(3)), 1.0) == []
    assert fetch.received_bytes == 0
    assert fetch.deadline() == SETTINGS.fetch_timeout_s


def test_chunks_that_come_after_the_end_are_ignored() -> None:
    part = keyframe(4, 5)
    fetch = started(part)
    fetch.chunk(chunk(part, 0), 1.0)
    assert fetch.chunk(chunk(part, 0), 1.0) == []
    assert fetch.received_bytes == 5


def test_bodies_of_a_wrong_size_and_cleared_chunks_are_ignored() -> None:
    """FED-40."""
    part = keyframe(4)
    fetch = started(part)
    assert fetch.chunk(chunk(part, 0, b""), 1.0) == []
    assert fetch.chunk(chunk(part, 0, bytes(11)), 1.0) == []
    assert fetch.received_bytes == 0


def test_an_index_beyond_the_segment_is_ignored() -> None:
    part = keyframe(4)
    fetch = started(part)
    assert fetch.chunk(replace(chunk(part, 0), index=3), 1.0) == []
    assert not fetch.complete


def test_a_duplicate_chunk_counts_as_bytes_but_not_as_progress() -> None:
    part = keyframe(4)
    fetch = started(part)
    fetch.chunk(chunk(part, 0), 1.0)
    patience = fetch.deadline()
    fetch.chunk(chunk(part, 0), 5.0)
    assert fetch.deadline() == patience
    assert fetch.received_bytes == 20
    assert not fetch.complete


def test_a_payload_that_is_not_what_its_digest_promised_ends_the_fetch() -> None:
    """FED-40."""
    part = keyframe(4, 5)
    fetch = started(part)
    assert fetch.chunk(chunk(part, 0, b"wrong"), 1.0) == [UnsubscribeSegment(version=part.version, segment="k0")]
    assert fetch.failed is not None
    assert "digest" in fetch.failed


def test_whoever_hears_nothing_gives_up_after_so_many_attempts() -> None:
    fetch = started(keyframe(4))
    for attempt in range(1, SETTINGS.fetch_attempts_max):
        fetch.timeout(10.0 * attempt)
        assert fetch.failed is None
    fetch.timeout(10.0 * SETTINGS.fetch_attempts_max)
    assert fetch.failed == CHUNKS_MISSING
    assert fetch.deadline() is None


def test_a_new_chunk_renews_the_patience() -> None:
    part = keyframe(4)
    fetch = started(part)
    for _ in range(SETTINGS.fetch_attempts_max - 1):
        fetch.timeout(10.0)
    fetch.chunk(chunk(part, 0), 20.0)
    assert fetch.deadline() == 30.0
    fetch.timeout(30.0)
    assert fetch.failed is None


def test_single_chunks_are_asked_for_within_their_segment() -> None:
    """FED-37: the second segment begins at chunk 256."""
    part = keyframe(4, 10 * 259)
    fetch = started(part)
    for index in range(258):
        fetch.chunk(chunk(part, index, segment=f"k{index // SEGMENT_CHUNKS}"), 1.0)
    assert fetch.timeout(20.0)[1:] == [
        UnsubscribeSegment(version=part.version, segment="k1"),
        SubscribeSegment(version=part.version, segment="k1", indices=(2,)),
    ]


def test_while_the_broker_is_away_no_patience_is_lost() -> None:
    fetch = started(keyframe(4))
    assert fetch.disconnected() == [UnsubscribeSegment(version=ModelVersion(4), segment="k0")]
    assert fetch.deadline() is None
    assert fetch.connected(99.0) == [SubscribeSegment(version=ModelVersion(4), segment="k0")]


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 1_500), shuffle=st.randoms(use_true_random=False))
def test_chunks_in_any_order_with_duplicates_and_timeouts_give_the_payload(size: int, shuffle: Random) -> None:
    part = replace(keyframe(4, size), chunk_bytes=5)
    fetch = started(part)
    bodies = list(split(content(part.kind, part.version, size), 5))
    order = list(range(len(bodies))) * 2
    shuffle.shuffle(order)
    for _ in range(3):  # what was not subscribed yet comes in a later turn
        for index in order:
            fetch.chunk(chunk(part, index, bodies[index], segment=f"k{index // SEGMENT_CHUNKS}"), 1.0)
        if not fetch.complete:
            fetch.timeout(2.0)
    assert fetch.complete
    assert fetch.done == [content(part.kind, part.version, size)]


# --- a delta in the announcement ------------------------------------------------------------------------------------


def test_a_delta_that_rides_in_the_announcement_is_not_pulled() -> None:
    """FED-57."""
    newest = delta(5, 10)
    fetch = Fetch((newest,), SETTINGS, content(newest.kind, newest.version, newest.payload_bytes))
    effects = fetch.connected(0.0)
    assert fetch.complete
    assert fetch.payloads() == ((newest, content(newest.kind, newest.version, newest.payload_bytes)),)
    assert not [effect for effect in effects if isinstance(effect, SubscribeSegment)]
    assert [effect.fields for effect in effects if isinstance(effect, Note)] == [
        {"version": 5, "bytes": 10, "pulled": 0}
    ]
    assert fetch.deadline() is None


def test_a_node_that_missed_a_version_pulls_the_older_delta_and_takes_the_newest_from_the_announcement() -> None:
    """FED-57."""
    older, newest = delta(4, 10), delta(5, 10)
    fetch = Fetch((older, newest), SETTINGS, content(newest.kind, newest.version, newest.payload_bytes))
    assert fetch.connected(0.0) == [SubscribeSegment(version=older.version, segment="d0")]
    for index in range(-(-older.payload_bytes // older.chunk_bytes)):
        fetch.chunk(chunk(older, index, segment="d0"), 1.0)
    assert fetch.complete
    assert fetch.received_bytes == older.payload_bytes


def test_a_delta_that_is_not_the_listed_one_is_pulled() -> None:
    """FED-57."""
    newest = delta(5, 10)
    fetch = Fetch((newest,), SETTINGS, b"x" * newest.payload_bytes)
    assert fetch.connected(0.0) == [SubscribeSegment(version=newest.version, segment="d0")]


# --- a broker that was taken over -----------------------------------------------------------------------------------


def signed_part(name: str) -> tuple[ModelPart, ModelPart]:
    """A part that an announcement lists, and another one of the same size that the broker has, too."""
    return {
        "a delta as the keyframe": (keyframe(5, 25), delta(5, 25)),
        "the keyframe as a delta": (delta(5, 25), keyframe(5, 25)),
        "an older keyframe": (keyframe(5, 25), keyframe(4, 25)),
        "an older delta": (delta(5, 25), delta(4, 25)),
    }[name]


@pytest.mark.parametrize(
    "name", ["a delta as the keyframe", "the keyframe as a delta", "an older keyframe", "an older delta"]
)
def test_a_part_in_another_ones_place_has_another_digest(name: str) -> None:
    """FED-77: chunks are not signed; the announcement that names their digest is."""
    listed, served = signed_part(name)
    fetch = started(listed)
    bodies = split(content(served.kind, served.version, served.payload_bytes), served.chunk_bytes)
    for index, body in enumerate(bodies):
        fetch.chunk(chunk(listed, index, body, "k0" if listed.kind is PartKind.KEYFRAME else "d0"), 1.0)
    assert fetch.failed is not None
    assert not fetch.done


# --- a broker that gives nothing retained to a wildcard --------------------------------------------------------------


def test_chunks_are_asked_for_by_name_a_few_at_a_time_and_the_next_when_those_are_here() -> None:
    """FED-86."""
    part = keyframe(5, 45)  # five chunks
    fetch = Fetch((part,), replace(SETTINGS, named_chunks_max=2))

    def asks(*indices: int) -> SubscribeSegment:
        return SubscribeSegment(version=part.version, segment="k0", indices=indices)

    def forgets(*indices: int) -> UnsubscribeSegment:
        return UnsubscribeSegment(version=part.version, segment="k0", indices=indices)

    assert fetch.connected(0.0) == [asks(0, 1)]
    assert fetch.chunk(chunk(part, 1), 1.0) == []
    assert fetch.chunk(chunk(part, 1), 1.0) == []  # once more is no progress
    assert fetch.chunk(chunk(part, 0), 2.0) == [forgets(0, 1), asks(2, 3)]
    assert fetch.disconnected() == [forgets(2, 3)]
    assert fetch.connected(3.0) == [asks(2, 3)]
    assert fetch.chunk(chunk(part, 3), 4.0) == []
    assert fetch.timeout(20.0)[1:] == [forgets(2, 3), asks(2, 4)]
    assert fetch.chunk(chunk(part, 2), 21.0) == []
    fetch.chunk(chunk(part, 4), 22.0)
    assert fetch.complete
    assert fetch.payloads() == ((part, content(part.kind, part.version, 45)),)


@given(order=st.permutations(range(7)), most=st.integers(1, 9))
def test_never_more_chunks_are_asked_for_at_a_time_than_the_broker_has_subscriptions(
    order: list[int], most: int
) -> None:
    """FED-86."""
    part, held_now = keyframe(5, 65), set[int]()
    fetch = Fetch((part,), replace(SETTINGS, named_chunks_max=most))
    effects = fetch.connected(0.0)
    while not fetch.complete:
        for effect in effects:
            assert isinstance(effect, SubscribeSegment | UnsubscribeSegment | Note)
            match effect:
                case SubscribeSegment(indices=indices):
                    assert 0 < len(indices) <= most
                    assert not held_now
                    held_now = set(indices)
                case UnsubscribeSegment():
                    held_now.clear()
        effects = fetch.chunk(chunk(part, next(index for index in order if index in held_now)), 1.0)
        order = [index for index in order if index not in fetch_arrived(fetch)]
    assert fetch.payloads()[0][1] == content(part.kind, part.version, 65)


def fetch_arrived(fetch: Fetch) -> set[int]:
    """Which of the chunks that were asked for are here."""
    if fetch.complete:
        return set()
    assert fetch._assembly is not None
    return set(range(7)) - set(fetch._assembly.missing_indices(7))


# --- sealed models --------------------------------------------------------------------------------------------------


def test_nothing_is_pulled_before_its_key_is_there() -> None:
    """FED-168."""
    lacking: list[str | None] = ["no key", "no key", None]
    fetch = Fetch((keyframe(1),), SETTINGS, None, lambda: lacking.pop(0))
    assert fetch.connected(0.0) == []
    assert fetch.deadline() == KEY_LOOK_S
    assert fetch.timeout(KEY_LOOK_S) == []
    (asked,) = fetch.timeout(2 * KEY_LOOK_S)
    assert isinstance(asked, SubscribeSegment)
    assert fetch.failed is None


def test_a_key_is_not_waited_for_without_end() -> None:
    """FED-168: 5 seconds, and the reason is that of whoever has the keys."""
    fetch, now = Fetch((keyframe(1),), SETTINGS, None, lambda: "no key"), 0.0
    fetch.connected(now)
    while fetch.failed is None:
        due = fetch.deadline()
        assert due is not None
        now = due
        assert fetch.timeout(now) == []
    assert (now, fetch.failed, fetch.deadline()) == (5.0, "no key", None)


def test_a_broken_connection_does_not_end_the_wait_for_a_key() -> None:
    lacking: list[str | None] = ["no key", None]
    fetch = Fetch((keyframe(1),), SETTINGS, None, lambda: lacking.pop(0))
    fetch.connected(0.0)
    assert fetch.disconnected() == []
    assert fetch.deadline() is None
    (asked,) = fetch.connected(9.0)
    assert isinstance(asked, SubscribeSegment)

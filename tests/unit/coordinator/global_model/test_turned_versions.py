"""Versions of the cosine kind, and the way around them for nodes of an earlier release."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.records import VersionRecord
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from coordinator.strategies.lag_compensation import LagCompensation
from coordinator.strategies.strategy import Averaging
from federation.protocol.messages import PartKind
from fedmq.audit.audit import recompute_head
from tests.rigs.model_values import MANIFEST, arrived, committer, initialised, update
from tests.rigs.stores import in_own_folder
from update_codec import CodecSpec, decode, frame_kind
from update_codec.spec import Kind

DOWN = DownlinkSettings(
    spec=CodecSpec.parse("cosine(bpp=9,feedback=1)"),
    plain=CodecSpec.parse("lossless"),
    delta_worth=9.0,
    keyframe_reach=9.0,
)
SETTINGS = CommitterSettings(
    downlink=DOWN, strategy=LagCompensation(strategy=Averaging(), versions=2.0), plain_strategy=Averaging()
)


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    made = in_own_folder(SqliteStore)
    initialised(made)
    yield made
    made.close()


def grow(store: SqliteStore, *, plain: bool = False) -> VersionRecord:
    """One version more."""
    head = store.recovered(recent=1).head
    rng = np.random.default_rng(head.version)
    sent = arrived("a", update(rng.normal(size=45).astype(np.float32)), round_id=head.version)
    store.save_update(sent.record, sent.payload)
    made = committer(store, SETTINGS).commit([sent.member], "full", Figures(), plain=plain)
    assert isinstance(made, VersionRecord)
    return made


def kinds(store: SqliteStore, record: VersionRecord) -> list[tuple[PartKind, int, int]]:
    return [(part.kind, part.version, frame_kind(store.frame(part))) for part in record.parts]


def test_a_version_is_made_again_for_the_audit_as_it_went_down(store: SqliteStore) -> None:
    for plain in (False, True, False, True, True):
        head = grow(store, plain=plain)
        (newest,) = (
            kind for part, version, kind in kinds(store, head) if (part, version) == (PartKind.DELTA, head.version)
        )
        assert newest == (Kind.LOSSLESS if plain else Kind.COSINE)
        assert recompute_head(store, SETTINGS) == head.digest


def test_a_version_whose_delta_is_not_published_counts_as_plain_unless_none_is(store: SqliteStore) -> None:
    settings = replace(SETTINGS, downlink=replace(DOWN, delta_worth=0.0))
    sent = arrived("a", update(1.0))
    store.save_update(sent.record, sent.payload)
    made = committer(store, settings).commit([sent.member], "full", Figures(), plain=True)
    assert isinstance(made, VersionRecord)
    assert recompute_head(store, settings) == made.digest
    alone = replace(SETTINGS, downlink=replace(DOWN, delta_chain_max=0))
    assert recompute_head(store, alone) != made.digest


def test_a_way_without_cosine_frames_is_made_where_there_is_none(store: SqliteStore) -> None:
    grow(store)
    head = grow(store)
    made = committer(store, SETTINGS)
    again = made.replace_turned(store)
    assert again is not None
    assert again == made.head == store.recovered(recent=1).head
    assert again.digest == head.digest
    assert kinds(store, again) == [(PartKind.KEYFRAME, 2, Kind.LOSSLESS)]
    assert decode(store.frame(again.parts[0]), MANIFEST).digest() == head.digest
    assert made.replace_turned(store) is None
    plain = grow(store, plain=True)
    assert committer(store, SETTINGS).replace_turned(store) is None
    assert {kind for _, _, kind in kinds(store, plain)} == {Kind.LOSSLESS}


@pytest.mark.parametrize("outside", [(46, 100), (1, 44)])
def test_small_and_large_models_keep_their_codec_and_their_strategy(
    store: SqliteStore, outside: tuple[int, int]
) -> None:
    small = replace(SETTINGS, downlink=replace(DOWN, plain_outside=outside))
    sent = arrived("a", update(1.0))
    store.save_update(sent.record, sent.payload)
    made = committer(store, small).commit([sent.member], "full", Figures())
    assert isinstance(made, VersionRecord)
    assert {kind for _, _, kind in kinds(store, made)} == {Kind.LOSSLESS}
    np.testing.assert_allclose(store.model(made.version).shadow.parameters[0], -1 + 1.0, atol=1e-6)


@pytest.mark.parametrize("has_frame_min", [True, False])
def test_a_small_models_version_is_made_again_at_the_rate_of_its_release(
    store: SqliteStore, *, has_frame_min: bool
) -> None:
    edge = CodecSpec.parse("edge")
    down = replace(DOWN, spec=edge, plain=edge, plain_outside=(16_384, 1 << 22))
    lag = LagCompensation(strategy=Averaging(), versions=4.0, up=edge, down=edge)
    settings = CommitterSettings(downlink=down, strategy=lag, plain_strategy=lag)
    digests = []
    for _ in range(3):
        head = store.recovered(recent=1).head
        rng = np.random.default_rng(head.version)
        sent = arrived("a", update(rng.normal(size=45).astype(np.float32)), round_id=head.version)
        store.save_update(sent.record, sent.payload)
        made = committer(store, replace(settings, has_frame_min=has_frame_min))
        record = made.commit([sent.member], "full", Figures())
        assert isinstance(record, VersionRecord)
        digests.append(record.digest)
        assert recompute_head(store, settings) == record.digest
        other = recompute_head(store, replace(settings, has_frame_min=False))
        assert (other == record.digest) is not has_frame_min
    assert len(set(digests)) == 3

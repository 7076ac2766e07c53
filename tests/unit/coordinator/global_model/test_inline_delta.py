"""The newest delta rides in the announcement where most nodes would pull it (FED-57)."""

import pytest

from coordinator.engine.announcer import _FIELD_BYTES
from federation.protocol.cohort import COHORT_NODES_MAX
from federation.protocol.limits import DELTA_INLINE_BYTES_MAX, FINGERPRINT_BYTES
from tests.rigs.coordinator_rig import Rig, engine


def committed(rig: Rig, *names: str) -> bytes | None:
    """Let the named nodes make a version, and return what the next announcement carries."""
    assert rig.announced is not None
    round_id = rig.announced.round
    for name in names:
        rig.offer(name, round_id)
    assert rig.announced.round > round_id
    return rig.announced.model.delta


def started(*online: str, **changes: object) -> Rig:
    rig = Rig(engine(**changes))
    rig.start(*online)
    return rig


def test_the_first_announcement_of_a_version_carries_its_delta() -> None:
    """FED-57."""
    rig = started("ann", "bob")
    assert rig.announced is not None
    assert rig.announced.model.delta is None
    rig.delta = b"frame"
    assert committed(rig, "ann", "bob") == b"frame"


def test_a_later_announcement_of_the_same_version_does_not() -> None:
    """FED-57: nodes that were asked before have it already."""
    rig = started("ann", "bob", "cid", concurrency=3, buffer=1, refill=1, nodes_min=3, max_staleness=5)
    rig.delta = b"frame"
    rig.offer("ann", 0)
    assert rig.announced is not None
    assert rig.announced.model.version == 1
    rig.state("dan")
    assert rig.announced.model.delta is None


def test_a_delta_that_most_of_the_nodes_do_not_want_is_pulled() -> None:
    """FED-57: everybody who is online reads an announcement."""
    rig = started("ann", "bob", "cid", "dan", "eve", concurrency=2, buffer=2, refill=2)
    assert rig.announced is not None
    asked = [node for node in ("ann", "bob", "cid", "dan", "eve") if f"0-{node}" in rig_updates(rig)]
    rig.delta = b"frame"
    assert committed(rig, *asked) is None


def rig_updates(rig: Rig) -> set[str]:
    return {f"0-{node}" for node in rig.store.open[0]}  # type: ignore[index]


@pytest.mark.parametrize(("size", "carried"), [(DELTA_INLINE_BYTES_MAX, True), (DELTA_INLINE_BYTES_MAX + 1, False)])
def test_a_large_delta_is_pulled(size: int, *, carried: bool) -> None:
    """FED-57."""
    rig = started("ann", "bob")
    rig.delta = bytes(size)
    assert (committed(rig, "ann", "bob") is not None) is carried


def test_a_delta_beside_a_long_list_of_fingerprints_is_pulled() -> None:
    """FED-25, FED-57: together they are never longer than a full list."""
    count = COHORT_NODES_MAX - (DELTA_INLINE_BYTES_MAX + _FIELD_BYTES) // FINGERPRINT_BYTES
    for size, carried in ((count, True), (count + 1, False)):
        names = [f"n{index}" for index in range(size)]
        rig = started(*names, concurrency=size, buffer=size, refill=size, nodes_min=size)
        rig.delta = bytes(DELTA_INLINE_BYTES_MAX)
        assert (committed(rig, *names) is not None) is carried

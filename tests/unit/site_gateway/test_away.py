"""A site that is cut off trains on from the version that it has, and all of it counts once when the line is back."""

from pathlib import Path

import pytest

from federation.protocol.messages import ReceiptStatus
from federation.types import UpdateId
from site_gateway.engine.events import FreezeSum
from tests.rigs.gateway_rig import GATEWAY, Rig, examples, trained
from tests.rigs.model_values import MANIFEST
from update_codec import Accumulator, read_sum, sum_frame

FIRST = UpdateId(f"0-{GATEWAY}")


def cut_off(folder: Path, members_max: int, turns: int = 5) -> Rig:
    """A site that hears of a round, and then of nothing."""
    rig = Rig(folder, members_max=members_max)
    rig.above.announce()
    for message in rig.above.retained():
        rig.tell_above(message)
    rig.cut()
    for _ in range(turns):
        rig.turn()
    assert rig.above.offers == {}
    return rig


def rounds(rig: Rig) -> list[int]:
    """In which rounds each node has trained: the same for all."""
    (found,) = {tuple(one.round for one in node.asked) for node in rig.nodes.values()}
    return list(found)


def sum_of(rig: Rig, asked: list[int]) -> bytes:
    total = Accumulator(MANIFEST)
    for node in rig.nodes:
        for round_id in asked:
            total.add(trained(node, round_id), float(examples(node)))
    return sum_frame(total.sums(), MANIFEST)


@pytest.mark.parametrize(("members_max", "passes"), [(0, 1), (5, 1), (6, 2), (11, 3), (12, 4)])
def test_it_trains_on_as_far_as_one_sum_may_go(members_max: int, passes: int, tmp_path: Path) -> None:
    """FED-284."""
    rig = cut_off(tmp_path, members_max, turns=8)
    asked = rounds(rig)
    rig.mend()
    rig.until_offered(FIRST)
    rig.die()
    assert asked == list(range(passes))
    assert rig.above.offers[FIRST][0] == sum_of(rig, asked)
    assert read_sum(rig.above.offers[FIRST][0], MANIFEST).members == 3 * passes


def test_each_pass_has_a_shuffle_of_its_own_and_the_same_version(tmp_path: Path) -> None:
    """FED-284."""
    rig = cut_off(tmp_path, 9)
    rig.die()
    for node in rig.nodes.values():
        assert {(one.model.version, one.model.digest) for one in node.asked} == {(0, rig.above.versions[0].digest())}
        seeds = [one.settings.seed for one in node.asked]
        assert seeds[0] == 40
        assert len({*seeds}) == len(seeds) == 3


@pytest.mark.parametrize("status", [ReceiptStatus.APPLIED, ReceiptStatus.STALE])
def test_all_of_it_has_the_verdict_of_its_sum(status: ReceiptStatus, tmp_path: Path) -> None:
    """FED-284, FED-263."""
    rig = cut_off(tmp_path, 9)
    rig.mend()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST, status)
    for _ in range(3):
        rig.turn()
    rig.die()
    for node in rig.nodes.values():
        assert not node.outbox
        assert [[one.status for one in said][-1] for said in node.receipts.values()] == [status] * 3


def test_a_line_that_is_back_before_the_next_pass_has_begun_ends_them(tmp_path: Path) -> None:
    rig = cut_off(tmp_path, 100, turns=2)
    asked = rounds(rig)
    rig.mend()
    for node in rig.nodes:
        rig.leave(node)
    rig.until_offered(FIRST)
    rig.die()
    assert read_sum(rig.above.offers[FIRST][0], MANIFEST).members >= 3 * (len(asked) - 1) >= 3


@pytest.mark.parametrize("after", range(0, 40, 3))
def test_killed_while_it_is_away_everything_counts_once(after: int, tmp_path: Path) -> None:
    """FED-284, FED-264."""
    rig = cut_off(tmp_path, 9, turns=1)
    rig.kill_after = rig.effects + after
    for _ in range(3):
        rig.turn()
    rig.mend()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST)
    for _ in range(4):
        rig.turn()
    told = {update: said[-1].status for node in rig.nodes.values() for update, said in node.receipts.items()}
    frozen = rig.store.frozen()
    rig.die()
    frame = read_sum(rig.above.offers[FIRST][-1], MANIFEST)
    assert frozen == ()
    assert len({*rig.above.offers[FIRST]}) == 1
    assert sum(status is ReceiptStatus.APPLIED for status in told.values()) == frame.members
    assert not any(node.outbox for node in rig.nodes.values())


def test_what_is_frozen_stays_as_it_is(tmp_path: Path) -> None:
    rig = cut_off(tmp_path, 6, turns=6)
    rig.kill_before = FreezeSum
    frames = [one.frame for one in rig.store.frozen()]
    rig.mend()
    rig.until_offered(FIRST)
    rig.die()
    assert [rig.above.offers[FIRST][0]] == frames


def test_a_sum_of_several_passes_is_followed_by_one_of_one(tmp_path: Path) -> None:
    """What was put aside for one order is no reason to end the next."""
    rig = cut_off(tmp_path, 9)
    rig.mend()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST)
    rig.above.announce()
    second = UpdateId(f"1-{GATEWAY}")
    rig.until_offered(second)
    rig.die()
    assert read_sum(rig.above.offers[FIRST][0], MANIFEST).members == 9
    assert read_sum(rig.above.offers[second][0], MANIFEST).members == 3

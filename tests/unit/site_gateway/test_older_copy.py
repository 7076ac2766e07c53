"""A gateway that begins with an older copy of its folder gives no second sum the name of one that has its verdict."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.protocol.messages import ReceiptStatus
from federation.types import UpdateId
from tests.rigs.gateway_rig import Rig

FIRST, SECOND = UpdateId("0-press-shop"), UpdateId("1-press-shop")
PARTS = ("site", "above")
LEASES_S = 1.1e6
"""Whoever was asked before the copy was taken is not waited for any more, in seconds."""


def copied(rig: Rig, folder: Path) -> None:
    rig.die()
    for part in PARTS:
        shutil.copytree(rig.folder / part, folder / part)
    rig.start()


def put_back(rig: Rig, folder: Path) -> None:
    """The line above is down, and somebody starts the gateway with the copy."""
    rig.cut()
    rig.die()
    for part in PARTS:
        shutil.rmtree(rig.folder / part)
        shutil.copytree(folder / part, rig.folder / part)
    rig.start()


def turned(rig: Rig) -> None:
    """A process that has lifted itself is followed by another one, as in `fedmq gateway run`."""
    rig.turn()
    if rig.executor.stopped:
        rig.die()
        rig.start()


def soon(rig: Rig) -> None:
    """The copy was taken when the order had just been saved, and all else came in the same life of the process."""
    del rig


def after_kills(rig: Rig) -> None:
    """Since the copy there were other starts, whose epochs nodes have heard."""
    for _ in range(3):
        rig.die()
        rig.start()


@pytest.mark.parametrize("meanwhile", [soon, after_kills])
def test_an_order_that_only_an_older_copy_knows_is_not_worked_for(
    tmp_path: Path, meanwhile: Callable[[Rig], None]
) -> None:
    """Nodes were asked once more, and were told `applied` for updates that are in no version."""
    rig = Rig(tmp_path / "live")
    rig.tells_seen = True
    rig.above.announce()
    for message in rig.above.retained():
        rig.tell_above(message)
    assert rig.store.order() is not None
    copied(rig, tmp_path / "copy")
    meanwhile(rig)
    rig.until_offered(FIRST)
    rig.above.judge(FIRST)
    for _ in range(3):
        rig.turn()
    made = {name: len(node.made) for name, node in rig.nodes.items()}
    put_back(rig, tmp_path / "copy")
    for _ in range(4):
        rig.pass_time(LEASES_S)
        turned(rig)
    assert {name: len(node.made) for name, node in rig.nodes.items()} == made, "nobody above has asked"
    assert rig.store.frozen() == ()
    rig.above.announce()
    rig.mend()
    for _ in range(6):
        turned(rig)
    assert rig.above.offers.keys() == {FIRST, SECOND}
    rig.above.judge(SECOND)
    for _ in range(3):
        turned(rig)
    assert len(set(rig.above.offers[FIRST])) == 1, "one sum has this name"
    for node in rig.nodes.values():
        final = [one.status for said in node.receipts.values() for one in said if one.status.final]
        assert (final, node.outbox) == ([ReceiptStatus.APPLIED] * 2, {})
    rig.die()


def test_a_gateway_that_is_killed_while_the_line_is_down_still_works_for_its_order(tmp_path: Path) -> None:
    """FED-284: its own nodes know nothing that its disk does not."""
    rig = Rig(tmp_path)
    rig.tells_seen = True
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST)
    for _ in range(2):
        rig.turn()
    rig.above.announce()
    for message in rig.above.retained():
        rig.tell_above(message)
    rig.cut()
    rig.die()
    rig.start()
    for _ in range(3):
        rig.pass_time(LEASES_S)
        turned(rig)
    assert [one.update for one in rig.store.frozen()] == [SECOND]
    rig.die()

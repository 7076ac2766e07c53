"""A gateway answers each order with one exact sum, and its nodes hear the verdict that the sum had, however it dies."""

from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import LocalProtocolError
from federation.protocol.messages import ReceiptStatus
from federation.types import NodeId, UpdateId
from site_gateway.engine.events import AnswerOrder
from site_gateway.engine.machine import TOO_HIGH
from site_gateway.runtime.uplink import Form
from tests.rigs.gateway_rig import GATEWAY, Rig, killed_rig
from tests.rigs.model_values import MANIFEST
from update_codec import inspect

FIRST, SECOND = UpdateId(f"0-{GATEWAY}"), UpdateId(f"1-{GATEWAY}")


def played(rig: Rig) -> None:
    """Two rounds: the first is applied, then the second; the gateway may be killed meanwhile."""
    for update in (FIRST, SECOND):
        rig.above.announce()
        rig.until_offered(update)
        rig.above.judge(update)
        for _ in range(3):
            rig.turn()


def test_two_rounds_go_up_as_exact_sums_and_their_receipts_come_down(tmp_path: Path) -> None:
    """FED-260, FED-261, FED-263: what the sum became, all its members became."""
    rig = Rig(tmp_path)
    played(rig)
    for number, update in enumerate((FIRST, SECOND)):
        assert set(rig.above.offers[update]) == {rig.flat(number)}
        for node in rig.nodes.values():
            *_, last = node.receipts[UpdateId(f"{number}-{node.name}")]
            assert (last.status, last.version) == (ReceiptStatus.APPLIED, number + 1)
    assert rig.store.head() == 1  # nobody has asked for version 2 yet
    rig.die()


def test_site_speaks_of_the_run_rounds_and_settings_above(tmp_path: Path) -> None:
    """FED-262: a node is asked for what it had been asked for without a gateway."""
    rig = Rig(tmp_path)
    played(rig)
    for node in rig.nodes.values():
        assert [(one.run, one.round, one.model.version) for one in node.asked] == [
            ("00000000000000aa", 0, 0),
            ("00000000000000aa", 1, 1),
        ]
        assert [one.settings.seed for one in node.asked] == [40, 41]
        assert [one.settings.learning_rate for one in node.asked] == [0.125, 0.125]
        assert [one.model.digest for one in node.asked] == [one.digest() for one in rig.above.versions[:2]]
    rig.die()


def test_nobody_below_hears_a_verdict_before_it_was_given_above(tmp_path: Path) -> None:
    """FED-263."""
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.turn()
    statuses = {one.status for node in rig.nodes.values() for said in node.receipts.values() for one in said}
    assert statuses == {ReceiptStatus.STORED}
    rig.die()


@pytest.mark.parametrize("status", [ReceiptStatus.STALE, ReceiptStatus.REFUSED])
def test_a_sum_that_makes_no_version_is_given_back_to_all_its_nodes(tmp_path: Path, status: ReceiptStatus) -> None:
    """FED-263: error feedback means the same below a gateway."""
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST, status)
    for _ in range(2):
        rig.turn()
    assert {node.receipts[UpdateId(f"0-{node.name}")][-1].status for node in rig.nodes.values()} == {status}
    assert rig.store.frozen() == ()
    assert rig.node_store.outbox() == ()
    rig.die()


@pytest.mark.parametrize("first", range(4))
def test_killed_before_any_effect_nothing_is_lost_and_nothing_counts_twice(tmp_path: Path, first: int) -> None:
    """FED-264: the same sum under the same name, and each member in one sum, wherever the process ends."""
    undisturbed = Rig(tmp_path / "undisturbed")
    played(undisturbed)
    undisturbed.die()
    total = undisturbed.effects
    assert total > 60
    for after in range(first, total, 4):
        rig = killed_rig(tmp_path / str(after), after)
        played(rig)
        for number, update in enumerate((FIRST, SECOND)):
            assert set(rig.above.offers[update]) == {rig.flat(number)}, after
            for node in rig.nodes.values():
                final = [one for one in node.receipts[UpdateId(f"{number}-{node.name}")] if one.status.final]
                assert {(one.status, one.version) for one in final} == {(ReceiptStatus.APPLIED, number + 1)}, after
        assert len(rig.above.offers) == 2, after
        assert rig.store.frozen() == (), after
        assert rig.above.versions[2].digest() == undisturbed.above.versions[2].digest(), after
        rig.die()


def test_sum_that_nobody_has_heard_of_answers_the_next_round(tmp_path: Path) -> None:
    """FED-264: killed between the frozen sum and the outbox, and the round above is another one meanwhile."""
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.kill_before = AnswerOrder
    rig.turn()
    assert rig.starts == 2
    assert [one.update for one in rig.store.frozen()] == [FIRST]
    assert rig.node_store.outbox() == ()
    rig.above.announce()
    rig.until_offered(SECOND)
    assert set(rig.above.offers) == {SECOND}
    assert rig.above.offers[SECOND][-1] == rig.flat(0)
    rig.die()


def test_mean_for_a_thin_link_is_an_ordinary_update(tmp_path: Path) -> None:
    """FED-265: above, such a gateway is a node as any."""
    rig = Rig(tmp_path, form=Form.MEAN)
    rig.above.announce()
    rig.until_offered(FIRST)
    info = inspect(rig.above.offers[FIRST][-1], MANIFEST)
    assert info.spec == "lossless"
    rig.die()


def test_gateway_leaves_when_the_run_is_over_and_its_last_sum_has_its_verdict(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.above.announce(asked=False)
    rig.turn()
    assert {one.status for node in rig.nodes.values() for one in node.receipts[UpdateId(f"0-{node.name}")]} == {
        ReceiptStatus.STORED
    }
    rig.above.judge(FIRST)
    rig.turn()
    assert all(node.receipts[UpdateId(f"0-{node.name}")][-1].status.final for node in rig.nodes.values())
    rig.stop()
    assert rig.executor.stopped
    rig.die()


def test_mean_that_makes_no_version_is_taken_back_by_the_nodes_and_not_by_the_gateway(tmp_path: Path) -> None:
    rig = Rig(tmp_path, form=Form.MEAN)
    rig.above.codec = "edge"
    rig.above.announce()
    rig.until_offered(FIRST)
    before = rig.node_store.residual()
    assert before is not None
    rig.above.judge(FIRST, ReceiptStatus.STALE)
    for _ in range(2):
        rig.turn()
    assert rig.node_store.outbox() == ()
    after = rig.node_store.residual()
    assert after is not None
    assert after.tolist() == before.tolist()
    rig.die()


def test_frozen_sum_is_not_replaced_by_another_one_of_its_name(tmp_path: Path) -> None:
    """FED-264: its members would be in none any more."""
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.until_offered(FIRST)
    (made,) = rig.store.frozen()
    rig.store.freeze_sum(made)
    with pytest.raises(LocalProtocolError):
        rig.store.freeze_sum(replace(made, members=made.members[:1]))
    assert [one.updates for one in rig.store.frozen()] == [made.updates]
    with pytest.raises(LocalProtocolError, match="answers no order"):
        rig.store.freeze_sum(replace(made, update=SECOND, members=()))
    rig.die()


@pytest.mark.parametrize("number", [2**31, 2**32 - 1])
def test_a_round_that_leaves_the_site_no_numbers_is_declined_and_ends_nothing(tmp_path: Path, number: int) -> None:
    """[FED-292] Its own rounds would have numbers that no message can carry, at each start again."""
    rig = Rig(tmp_path)
    rig.above.round = number - 1
    rig.above.announce()
    for _ in range(3):
        rig.turn()
    (declined,) = rig.above.declines
    assert (declined.round, declined.reason) == (number, TOO_HIGH)
    assert all(not node.asked for node in rig.nodes.values())
    rig.die()
    rig.start()
    rig.turn()
    rig.die()


def test_the_highest_round_is_answered(tmp_path: Path) -> None:
    """FED-292."""
    rig = Rig(tmp_path)
    rig.above.round = 2**31 - 2
    rig.above.announce()
    rig.until_offered(UpdateId(f"{2**31 - 1}-{GATEWAY}"))
    rig.die()


@pytest.mark.parametrize("killed", [False, True])
def test_a_sum_without_a_verdict_holds_no_order_up(tmp_path: Path, killed: bool) -> None:
    """FED-293: one order late once, a gateway was late for ever, and each version above waited for its lease."""
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.until_offered(FIRST)
    if killed:
        rig.die()
        rig.start()
    rig.above.announce()
    rig.until_offered(SECOND)
    rig.above.judge(FIRST)
    rig.above.judge(SECOND)
    for _ in range(6):
        rig.turn()
    for node in rig.nodes.values():
        final = [receipt.status for update in node.receipts.values() for receipt in update if receipt.status.final]
        assert (final, node.outbox) == ([ReceiptStatus.APPLIED] * 2, {})
    assert rig.machine.snapshot()["quota_used"] == 0
    rig.die()


@pytest.mark.parametrize("status", [ReceiptStatus.APPLIED, ReceiptStatus.STALE])
def test_verdict_that_comes_before_the_site_is_there_ends_its_order(tmp_path: Path, status: ReceiptStatus) -> None:
    """FED-264: asked for once more, the nodes' next work went by the name of the sum that had its verdict, and had it.

    The verdict waits at the broker above while the gateway starts; it is heard before the site's nodes are.
    """
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST, status)
    asked = {name: len(node.asked) for name, node in rig.nodes.items()}
    rig.die()
    rig.start(kept=[rig.above.verdicts[FIRST]])
    rig.deliver()
    assert rig.store.frozen() == ()
    assert {name: len(node.asked) for name, node in rig.nodes.items()} == asked
    rig.above.announce()
    rig.until_offered(SECOND)
    rig.above.judge(SECOND)
    for _ in range(3):
        rig.turn()
    told = [[one.status for one in said if one.status.final] for said in rig.nodes[NodeId("n0")].receipts.values()]
    assert told == [[status], [ReceiptStatus.APPLIED]]
    rig.die()

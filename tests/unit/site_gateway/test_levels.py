"""A gateway below a gateway: its site's nodes count as if they stood at the upper one, each of them once."""

from pathlib import Path

import numpy as np
import pytest

from federation.protocol.claims import claim_of, claims_in
from federation.protocol.messages import Reason, Receipt, ReceiptStatus
from federation.types import ModelVersion, NodeId, RoundId, UpdateId, update_id
from site_gateway.engine.machine import GatewayMachine
from site_gateway.runtime.uplink import Form
from tests.rigs.gateway_rig import EXAMPLES_MAX, GATEWAY, RUN, Rig, Site, examples, trained
from tests.rigs.model_values import MANIFEST
from update_codec import Accumulator, read_sum, sum_frame

FIRST, SECOND = UpdateId(f"0-{GATEWAY}"), UpdateId(f"1-{GATEWAY}")
HALL, YARD = NodeId("hall"), NodeId("yard")


def named(rig: Rig, update: UpdateId) -> list[bytes]:
    """The claims that a sum made above."""
    return list(claims_in(rig.above.claims[update] or b""))


def claims(*nodes: str, round_id: int = 0) -> list[bytes]:
    """Those of these nodes' updates, as a sum names them."""
    return sorted(claim_of(update_id(RoundId(round_id), NodeId(node))) for node in nodes)


def test_sum_of_sums_has_the_bytes_of_all_nodes_updates_added_one_by_one(tmp_path: Path) -> None:
    """FED-285: also of nodes that stand beside the gateways."""
    rig = Rig(tmp_path, nodes=1, sites={HALL: Site(("h0", "h1")), YARD: Site(("y0", "y1", "y2"))})
    rig.above.announce()
    rig.until_offered(FIRST)
    assert rig.above.offers[FIRST][-1] == rig.flat(0)
    assert read_sum(rig.flat(0), MANIFEST).members == 6
    assert named(rig, FIRST) == claims("h0", "h1", "y0", "y1", "y2", "n0")
    rig.die()


def test_verdict_from_above_is_told_to_the_gateways_below(tmp_path: Path) -> None:
    """FED-285: applied, with the version above, for the name that the sum has at this level."""
    rig = Rig(tmp_path, nodes=1, sites={HALL: Site(("h0", "h1"))})
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST)
    rig.turn()
    for node in (HALL, NodeId("n0")):
        last = rig.nodes[node].receipts[update_id(RoundId(0), node)][-1]
        assert (last.status, last.version) == (ReceiptStatus.APPLIED, 1)
    rig.die()


def test_mean_of_a_site_counts_as_many_nodes_as_it_names(tmp_path: Path) -> None:
    """FED-286: its codec's bits, the examples and the names of its nodes."""
    rig = Rig(tmp_path, nodes=1, sites={HALL: Site(("h0", "h1"), form=Form.MEAN)})
    rig.above.announce()
    rig.until_offered(FIRST)
    found = read_sum(rig.above.offers[FIRST][-1], MANIFEST)
    assert (found.members, found.examples) == (3, sum(map(examples, ("h0", "h1", "n0"))))
    assert named(rig, FIRST) == claims("h0", "h1", "n0")
    rig.die()


def test_mean_of_means_goes_up_by_the_announced_codec(tmp_path: Path) -> None:
    """FED-286: the thin line above may be as thin as those below."""
    rig = Rig(tmp_path, nodes=0, form=Form.MEAN, sites={HALL: Site(("h0", "h1"), form=Form.MEAN)})
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST)
    expected = Accumulator(MANIFEST)
    for node in ("h0", "h1"):
        expected.add(trained(node, 0), float(examples(node)))
    step = rig.above.versions[1].parameters - rig.above.versions[0].parameters
    assert np.abs(step - expected.mean().parameters).max() < 1e-6
    assert named(rig, FIRST) == claims("h0", "h1")
    rig.die()


def test_sum_with_a_gateway_that_names_nobody_names_nobody(tmp_path: Path) -> None:
    """FED-285: above, a sum that names some of its members only would be refused."""
    rig = Rig(tmp_path, nodes=1, sites={HALL: Site(("h0", "h1"), names=False)})
    rig.above.announce()
    rig.until_offered(FIRST)
    assert read_sum(rig.above.offers[FIRST][-1], MANIFEST).members == 3
    assert rig.above.claims[FIRST] is None
    rig.die()


def test_mean_that_names_nobody_counts_the_fewest_nodes_that_have_its_examples(tmp_path: Path) -> None:
    """FED-286: above, each member has at most so many examples."""
    nodes = ("h0", "h1", "h2", "h3")
    rig = Rig(tmp_path, nodes=0, sites={HALL: Site(nodes, form=Form.MEAN, names=False)})
    rig.above.announce()
    rig.until_offered(FIRST)
    found = read_sum(rig.above.offers[FIRST][-1], MANIFEST)
    assert found.members == -(-sum(map(examples, nodes)) // EXAMPLES_MAX)
    assert rig.above.claims[FIRST] is None
    rig.die()


def test_gateway_that_speaks_for_too_many_costs_its_own_site_only(tmp_path: Path) -> None:
    """FED-260, at the lower level: the caps of the gateway's own settings."""
    rig = Rig(tmp_path, nodes=1, sites={HALL: Site(("h0", "h1"), members_max=1), YARD: Site(("y0",))})
    rig.above.announce()
    for _ in range(3):
        rig.turn()
    refused = rig.nodes[HALL].receipts[update_id(RoundId(0), HALL)][-1]
    assert (refused.status, refused.reason) == (ReceiptStatus.REFUSED, Reason.NOT_ASSIGNED)
    rig.leave(HALL)
    rig.until_offered(FIRST)
    assert named(rig, FIRST) == claims("y0", "n0")
    rig.die()


def test_node_behind_a_gateway_below_that_counts_elsewhere_is_named_down_to_its_gateway(tmp_path: Path) -> None:
    """FED-287: that one is asked again; what came from others answers the next order as it is."""
    rig = Rig(tmp_path, nodes=1, sites={HALL: Site(("h0", "h1"))})
    rig.above.announce()
    rig.until_offered(FIRST)
    moved = UpdateId("0-h1")
    rig.above.verdicts[FIRST] = Receipt(
        run=RUN, update=FIRST, status=ReceiptStatus.REFUSED, reason=Reason.COUNTED, counted=claim_of(moved)
    )
    rig.nodes[HALL].site = Site(("h0",))
    rig.turn()
    told = rig.nodes[HALL].receipts[update_id(RoundId(0), HALL)][-1]
    assert (told.status, told.reason, told.counted) == (ReceiptStatus.REFUSED, Reason.COUNTED, claim_of(moved))
    rig.above.announce()
    rig.until_offered(SECOND)
    assert named(rig, SECOND) == sorted([*claims("n0"), *claims("h0", round_id=1)])
    rig.die()


def test_same_node_behind_two_gateways_is_refused_at_the_second(tmp_path: Path) -> None:
    """FED-287: it is seen at the level where they meet; the sum that came first is not touched."""
    rig = Rig(tmp_path, nodes=0, sites={HALL: Site(("h0", "m")), YARD: Site(("y0", "m"))})
    rig.above.announce()
    rig.turn()
    told = rig.nodes[YARD].receipts[update_id(RoundId(0), YARD)][-1]
    assert (told.reason, told.counted) == (Reason.COUNTED, claim_of(UpdateId("0-m")))
    stored = rig.nodes[HALL].receipts[update_id(RoundId(0), HALL)][-1]
    assert stored.status is ReceiptStatus.STORED
    rig.die()


def test_sum_has_no_more_nodes_than_its_gateway_may_speak_for(tmp_path: Path) -> None:
    """What does not fit waits for the next order, and is not refused with all the others."""
    rig = Rig(tmp_path, nodes=0, members_max=4, sites={HALL: Site(("h0", "h1")), YARD: Site(("y0", "y1", "y2"))})
    rig.above.announce()
    rig.until_offered(FIRST)
    assert len(named(rig, FIRST)) <= 4
    rig.above.announce()
    rig.until_offered(SECOND)
    assert sorted([*named(rig, FIRST), *named(rig, SECOND)]) >= claims("h0", "h1", "y0", "y1", "y2")
    rig.die()


def test_site_that_is_cut_off_counts_the_nodes_behind_its_gateways(tmp_path: Path) -> None:
    """FED-284: a further pass is one of all nodes, whoever they stand behind; and it may have each of them again."""
    rig = Rig(tmp_path, nodes=0, members_max=9, sites={HALL: Site(("h0", "h1"), members_max=2)})
    rig.above.announce()
    for message in rig.above.retained():
        rig.tell_above(message)
    rig.cut()
    for _ in range(12):
        rig.turn()
    rig.mend()
    rig.until_offered(FIRST)
    total = Accumulator(MANIFEST)
    asked = [one.round for one in rig.nodes[HALL].asked]
    for round_id in asked:
        for node in ("h0", "h1"):
            total.add(trained(node, round_id), float(examples(node)))
    assert len(asked) == 4
    assert rig.above.offers[FIRST][-1] == sum_frame(total.sums(), MANIFEST)
    rig.die()


@pytest.mark.parametrize("kills", [3, 17, 40, 55, 70, 90])
def test_gateway_in_the_middle_may_be_killed_anywhere(tmp_path: Path, kills: int) -> None:
    rig = Rig(tmp_path, nodes=1, sites={HALL: Site(("h0", "h1"))})
    rig.kill_after = rig.effects + kills
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.above.judge(FIRST)
    for _ in range(3):
        rig.turn()
    assert set(rig.above.offers[FIRST]) == {rig.flat(0)}
    last = rig.nodes[HALL].receipts[update_id(RoundId(0), HALL)][-1]
    assert (last.status, last.version) == (ReceiptStatus.APPLIED, 1)
    rig.die()


def test_question_of_a_gateway_below_goes_up_and_its_answer_comes_down(tmp_path: Path) -> None:
    """FED-287: it takes no place of the gateway that asks, which may be asked to train meanwhile."""
    rig = Rig(tmp_path, nodes=0, sites={HALL: Site(("h0",))})
    assert isinstance(rig.machine, GatewayMachine)
    rig.above.announce()
    rig.turn()
    offer = rig.nodes[HALL].made[-1]
    moved = UpdateId("0-stranger")
    rig.above.fates[moved] = Receipt(run=RUN, update=moved, status=ReceiptStatus.APPLIED, version=ModelVersion(4))
    rig.ask(HALL, offer, moved)
    assert rig.above.questions == [moved]
    last = rig.nodes[HALL].receipts[moved][-1]
    assert (last.status, last.version) == (ReceiptStatus.APPLIED, 4)
    rig.die()

"""A node that moves between gateways: it is obeyed by both, counts once, and is given back nothing that counts."""

from dataclasses import replace
from pathlib import Path

import pytest

from federation.protocol.chunking import payload_digest
from federation.protocol.claims import claim_of, claims_in, node_of
from federation.protocol.messages import NodeState, Presence, Reason, Receipt, ReceiptStatus, UpdateOffer
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION, encode_message
from federation.runtime.transport import MessageReceived
from federation.types import Digest, Epoch, Incarnation, ModelVersion, NodeId, RoundId, SeenRun, Start, UpdateId
from site_gateway.engine.newcomers import LIFT_CALM_S, LIFT_MAX
from site_gateway.engine.site import LIFTED
from tests.rigs.gateway_rig import GATEWAY, RUN, TOPICS, Rig, Site, examples, trained
from tests.rigs.model_values import INITIAL, MANIFEST
from update_codec import Accumulator, read_sum

FIRST, SECOND = UpdateId(f"0-{GATEWAY}"), UpdateId(f"1-{GATEWAY}")
NEWCOMER = NodeId("n0")


def born(rig: Rig, seen: SeenRun) -> None:
    """A node of the site says what it has heard elsewhere."""
    state = NodeState(
        presence=Presence.ONLINE,
        incarnation=Incarnation(2),
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_VERSION,
        task="digits",
        invitable=True,
        seen=seen,
    )
    rig.hear_below(MessageReceived(topic=TOPICS.node_state(NEWCOMER), payload=encode_message(state)))
    rig.now += 10.0
    rig.step(None)


def foreign(round_id: int) -> UpdateOffer:
    """What a newcomer has made at another site, from version 0."""
    frame = trained(NEWCOMER, round_id)
    return UpdateOffer(
        run=RUN,
        round=RoundId(round_id),
        update=UpdateId(f"{round_id}-{NEWCOMER}"),
        incarnation=Incarnation(1),
        base_version=ModelVersion(0),
        base_digest=Digest(INITIAL.digest()),
        num_examples=examples(NEWCOMER),
        metrics={},
        codec="lossless",
        payload_bytes=len(frame),
        payload_digest=payload_digest(frame),
        chunk_bytes=61_440,
        inline=frame,
    )


def offered(rig: Rig, offer: UpdateOffer) -> None:
    """The newcomer offers it; what is asked above is answered, and the answer comes down."""
    rig.hear_below(MessageReceived(topic=TOPICS.node_event(NEWCOMER), payload=encode_message(offer)))
    for _ in range(2):
        rig.deliver()


def test_gateway_takes_higher_numbers_than_a_newcomer_has_obeyed(tmp_path: Path) -> None:
    """FED-270: it does not stand still, and gives out no round that the node knows."""
    rig = Rig(tmp_path)
    born(rig, SeenRun(run=RUN, epoch=Epoch(5), start=Start(3), round=RoundId(40), version=ModelVersion(9)))
    assert rig.executor.stopped
    assert rig.executor.stop_reason == LIFTED
    rig.die()
    rig.start()
    assert rig.store.epoch == 6
    rig.above.announce()
    rig.until_offered(FIRST)
    assert {one.round for node in rig.nodes.values() for one in node.asked} == {41}
    rig.die()


def test_node_that_claims_absurd_numbers_is_not_believed(tmp_path: Path) -> None:
    """FED-270."""
    rig = Rig(tmp_path)
    born(rig, SeenRun(run=RUN, epoch=Epoch(LIFT_MAX + 2), start=Start(3), round=RoundId(0)))
    born(rig, SeenRun(run=RUN, epoch=Epoch(1), start=Start(3), round=RoundId(LIFT_MAX + 2)))
    assert not rig.executor.stopped
    rig.above.announce()
    rig.until_offered(FIRST)
    rig.die()


def test_each_lift_soon_after_another_one_waits_twice_as_long(tmp_path: Path) -> None:
    """FED-289: a node that always says more than its site has made costs a start in five minutes, not in five s."""
    rig, waited = Rig(tmp_path), list[float]()
    for _ in range(9):
        began = rig.now
        seen = SeenRun(run=RUN, epoch=Epoch(rig.store.epoch + 1000), start=Start(3), round=RoundId(0))
        while not rig.executor.stopped:
            born(rig, seen)
        waited.append(rig.now - began)
        rig.die()
        rig.start()
    assert [round(one, -1) for one in waited[-3:]] == [320.0] * 3
    assert waited == sorted(waited)
    rig.pass_time(LIFT_CALM_S)
    born(rig, SeenRun(run=RUN, epoch=Epoch(rig.store.epoch + 1), start=Start(3), round=RoundId(0)))
    assert rig.executor.stopped
    rig.die()
    rig.start()
    assert rig.store.recovered_site(recent=1).lifts == 1
    rig.die()


def test_offer_of_a_sum_names_each_update_in_it(tmp_path: Path) -> None:
    """FED-271."""
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.until_offered(FIRST)
    claims = list(claims_in(rig.above.claims[FIRST] or b""))
    assert claims == sorted(claim_of(UpdateId(f"0-{node}")) for node in rig.nodes)
    again = [node_of(claim_of(UpdateId(f"7-{node}"))) for node in rig.nodes]
    assert sorted(map(node_of, claims)) == sorted(again)
    rig.die()


def test_sum_with_a_member_that_counts_elsewhere_goes_up_again_without_it(tmp_path: Path) -> None:
    """FED-272: the others answer the next order at once; the node hears what became of its update at the other site."""
    rig = Rig(tmp_path)
    rig.above.announce()
    rig.until_offered(FIRST)
    moved = UpdateId(f"0-{NEWCOMER}")
    rig.above.fates[moved] = Receipt(run=RUN, update=moved, status=ReceiptStatus.APPLIED, version=ModelVersion(1))
    rig.above.verdicts[FIRST] = Receipt(
        run=RUN, update=FIRST, status=ReceiptStatus.REFUSED, reason=Reason.COUNTED, counted=claim_of(moved)
    )
    rig.turn()
    assert rig.store.frozen() == ()
    rig.above.announce()
    rig.until_offered(SECOND)
    others = [node for node in rig.nodes if node != NEWCOMER]
    assert list(claims_in(rig.above.claims[SECOND] or b"")) == sorted(
        claim_of(UpdateId(f"0-{node}")) for node in others
    )
    expected = Accumulator(MANIFEST)
    for node in others:
        expected.add(trained(node, 0), float(examples(node)))
    found = read_sum(rig.above.offers[SECOND][-1], MANIFEST)
    assert found.parameters.tolist() == expected.sums().parameters.tolist()
    assert (found.members, found.examples) == (2, sum(map(examples, others)))
    last = rig.nodes[NEWCOMER].receipts[moved][-1]
    assert (last.status, last.version) == (ReceiptStatus.APPLIED, 1)
    rig.die()


def test_update_of_another_site_is_settled_by_what_is_said_above(tmp_path: Path) -> None:
    """FED-273: applied there is applied here, and nothing is said while it is not decided."""
    rig = Rig(tmp_path)
    rig.above.announce()
    offer = foreign(0)
    rig.nodes[NEWCOMER].outbox[offer.update] = offer
    rig.above.fates[offer.update] = Receipt(run=RUN, update=offer.update, status=ReceiptStatus.STORED)
    offered(rig, offer)
    assert rig.above.questions == [offer.update]
    assert NEWCOMER in rig.nodes
    assert offer.update not in rig.nodes[NEWCOMER].receipts
    rig.above.fates[offer.update] = Receipt(
        run=RUN, update=offer.update, status=ReceiptStatus.APPLIED, version=ModelVersion(4)
    )
    offered(rig, offer)
    last = rig.nodes[NEWCOMER].receipts[offer.update][-1]
    assert (last.status, last.version) == (ReceiptStatus.APPLIED, 4)
    rig.die()


def test_update_that_nobody_above_knows_is_given_back(tmp_path: Path) -> None:
    """FED-273: from then on no sum may have it."""
    rig = Rig(tmp_path)
    rig.above.announce()
    offer = foreign(0)
    rig.nodes[NEWCOMER].outbox[offer.update] = offer
    offered(rig, offer)
    last = rig.nodes[NEWCOMER].receipts[offer.update][-1]
    assert last.status is ReceiptStatus.REFUSED
    assert rig.above.questions == [offer.update]
    rig.die()


@pytest.mark.parametrize("node_first", [False, True])
def test_who_asks_for_an_update_changes_while_it_is_not_decided(tmp_path: Path, node_first: bool) -> None:
    """FED-273: its place in the node's quota was given back without having been taken, which ended the gateway.

    A node that moves is heard itself, and through the gateway below that it has come from, or that it goes to.
    """
    hall = NodeId("hall")
    rig = Rig(tmp_path, sites={hall: Site(("h0",))})
    rig.above.announce()
    rig.deliver()
    offer = foreign(0)
    rig.nodes[NEWCOMER].outbox[offer.update] = offer
    rig.above.fates[offer.update] = Receipt(run=RUN, update=offer.update, status=ReceiptStatus.STORED)

    for speaks_itself in (node_first, not node_first):
        offered(rig, offer) if speaks_itself else rig.ask(hall, offer, offer.update)
        assert rig.machine.snapshot()["quota_used"] == int(speaks_itself)
    rig.above.fates[offer.update] = replace(
        rig.above.fates[offer.update], status=ReceiptStatus.APPLIED, version=ModelVersion(4)
    )
    rig.ask(hall, offer, offer.update) if node_first else offered(rig, offer)
    told = rig.nodes[hall if node_first else NEWCOMER].receipts[offer.update][-1]
    assert (told.status, told.version) == (ReceiptStatus.APPLIED, 4)
    assert rig.machine.snapshot()["quota_used"] == 0
    rig.die()

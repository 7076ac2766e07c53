"""What is of no use at a site may count elsewhere: nothing is given back before the federation above was asked."""

from pathlib import Path

from federation.protocol.claims import claim_of, claims_in
from federation.protocol.messages import Reason, Receipt, ReceiptStatus
from federation.types import ModelVersion, NodeId, RoundId, UpdateId, update_id
from site_gateway.engine.events import AnswerOrder
from site_gateway.engine.moved import QUESTIONS_FROM
from tests.rigs.gateway_rig import GATEWAY, RUN, Rig, Site, trained
from tests.rigs.model_values import LOSSLESS, MANIFEST, update
from update_codec import encode

FIRST = UpdateId(f"0-{GATEWAY}")
ASKED = UpdateId(f"{QUESTIONS_FROM}-{GATEWAY}")
"""What a question for it is called."""
HALL = NodeId("hall")


def applied(update: UpdateId) -> Receipt:
    """It counts at another site, in version 1."""
    return Receipt(run=RUN, update=update, status=ReceiptStatus.APPLIED, version=ModelVersion(1))


def counted(update: UpdateId, *members: UpdateId) -> Receipt:
    """Some of what was asked for counts at another site."""
    claims = b"".join(map(claim_of, members))
    return Receipt(run=RUN, update=update, status=ReceiptStatus.REFUSED, reason=Reason.COUNTED, counted=claims)


def left_behind(folder: Path, **nodes: object) -> Rig:
    """A gateway that is killed with a sum that nobody above has heard of, while others make the next version."""
    rig = Rig(folder, **nodes)  # type: ignore[arg-type]
    rig.above.announce()
    rig.kill_before = AnswerOrder
    rig.turn()
    assert [one.update for one in rig.store.frozen()] == [FIRST]
    rig.above.advance(trained("elsewhere", 0))
    rig.above.announce()
    return rig


def last(rig: Rig, node: str) -> Receipt:
    """The last word on a node's update of round 0."""
    return rig.nodes[NodeId(node)].receipts[update_id(RoundId(0), NodeId(node))][-1]


def test_sum_that_nobody_has_heard_of_is_given_back_once_nobody_may_claim_it(tmp_path: Path) -> None:
    """FED-295: one question for the whole site, and one verdict."""
    rig = left_behind(tmp_path)
    for _ in range(3):
        rig.turn()
    assert rig.above.questions == [ASKED]
    assert list(claims_in(rig.above.asked_for[ASKED])) == sorted(claim_of(UpdateId(f"0-{node}")) for node in rig.nodes)
    assert {(last(rig, node).status, last(rig, node).reason) for node in rig.nodes} == {
        (ReceiptStatus.STALE, Reason.TOO_STALE)
    }
    assert FIRST not in {one.update for one in rig.store.frozen()}
    rig.die()


def test_member_of_a_late_sum_that_counts_elsewhere_is_told_so(tmp_path: Path) -> None:
    """FED-295: the others are asked for by themselves, and given back."""
    rig = left_behind(tmp_path)
    moved = UpdateId("0-n0")
    rig.above.fates |= {ASKED: counted(ASKED, moved), moved: applied(moved)}
    for _ in range(5):
        rig.turn()
    assert (last(rig, "n0").status, last(rig, "n0").version) == (ReceiptStatus.APPLIED, 1)
    assert {last(rig, node).status for node in ("n1", "n2")} == {ReceiptStatus.STALE}
    assert FIRST not in {one.update for one in rig.store.frozen()}
    rig.die()


def test_late_sum_is_asked_for_again_until_there_is_an_answer(tmp_path: Path) -> None:
    """FED-295: a question may be lost with the line, and its answer with the process."""
    rig = left_behind(tmp_path)
    rig.above.fates[ASKED] = Receipt(run=RUN, update=ASKED, status=ReceiptStatus.STORED)
    for _ in range(3):
        rig.turn()
    assert len(rig.above.questions) > 1
    assert all(not one.status.final for node in rig.nodes.values() for said in node.receipts.values() for one in said)
    rig.die()
    rig.start()
    del rig.above.fates[ASKED]
    for _ in range(3):
        rig.turn()
    assert {last(rig, node).status for node in rig.nodes} == {ReceiptStatus.STALE}
    rig.die()


def test_late_sum_of_a_gateway_below_is_asked_for_with_all_that_it_claims(tmp_path: Path) -> None:
    """FED-295: the gateway in the middle knows what is late, and not what counts; names go down as they are told."""
    rig = left_behind(tmp_path, nodes=0, sites={HALL: Site(("h0", "h1"))})
    rig.above.fates[ASKED] = counted(ASKED, UpdateId("0-h0"))
    late = update_id(RoundId(0), HALL)
    rig.above.fates[late] = counted(late, UpdateId("0-h0"))
    for _ in range(4):
        rig.turn()
    assert (last(rig, HALL).status, last(rig, HALL).counted) == (ReceiptStatus.REFUSED, claim_of(UpdateId("0-h0")))
    assert all(one.reason is Reason.COUNTED for one in rig.nodes[HALL].receipts[late] if one.status.final)
    rig.die()


def test_update_that_its_site_refuses_may_count_at_another_one(tmp_path: Path) -> None:
    """FED-273: for whatever reason; a limit may be another one there."""
    rig = Rig(tmp_path)
    bad, moved = NodeId("n0"), UpdateId("0-n0")
    rig.nodes[bad].sends = encode(update(1e6), MANIFEST, LOSSLESS).frame
    rig.above.fates[moved] = applied(moved)
    rig.above.announce()
    for _ in range(3):
        rig.turn()
    assert (last(rig, bad).status, last(rig, bad).version) == (ReceiptStatus.APPLIED, 1)
    assert [one for one in rig.nodes[bad].receipts[moved] if one.status.final] == [last(rig, bad)]
    rig.die()


def test_update_that_its_site_refuses_and_nobody_claims_is_refused(tmp_path: Path) -> None:
    """FED-273: for the reason that its site has, also where the gateway was started again in between."""
    rig = Rig(tmp_path)
    bad, moved = NodeId("n0"), UpdateId("0-n0")
    rig.nodes[bad].sends = encode(update(1e6), MANIFEST, LOSSLESS).frame
    rig.above.fates[moved] = Receipt(run=RUN, update=moved, status=ReceiptStatus.STORED)
    rig.above.announce()
    rig.turn()
    rig.die()
    rig.start()
    del rig.above.fates[moved]
    for _ in range(3):
        rig.turn()
    assert (last(rig, bad).status, last(rig, bad).reason) == (ReceiptStatus.REFUSED, Reason.NORM)
    rig.die()

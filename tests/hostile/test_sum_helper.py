"""What a coordinator that wants one node's update tries at a helper: each is refused, and nothing is revealed.

FED-151: the rules; FED-152: used once, for ever; FED-153: seeds and tickets.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgpack
import pytest

from federation.identity.signing_keys import SigningKey
from federation.privacy.boxes import Kem, KeyPair
from federation.protocol.enumerations import HeldStatus, PrivacyUnit, SumReason
from federation.protocol.signing import Writer, signed_digest
from federation.protocol.sum_messages import SealedSeeds, SumOffer, SumRefusal, SumRequest, Ticket
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.transport import MessageReceived
from federation.types import Digest, HelperId, ModelVersion, NodeId, RoundId, RunId, UpdateId, update_id
from sum_helper.engine.events import MembersFound
from sum_helper.engine.judging import Refusal, judge_request
from sum_helper.records import AnsweredBatch, Budget, HelperRules
from tests.rigs.helper_rig import (
    BASE,
    COORDINATOR,
    HELPER,
    TOPICS,
    HelperRig,
    MaskedUpdate,
    MaskingNode,
    fleet,
    request,
    terms,
    unmasked,
)

TERMS = terms()


@dataclass
class Attack:
    """A helper that holds eight updates of eight nodes."""

    rig: HelperRig
    nodes: list[MaskingNode]
    held: list[MaskedUpdate]

    def refused(self, asked: SumRequest, reason: SumReason, *members: MaskedUpdate) -> None:
        """Asking is answered by a refusal, and changes nothing."""
        before = self.rig.dump()
        answer = self.rig.ask(asked)
        assert isinstance(answer, SumRefusal)
        assert (answer.reason, answer.batch) == (reason, asked.batch)
        assert answer.members == b"".join(sorted(member.digest for member in members))
        assert self.rig.dump() == before

    def not_held(self, sealed: SealedSeeds, reason: SumReason) -> None:
        before = self.rig.dump()
        self.rig.take()
        self.rig.hear(sealed)
        (word,) = self.rig.take()
        assert (word.status, word.reason) == (HeldStatus.REFUSED, reason)  # type: ignore[union-attr]
        assert self.rig.dump() == before

    def update(self, node: int, number: int = 2, **how: object) -> MaskedUpdate:
        return self.nodes[node].update(number, TERMS, [self.rig.public], **how)  # type: ignore[arg-type]


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Attack]:
    nodes = fleet(9)
    rig = HelperRig(tmp_path, nodes[:8])
    held = [node.update(1, TERMS, [rig.public]) for node in nodes[:8]]
    assert {word.status for word in rig.hold(*held)} == {HeldStatus.HELD}
    yield Attack(rig, nodes, held)
    rig.close()


def test_an_honest_request_is_answered(attack: Attack) -> None:
    """Without this the refusals below would prove nothing."""
    answer = attack.rig.ask(request(attack.held[:6], TERMS))
    assert isinstance(answer, SumOffer)
    assert answer.inline is not None
    plain = sum(update.integers for update in attack.held[:6])
    assert (unmasked(attack.held[:6], [answer.inline], TERMS) == plain).all()


def test_an_update_that_was_used_is_used_for_ever(attack: Attack) -> None:
    """FED-152: the difference of two sums that share all but one member is that member."""
    first = request(attack.held[:6], TERMS)
    assert isinstance(attack.rig.ask(first), SumOffer)
    attack.refused(request(attack.held[:5], TERMS), SumReason.USED, *attack.held[:5])
    attack.refused(request(attack.held[:6], TERMS, version=5), SumReason.USED, *attack.held[:6])


def test_a_batch_that_overlaps_another_is_refused(attack: Attack) -> None:
    """FED-152."""
    assert isinstance(attack.rig.ask(request(attack.held[:5], TERMS)), SumOffer)
    attack.refused(request(attack.held[3:], TERMS), SumReason.USED, *attack.held[3:5])


def test_a_replay_after_a_restart_gets_the_same_bytes_and_another_set_nothing(attack: Attack) -> None:
    """FED-152."""
    first = request(attack.held[:6], TERMS)
    answer = attack.rig.ask(first)
    attack.rig.restart()
    assert attack.rig.ask(first) == answer
    attack.refused(request(attack.held[:5], TERMS), SumReason.USED, *attack.held[:5])


def test_fewer_members_than_the_helper_insists_on_are_refused(attack: Attack) -> None:
    """FED-151."""
    attack.refused(request(attack.held[:4], TERMS), SumReason.TOO_FEW)


def test_one_node_does_not_count_twice(attack: Attack) -> None:
    """FED-151: five updates of four nodes."""
    again = attack.update(0)
    attack.rig.hold(again)
    attack.refused(request([*attack.held[:4], again], TERMS), SumReason.DUPLICATE_NODE, attack.held[0], again)


def test_no_member_weighs_more_than_another(attack: Attack) -> None:
    """FED-145: there is no field for a weight, and a member that is named twice makes the request malformed."""
    honest = request(attack.held[:5], TERMS)
    before, refused = attack.rig.dump(), attack.rig.inbound.refused.total()
    topic = TOPICS.helper_command(HELPER)
    payload = _unchecked(honest, honest.members[:16] + honest.members)
    assert attack.rig.inbound.translate(MessageReceived(topic=topic, payload=payload)) is None
    assert attack.rig.inbound.refused.total() == refused + 1
    assert attack.rig.dump() == before


def _unchecked(asked: SumRequest, members: bytes) -> bytes:
    """What no encoder of ours writes, under the coordinator's signature."""
    fields = msgpack.unpackb(encode_message(asked), strict_map_key=False)
    fields[6] = members
    body = msgpack.packb({**fields, 255: bytes(64)})[:-64]
    topic = TOPICS.helper_command(HELPER)
    return bytes(body + COORDINATOR.sign(signed_digest(TOPICS, topic, body)))


@pytest.mark.parametrize(
    "changes",
    [{"step": 0.25}, {"bits": 6}, {"dimension": 41}, {"members": 11}, {"levels": 2, "bits": 6}, {"helpers": BASE}],
    ids=str,
)
def test_other_terms_than_the_members_have_signed_are_refused(attack: Attack, changes: dict[str, object]) -> None:
    """FED-151: with other terms the same seeds give other masks, and their difference is no noise."""
    attack.refused(request(attack.held[:6], replace(TERMS, **changes)), SumReason.TERMS, *attack.held[:6])  # type: ignore[arg-type]


def test_a_member_under_other_terms_is_refused(attack: Attack) -> None:
    """FED-151."""
    other = attack.nodes[0].update(2, replace(TERMS, step=0.25), [attack.rig.public])
    attack.rig.hold(other)
    attack.refused(request([*attack.held[1:6], other], TERMS), SumReason.TERMS, other)


def test_two_digests_of_one_base_version_are_refused(attack: Attack) -> None:
    """FED-151: a model that only one node was given gives its update away in the sum."""
    other = attack.update(0, base=(3, Digest(b"B" * 16)))
    attack.rig.hold(other)
    members = [*attack.held[1:6], other]
    attack.refused(request(members, TERMS), SumReason.BASE_MISMATCH, *members)


def test_an_altered_ticket_is_refused(attack: Attack) -> None:
    """FED-153: every byte of it."""
    good = attack.update(0)
    for at in range(len(good.ticket)):
        changed = bytearray(good.ticket)
        changed[at] ^= 1
        attack.not_held(replace(good.sealed(), ticket=bytes(changed)), SumReason.BAD_TICKET)


def test_a_ticket_of_another_update_or_node_is_refused(attack: Attack) -> None:
    """FED-153."""
    good, other = attack.update(0), attack.update(1)
    attack.not_held(replace(good.sealed(), update=other.update), SumReason.BAD_TICKET)
    attack.not_held(replace(good.sealed(), run=RunId("f" * 16)), SumReason.BAD_TICKET)
    attack.not_held(replace(good.sealed(), ticket=other.ticket), SumReason.BAD_TICKET)
    attack.not_held(attack.update(0, signer=attack.nodes[1].key).sealed(), SumReason.BAD_TICKET)
    message = Writer(TOPICS, attack.nodes[0].key).encode(TOPICS.node_ticket(attack.nodes[0].name), good.sealed())
    attack.not_held(replace(good.sealed(), ticket=message[:512]), SumReason.BAD_TICKET)


def test_what_a_node_signs_elsewhere_is_no_ticket(attack: Attack) -> None:
    """FED-141: the signature is for the ticket's place."""
    good = attack.update(0)
    ticket = decode_message(good.ticket)
    assert isinstance(ticket, Ticket)
    elsewhere = Writer(TOPICS, attack.nodes[0].key).encode(TOPICS.node_event(attack.nodes[0].name), ticket)
    attack.not_held(replace(good.sealed(), ticket=elsewhere), SumReason.BAD_TICKET)


def test_swapped_boxes_are_refused(attack: Attack) -> None:
    """FED-153: of another update, of another helper, cut, or changed."""
    good, other = attack.update(0), attack.update(1)
    attack.not_held(replace(good.sealed(), box=other.boxes[0]), SumReason.BAD_BOX)
    attack.not_held(replace(good.sealed(), box=good.boxes[0][:-1]), SumReason.BAD_BOX)
    attack.not_held(replace(good.sealed(), box=good.boxes[0][:-1] + bytes([good.boxes[0][-1] ^ 1])), SumReason.BAD_BOX)
    two = replace(TERMS, count=2, threshold=2)
    helpers = [KeyPair.make(Kem.X25519).public, attack.rig.public]
    mine = attack.nodes[0].update(2, two, helpers)
    attack.not_held(mine.sealed(0), SumReason.BAD_BOX)
    attack.rig.take()
    attack.rig.hear(mine.sealed(1))
    (word,) = attack.rig.take()
    assert word.status is HeldStatus.HELD  # type: ignore[union-attr]


def test_a_second_update_of_one_name_is_refused(attack: Attack) -> None:
    """FED-153: the first word stays, whether it was used meanwhile or not."""
    another = attack.nodes[0].update(1, replace(TERMS, step=0.25), [attack.rig.public])
    assert another.update == attack.held[0].update
    attack.not_held(another.sealed(), SumReason.OTHER_UPDATE)
    assert isinstance(attack.rig.ask(request(attack.held[:6], TERMS)), SumOffer)
    attack.not_held(another.sealed(), SumReason.OTHER_UPDATE)


def test_seeds_that_come_again_after_they_were_used_are_not_held_again(attack: Attack) -> None:
    """FED-152: they are known, and their member stays used."""
    assert isinstance(attack.rig.ask(request(attack.held[:6], TERMS)), SumOffer)
    before = attack.rig.dump()
    assert [word.status for word in attack.rig.hold(attack.held[0])] == [HeldStatus.HELD]
    assert attack.rig.dump() == before
    attack.refused(
        request([attack.held[0], *attack.held[6:], attack.held[1], attack.held[2]], TERMS),
        SumReason.USED,
        *attack.held[:3],
    )


def test_a_node_that_was_not_admitted_here_does_not_exist(attack: Attack) -> None:
    """FED-153: the coordinator could invent as many nodes as it likes."""
    invented = MaskingNode(NodeId("invented"))
    attack.not_held(attack.update(8).sealed(), SumReason.UNKNOWN_NODE)
    attack.not_held(invented.update(1, TERMS, [attack.rig.public]).sealed(), SumReason.UNKNOWN_NODE)


def test_a_node_that_was_struck_off_the_register_does_not_count_any_more(attack: Attack) -> None:
    """FED-151: what it has sent before included."""
    attack.rig.admit({node.name: [node.key.public_hex] for node in attack.nodes[1:8]})
    attack.refused(request(attack.held[:6], TERMS), SumReason.UNKNOWN_NODE, attack.held[0])


def test_an_update_that_is_not_held_here_is_named(attack: Attack) -> None:
    """FED-151: the coordinator can send its seeds again, and ask again."""
    missing = attack.update(8)
    attack.refused(request([*attack.held[:6], missing], TERMS), SumReason.UNKNOWN_UPDATE, missing)


def test_a_batch_under_another_name_is_refused(attack: Attack) -> None:
    """FED-150."""
    honest = request(attack.held[:6], TERMS)
    for other in (
        replace(honest, batch=Digest(b"x" * 16)),
        replace(honest, version=ModelVersion(5)),
        replace(honest, members=honest.members[16:]),
        replace(honest, run=RunId("f" * 16)),
    ):
        attack.refused(other, SumReason.BATCH_MISMATCH)


def test_a_list_of_more_members_than_the_terms_allow_is_refused(attack: Attack) -> None:
    """FED-151: the sum would leave the modulus; the message itself has no more than the limit (FED-145)."""
    small = replace(TERMS, members=6)
    held = [node.update(2, small, [attack.rig.public]) for node in attack.nodes[:8]]
    attack.rig.hold(*held)
    attack.refused(request(held, small), SumReason.TERMS)
    assert isinstance(attack.rig.ask(request(held[:6], small)), SumOffer)


def test_a_class_that_this_helper_does_not_know_is_refused(attack: Attack) -> None:
    """FED-149."""
    attack.refused(request(attack.held[:6], TERMS, asked=(1,)), SumReason.NOT_OURS)


def test_an_update_of_long_ago_is_refused(tmp_path: Path) -> None:
    """FED-153: used names of old versions are forgotten, so nothing of those versions is taken any more."""
    nodes = fleet(6)
    rig = HelperRig(tmp_path, nodes, rules=HelperRules(members_min=5, versions_back=10))
    held = [node.update(1, TERMS, [rig.public], base=(100, BASE)) for node in nodes]
    rig.hold(*held)
    assert isinstance(rig.ask(request(held[:5], TERMS, version=101)), SumOffer)
    rig.now += 10_000.0
    rig.step(None)
    old = [node.update(2, TERMS, [rig.public], base=(90, BASE)) for node in nodes]
    assert {word.reason for word in rig.hold(*old)} == {SumReason.TOO_OLD}
    rig.close()


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (HelperRules(members_min=5, parameters_max=39), SumReason.TOO_LARGE),
        (HelperRules(members_min=5, budget=Budget(epsilon=100.0, delta=1e-5)), SumReason.BUDGET),
    ],
)
def test_what_the_helpers_own_rules_forbid_is_refused(tmp_path: Path, rules: HelperRules, reason: SumReason) -> None:
    """FED-151: a model that is too large, and a sum without noise where the administrator has set a budget."""
    nodes = fleet(6)
    rig = HelperRig(tmp_path, nodes, rules=rules)
    held = [node.update(1, TERMS, [rig.public]) for node in nodes]
    rig.hold(*held)
    answer = rig.ask(request(held, TERMS))
    assert isinstance(answer, SumRefusal)
    assert answer.reason is reason
    rig.close()


def test_seeds_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    """FED-153."""
    nodes = fleet(3)
    rig = HelperRig(tmp_path, nodes, rules=HelperRules(members_min=5, held_max=2))
    held = [node.update(1, TERMS, [rig.public]) for node in nodes]
    assert [word.reason for word in rig.hold(*held)] == [SumReason.NONE, SumReason.NONE, SumReason.FULL]
    rig.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 3, "threshold": 2},
        {"scheme": 2},
        {"noise": 2.0, "unit": PrivacyUnit.EXAMPLES},
        {"noise": 2.0**-1022, "unit": PrivacyUnit.NODES},
        {"noise": 2.0, "unit": PrivacyUnit.NODES, "step": 2.0**-1022},
        {"noise": 2.0, "unit": PrivacyUnit.NODES, "clip": 1.7e308},
        {"noise": 2.0, "unit": PrivacyUnit.NODES, "bit_noise": 2.0**-1022},
    ],
    ids=str,
)
def test_terms_that_protect_nobody_are_refused_whoever_has_signed_them(
    attack: Attack, changes: dict[str, object]
) -> None:
    """FED-149, FED-151: two of three helpers is not safe with one bad helper; and no number ends the helper."""
    weak = replace(TERMS, **{"clip": 1.0, "tail": 0, "bits": 32, **changes})  # type: ignore[arg-type]
    attack.refused(request(attack.held[:6], weak), SumReason.TERMS)


def test_a_known_batch_with_other_members_is_refused(attack: Attack) -> None:
    """FED-150: if ever two sets had one digest."""
    asked = request(attack.held[:6], TERMS)
    other = AnsweredBatch(batch=asked.batch, members=b"others", classes=frozenset({0}))
    members = attack.rig.store.members(asked.tickets)
    registered = frozenset(node.name for node in attack.nodes)
    found = MembersFound(request=asked, members=members, registered=registered, batch=other)
    assert judge_request(found, attack.rig.rules) == Refusal(reason=SumReason.BATCH_MISMATCH)
    assert judge_request(replace(found, batch=None), attack.rig.rules) is None


@pytest.mark.parametrize("signer", [SigningKey.new(), None])
def test_who_is_not_the_coordinator_is_not_heard(attack: Attack, signer: SigningKey | None) -> None:
    """FED-76: a broker that was taken over, or a node, asks for a sum."""
    asked = request(attack.held[:6], TERMS)
    before = attack.rig.dump()
    attack.rig.take()
    attack.rig.hear(asked, signer=signer or attack.nodes[0].key)
    assert attack.rig.take() == []
    assert attack.rig.inbound.refused["BadSignature"] == 1
    assert attack.rig.dump() == before


def test_a_request_for_another_helper_is_not_ours(attack: Attack) -> None:
    """FED-140: the signature is bound to the topic."""
    asked, before = request(attack.held[:6], TERMS), attack.rig.dump()
    elsewhere = TOPICS.helper_command(HelperId("other"))
    payload = Writer(TOPICS, COORDINATOR).encode(elsewhere, asked)
    for topic in (elsewhere, TOPICS.helper_command(HELPER)):
        assert attack.rig.inbound.translate(MessageReceived(topic=topic, payload=payload)) is None
    assert attack.rig.dump() == before


def test_an_update_of_another_run_is_no_member(attack: Attack) -> None:
    """FED-151."""
    run = RunId("f" * 16)
    foreign = attack.nodes[0].update(2, TERMS, [attack.rig.public], run=run)
    attack.rig.hold(foreign)
    attack.refused(request([*attack.held[1:6], foreign], TERMS), SumReason.TERMS, foreign)


def test_ids_are_of_the_node_that_signed() -> None:
    assert update_id(RoundId(2), NodeId("press_01")) == UpdateId("2-press_01")

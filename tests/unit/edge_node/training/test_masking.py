"""A masked update: what leaves is random, what helpers can open adds up, and what was not applied comes back whole."""

import os
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.engine.assignment import Assignment, offer_of
from edge_node.engine.settings import NodeSettings
from edge_node.records import FinishedTraining
from edge_node.training.masking import Learnt, MaskedUpdate, Masking, mask_update, unmasked
from edge_node.training.update import added
from federation.errors import TaskError
from federation.privacy.boxes import Kem, KeyPair
from federation.privacy.seeds import SeedMask, open_seeds
from federation.privacy.tail import read_tail, tail_length
from federation.privacy.terms import largest_sum, shape_of, terms_digest
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import RoundAnnouncement
from federation.protocol.sum_messages import PrivacyTerms, Ticket
from federation.protocol.wire import decode_message, encode_message
from federation.types import Digest, Incarnation, NodeId, UpdateId
from tests.rigs.node_rig import announcement
from update_codec import Manifest, Vectors
from update_codec.masking import MaskedSum, read_masked

MANIFEST = Manifest.of({"w": np.zeros(500, np.float32)})
HELPERS = tuple(KeyPair.make(Kem.X25519) for _ in range(2))
TERMS = PrivacyTerms(
    scheme=1,
    helpers=Digest(b"h" * 16),
    count=2,
    threshold=2,
    dimension=500,
    tail=tail_length(0),
    step=0.01,
    levels=3,
    members=8,
    bits=6,
)
UPDATE = UpdateId("3-a")


def masking() -> Masking:
    return Masking(keys=[pair.public for pair in HELPERS], draw=os.urandom, sign=encode_message)


def asked(terms: PrivacyTerms = TERMS) -> RoundAnnouncement:
    return replace(announcement(3), codec="masked", privacy=terms)


def learnt(values: NDArray[np.float32], **changes: object) -> Learnt:
    delta = Vectors(values, np.zeros(0, np.float32), np.zeros(0, np.int64))
    return replace(Learnt(delta=delta, num_examples=40, loss=0.5), **changes)  # type: ignore[arg-type]


def make(values: NDArray[np.float32], update: UpdateId = UPDATE, **changes: object) -> MaskedUpdate:
    return mask_update(learnt(values, **changes), asked(), update, MANIFEST, masking())


def drawn(seed: int, scale: float = 0.02) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=scale, size=500).astype(np.float32)


def ticket_of(made: MaskedUpdate) -> Ticket:
    ticket = decode_message(made.offer.ticket)
    assert isinstance(ticket, Ticket)
    return ticket


def test_what_the_helpers_open_takes_the_masks_off_the_sum() -> None:
    run, shape = asked().run, shape_of(TERMS)
    total, residuals = MaskedSum(shape), np.zeros(500, np.float32)
    answers = [MaskedSum(shape) for _ in HELPERS]
    for number in range(5):
        name = UpdateId(f"3-n{number}")
        made = make(drawn(number), name)
        total.add(read_masked(made.frame, MANIFEST))
        assert made.change.left is not None
        residuals += made.change.left
        for answer, pair, box in zip(answers, HELPERS, made.offer.boxes, strict=True):
            (seed,) = open_seeds([pair], ticket_of(made), box).seeds
            answer.add_mask(SeedMask(seed, run, name))
    for answer in answers:
        total.take_away(answer.to_bytes())
    integers, tail = total.lift(limit=largest_sum(TERMS))
    learnt_in_all = np.sum([drawn(number) for number in range(5)], axis=0)
    np.testing.assert_allclose(integers * TERMS.step + residuals, learnt_in_all, atol=1e-5)
    sums = read_tail(tail, TERMS, members=5)
    assert (sums.weight, sums.within) == (5.0, 5)
    assert sums.loss == pytest.approx(0.5)
    lengths = [float(np.linalg.norm(drawn(number))) for number in range(5)]
    assert sums.length == pytest.approx(np.exp(np.mean(np.log(lengths))), rel=1e-3)


def test_the_ticket_names_the_very_bytes_that_leave() -> None:
    made = make(drawn(1))
    ticket, asking = ticket_of(made), asked()
    assert ticket.payload_digest == payload_digest(made.frame)
    assert ticket.boxes == tuple(map(payload_digest, made.offer.boxes))
    assert (ticket.run, ticket.update, ticket.terms) == (asking.run, UPDATE, terms_digest(TERMS))
    assert (ticket.base_version, ticket.base_digest) == (asking.model.version, asking.model.digest)


def test_the_same_update_masked_twice_is_other_bytes() -> None:
    """Seeds are fresh, and what leaves looks random: zeros as well."""
    first, second = make(np.zeros(500, np.float32)), make(np.zeros(500, np.float32))
    assert first.frame != second.frame
    assert first.offer.seeds != second.offer.seeds
    lanes = read_masked(first.frame, MANIFEST).lanes()
    # One of the 64 is missing in one run of forty, five of them never are.
    assert len(np.unique(lanes)) >= 60, "all residues occur"


def test_whatever_is_not_applied_comes_back_whole() -> None:
    before = drawn(9, 0.005)
    made = make(drawn(2), residual=before)
    owner = (asked().run, UPDATE)
    returned = unmasked(made.frame, MANIFEST, made.offer.seeds, owner)
    assert set(np.round(returned / np.float32(TERMS.step)).astype(int)) <= set(range(-3, 4))
    restored = added(made.change.left, returned)
    assert restored is not None
    np.testing.assert_allclose(restored, drawn(2) + before, atol=1e-6)


def test_the_clip_comes_after_the_residual() -> None:
    terms = replace(TERMS, levels=127, bits=11, clip=0.3)
    residual = drawn(4)
    made = mask_update(learnt(drawn(3), residual=residual), asked(terms), UPDATE, MANIFEST, masking())
    said = unmasked(made.frame, MANIFEST, made.offer.seeds, (asked().run, UPDATE))
    assert np.linalg.norm(drawn(3) + residual) > 0.5
    assert np.linalg.norm(said) <= 0.3 + terms.step * np.sqrt(500) / 2


def test_an_update_weighs_by_its_examples_before_it_is_rounded() -> None:
    terms = replace(TERMS, levels=127, bits=11, step=1e-4, importance_cap=100)
    made = mask_update(learnt(drawn(3, 1e-3)), asked(terms), UPDATE, MANIFEST, masking())
    said = unmasked(made.frame, MANIFEST, made.offer.seeds, (asked().run, UPDATE))
    np.testing.assert_allclose(said, drawn(3, 1e-3) * 0.4, atol=1e-4)


def test_an_offer_of_a_masked_update_says_no_number_of_its_node() -> None:
    """FED-159."""
    made = make(drawn(1))
    result = FinishedTraining(
        round=asked().round,
        frame=made.frame,
        num_examples=4_321,
        metrics={"loss": 0.25, "accuracy": 0.5},
        train_s=12.5,
        masked=made.offer,
    )
    job = Assignment(announcement=asked(), model=asked().model, due_at=0.0, lease_at=60.0)
    offer = offer_of(job, result, NodeSettings(node=NodeId("a"), task="toy"), Incarnation(1))
    assert (offer.num_examples, offer.metrics, offer.train_s) == (1, {}, 0.0)
    assert (offer.ticket, offer.boxes) == (made.offer.ticket, made.offer.boxes)
    assert made.offer.seeds not in encode_message(offer)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_the_tasks_error(bad: float) -> None:
    with pytest.raises(TaskError, match="not finite"):
        make(np.full(500, bad, np.float32))


def test_terms_for_another_model_are_not_obeyed() -> None:
    for terms in (replace(TERMS, dimension=501), replace(TERMS, tail=9)):
        with pytest.raises(TaskError, match="not for this model"):
            mask_update(learnt(drawn(1)), asked(terms), UPDATE, MANIFEST, masking())

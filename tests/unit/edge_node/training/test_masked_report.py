"""A node's masked evaluation report: what leaves is random, opens for its helpers only, and never the same twice."""

import os
from dataclasses import replace

from edge_node.engine.events import EvaluationFinished
from edge_node.training.evaluation import EvaluationJob, HiddenMetrics
from edge_node.training.masked_report import hide, told
from edge_node.training.masking import Masking
from edge_node.training.worker import TrainingSetup
from federation.privacy.boxes import Kem, KeyPair
from federation.privacy.classes import classes_of
from federation.privacy.metrics import metric_terms, objection, read_sums
from federation.privacy.seeds import SeedMask, open_seeds
from federation.privacy.terms import read_ticket, shape_of
from federation.protocol.messages import EvaluationReport
from federation.protocol.sum_messages import PrivacyTerms, Ticket
from federation.protocol.wire import encode_message
from federation.types import Digest, ModelVersion, NodeId, RunId
from tests.rigs.node_doubles import MANIFEST, ToyTask, vectors
from update_codec.masking import MaskedSum

RUN, NODE, NAMES = RunId("0123456789abcdef"), NodeId("press-7"), ("accuracy", "loss")
TERMS = metric_terms(
    PrivacyTerms(
        scheme=1,
        helpers=Digest(b"h" * 16),
        count=4,
        threshold=3,
        dimension=6,
        tail=5,
        step=0.5,
        levels=1,
        members=8,
        bits=5,
    ),
    len(NAMES),
)
KEYS = [KeyPair.make(Kem.X25519, os.urandom) for _ in range(TERMS.count)]
REPORT = EvaluationReport(
    run=RUN,
    version=ModelVersion(3),
    digest=Digest(b"d" * 16),
    num_examples=40,
    metrics={"accuracy": 0.75, "loss": 0.5, "of this node alone": 7.0},
    evaluate_s=3.5,
)


def sign(ticket: Ticket) -> bytes:
    return encode_message(ticket, sign=lambda _: bytes(64))


def how(keys: object = None) -> HiddenMetrics:
    masking = Masking(keys=[key.public for key in KEYS], draw=os.urandom, sign=sign) if keys is None else keys
    return HiddenMetrics(TERMS, NAMES, masking)  # type: ignore[arg-type]


def test_nothing_of_the_numbers_is_left_in_clear() -> None:
    """FED-196."""
    hidden = hide(REPORT, NODE, how())
    assert (hidden.num_examples, hidden.metrics, hidden.evaluate_s, hidden.reason) == (0, {}, 0.0, "")
    assert (hidden.run, hidden.version, hidden.digest) == (REPORT.run, REPORT.version, REPORT.digest)
    assert objection(hidden, NODE, TERMS, NAMES) == ""
    failed = hide(replace(REPORT, num_examples=0, metrics={}, reason="row 7 is NaN"), NODE, how())
    assert (failed.reason, failed.masked is None) == ("", False), "whether it could measure is not seen"
    assert len(encode_message(failed)) == len(encode_message(hidden))


def test_each_report_has_a_name_and_masks_of_its_own() -> None:
    """FED-71: a node that starts again evaluates again."""
    one, two = (hide(REPORT, NODE, how()).masked for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.update != two.update
    assert one.payload != two.payload
    assert int(one.update.partition("-")[0]) >= 1 << 31


def test_helpers_open_their_boxes_and_the_masks_come_off() -> None:
    """FED-196: as a helper does with any update."""
    hidden = hide(REPORT, NODE, how()).masked
    assert hidden is not None
    ticket = read_ticket(hidden.ticket)
    assert ticket is not None
    seeds: dict[int, bytes] = {}
    for place, key in enumerate(KEYS):
        held = open_seeds([key], ticket, hidden.boxes[place])
        assert set(held.by_class()) == set(classes_of(place, TERMS.count, TERMS.threshold))
        seeds |= held.by_class()
    masks = []
    for number in sorted(seeds):
        total = MaskedSum(shape_of(TERMS))
        total.add_mask(SeedMask(seeds[number], RUN, hidden.update))
        masks.append(total.to_bytes())
    measured = read_sums([hidden.payload], masks, TERMS, NAMES)
    assert (measured.nodes, measured.num_examples) == (1, 40)
    assert measured.metrics == {"accuracy": 0.75, "loss": 0.5}, "and nothing that was not announced"


def test_a_node_that_has_heard_no_helper_says_so() -> None:
    """FED-156."""
    refused = hide(REPORT, NODE, how("helpers: alder has said no key"))
    assert (refused.masked, refused.num_examples, refused.metrics) == (None, 0, {})
    assert refused.reason == "helpers: alder has said no key"
    bad = replace(KEYS[0].public, raw=b"short")
    broken = Masking(keys=[bad] * TERMS.count, draw=os.urandom, sign=sign)
    assert hide(REPORT, NODE, how(broken)).reason.startswith("helpers: ")


def test_the_worker_hides_what_leaves_and_only_that() -> None:
    setup = TrainingSetup(node=NODE, task=ToyTask(), manifest=MANIFEST)
    job = EvaluationJob(run=RUN, version=REPORT.version, digest=REPORT.digest, model=vectors(1.0))
    event = EvaluationFinished(report=REPORT)
    assert told(setup.node, job, event) is event
    left = told(setup.node, replace(job, hidden=how()), event).report
    assert left.masked is not None
    assert left.metrics == {}

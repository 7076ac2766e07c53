"""The bytes of one example of every message, fixed: a change of any of them is a change of the protocol (FED-13).

Run this file as a script to write the examples of new messages; it never changes a file that exists.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from federation.protocol.messages import (
    Activity,
    Cancel,
    Cohort,
    CoordinatorState,
    Decline,
    EvaluationReceipt,
    EvaluationReport,
    Grant,
    Message,
    ModelPart,
    ModelRef,
    NodeState,
    PartKind,
    Presence,
    Progress,
    Proof,
    Reason,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RetryAfter,
    RoundAnnouncement,
    TrainSettings,
    UpdateOffer,
)
from federation.protocol.schema import SCHEMAS
from federation.protocol.sealed_messages import KeyWrap, PartsSeal, Sealed, SealingKey
from federation.protocol.site_messages import SiteNode, SiteReport
from federation.protocol.sum_messages import (
    Held,
    HeldStatus,
    HelperState,
    MaskedEvaluation,
    MaskedReport,
    PrivacyTerms,
    PrivacyUnit,
    SealedSeeds,
    SumOffer,
    SumReason,
    SumRefusal,
    SumRequest,
    Ticket,
)
from federation.protocol.task_messages import TaskReport, TaskState
from federation.protocol.wire import decode_message, encode_message
from federation.types import (
    Digest,
    Epoch,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    SeenRun,
    Start,
    StateId,
    UpdateId,
)

FOLDER = Path(__file__).parent / "messages"
RUN = RunId("0123456789abcdef")
UPDATE = UpdateId("9-press_01")

TERMS = PrivacyTerms(
    scheme=1,
    helpers=Digest(b"h" * 16),
    count=2,
    threshold=2,
    dimension=101_770,
    tail=3,
    step=0.0625,
    levels=1,
    members=10,
    bits=5,
)

EXAMPLES: dict[str, Message] = {
    "coordinator_state": CoordinatorState(
        presence=Presence.ONLINE, run=RUN, epoch=Epoch(3), protocol_min=1, protocol_max=1
    ),
    "round_announcement": RoundAnnouncement(
        run=RUN,
        epoch=Epoch(3),
        round=RoundId(9),
        task="digits",
        model=ModelRef(
            version=ModelVersion(300),
            digest=Digest(bytes(range(16))),
            manifest_digest=Digest(bytes(range(16, 32))),
            seed=None,
            parts=(
                ModelPart(
                    kind=PartKind.KEYFRAME,
                    version=ModelVersion(299),
                    payload_bytes=17_000_000,
                    payload_digest=Digest(b"k" * 16),
                    chunk_bytes=61_440,
                ),
                ModelPart(
                    kind=PartKind.DELTA,
                    version=ModelVersion(300),
                    payload_bytes=9_000,
                    payload_digest=Digest(b"d" * 16),
                    chunk_bytes=61_440,
                ),
            ),
        ),
        cohort=Cohort(fingerprints=bytes.fromhex("0102030410203040")),
        settings=TrainSettings(
            local_epochs=2,
            batch_size=64,
            learning_rate=0.125,
            momentum=0.5,
            weight_decay=0.25,
            max_steps=1000,
            proximal_mu=0.75,
            seed=2**63,
            extra={"temperature": 2.0, "alpha": -1.5},
        ),
        codec="edge",
        min_base_version=ModelVersion(296),
        lease_s=120.0,
        spread_s=0.5,
    ),
    "final_announcement": RoundAnnouncement(
        run=RUN,
        epoch=Epoch(4),
        round=RoundId(10),
        task="digits",
        model=ModelRef(
            version=ModelVersion(0),
            digest=Digest(bytes(16)),
            manifest_digest=Digest(bytes(16)),
            seed=7,
            parts=(),
        ),
        cohort=Cohort(share=0),
        settings=TrainSettings(),
        codec="lossless",
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
        final=True,
    ),
    "node_state": NodeState(
        presence=Presence.ONLINE,
        incarnation=Incarnation(5),
        protocol_min=1,
        protocol_max=1,
        task="digits",
        device="cpu, 4 threads",
        codecs=("edge", "balanced"),
        activity=Activity.TRAINING,
        round=RoundId(9),
    ),
    "node_will": NodeState(presence=Presence.LOST, incarnation=Incarnation(5), protocol_min=1, protocol_max=1),
    "update_offer": UpdateOffer(
        run=RUN,
        round=RoundId(9),
        update=UPDATE,
        incarnation=Incarnation(5),
        base_version=ModelVersion(300),
        base_digest=Digest(bytes(range(16))),
        num_examples=1234,
        metrics={"loss": 0.5, "accuracy": 0.875},
        codec="edge",
        payload_bytes=1_000_000,
        payload_digest=Digest(b"u" * 16),
        chunk_bytes=61_440,
        fetched_bytes=9_000,
        train_s=1.5,
    ),
    "inline_offer": UpdateOffer(
        run=RUN,
        round=RoundId(9),
        update=UPDATE,
        incarnation=Incarnation(5),
        base_version=ModelVersion(300),
        base_digest=Digest(bytes(range(16))),
        num_examples=1,
        metrics={},
        codec="edge",
        payload_bytes=5,
        payload_digest=Digest(b"u" * 16),
        chunk_bytes=61_440,
        inline=b"frame",
    ),
    "starved_decline": Decline(
        run=RUN, round=RoundId(9), reason="model chunks do not come", retry_after_s=30.0, missing=True
    ),
    "decline": Decline(run=RUN, round=RoundId(9), reason="the battery is low", retry_after_s=600.0),
    "grant": Grant(update=UPDATE, bitmap=bytes.fromhex("ff0300"), window=32),
    "applied_receipt": Receipt(run=RUN, update=UPDATE, status=ReceiptStatus.APPLIED, version=ModelVersion(301)),
    "stale_receipt": Receipt(run=RUN, update=UPDATE, status=ReceiptStatus.STALE, reason=Reason.TOO_STALE),
    "cancel": Cancel(run=RUN, round=RoundId(9)),
    "retry_after": RetryAfter(update=UPDATE, seconds=30.0),
    "rebirth": Rebirth(),
    "evaluating_announcement": RoundAnnouncement(
        run=RUN,
        epoch=Epoch(4),
        round=RoundId(11),
        task="digits",
        model=ModelRef(
            version=ModelVersion(2), digest=Digest(bytes(16)), manifest_digest=Digest(bytes(16)), seed=7, parts=()
        ),
        cohort=Cohort(share=0),
        settings=TrainSettings(),
        codec="lossless",
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
        evaluation=2**63,
    ),
    "capable_state": NodeState(
        presence=Presence.ONLINE,
        incarnation=Incarnation(5),
        protocol_min=1,
        protocol_max=1,
        capabilities={"memory_bytes": 2.0**31, "mains": 1.0},
    ),
    "started_state": CoordinatorState(
        presence=Presence.ONLINE, run=RUN, epoch=Epoch(3), protocol_min=1, protocol_max=1, start=Start(2**63 + 1)
    ),
    "large_fleet_state": CoordinatorState(
        presence=Presence.ONLINE, run=RUN, epoch=Epoch(3), protocol_min=1, protocol_max=1, births_s=80.0
    ),
    "paced_state": CoordinatorState(
        presence=Presence.ONLINE, run=RUN, epoch=Epoch(3), protocol_min=1, protocol_max=1, pace_s=3600.0
    ),
    "away_state": NodeState(
        presence=Presence.OFFLINE, incarnation=Incarnation(5), protocol_min=1, protocol_max=1, away_s=1800.5
    ),
    "described_state": CoordinatorState(
        presence=Presence.ONLINE,
        run=RUN,
        epoch=Epoch(3),
        protocol_min=1,
        protocol_max=1,
        inputs='{"classes":["ok","worn"],"features":["heat","vibration"],"shape":[2],"target":"state (class)"}',
    ),
    "described_announcement": RoundAnnouncement(
        run=RUN,
        epoch=Epoch(4),
        round=RoundId(12),
        task="press.py:build",
        model=ModelRef(
            version=ModelVersion(2),
            digest=Digest(bytes(16)),
            manifest_digest=Digest(bytes(16)),
            seed=7,
            parts=(),
            inputs_digest=Digest(bytes(range(16))),
        ),
        cohort=Cohort(share=0),
        settings=TrainSettings(),
        codec="lossless",
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
    ),
    "started_announcement": RoundAnnouncement(
        run=RUN,
        epoch=Epoch(4),
        round=RoundId(12),
        task="digits",
        model=ModelRef(
            version=ModelVersion(2), digest=Digest(bytes(16)), manifest_digest=Digest(bytes(16)), seed=7, parts=()
        ),
        cohort=Cohort(share=0),
        settings=TrainSettings(),
        codec="lossless",
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
        start_low=1,
    ),
    "known_state": NodeState(
        presence=Presence.ONLINE,
        incarnation=Incarnation(1),
        protocol_min=1,
        protocol_max=1,
        state_id=StateId(2**64 - 1),
        seen=SeenRun(run=RUN, epoch=Epoch(9), start=Start(2**63 + 1), round=RoundId(500), version=ModelVersion(300)),
    ),
    "invitable_state": NodeState(
        presence=Presence.ONLINE, incarnation=Incarnation(5), protocol_min=1, protocol_max=1, invitable=True
    ),
    "released_state": NodeState(
        presence=Presence.ONLINE, incarnation=Incarnation(5), protocol_min=1, protocol_max=1, release="0.3.0"
    ),
    "state_before_any_round": NodeState(
        presence=Presence.LOST,
        incarnation=Incarnation(1),
        protocol_min=1,
        protocol_max=1,
        state_id=StateId(1),
        seen=SeenRun(run=RUN, epoch=Epoch(1)),
    ),
    "rebirth_with_proof": Rebirth(proof=True),
    "rebirth_of_a_sealed_run": Rebirth(proof=True, seal=SealingKey(kem=0x0020, key=bytes(range(32)))),
    "proof": Proof(state=b"what srv said", announcement=b"what round said"),
    "proof_of_a_version": Proof(receipt=b"what cmd said"),
    "proof_of_a_state": Proof(state=b"what srv said"),
    "evaluation_report": EvaluationReport(
        run=RUN,
        version=ModelVersion(300),
        digest=Digest(bytes(range(16))),
        num_examples=120,
        metrics={"accuracy": 0.875, "loss": 0.5},
        evaluate_s=0.25,
    ),
    "evaluation_refusal": EvaluationReport(
        run=RUN, version=ModelVersion(300), digest=Digest(bytes(16)), num_examples=0, reason="no test data"
    ),
    "masked_report": EvaluationReport(
        run=RUN,
        version=ModelVersion(300),
        digest=Digest(bytes(range(16))),
        num_examples=0,
        masked=MaskedReport(
            update=UpdateId("2147483657-press_01"),
            metrics=Digest(b"m" * 16),
            payload=bytes(range(40)),
            ticket=b"a signed ticket",
            boxes=(b"box of the first helper", b"box of the second one"),
        ),
    ),
    "masked_evaluation": RoundAnnouncement(
        run=RUN,
        epoch=Epoch(4),
        round=RoundId(14),
        task="digits",
        model=ModelRef(
            version=ModelVersion(2), digest=Digest(bytes(16)), manifest_digest=Digest(bytes(16)), seed=7, parts=()
        ),
        cohort=Cohort(share=0),
        settings=TrainSettings(),
        codec="masked",
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
        privacy=TERMS,
        masked_evaluation=MaskedEvaluation(share=2**63, metrics=("accuracy", "loss")),
    ),
    "evaluation_receipt": EvaluationReceipt(run=RUN, version=ModelVersion(300), status=ReceiptStatus.APPLIED),
    "masked_announcement": RoundAnnouncement(
        run=RUN,
        epoch=Epoch(4),
        round=RoundId(13),
        task="digits",
        model=ModelRef(
            version=ModelVersion(2), digest=Digest(bytes(16)), manifest_digest=Digest(bytes(16)), seed=7, parts=()
        ),
        cohort=Cohort(share=0),
        settings=TrainSettings(),
        codec="masked",
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
        privacy=TERMS,
    ),
    "masked_offer": UpdateOffer(
        run=RUN,
        round=RoundId(9),
        update=UPDATE,
        incarnation=Incarnation(5),
        base_version=ModelVersion(300),
        base_digest=Digest(bytes(range(16))),
        num_examples=1,
        metrics={},
        codec="masked",
        payload_bytes=5,
        payload_digest=Digest(b"u" * 16),
        chunk_bytes=61_440,
        inline=b"frame",
        ticket=b"a ticket",
        boxes=(b"the first helper's box", b"the second's"),
    ),
    "helper_state": HelperState(
        presence=Presence.ONLINE,
        incarnation=Incarnation(2),
        state_id=StateId(2**64 - 1),
        protocol_min=1,
        protocol_max=1,
        kem=0x0020,
        key=bytes(range(32)),
        members_min=8,
    ),
    "ticket": Ticket(
        run=RUN,
        update=UPDATE,
        base_version=ModelVersion(300),
        base_digest=Digest(bytes(range(16))),
        terms=Digest(b"t" * 16),
        payload_digest=Digest(b"u" * 16),
        boxes=(Digest(b"1" * 16), Digest(b"2" * 16)),
    ),
    "sealed_seeds": SealedSeeds(run=RUN, update=UPDATE, ticket=b"a ticket", box=b"a box"),
    "held": Held(run=RUN, update=UPDATE, ticket=Digest(b"t" * 16), status=HeldStatus.HELD),
    "not_held": Held(
        run=RUN,
        update=UPDATE,
        ticket=Digest(b"t" * 16),
        status=HeldStatus.REFUSED,
        reason=SumReason.UNKNOWN_NODE,
    ),
    "sum_request": SumRequest(
        run=RUN,
        version=ModelVersion(301),
        batch=Digest(b"b" * 16),
        terms=replace(
            TERMS,
            bits=13,
            clip=1.5,
            importance_cap=600,
            noise=4.0,
            unit=PrivacyUnit.NODES,
        ),
        members=b"m" * 16 + b"n" * 16,
        classes=(0, 2),
    ),
    "sum_offer": SumOffer(
        run=RUN,
        batch=Digest(b"b" * 16),
        part=2,
        payload_bytes=1_000_000,
        payload_digest=Digest(b"s" * 16),
        chunk_bytes=61_440,
    ),
    "inline_sum": SumOffer(
        run=RUN,
        batch=Digest(b"b" * 16),
        part=0,
        payload_bytes=3,
        payload_digest=Digest(b"s" * 16),
        chunk_bytes=61_440,
        inline=b"sum",
    ),
    "sealed_state": CoordinatorState(
        presence=Presence.ONLINE,
        run=RUN,
        epoch=Epoch(3),
        protocol_min=1,
        protocol_max=1,
        seal=SealingKey(kem=0x0020, key=bytes(range(32))),
    ),
    "sealing_node": NodeState(
        presence=Presence.ONLINE,
        incarnation=Incarnation(2),
        protocol_min=1,
        protocol_max=1,
        seal=SealingKey(kem=0x647A, key=bytes(range(256)) * 4 + bytes(192)),
    ),
    "sealed_announcement": RoundAnnouncement(
        run=RUN,
        epoch=Epoch(3),
        round=RoundId(9),
        task="digits",
        model=ModelRef(
            version=ModelVersion(1),
            digest=Digest(bytes(range(16))),
            manifest_digest=Digest(bytes(range(16, 32))),
            seed=7,
            parts=(),
        ),
        cohort=Cohort(share=2**64 - 1),
        settings=TrainSettings(),
        codec="edge",
        min_base_version=ModelVersion(0),
        lease_s=120.0,
        spread_s=0.0,
        seal=PartsSeal(key_epoch=4, delta=b"a sealed delta, and its tag"),
    ),
    "chunked_offer": UpdateOffer(
        run=RUN,
        round=RoundId(9),
        update=UPDATE,
        incarnation=Incarnation(2),
        base_version=ModelVersion(300),
        base_digest=Digest(bytes(range(16))),
        num_examples=600,
        metrics={"loss": 0.25},
        codec="edge",
        payload_bytes=70_000,
        payload_digest=Digest(b"u" * 16),
        chunk_bytes=61_440,
        content_key=bytes(range(32)),
    ),
    "sealed": Sealed(key_id=b"8 bytes.", box=b"an encapsulated key, then the ciphertext"),
    "key_wrap": KeyWrap(run=RUN, key_epoch=4, key_id=b"8 bytes.", box=b"w" * 80),
    "sum_refusal": SumRefusal(run=RUN, batch=Digest(b"b" * 16), reason=SumReason.UNKNOWN_UPDATE, members=b"m" * 16),
    "task_report": TaskReport(number=3, step=1, state=TaskState.FAILED, running=2, reason="ValueError: no rows"),
    "site_evaluation": EvaluationReport(
        run=RUN,
        version=ModelVersion(8),
        digest=Digest(bytes(range(16))),
        num_examples=1234,
        metrics={"accuracy": 0.75, "loss": 0.5},
        evaluate_s=2.5,
        nodes=20,
    ),
    "site_progress": Progress(
        round=RoundId(9),
        activity=Activity.TRAINING,
        site=SiteReport(
            waits="assignments",
            waits_s=12.5,
            nodes=20,
            online=18,
            training=5,
            updates=13,
            sums=1,
            failing=1,
            version=ModelVersion(8),
            round=RoundId(9),
            some=(
                SiteNode(node=NodeId("press-3"), reason="no disk", heard_s=0.5),
                SiteNode(node=NodeId("press-7"), heard_s=7200.0),
                SiteNode(node=NodeId("press-9")),
            ),
        ),
    ),
    "progress": Progress(round=RoundId(9), activity=Activity.UPLOADING, fraction=0.25, metrics={"loss": 0.5}),
}


def _golden(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text(encoding="ascii"))


def test_every_message_has_an_example_and_every_file_is_one() -> None:
    assert {type(message) for message in EXAMPLES.values()} == {schema.record.make for schema in SCHEMAS}
    assert {path.stem for path in FOLDER.iterdir()} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_is_written_with_the_same_bytes_as_ever(name: str) -> None:
    """FED-13."""
    assert encode_message(EXAMPLES[name]).hex() == _golden(name).hex()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_of_old_is_read_as_ever(name: str) -> None:
    """FED-13, FED-14."""
    assert decode_message(_golden(name)) == EXAMPLES[name]


def _write_missing() -> None:
    for name, message in EXAMPLES.items():
        path = FOLDER / f"{name}.hex"
        if not path.exists():
            digits = encode_message(message).hex()
            text = "\n".join(digits[at : at + 96] for at in range(0, len(digits), 96))
            path.write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    _write_missing()

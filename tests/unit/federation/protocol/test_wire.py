"""A message has one spelling, and every other is refused (FED-13 to FED-17)."""

import struct
from dataclasses import fields, replace
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import IncompatibleVersion, LocalProtocolError, MalformedMessage
from federation.protocol.cohort import COHORT_NODES_MAX, cohort_of
from federation.protocol.fields import Blob, Choice, Flag, Kind, Numbers, Real, Record, Sequence, Text, Whole, Word
from federation.protocol.limits import (
    BANDWIDTH_MAX,
    BOX_BYTES_MAX,
    CHUNK_BYTES,
    CHUNKS_MAX,
    CLAIM_BYTES,
    CLASSES_MAX,
    COHORT_NODES_DESCRIBED_MAX,
    COHORT_NODES_MASKED_MAX,
    COHORT_NODES_PRIVATE_MAX,
    DIMENSION_MAX,
    EVALUATION_METRICS_MAX,
    EVALUATION_NODES,
    EXAMPLES_MAX,
    HELPERS_MAX,
    INT32_MAX,
    INT64_MAX,
    KEY_BYTES_MAX,
    MASK_BITS_MAX,
    MASKED_INLINE_BYTES_MAX,
    MASKED_REPORT_BYTES_MAX,
    MEMBERS_MAX,
    PARTS_MAX,
    PAYLOAD_BYTES_MAX,
    REFUSED_MEMBERS_MAX,
    RELEASES_MAX,
    SEAL_NODES,
    TAIL_MAX,
    TICKET_BYTES_MAX,
)
from federation.protocol.messages import (
    Activity,
    Cohort,
    CoordinatorState,
    Decline,
    EvaluationReport,
    Grant,
    Message,
    ModelPart,
    ModelRef,
    NodeState,
    PartKind,
    Presence,
    Progress,
    Reason,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RoundAnnouncement,
    TrainSettings,
    UpdateOffer,
)
from federation.protocol.schema import SCHEMAS
from federation.protocol.sealed_messages import PartsSeal
from federation.protocol.sum_messages import (
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
from federation.protocol.tables import MessageSchema
from federation.protocol.wire import (
    ANNOUNCEMENT_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    PROTOCOL_MIN,
    PROTOCOL_VERSION,
    decode_message,
    encode_message,
)
from federation.types import (
    Digest,
    Epoch,
    ExamplePrivacy,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    StateId,
    UpdateId,
)

RUN = RunId("0123456789abcdef")
DIGEST = Digest(b"\xff" * 16)
STATE = CoordinatorState(presence=Presence.ONLINE, run=RUN, epoch=Epoch(3), protocol_min=1, protocol_max=1)
WORST_TERMS = PrivacyTerms(
    scheme=255,
    helpers=DIGEST,
    count=HELPERS_MAX,
    threshold=HELPERS_MAX,
    dimension=DIMENSION_MAX,
    tail=TAIL_MAX,
    step=0.1,
    levels=2**19,
    members=MEMBERS_MAX,
    bits=MASK_BITS_MAX,
    clip=0.1,
    importance_cap=INT32_MAX,
    noise=0.1,
    unit=PrivacyUnit.EXAMPLES,
    bit_noise=0.1,
    bandwidth=BANDWIDTH_MAX,
    releases=RELEASES_MAX,
    separation=RELEASES_MAX,
    participations=RELEASES_MAX,
)
WORST_PRIVACY = ExamplePrivacy(clip=0.1, noise=1.1, sampling_rate=0.1, epsilon=0.1, delta=1e-5)
PRINTABLE = st.characters(exclude_categories=["C", "Z"])


def strategy_of(kind: Kind) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one branch per kind
    """Any value of a kind of field."""
    match kind:
        case Whole(most=most, least=least):
            return st.integers(least, most)
        case Real(most=most, least=least):
            return st.floats(least, most, allow_nan=False, allow_infinity=False)
        case Flag():
            return st.booleans()
        case Text(most=most, least=least):
            return st.text(PRINTABLE, min_size=least, max_size=most // 4)
        case Word(pattern=pattern):
            return st.from_regex(pattern, fullmatch=True)
        case Blob(most=most, least=least):
            return st.binary(min_size=least, max_size=max(least, min(most, 40)))
        case Choice(codes=codes):
            return st.sampled_from(list(codes))
        case Sequence(kind=item, most=most):
            return st.lists(strategy_of(item), max_size=min(most, 3)).map(tuple)
        case Numbers(most=most):
            names = st.text(PRINTABLE, min_size=1, max_size=8)
            return st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=most)
        case Record():
            return record_strategy(kind)
    raise AssertionError(kind)


def record_strategy(record: Record) -> st.SearchStrategy[Any]:
    """Any value of a record whose fields fit together."""
    if record.make is Cohort:
        names = st.sets(st.from_regex(r"[a-z]{1,4}", fullmatch=True), max_size=20)
        listed = names.map(lambda nodes: cohort_of(RUN, RoundId(1), [NodeId(node) for node in nodes]))
        return listed | st.integers(0, INT64_MAX).map(lambda share: Cohort(share=share))
    values = {
        field.name: strategy_of(field.kind) | st.none() if field.optional else strategy_of(field.kind)
        for field in record.fields
    }
    return st.fixed_dictionaries(values).map(_made_to_fit).map(lambda values: record.make(**values))


def _with_evaluation_to_fit(values: dict[str, Any]) -> dict[str, Any]:
    if values.get("masked") is not None:
        values |= {"num_examples": 0, "metrics": {}, "reason": ""}
    if values.get("masked_evaluation") is not None:
        values["evaluation"] = None
        if values["privacy"] is None:
            values["masked_evaluation"] = None
    if "share" in values and "metrics" in values:
        values["metrics"] = tuple(dict.fromkeys((*values["metrics"], "loss")))[:EVALUATION_METRICS_MAX]
    return values


def _with_whole_claims(values: dict[str, Any]) -> dict[str, Any]:
    claims = {name: values[name] for name in ("members", "counted") if isinstance(values.get(name), bytes)}
    return values | {name: found[: len(found) // CLAIM_BYTES * CLAIM_BYTES] for name, found in claims.items()}


def _made_to_fit(values: dict[str, Any]) -> dict[str, Any]:
    values = _with_whole_claims(_with_evaluation_to_fit(values))
    if "chunk_bytes" in values:
        values["payload_bytes"] = min(values["payload_bytes"], values["chunk_bytes"] * CHUNKS_MAX)
    if values.get("inline") is not None:
        values["inline"] = values["inline"] or b"x"
        values["payload_bytes"], values["chunk_bytes"] = len(values["inline"]), CHUNK_BYTES
    if values.get("delta") is not None and "parts" in values:
        part = ModelPart(
            kind=PartKind.DELTA,
            version=values["version"],
            payload_bytes=len(values["delta"]),
            payload_digest=DIGEST,
            chunk_bytes=CHUNK_BYTES,
        )
        values["parts"] = (part, *(part for part in values["parts"] if part.version != values["version"]))
    if "threshold" in values:
        values["threshold"] = min(values["threshold"], values["count"])
        values["bits"] = max(values["bits"], (2 * values["members"] * values["levels"]).bit_length())
        if values["bits"] > MASK_BITS_MAX:
            values["levels"], values["bits"] = 1, MASK_BITS_MAX
        values["noise"] = values["noise"] if values["clip"] and values["unit"] else None
        values["bit_noise"] = values["bit_noise"] if values["noise"] else None
        plan = ("bandwidth", "releases", "separation", "participations")
        if values["noise"] is None or any(values[name] is None for name in plan):
            values |= dict.fromkeys(plan)
    if "members" in values and isinstance(values["members"], bytes):
        values["members"] = b"" if "reason" in values else values["members"][:16]
    if "classes" in values:
        values["classes"] = tuple(sorted({*values["classes"], 0}))
    if "ticket" in values and "boxes" in values and "base_digest" in values and "metrics" in values:
        values["boxes"] = None if values["ticket"] is None else values["boxes"] or (b"box",)
    if values.get("privacy") is not None and "local_epochs" in values:
        values["local_epochs"], values["batch_size"] = max(1, values["local_epochs"]), max(1, values["batch_size"])
    if "protocol_min" in values:
        values["protocol_min"], values["protocol_max"] = sorted((values["protocol_min"], values["protocol_max"]))
    return values


def worst_announcement(
    *,
    described: bool = False,
    masked: bool = False,
    sealed: bool = False,
    private: bool = False,
    evaluated: bool = False,
) -> RoundAnnouncement:
    """The longest announcement that the field limits allow, with or without a description of the inputs [FED-125]."""
    nodes = COHORT_NODES_DESCRIBED_MAX if described else COHORT_NODES_MAX
    if masked:
        nodes = COHORT_NODES_MASKED_MAX
    if private:
        nodes = COHORT_NODES_PRIVATE_MAX
    nodes -= SEAL_NODES if sealed else 0
    nodes -= EVALUATION_NODES if evaluated else 0
    named = tuple(f"{index:032}" for index in range(EVALUATION_METRICS_MAX))
    part = ModelPart(
        kind=PartKind.DELTA,
        version=ModelVersion(INT32_MAX),
        payload_bytes=PAYLOAD_BYTES_MAX,
        payload_digest=DIGEST,
        chunk_bytes=CHUNK_BYTES,
    )
    model = ModelRef(
        version=ModelVersion(INT32_MAX),
        digest=DIGEST,
        manifest_digest=DIGEST,
        seed=INT64_MAX,
        parts=(part,) * PARTS_MAX,
        inputs_digest=DIGEST if described else None,
    )
    settings = TrainSettings(
        local_epochs=INT32_MAX,
        batch_size=INT32_MAX,
        max_steps=INT32_MAX,
        seed=INT64_MAX,
        extra={f"{index:032}": 1.0 for index in range(16)},
        privacy=WORST_PRIVACY if private else None,
    )
    return RoundAnnouncement(
        run=RUN,
        epoch=Epoch(INT32_MAX),
        round=RoundId(INT32_MAX),
        task="t" * 64,
        model=model,
        cohort=Cohort(fingerprints=b"".join(index.to_bytes(4, "big") for index in range(nodes))),
        settings=settings,
        codec="c" * 40,
        min_base_version=ModelVersion(INT32_MAX),
        lease_s=1e6,
        spread_s=1e6,
        final=True,
        evaluation=None if evaluated else INT64_MAX,
        masked_evaluation=MaskedEvaluation(share=INT64_MAX, metrics=named) if evaluated else None,
        start_low=INT32_MAX,
        privacy=WORST_TERMS if masked else None,
        seal=PartsSeal(key_epoch=INT32_MAX) if sealed else None,
    )


def worst_report() -> EvaluationReport:
    """The longest report of masked metrics."""
    hidden = MaskedReport(
        update=UpdateId("4294967295-" + "n" * 64),
        metrics=DIGEST,
        payload=b"p" * MASKED_REPORT_BYTES_MAX,
        ticket=b"t" * TICKET_BYTES_MAX,
        boxes=(b"b" * BOX_BYTES_MAX,) * HELPERS_MAX,
    )
    version = ModelVersion(INT32_MAX)
    return EvaluationReport(run=RUN, version=version, digest=DIGEST, num_examples=0, evaluate_s=1e6, masked=hidden)


def worst_sums() -> tuple[Message, ...]:
    """The longest messages of masked sums that the field limits allow."""
    update = UpdateId("4294967295-" + "n" * 64)
    version, members = ModelVersion(INT32_MAX), b"".join(index.to_bytes(16, "big") for index in range(MEMBERS_MAX))
    return (
        worst_report(),
        Ticket(
            run=RUN,
            update=update,
            base_version=version,
            base_digest=DIGEST,
            terms=DIGEST,
            payload_digest=DIGEST,
            boxes=(DIGEST,) * HELPERS_MAX,
        ),
        SealedSeeds(run=RUN, update=update, ticket=b"t" * TICKET_BYTES_MAX, box=b"b" * BOX_BYTES_MAX),
        SumRequest(
            run=RUN,
            version=version,
            batch=DIGEST,
            terms=WORST_TERMS,
            members=members,
            classes=tuple(range(CLASSES_MAX)),
        ),
        SumOffer(
            run=RUN,
            batch=DIGEST,
            part=34,
            payload_bytes=CHUNK_BYTES,
            payload_digest=DIGEST,
            chunk_bytes=CHUNK_BYTES,
            inline=b"s" * CHUNK_BYTES,
        ),
        SumRefusal(run=RUN, batch=DIGEST, reason=SumReason.USED, members=members[: 16 * REFUSED_MEMBERS_MAX]),
        HelperState(
            presence=Presence.LOST,
            incarnation=Incarnation(INT32_MAX),
            state_id=StateId(INT64_MAX),
            protocol_min=65_535,
            protocol_max=65_535,
            kem=65_535,
            key=b"k" * KEY_BYTES_MAX,
            members_min=MEMBERS_MAX,
        ),
        replace(
            offer(),
            run=RUN,
            update=update,
            round=RoundId(INT32_MAX),
            base_version=version,
            num_examples=EXAMPLES_MAX,
            metrics={f"{index:032}": 1.0 for index in range(16)},
            codec="c" * 40,
            payload_bytes=MASKED_INLINE_BYTES_MAX,
            fetched_bytes=INT64_MAX,
            inline=b"u" * MASKED_INLINE_BYTES_MAX,
            ticket=b"t" * TICKET_BYTES_MAX,
            boxes=(b"b" * BOX_BYTES_MAX,) * HELPERS_MAX,
        ),
    )


def offer(**changes: Any) -> UpdateOffer:
    plain = UpdateOffer(
        run=RUN,
        round=RoundId(7),
        update=UpdateId("7-node"),
        incarnation=Incarnation(1),
        base_version=ModelVersion(6),
        base_digest=DIGEST,
        num_examples=10,
        metrics={},
        codec="edge",
        payload_bytes=4,
        payload_digest=DIGEST,
        chunk_bytes=CHUNK_BYTES,
        inline=b"data",
    )
    return replace(plain, **changes)


def packed(envelope: Any) -> bytes:
    data: bytes = msgpack.packb(envelope)
    return data


KEPT_FREE: dict[type, set[int]] = {NodeState: {15, 16, 17}}
"""Numbers between others that no field has yet."""


def test_there_is_a_table_for_every_message_with_stable_numbers() -> None:
    assert {schema.record.make for schema in SCHEMAS} == set(get_args(Message))
    assert [schema.code for schema in SCHEMAS] == [*range(1, 15), *range(20, 27), 28, 29, 40]
    for schema in SCHEMAS:
        numbers = [field.number for field in schema.record.fields]
        kept_free = KEPT_FREE.get(schema.record.make, set())
        assert numbers == [number for number in range(2, numbers[-1] + 1 if numbers else 2) if number not in kept_free]
        assert [field.name for field in schema.record.fields] == [field.name for field in fields(schema.record.make)]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.record.make.__name__)
@settings(max_examples=50)
@given(data=st.data())
def test_every_message_is_read_back_as_it_was_written(schema: MessageSchema, data: st.DataObject) -> None:
    """FED-13."""
    message = data.draw(record_strategy(schema.record))
    encoded = encode_message(message)
    assert len(encoded) <= schema.bytes_max
    decoded = decode_message(encoded)
    assert decoded == message
    assert encode_message(decoded) == encoded


def test_every_enumeration_is_whole() -> None:
    """FED-15."""
    for status in ReceiptStatus:
        for reason in Reason:
            receipt = Receipt(run=RUN, update=UpdateId("1-n"), status=status, reason=reason)
            assert decode_message(encode_message(receipt)) == receipt
    for activity in Activity:
        progress = Progress(round=RoundId(1), activity=activity)
        assert decode_message(encode_message(progress)) == progress
    assert [status.final for status in ReceiptStatus] == [False, True, True, True]


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_the_longest_announcement_fits_4_kib(described: bool, sealed: bool) -> None:
    """FED-25, FED-125, FED-173: whatever the fleet, because every field has a limit."""
    announcement = worst_announcement(described=described, sealed=sealed)
    encoded = encode_message(announcement)
    assert len(encoded) <= ANNOUNCEMENT_BYTES_MAX == 4096
    assert decode_message(encoded) == announcement


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_the_longest_announcement_that_asks_for_masked_reports_fits_4_kib(sealed: bool) -> None:
    """FED-25, FED-195."""
    announcement = worst_announcement(described=True, masked=True, sealed=sealed, evaluated=True)
    encoded = encode_message(announcement)
    assert len(encoded) <= ANNOUNCEMENT_BYTES_MAX
    assert decode_message(encoded) == announcement


@pytest.mark.parametrize("wrong", [{"privacy": None}, {"evaluation": 1}])
def test_masked_reports_are_asked_for_under_masks_and_never_beside_clear_ones(wrong: dict[str, Any]) -> None:
    """FED-195."""
    announcement = worst_announcement(masked=True, evaluated=True)
    with pytest.raises(LocalProtocolError, match="masked_evaluation"):
        encode_message(replace(announcement, **wrong))


@pytest.mark.parametrize("wrong", [{"num_examples": 1}, {"metrics": {"loss": 1.0}}, {"reason": "busy"}])
def test_beside_a_masked_report_there_is_no_number_in_clear(wrong: dict[str, Any]) -> None:
    """FED-196."""
    with pytest.raises(LocalProtocolError, match="no number in clear"):
        encode_message(replace(worst_report(), **wrong))


@pytest.mark.parametrize("names", [(), ("loss", "loss")])
def test_metrics_are_named_each_once(names: tuple[str, ...]) -> None:
    announcement = worst_announcement(masked=True, evaluated=True)
    with pytest.raises(LocalProtocolError, match="each once"):
        encode_message(replace(announcement, masked_evaluation=MaskedEvaluation(share=1, metrics=names)))


@pytest.mark.parametrize("masked", [False, True])
def test_the_longest_announcement_of_a_private_run_fits_4_kib(masked: bool) -> None:
    """FED-25, FED-180."""
    announcement = worst_announcement(described=True, masked=masked, private=True)
    encoded = encode_message(announcement)
    assert len(encoded) <= ANNOUNCEMENT_BYTES_MAX
    assert decode_message(encoded) == announcement


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"local_epochs": 0}])
def test_a_private_turn_needs_steps_and_a_divisor(wrong: dict[str, int]) -> None:
    """FED-180."""
    settings = TrainSettings(privacy=WORST_PRIVACY, **wrong)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="batch_size and local_epochs"):
        encode_message(replace(worst_announcement(private=True), settings=settings))


def test_the_largest_inline_update_and_the_largest_bitmap_fit_their_messages() -> None:
    """FED-16."""
    metrics = {f"{index:032}": 1.0 for index in range(16)}
    largest = offer(payload_bytes=CHUNK_BYTES, inline=bytes(CHUNK_BYTES), metrics=metrics, codec="c" * 40)
    assert decode_message(encode_message(largest)) == largest
    grant = Grant(update=UpdateId("4294967295-" + "n" * 64), bitmap=bytes(CHUNKS_MAX // 8), window=CHUNKS_MAX)
    assert decode_message(encode_message(grant)) == grant


def test_a_value_outside_its_limits_is_our_own_bug() -> None:
    with pytest.raises(LocalProtocolError, match=r"Decline\.reason"):
        encode_message(Decline(run=RUN, round=RoundId(1), reason="x" * 201))


@pytest.mark.parametrize("thing", [b"bytes", TrainSettings(), None])
def test_only_messages_are_sent(thing: Any) -> None:
    with pytest.raises(LocalProtocolError, match="no message"):
        encode_message(thing)


def test_a_message_that_is_too_long_as_a_whole_is_our_own_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """The field limits keep every message below its own limit; the last check stands for a table that forgets to."""
    tight = {CoordinatorState: MessageSchema(code=1, record=SCHEMAS[0].record, bytes_max=10)}
    monkeypatch.setattr("federation.protocol.wire._SCHEMA_BY_TYPE", tight)
    with pytest.raises(LocalProtocolError, match="the limit is 10"):
        encode_message(STATE)


@pytest.mark.parametrize(
    "message",
    [
        offer(payload_bytes=5),
        offer(inline=None, payload_bytes=CHUNKS_MAX + 1, chunk_bytes=1),
        offer(update=UpdateId("7")),
        offer(update=UpdateId("07-node")),
        offer(members=bytes(CLAIM_BYTES + 1)),
        Receipt(
            run=RUN,
            update=UpdateId("7-n"),
            status=ReceiptStatus.REFUSED,
            reason=Reason.COUNTED,
            counted=bytes(CLAIM_BYTES + 1),
        ),
        offer(run=RunId("0123456789ABCDEF")),
        replace(STATE, protocol_min=2),
        NodeState(presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=3, protocol_max=2),
        replace(worst_announcement(), cohort=Cohort(fingerprints=b"abc")),
        replace(worst_announcement(), cohort=Cohort(fingerprints=b"bbbbaaaa")),
        replace(worst_announcement(), cohort=Cohort(fingerprints=b"aaaaaaaa")),
        replace(worst_announcement(), cohort=Cohort(fingerprints=b"aaaa", share=1)),
        replace(worst_announcement(), cohort=Cohort(fingerprints=bytes(4 * COHORT_NODES_MAX + 4))),
        replace(worst_announcement(), model=replace(worst_announcement().model, delta=b"x")),
        replace(worst_announcement(), model=replace(worst_announcement().model, delta=b"x", parts=())),
    ],
)
def test_fields_that_contradict_each_other_are_not_sent(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match="refused to send"):
        encode_message(message)


def test_contradictions_are_refused_from_a_peer_too() -> None:
    envelope = msgpack.unpackb(encode_message(offer()), strict_map_key=False)
    envelope[11] = 5
    with pytest.raises(MalformedMessage, match="inline is not payload_bytes long"):
        decode_message(packed(envelope))


def test_the_newer_peers_fields_are_ignored() -> None:
    """FED-14."""
    envelope = msgpack.unpackb(encode_message(STATE), strict_map_key=False)
    envelope[90] = {"new": [1.5, None]}
    assert decode_message(packed(envelope)) == STATE


def test_a_missing_field_is_refused() -> None:
    """FED-14."""
    with pytest.raises(MalformedMessage, match=r"CoordinatorState\.presence is missing"):
        decode_message(packed({0: 1, 1: 1}))


@pytest.mark.parametrize("version", [0, PROTOCOL_MIN - 1, PROTOCOL_VERSION + 1, 2**64 - 1, -1])
def test_another_protocol_version_is_incompatible(version: int) -> None:
    """FED-17."""
    with pytest.raises(IncompatibleVersion, match="upgrade"):
        decode_message(packed({0: version, 1: 10}))


def test_presence_says_which_versions_its_sender_reads() -> None:
    """FED-17: in keys 5 and 6 of one, 4 and 5 of the other, for ever."""
    future = replace(STATE, protocol_max=9)
    assert msgpack.unpackb(encode_message(future), strict_map_key=False) == {0: 1, 1: 1, 2: 0, 3: RUN, 4: 3, 5: 1, 6: 9}
    node = NodeState(presence=Presence.LOST, incarnation=Incarnation(4), protocol_min=1, protocol_max=9)
    raw = msgpack.unpackb(encode_message(node), strict_map_key=False)
    assert {key: raw[key] for key in range(6)} == {0: 1, 1: 3, 2: 2, 3: 4, 4: 1, 5: 9}


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        {1: 10},
        {0: True, 1: 10},
        {0: 1.0, 1: 10},
        {0: "1", 1: 10},
        {0: 1},
        {0: 1, 1: 0},
        {0: 1, 1: 12},
        {0: 1, 1: 10.0},
        {0: 1, 1: True},
        {0: 1, 1: []},
        [],
        1,
        None,
        "text",
        b"bytes",
    ],
)
def test_what_is_no_envelope_is_refused(envelope: Any) -> None:
    """FED-13."""
    with pytest.raises(MalformedMessage):
        decode_message(packed(envelope))


REBIRTH = encode_message(Rebirth())


@pytest.mark.parametrize(
    ("spelling", "why"),
    [
        (REBIRTH + b"\x00", "extra data"),
        (b"\x82\x01\x0a\x00\x01", "unordered"),
        (b"\x83\x00\x01\x00\x01\x01\x0a", "duplicate"),
        (b"\xde\x00\x02\x00\x01\x01\x0a", "shorter spelling"),
        (b"\x82\x00\xcc\x01\x01\x0a", "shorter spelling"),
        (b"\x82\x00\x01\x01\xcd\x00\x0a", "shorter spelling"),
        (b"\x83\x00\x01\x01\x0a\x20\xca\x3f\x80\x00\x00", "shorter spelling"),
        (b"\x83\x00\x01\x01\x0a\x20\xd9\x01a", "shorter spelling"),
        (b"\x83\x00\x01\x01\x0a\x20\xc1", "canonical"),
        (b"\x83\x00\x01\x01\x0a\xa1a\x01", "canonical"),
        (b"\x83\x00\x01\x01\x0a\xcb\x40\x08\x00\x00\x00\x00\x00\x00\x01", "integers or text"),
        (b"\x83\xc2\x00\x01\x01\x02\x01", "integers or text"),
        (b"\x81\x90\x01", "integers or text"),
        (b"\x81\x80\x01", "integers or text"),
        (b"\x83\x00\x01\x01\x0a\x20\xc7\x00\x05", "extension type 5"),
        (b"\x83\x00\x01\x01\x0a\x20\xd4\x05\x00", "canonical"),
        (b"\x83\x00\x01\x01\x0a\x20\xd6\xff\x00\x00\x00\x00", "canonical"),
        (b"\x83\x00\x01\x01\x0a\x20\xa1\xff", "canonical"),
        (b"", "canonical"),
    ],
)
def test_another_spelling_of_a_message_is_refused(spelling: bytes, why: str) -> None:
    """FED-13: one message, one spelling."""
    assert decode_message(REBIRTH) == Rebirth()
    with pytest.raises(MalformedMessage, match=why):
        decode_message(spelling)


@pytest.mark.parametrize("bits", [0x7FF8000000000000, 0x7FF0000000000000, 0xFFF0000000000000])
def test_a_number_that_is_not_finite_is_refused(bits: int) -> None:
    """FED-15."""
    good = encode_message(Progress(round=RoundId(1), activity=Activity.IDLE, metrics={"loss": 1.5}))
    bad = good.replace(struct.pack(">d", 1.5), bits.to_bytes(8, "big"))
    assert bad != good
    with pytest.raises(MalformedMessage, match="finite"):
        decode_message(bad)


def test_the_size_is_checked_before_anything_is_read() -> None:
    """FED-16."""
    with pytest.raises(MalformedMessage, match=f"{MESSAGE_BYTES_MAX + 1} bytes"):
        decode_message(REBIRTH + bytes(MESSAGE_BYTES_MAX + 1 - len(REBIRTH)))


def test_each_type_has_a_size_limit_of_its_own() -> None:
    """FED-16: a receipt with a long unknown field is no receipt."""
    with pytest.raises(MalformedMessage, match="the limit of this message is 4096"):
        decode_message(packed({0: 1, 1: 10, 90: bytes(4096)}))

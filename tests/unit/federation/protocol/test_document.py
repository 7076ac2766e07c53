"""PROTOCOL.md prints the tables that the code runs on (FED-15, FED-54)."""

import re
from pathlib import Path

import pytest

from federation.protocol import limits, schema, sealed_messages, site_messages, sum_schema, tables, task_messages
from federation.protocol.fields import Blob, Choice, Flag, Kind, Numbers, Real, Record, Sequence, Text, Whole, Word
from federation.types import DIGEST_BYTES

DOCUMENT = (Path(__file__).parents[4] / "federation" / "PROTOCOL.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^#{2,4} (.+?)\n(.*?)(?=^#{2,4} |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
NESTED = [
    schema._MODEL_REF,
    schema._MODEL_PART,
    schema._COHORT,
    schema._TRAIN_SETTINGS,
    schema._SEEN_RUN,
    tables.EXAMPLE_PRIVACY,
    tables.SAMPLED_STEPS,
    sum_schema.PRIVACY_TERMS,
    sum_schema.MASKED_EVALUATION,
    sum_schema.MASKED_REPORT,
    sealed_messages.SEALING_KEY,
    sealed_messages.PARTS_SEAL,
    site_messages.SITE_REPORT,
    site_messages.SITE_NODE,
]
CHOICES = [
    tables.PRESENCE,
    schema._PART_KIND,
    schema._ACTIVITY,
    schema._STATUS,
    tables.REASON,
    sum_schema.UNIT,
    sum_schema.HELD_STATUS,
    sum_schema.SUM_REASON,
    task_messages.TASK_STATE,
]

NAMED: list[tuple[Kind, str]] = [
    (Whole(limits.INT32_MAX), "u32"),
    (Whole(limits.EXAMPLES_MAX), "u53"),
    (Whole(limits.INT64_MAX), "u64"),
    (Real(limits.SECONDS_MAX, least=0.0), "seconds"),
    (Real(), "float"),
    (Blob(DIGEST_BYTES, least=DIGEST_BYTES), "digest"),
    (Word(tables.RUN_PATTERN), "run"),
    (Word(tables.UPDATE_PATTERN), "update"),
    (Flag(), "bool"),
]


def described(kind: Kind) -> str:  # noqa: PLR0911 - one branch per kind
    """How the document names a kind of field."""
    for named, name in NAMED:
        if kind == named:
            return name
    match kind:
        case Whole(most=most, least=least):
            return f"integer {least} to {most}"
        case Real(most=most, least=least):
            return f"float {least:g} to {most:g}"
        case Text(most=most, least=least):
            return f"text of {least} to {most} bytes"
        case Blob(most=most, least=least):
            return f"{least} to {most} bytes"
        case Sequence(kind=item, most=most):
            return f"list of {described(item)}, at most {most}"
        case Numbers(most=most):
            return f"at most {most} named floats"
        case Choice(codes=codes):
            return type(next(iter(codes))).__name__
    assert isinstance(kind, Record)
    return kind.make.__name__


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables of one section, without the heads."""
    lines = [line for line in SECTIONS[heading].splitlines() if line.startswith("|")]
    table = [[cell.strip(" `") for cell in line.strip("|").split(" |")] for line in lines]
    return [row for row in table[1:] if not row[0].startswith("---")]


def expected(record: Record) -> list[list[str]]:
    return [
        [str(field.number), field.name, described(field.kind) + (", may be absent" if field.optional else "")]
        for field in record.fields
    ]


@pytest.mark.parametrize("message", schema.SCHEMAS, ids=lambda message: message.record.make.__name__)
def test_the_document_has_the_fields_of_every_message(message: tables.MessageSchema) -> None:
    """FED-15."""
    heading = f"{message.record.make.__name__}: type {message.code}, at most {message.bytes_max} bytes"
    assert [row[:3] for row in rows(heading)] == expected(message.record)


@pytest.mark.parametrize("record", NESTED, ids=lambda record: record.make.__name__)
def test_the_document_has_the_fields_of_every_part_of_a_message(record: Record) -> None:
    """FED-15."""
    assert [row[:3] for row in rows(record.make.__name__)] == expected(record)


def test_the_document_has_the_numbers_of_every_enumeration() -> None:
    """FED-15."""
    members = [type(next(iter(choice.codes))) for choice in CHOICES]
    numbers = [", ".join(f"{code} `{name}`" for name, code in choice.codes.items()) for choice in CHOICES]
    assert rows("Enumerations") == [
        [member.__name__, line.rstrip("`")] for member, line in zip(members, numbers, strict=True)
    ]
    for choice in CHOICES:
        assert set(choice.codes) == set(type(next(iter(choice.codes))))
        assert list(choice.codes.values()) == list(range(len(choice.codes)))


def test_the_document_has_every_limit_with_its_value() -> None:
    """FED-54."""
    stated = {row[0]: int(row[1]) for row in rows("8. Limits and versions of the model")}
    assert stated == {name: value for name, value in vars(limits).items() if name.isupper()}


def test_a_chunk_or_a_message_with_its_topic_stays_below_64_kib() -> None:
    """FED-54: 200 bytes are more than the longest topic and the MQTT 5 header."""
    longest = "fl/" + "f" * 64 + "/n/" + "n" * 64 + "/up/4294967295-" + "n" * 64 + "/65535"
    header_bytes = 5 + 2 + len(longest) + 2 + 4
    assert max(limits.MESSAGE_BYTES_MAX, limits.CHUNK_BYTES) + header_bytes < 65_536

"""Sparkplug B is read as protobuf's own library writes it by the schema, and whatever else comes is no reading."""

import contextlib
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from edge_node.readings.payloads import NoReading
from edge_node.readings.settings import MqttSection, topic_map
from edge_node.readings.sparkplug import ALIASES_MAX, Aliases, Metric, metrics_of

FIELDS = {
    "Metric": [
        ("name", 1, "STRING"),
        ("alias", 2, "UINT64"),
        ("timestamp", 3, "UINT64"),
        ("datatype", 4, "UINT32"),
        ("is_historical", 5, "BOOL"),
        ("is_null", 7, "BOOL"),
        ("int_value", 10, "UINT32"),
        ("long_value", 11, "UINT64"),
        ("float_value", 12, "FLOAT"),
        ("double_value", 13, "DOUBLE"),
        ("boolean_value", 14, "BOOL"),
        ("string_value", 15, "STRING"),
        ("bytes_value", 16, "BYTES"),
    ],
    "Payload": [("timestamp", 1, "UINT64"), ("metrics", 2, "Metric"), ("seq", 3, "UINT64"), ("uuid", 4, "STRING")],
}
"""Of sparkplug_b.proto, what such payloads have."""

BIRTH, DATA = "spBv1.0/plant/DBIRTH/line-1/pump", "spBv1.0/plant/DDATA/line-1/pump"


def schema() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package="t", syntax="proto2")
    for message, fields in FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, kind in fields:
            field = made.field.add(name=name, number=number)
            is_message = kind in FIELDS
            field.label = field.LABEL_REPEATED if is_message else field.LABEL_OPTIONAL
            field.type = field.TYPE_MESSAGE if is_message else getattr(field, f"TYPE_{kind}")
            if is_message:
                field.type_name = f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in FIELDS}


MESSAGES = schema()


def payload(*metrics: dict[str, Any], timestamp: int = 1_709_633_730_000) -> bytes:
    made = MESSAGES["Payload"](timestamp=timestamp, seq=3, metrics=[MESSAGES["Metric"](**each) for each in metrics])
    body = made.SerializeToString()
    assert isinstance(body, bytes)
    return body


def test_every_kind_of_number_is_read() -> None:
    found = metrics_of(
        payload(
            {"name": "a", "datatype": 3, "int_value": 2**32 - 5},
            {"name": "b", "datatype": 4, "long_value": 2**64 - 6},
            {"name": "c", "datatype": 1, "int_value": 2**32 - 1},
            {"name": "d", "datatype": 7, "int_value": 2**32 - 5},
            {"name": "e", "datatype": 9, "float_value": 1.5},
            {"name": "f", "datatype": 10, "double_value": -2.25, "timestamp": 5_500},
            {"name": "g", "datatype": 11, "boolean_value": True},
            {"name": "h", "datatype": 12, "string_value": "run"},
            {"name": "i", "datatype": 9, "is_null": True},
            {"name": "j", "bytes_value": b"x"},
        )
    )
    assert [each.value for each in found] == [-5, -6, -1, 2**32 - 5, 1.5, -2.25, True, "run", None, None]
    assert [each.name for each in found] == list("abcdefghij")
    assert found[0].time == 1_709_633_730
    assert found[5].time == 5.5


METRICS = st.fixed_dictionaries(
    {"name": st.text(max_size=20)},
    optional={
        "alias": st.integers(0, 2**64 - 1),
        "timestamp": st.integers(0, 2**53),
        "datatype": st.sampled_from([7, 8, 9, 10, 11]),
        "is_historical": st.booleans(),
        "double_value": st.floats(allow_nan=False),
    },
)


@given(st.lists(METRICS, max_size=5))
def test_it_is_read_as_the_library_writes_it(metrics: list[dict[str, Any]]) -> None:
    found = metrics_of(payload(*metrics))
    assert [(each.name, each.alias, each.value, each.datatype) for each in found] == [
        (each["name"], each.get("alias"), each.get("double_value"), each.get("datatype")) for each in metrics
    ]


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    found = []
    with contextlib.suppress(NoReading):
        found = metrics_of(body)
    assert all(isinstance(each, Metric) for each in found)


@given(st.lists(METRICS, min_size=1, max_size=3), st.data())
def test_every_prefix_is_read_or_refused(metrics: list[dict[str, Any]], data: st.DataObject) -> None:
    body = payload(*metrics)
    cut = data.draw(st.integers(0, len(body) - 1))
    with contextlib.suppress(NoReading):
        assert len(metrics_of(body[:cut])) <= len(metrics)


def test_what_is_too_large_or_endless_is_refused() -> None:
    for body in (b"\x12" + b"\xff" * 11, b"\x0b", b"\x12\x7f", b" " * 70_000):
        with pytest.raises(NoReading):
            metrics_of(body)


SECTION = MqttSection.model_validate(
    {
        "url": "mqtt://h",
        "topics": [
            {
                "topic": "spBv1.0/plant/+/line-1/pump",
                "format": "sparkplug",
                "columns": {"flow": "Inputs/Flow", "heat": "Inputs/Temp.1"},
                "units": {"heat": "degF -> degC"},
            }
        ],
    }
)


def test_aliases_of_a_birth_name_the_data_that_follows() -> None:
    topics = topic_map(SECTION)
    data = payload(
        {"alias": 7, "double_value": 3.5}, {"alias": 8, "int_value": 2**32 - 1}, {"alias": 9, "int_value": 1}
    )
    assert topics.readings(DATA, data, arrived=0.0) == ([], ["unknown alias"] * 3)
    birth = payload(
        {"name": "Inputs/Flow", "alias": 7, "datatype": 10, "double_value": 1.0},
        {"name": "Inputs/Temp.1", "alias": 8, "datatype": 3, "int_value": 212},
        {"name": "Other", "alias": 9, "datatype": 3, "int_value": 5},
        {"name": "Node Control/Rebirth", "datatype": 11, "boolean_value": False},
    )
    found, problems = topics.readings(BIRTH, birth, arrived=0.0)
    assert ([one[:2] for one in found], problems) == ([(1_709_633_730.0, "flow"), (1_709_633_730.0, "heat")], [])
    assert [one[2] for one in found] == pytest.approx([1.0, 100.0])
    found, problems = topics.readings(DATA, data, arrived=0.0)
    assert [one[1:] for one in found] == [("flow", 3.5), ("heat", pytest.approx(-18.333, abs=1e-3))]
    again = topic_map(SECTION, topics.memory())
    assert again.readings(DATA, data, arrived=0.0)[0] == found


def test_another_devices_aliases_are_its_own() -> None:
    aliases = Aliases()
    metric = Metric("x", 1, None, 1, 3)
    aliases.named("spBv1.0/g/DBIRTH/n/a", metric, {"x"})
    assert aliases.named("spBv1.0/g/DDATA/n/a", Metric("", 1, None, 5, None), {"x"}) == Metric("x", 1, None, 5, 3)
    with pytest.raises(NoReading, match="unknown alias"):
        aliases.named("spBv1.0/g/DDATA/n/b", Metric("", 1, None, 5, None), {"x"})


def test_a_device_that_is_born_again_may_number_its_metrics_in_another_way() -> None:
    """Another metric's numbers were taken for the column that its alias had stood for."""
    birth, data, wanted = "spBv1.0/g/DBIRTH/n/d", "spBv1.0/g/DDATA/n/d", {"flow", "heat"}
    aliases = Aliases()
    for name, alias in (("flow", 1), ("heat", 2), ("elsewhere", 1), ("flow", 2), ("heat", 3)):
        aliases.named(birth, Metric(name, alias, None, 0, 3), wanted)
    said = {alias: aliases.named(data, Metric("", alias, None, 5, None), wanted) for alias in (1, 2, 3)}
    assert {alias: one and one.name for alias, one in said.items()} == {1: None, 2: "flow", 3: "heat"}
    assert aliases.plain() == [["g/n/d", 2, "flow", 3], ["g/n/d", 3, "heat", 3]]


def test_aliases_are_bounded_and_what_was_kept_wrongly_is_forgotten() -> None:
    aliases = Aliases([["a", 1, "x", None], ["b"], 5, ["c", "d", "e", 1]])
    assert aliases.plain() == [["a", 1, "x", None]]
    for number in range(ALIASES_MAX + 5):
        aliases.named("spBv1.0/g/DBIRTH/n/d", Metric(f"x{number}", number, None, 1, None), {f"x{number}"})
        aliases.named("spBv1.0/g/DBIRTH/n/d", Metric("y", 10**6 + number, None, 1, None), {"x"})
    assert len(aliases.plain()) == ALIASES_MAX
    assert Aliases("nonsense").plain() == []


def test_a_number_that_is_none_is_refused() -> None:
    topics = topic_map(SECTION)
    body = payload({"name": "Inputs/Flow", "double_value": float("nan")}, {"name": "Inputs/Temp.1", "is_null": True})
    assert topics.readings(DATA, body, arrived=0.0) == ([], ["not finite", "no value"])

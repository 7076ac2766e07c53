"""Whatever a sensor or a stranger sends is a number within bounds, or the reason why it is none; nothing is raised."""

import datetime as dt
import json
import zoneinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.readings.payloads import (
    PAYLOAD_BYTES_MAX,
    NoReading,
    document_of,
    number_of,
    parse_path,
    pick,
    time_of,
    zone_of,
)
from edge_node.readings.topics import OTHER_SENSOR, SILENT_S, TopicMap, TopicRule, column_name, filter_pattern
from edge_node.readings.units import UNITS, converter


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3),
        (2.5, 2.5),
        (True, 1),
        ("21.5", 21.5),
        (" -4e2 ", -400),
        ("ON", 1),
        ("closed", 0),
        ("+.5", 0.5),
        ("7.", 7),
        ("\x1c0\x1f", 0),
    ],
)
def test_a_number_a_text_of_one_and_a_common_word_are_numbers(value: Any, number: float) -> None:
    assert number_of(value, {}) == number


def test_the_owners_own_words_come_first() -> None:
    assert number_of("On", {"on": 7}) == 7
    assert number_of(False, {"false": 3}) == 3


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
        (1e39, "not finite"),
        ("1e400", "not finite"),
        (10**400, "not finite"),
        ("nan", "no value"),
        ("unavailable", "no value"),
        (None, "no value"),
        ("", "no value"),
        ("1_000", "not a number"),
        ("0x10", "not a number"),
        ("inf", "not a number"),
        ("9" * 50, "not a number"),
        ([1], "not a number"),
        ({"a": 1}, "not a number"),
        ("a" * 100_000, "not a number"),
    ],
)
def test_what_is_no_number_says_why_in_few_words(value: Any, why: str) -> None:
    with pytest.raises(NoReading, match=why):
        number_of(value, {})


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": nan}', "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b" " * (PAYLOAD_BYTES_MAX + 1), "too large"),
    ],
)
def test_a_payload_that_is_no_document_says_why(payload: bytes, why: str) -> None:
    with pytest.raises(NoReading, match=why):
        document_of(payload)


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1709633730, 1709633730),
        (1709633730.25, 1709633730.25),
        (1709633730250, 1709633730.25),
        (1709633730250000, 1709633730.25),
        (1709633730250000000, 1709633730.25),
        ("1709633730", 1709633730),
        ("2024-03-05T10:15:30Z", 1709633730),
        ("2024-03-05T10:15:30.500+00:00", 1709633730.5),
        ("2024-03-05 11:15:30", 1709633730),
        ("2024-07-05T12:15:30", 1720174530),
    ],
)
def test_a_time_is_seconds_whatever_its_unit_or_text(value: Any, seconds: float) -> None:
    assert time_of(value, BERLIN) == pytest.approx(seconds, abs=1e-3)


def test_of_the_hour_that_comes_twice_the_nearer_one_is_meant() -> None:
    """When clocks went back, an hour of readings took the times of the hour before, and was lost as repetitions."""
    zone = zone_of("Europe/Berlin")
    summer, winter = 1_792_888_200.0, 1_792_891_800.0  # half past two, twice, on the 25th of October 2026
    for text in ("2026-10-25T02:30:00", "2026-10-25 02:30:00"):
        assert time_of(text, zone, near=summer + 5) == summer
        assert time_of(text, zone, near=winter + 5) == winter
        assert time_of(text, zone) == summer
    assert time_of("2026-10-25T02:30:00+02:00", zone, near=winter) == summer, "it says which"
    skipped = time_of("2026-03-29T02:30:00", zone, near=1_774_747_805.0)
    assert skipped == pytest.approx(1_774_747_800, abs=3_600), "an hour that is not there"


def test_a_time_without_a_zone_may_be_the_devices_own() -> None:
    assert time_of("2024-03-05 11:15:30", None) == dt.datetime(2024, 3, 5, 11, 15, 30).timestamp()  # noqa: DTZ001 - local


@pytest.mark.parametrize(
    "value",
    [None, True, "soon", -1, 1e300, float("nan"), float("inf"), 10**400, "9999-99-99", [], "", "0001-01-01T00:00:00Z"],
)
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(NoReading, match="not a time"):
        time_of(value, dt.UTC)


def test_a_zone_is_known_or_an_error_that_says_what_to_write() -> None:
    assert zone_of("utc") is dt.UTC
    assert zone_of("local") is None
    for name in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises(ValueError, match="Europe/Berlin"):
            zone_of(name)


@pytest.mark.parametrize(
    ("path", "value"),
    [("a", {"b": [{"c:0": 5}], "d.e": 6}), ("a.b[0].c:0", 5), ("/a/b/0/c:0", 5), ("/a/d.e", 6), ("f[1][0]", 9)],
)
def test_a_path_leads_to_a_value(path: str, value: Any) -> None:
    document = {"a": {"b": [{"c:0": 5}], "d.e": 6}, "f": [0, [9]]}
    assert pick(document, parse_path(path)) == value


@pytest.mark.parametrize("path", ["b", "a.b[7]", "a.b.c", "f[0].x", "/a/b/-1"])
def test_a_path_that_leads_nowhere_is_no_such_value(path: str) -> None:
    with pytest.raises(NoReading, match="no such value"):
        pick({"a": {"b": [1]}, "f": [0]}, parse_path(path))


@pytest.mark.parametrize("path", ["", "a..b", "a[b]", "a]", ".a", "a."])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        parse_path(path)


def test_units_become_each_other() -> None:
    assert converter("degF -> degC")(212) == pytest.approx(100)
    assert converter("degC -> K")(0) == pytest.approx(273.15)
    assert converter("K -> °F")(273.15) == pytest.approx(32)
    assert converter("psi -> bar")(14.5038) == pytest.approx(1, rel=1e-5)
    assert converter("rpm->Hz")(3000) == pytest.approx(50)
    assert converter("g -> m/s2")(1) == pytest.approx(9.80665)


@given(st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(UNITS)), st.floats(-1e6, 1e6))
def test_a_unit_there_and_back_is_the_same(first: str, second: str, value: float) -> None:
    if UNITS[first][0] == UNITS[second][0]:
        there, back = converter(f"{first} -> {second}"), converter(f"{second} -> {first}")
        assert back(there(value)) == pytest.approx(value, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "why"),
    [("degF", "no conversion"), ("degF -> kW", "degF is a temperature, and kW a power"), ("x -> y", "'x' is no unit")],
)
def test_what_is_no_conversion_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        converter(text)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "groups"),
    [
        ("a/+/c", "a/b/c", ("b",)),
        ("a/#", "a/b/c", ("b/c",)),
        ("a/#", "a", (None,)),
        ("#", "x/y", ("x/y",)),
        ("+/s", "/s", None),
        ("a/#", "ab", None),
        ("a/+", "a/b/c", None),
        ("a.b/+", "aXb/c", None),
    ],
)
def test_filters_match_as_mqtt_says(topic_filter: str, topic: str, groups: tuple[str, ...] | None) -> None:
    match = filter_pattern(topic_filter).fullmatch(topic)
    if topic == "/s":
        assert match is not None
        return
    assert (None if match is None else match.groups()) == groups


@pytest.mark.parametrize("text", ["", "a#", "a/#/b", "a+/b", "a\0b", "x" * 2_000])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no topic filter"):
        filter_pattern(text)


def test_a_name_from_a_topic_is_a_name_and_nothing_else() -> None:
    assert column_name("Hall 3/Süd ; DROP TABLE") == "Hall_3_S_d_DROP_TABLE"
    assert column_name("x" * 500) == "x" * 64
    assert column_name("äöü") == "_"
    rule = TopicRule(topic="+/v", columns={"{1}.{2}": None})
    found, _ = TopicMap([rule]).readings("__class__/v", b"1", arrived=5.0)
    assert found == [(5.0, "__class__._2_", 1.0)]


def test_what_the_broker_had_before_counts_only_with_its_own_time() -> None:
    plain = TopicRule(topic="a", columns={"x": None})
    timed = TopicRule(topic="b", columns={"x": ("v",)}, time=("t",))
    topics = TopicMap([plain, timed])
    assert topics.readings("a", b"1", arrived=9.0, retained=True) == ([], ["retained, without a time"])
    assert topics.readings("b", b'{"v":1,"t":3}', arrived=9.0, retained=True) == ([(3.0, "x", 1.0)], [])
    assert topics.filters == ("a", "b")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999", '"NaN"'])
def test_a_value_that_is_no_number_costs_no_other_of_its_message(constant: str) -> None:
    rule = TopicRule(topic="a", columns={"heat": ("t",), "bar": ("p",)})
    found, problems = TopicMap([rule]).readings("a", f'{{"t": {constant}, "p": 2}}'.encode(), arrived=1.0)
    assert found == [(1.0, "bar", 2.0)]
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("topic", "column", "first", "second"),
    [
        ("home/+/heat", "heat", "home/hall/heat", "home/roof/heat"),  # no {1} in the name
        ("home/+/heat", "{1}.heat", "home/Küche/heat", "home/Köche/heat"),  # both are K_che
        ("home/#", "{1}", f"home/{'a' * 70}/x", f"home/{'a' * 70}/y"),  # one up to its 64th character
    ],
)
def test_two_sensors_are_never_one_column(topic: str, column: str, first: str, second: str) -> None:
    topics = TopicMap([TopicRule(topic=topic, columns={column: None})])
    assert [one[2] for one in topics.readings(first, b"20", arrived=0.0)[0]] == [20.0]
    assert topics.readings(second, b"90", arrived=10.0) == ([], [OTHER_SENSOR])
    assert [one[2] for one in topics.readings(first, b"21", arrived=20.0)[0]] == [21.0]
    assert topics.learned
    again = TopicMap([TopicRule(topic=topic, columns={column: None})], topics.memory())
    assert again.readings(second, b"90", arrived=30.0) == ([], [OTHER_SENSOR])
    assert [one[2] for one in again.readings(second, b"90", arrived=31.0 + SILENT_S)[0]] == [90.0]
    assert again.readings(first, b"20", arrived=32.0 + SILENT_S) == ([], [OTHER_SENSOR])


def test_sensors_that_say_different_things_under_one_filter_are_several_columns() -> None:
    rule = TopicRule(topic="tele/+/SENSOR", columns={"heat": ("AM2301", "Temperature"), "power": ("ENERGY", "Power")})
    topics = TopicMap([rule])
    assert topics.readings("tele/a/SENSOR", b'{"AM2301": {"Temperature": 20}}', arrived=0.0)[0] == [(0.0, "heat", 20.0)]
    assert topics.readings("tele/b/SENSOR", b'{"ENERGY": {"Power": 7}}', arrived=0.0) == ([(0.0, "power", 7.0)], [])


def test_a_conversion_that_leaves_float32_is_refused() -> None:
    rule = TopicRule(topic="a", columns={"x": None}, convert={"x": lambda value: value * 1e10})
    assert TopicMap([rule]).readings("a", b"1e35", arrived=0.0) == ([], ["not finite"])


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_no_payload_raises(payload: bytes) -> None:
    rules = [
        TopicRule(topic="#", columns={"a": ("x",), "b": ("y", 0)}, time=("t",)),
        TopicRule(topic="#", columns={"c": ("x",)}),
        TopicRule(topic="#", columns={"{1}": None}),
    ]
    found, problems = TopicMap(rules).readings("any/topic", payload, arrived=0.0)
    assert all(abs(value) <= 3.5e38 for _, _, value in found)
    assert len(found) + len(problems) >= 1

"""Broker profiles only lower what is done anyway, and the topics fit the strictest of them."""

from pathlib import Path

import pytest

from coordinator.config.sections import read_config
from coordinator.runtime.connections import CONTROL_EXPIRY_S
from edge_node.app import node_settings
from edge_node.config import read_config as read_node_config
from federation.errors import ConfigError
from federation.protocol.limits import CHUNK_BYTES, CHUNKS_MAX, ID_CHARS_MAX, INT32_MAX, MESSAGE_BYTES_MAX, TAG_BYTES
from federation.protocol.topics import Topics
from federation.runtime.profiles import PROFILES, BrokerProfile, profile_named
from federation.runtime.session import SessionSettings, publish_packet_bytes
from federation.runtime.transport import Will
from federation.types import FederationId, ModelVersion, NodeId, RoundId, update_id
from tests.rigs.model_values import MANIFEST

EVERY = pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
LONG = "x" * ID_CHARS_MAX
NODE, COORDINATOR = (
    {"broker.url": "mqtt://b", "federation.id": "f", "node.id": "n"},
    {
        "broker.url": "mqtt://b",
        "federation.id": "f",
    },
)


def longest_topics() -> list[str]:
    topics, node = Topics(FederationId(LONG)), NodeId(LONG)
    return [
        topics.node_chunk(node, update_id(RoundId(INT32_MAX), node), CHUNKS_MAX - 1),
        topics.model_chunk(ModelVersion(INT32_MAX), "k255", 255),
        topics.node_state(node),
        topics.coordinator_state,
        *topics.coordinator_subscriptions_control,
        *topics.coordinator_subscriptions_data,
    ]


@EVERY
def test_the_longest_topic_fits(profile: BrokerProfile) -> None:
    """FED-87."""
    for topic in longest_topics():
        assert topic.count("/") + 1 <= profile.topic_levels_max
        assert len(topic.encode()) <= profile.topic_bytes_max


@EVERY
def test_the_largest_packet_fits(profile: BrokerProfile) -> None:
    topic = longest_topics()[0]
    assert publish_packet_bytes(topic, bytes(profile.chunk_bytes + TAG_BYTES), qos=1) <= profile.packet_bytes_max
    # An update that fits one chunk rides inside its offer, and the rest of a message is small.
    assert publish_packet_bytes(topic, bytes(MESSAGE_BYTES_MAX), qos=1) <= profile.packet_bytes_max


@EVERY
def test_a_node_can_hold_all_its_subscriptions(profile: BrokerProfile) -> None:
    always = len(Topics(FederationId("f")).node_subscriptions(NodeId("n"))) + 2  # its state, and its key
    assert (profile.named_chunks_max or 1) + always <= profile.subscriptions_max


@EVERY
def test_a_profile_raises_nothing(profile: BrokerProfile) -> None:
    """FED-87."""
    wanted = SessionSettings(client_id="n", session_expiry_s=CONTROL_EXPIRY_S, receive_max=64, inflight_max=64)
    got = profile.session(wanted)
    for name in ("packet_bytes_max", "inflight_max", "receive_max", "session_expiry_s", "keepalive_s", "filters_max"):
        assert getattr(got, name) <= getattr(wanted, name)
    assert profile.will(Will(topic="t", payload=b"")).delay_s <= 15
    assert profile.chunk_bytes <= CHUNK_BYTES


def test_the_default_changes_nothing() -> None:
    wanted = SessionSettings(client_id="n")
    assert profile_named("mosquitto").session(wanted) == wanted
    assert profile_named("mosquitto").will(Will(topic="t", payload=b"")) == Will(topic="t", payload=b"")
    assert read_config(None, COORDINATOR, {}).broker.body_bytes == CHUNK_BYTES


def test_a_chunk_follows_the_profile_and_may_be_smaller_but_not_larger() -> None:
    azure = COORDINATOR | {"broker.profile": "azure-event-grid"}
    assert read_config(None, azure, {}).broker.body_bytes == 28_672
    assert read_config(None, azure | {"broker.chunk_bytes": 2_048}, {}).broker.body_bytes == 2_048
    with pytest.raises(ConfigError, match="28672"):
        read_config(None, azure | {"broker.chunk_bytes": 30_000}, {})


@pytest.mark.parametrize("flags", [COORDINATOR, NODE])
def test_an_unknown_profile_is_an_error_that_names_the_nearest(flags: dict[str, str]) -> None:
    read = read_node_config if flags is NODE else read_config
    with pytest.raises(ConfigError, match="aws-iot-core"):
        read(None, flags | {"broker.profile": "aws"}, {})


def test_a_node_asks_by_name_and_in_smaller_chunks_where_its_broker_wants_that() -> None:
    aws = node_settings(read_node_config(None, NODE | {"broker.profile": "aws-iot-core"}, {}), "cpu", MANIFEST)
    assert aws.named_chunks_max == 25
    azure = node_settings(read_node_config(None, NODE | {"broker.profile": "azure-event-grid"}, {}), "cpu", MANIFEST)
    assert (azure.named_chunks_max, azure.chunk_bytes) == (None, 28_672)


def test_a_model_that_the_broker_cannot_retain_twice_is_refused_before_anything_is_sent() -> None:
    azure = profile_named("azure-event-grid")
    assert azure.retained_objection(5_000 * 28_672, 28_672) is None
    assert "10002 retained messages" in str(azure.retained_objection(5_000 * 28_672 + 1, 28_672))
    assert profile_named("mosquitto").retained_objection(1 << 34, 61_440) is None


def test_the_page_has_every_profile_and_its_numbers() -> None:
    longest = max(len(topic.encode()) for topic in longest_topics())
    page = (Path(__file__).parents[4] / "docs/reference/brokers.md").read_text()
    rows = {
        cells[0].split("`")[1]: cells
        for line in page.splitlines()
        if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 9
    }
    assert rows.keys() == PROFILES.keys()
    assert f"{longest} bytes with the longest names" in page.replace("\n", " ")
    for name, profile in PROFILES.items():
        control = profile.session(SessionSettings(client_id="c", receive_max=64, inflight_max=64))
        expiry = "as asked" if profile.session_expiry_s_max >= 7200 else f"{profile.session_expiry_s_max:,}"
        delay = profile.will(Will(topic="t", payload=b"")).delay_s
        assert rows[name][1:] == [
            f"{profile.chunk_bytes:,}",
            f"{control.packet_bytes_max:,}",
            f"{control.inflight_max} / {control.receive_max}",
            expiry,
            str(delay) if delay else "none",
            str(profile.topic_levels_max),
            f"{profile.filters_max:,}",
            "yes" if profile.retained_by_wildcard else "no",
        ]

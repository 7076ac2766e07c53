"""The topic tree, there and back (FED-1, FED-2, FED-6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import LocalProtocolError, MalformedTopic
from federation.protocol.sum_messages import transfer_id
from federation.protocol.topics import (
    CoordinatorStateTopic,
    HelperChunkTopic,
    HelperCommandTopic,
    HelperEventTopic,
    HelperStateTopic,
    ModelChunkTopic,
    NodeChunkTopic,
    NodeCommandTopic,
    NodeEventTopic,
    NodeKeyTopic,
    NodeStateTopic,
    NodeTelemetryTopic,
    NodeTicketTopic,
    ParsedTopic,
    RoundTopic,
    Topics,
    validate_federation_id,
    validate_helper_id,
    validate_node_id,
)
from federation.types import Digest, FederationId, HelperId, ModelVersion, NodeId, RoundId, UpdateId, update_id

TOPICS = Topics(FederationId("mill-7"))
NODE = NodeId("press_01")

PAIRS: list[tuple[str, str, ParsedTopic]] = [
    (TOPICS.coordinator_state, "fl/mill-7/srv", CoordinatorStateTopic()),
    (TOPICS.round, "fl/mill-7/round", RoundTopic()),
    (
        TOPICS.model_chunk(ModelVersion(12), "k3", 255),
        "fl/mill-7/model/12/k3/255",
        ModelChunkTopic(version=ModelVersion(12), segment="k3", index=255),
    ),
    (TOPICS.node_state(NODE), "fl/mill-7/n/press_01/state", NodeStateTopic(node=NODE)),
    (TOPICS.node_command(NODE), "fl/mill-7/n/press_01/cmd", NodeCommandTopic(node=NODE)),
    (TOPICS.node_key(NODE), "fl/mill-7/n/press_01/key", NodeKeyTopic(node=NODE)),
    (TOPICS.node_event(NODE), "fl/mill-7/n/press_01/evt", NodeEventTopic(node=NODE)),
    (
        TOPICS.node_chunk(NODE, UpdateId("4-press_01"), 65_535),
        "fl/mill-7/n/press_01/up/4-press_01/65535",
        NodeChunkTopic(node=NODE, update=UpdateId("4-press_01"), index=65_535),
    ),
    (TOPICS.node_telemetry(NODE), "fl/mill-7/n/press_01/tel", NodeTelemetryTopic(node=NODE)),
]
HELPER = HelperId("works_council")
TRANSFER = transfer_id(Digest(b"\xab" * 16), 34)
HELPER_PAIRS: list[tuple[str, str, ParsedTopic]] = [
    (TOPICS.node_ticket(NODE), "fl/mill-7/n/press_01/ticket", NodeTicketTopic(node=NODE)),
    (TOPICS.helper_state(HELPER), "fl/mill-7/h/works_council/state", HelperStateTopic(helper=HELPER)),
    (TOPICS.helper_command(HELPER), "fl/mill-7/h/works_council/cmd", HelperCommandTopic(helper=HELPER)),
    (TOPICS.helper_event(HELPER), "fl/mill-7/h/works_council/evt", HelperEventTopic(helper=HELPER)),
    (
        TOPICS.helper_chunk(HELPER, TRANSFER, 65_535),
        f"fl/mill-7/h/works_council/sum/34-{'ab' * 16}/65535",
        HelperChunkTopic(helper=HELPER, transfer=TRANSFER, index=65_535),
    ),
]


def test_all_chunks_of_a_helper_and_of_a_node_begin_alike() -> None:
    assert TOPICS.helper_chunk(HELPER, TRANSFER, 7).startswith(TOPICS.helper_chunks(HELPER))
    assert TOPICS.helper_chunks(HELPER) == "fl/mill-7/h/works_council/sum/"


NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


def matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT filter without ``#`` matches."""
    levels, wanted = topic.split("/"), topic_filter.split("/")
    return len(levels) == len(wanted) and all(one in ("+", two) for one, two in zip(wanted, levels, strict=True))


@pytest.mark.parametrize(
    ("made", "written", "parsed"), PAIRS + HELPER_PAIRS, ids=lambda value: value if type(value) is str else ""
)
def test_every_topic_is_made_as_the_table_says_and_parsed_back(made: str, written: str, parsed: ParsedTopic) -> None:
    """FED-2."""
    assert made == written
    assert TOPICS.parse(written) == parsed


def test_no_topic_has_more_than_eight_levels() -> None:
    """FED-1."""
    assert max(written.count("/") for _, written, _ in PAIRS + HELPER_PAIRS) + 1 <= 8


def test_filters_match_the_topics_that_they_are_for() -> None:
    """FED-2, FED-9: bulk on the data connection, everything else that nodes say on control."""
    control, data = TOPICS.coordinator_subscriptions_control, TOPICS.coordinator_subscriptions_data
    for made, _, parsed in PAIRS:
        on_control = any(matches(one, made) for one in control)
        on_data = any(matches(one, made) for one in data)
        on_node = any(matches(one, made) for one in TOPICS.node_subscriptions(NODE))
        assert on_control == isinstance(parsed, NodeStateTopic | NodeEventTopic | NodeTelemetryTopic)
        assert on_data == isinstance(parsed, NodeChunkTopic)
        assert on_node == isinstance(parsed, CoordinatorStateTopic | RoundTopic | NodeCommandTopic)
        assert (made == TOPICS.node_key(NODE)) == isinstance(parsed, NodeKeyTopic)
        segment = TOPICS.model_segment(ModelVersion(12), "k3")
        assert matches(segment, made) == isinstance(parsed, ModelChunkTopic)


def test_a_helper_is_heard_where_it_speaks_and_hears_only_its_own_commands() -> None:
    """FED-140."""
    for made, _, parsed in PAIRS + HELPER_PAIRS:
        assert matches(TOPICS.helper_states, made) == isinstance(parsed, HelperStateTopic)
        answered = any(matches(one, made) for one in TOPICS.helper_answers)
        assert answered == isinstance(parsed, HelperEventTopic | HelperChunkTopic)
        heard = any(matches(one, made) for one in TOPICS.helper_subscriptions(HELPER))
        assert heard == isinstance(parsed, CoordinatorStateTopic | HelperCommandTopic | HelperStateTopic)
        for other in (HelperId("other"), HelperId("press_01")):
            assert not any(matches(one, made) for one in TOPICS.helper_subscriptions(other)[1:])


def test_a_node_hears_no_other_nodes_commands() -> None:
    other = TOPICS.node_command(NodeId("press_02"))
    assert not any(matches(one, other) for one in TOPICS.node_subscriptions(NODE))


@given(NAMES, NAMES, st.integers(0, 2**32 - 1), st.integers(0, 65_535))
def test_any_chunk_of_any_node_is_parsed_back(federation: str, node: str, round_id: int, index: int) -> None:
    topics = Topics(FederationId(federation), root="r")
    update = update_id(RoundId(round_id), NodeId(node))
    expected = NodeChunkTopic(node=NodeId(node), update=update, index=index)
    assert topics.parse(topics.node_chunk(NodeId(node), update, index)) == expected


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "fl",
        "fl/mill-7",
        "fl/mill-7/",
        "fl/mill-8/srv",
        "xx/mill-7/srv",
        "/fl/mill-7/srv",
        "fl/mill-7/srv/",
        "fl/mill-7/srv/x",
        "fl/mill-7/rounds",
        "fl/mill-7/model/1/k0",
        "fl/mill-7/model/1/k0/0/0",
        "fl/mill-7/model/01/k0/0",
        "fl/mill-7/model/-1/k0/0",
        "fl/mill-7/model/4294967296/k0/0",
        "fl/mill-7/model/99999999999/k0/0",
        "fl/mill-7/model/1/x0/0",
        "fl/mill-7/model/1/k/0",
        "fl/mill-7/model/1/k00/0",
        "fl/mill-7/model/1/k256/0",
        "fl/mill-7/model/1/k1000/0",
        "fl/mill-7/model/1/k0/256",
        "fl/mill-7/model/1/k0/+",
        "fl/mill-7/model/1/k0/\u0663",
        "fl/mill-7/n",
        "fl/mill-7/n/press_01",
        "fl/mill-7/n//state",
        "fl/mill-7/n/pr\u00e9s/state",
        "fl/mill-7/n/+/state",
        "fl/mill-7/n/" + "x" * 65 + "/state",
        "fl/mill-7/n/press_01\n/state",
        "fl/mill-7/n/press_01/other",
        "fl/mill-7/n/press_01/state/x",
        "fl/mill-7/n/press_01/up/4-press_01",
        "fl/mill-7/n/press_01/up/4-press_01/65536",
        "fl/mill-7/n/press_01/up/4-press_01/00",
        "fl/mill-7/n/press_01/up/press_01/0",
        "fl/mill-7/n/press_01/up/04-press_01/0",
        "fl/mill-7/n/press_01/ticket/0",
        "fl/mill-7/h",
        "fl/mill-7/h/works_council",
        "fl/mill-7/h/+/state",
        "fl/mill-7/h//state",
        "fl/mill-7/h/works_council/tel",
        "fl/mill-7/h/works_council/state/0",
        "fl/mill-7/h/" + "x" * 65 + "/state",
        f"fl/mill-7/h/works_council/sum/{'ab' * 16}/0",
        f"fl/mill-7/h/works_council/sum/0-{'ab' * 16}",
        f"fl/mill-7/h/works_council/sum/0-{'ab' * 15}/0",
        f"fl/mill-7/h/works_council/sum/0-{'AB' * 16}/0",
        f"fl/mill-7/h/works_council/sum/00-{'ab' * 16}/0",
        f"fl/mill-7/h/works_council/sum/100-{'ab' * 16}/0",
        f"fl/mill-7/h/works_council/sum/0-{'ab' * 16}/65536",
        "fl/mill-7/h/works_council/sum/0-press_01/0",
        "$SYS/broker/uptime",
    ],
)
def test_a_topic_outside_the_tree_is_refused(topic: str) -> None:
    """FED-1."""
    with pytest.raises(MalformedTopic):
        TOPICS.parse(topic)


def test_an_update_of_another_node_is_a_forgery() -> None:
    """FED-6."""
    with pytest.raises(MalformedTopic, match="no update of press_01"):
        TOPICS.parse("fl/mill-7/n/press_01/up/4-press_02/0")


@given(st.text(max_size=80))
def test_any_text_is_a_topic_of_ours_or_refused(text: str) -> None:
    for topic in (text, f"fl/mill-7/{text}", f"fl/mill-7/n/{text}", f"fl/mill-7/h/{text}", f"fl/mill-7/model/{text}"):
        try:
            TOPICS.parse(topic)
        except MalformedTopic as error:
            assert len(str(error)) < 1000  # noqa: PT017 - the refusal is one outcome of two


@pytest.mark.parametrize("name", ["", "a b", "a/b", "+", "#", "$x", "x" * 65, "\u00e9", "a\n"])
def test_a_name_that_is_no_topic_level_is_our_own_bug(name: str) -> None:
    """FED-1."""
    with pytest.raises(LocalProtocolError, match="node id"):
        validate_node_id(name)
    with pytest.raises(LocalProtocolError, match="helper id"):
        validate_helper_id(name)
    with pytest.raises(LocalProtocolError, match="federation id"):
        validate_federation_id(name)
    with pytest.raises(LocalProtocolError, match="federation id"):
        Topics(FederationId(name))
    with pytest.raises(LocalProtocolError, match="topic root"):
        Topics(FederationId("f"), root=name)


def test_a_name_is_passed_on_as_it_is() -> None:
    assert validate_node_id("x" * 64) == "x" * 64
    assert validate_federation_id("A-z_9") == "A-z_9"
    assert validate_helper_id("A-z_9") == "A-z_9"


def test_the_chunks_of_a_node_share_a_beginning_that_no_other_node_has() -> None:
    mine, other = NodeId("press-7"), NodeId("press-70")
    update = update_id(RoundId(3), mine)
    assert TOPICS.node_chunk(mine, update, 0).startswith(TOPICS.node_chunks(mine))
    assert not TOPICS.node_chunk(other, update_id(RoundId(3), other), 0).startswith(TOPICS.node_chunks(mine))

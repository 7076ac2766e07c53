"""The topic tree of one federation: the names that are published to, the filters, and the way back.

At most 7 slashes and 8 levels, so that the tree fits hosted brokers too; a node's name is a whole level, so that an
access rule can name it (PROTOCOL.md, FED-1 to FED-6).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from federation.errors import LocalProtocolError, MalformedTopic
from federation.protocol.limits import CHUNKS_MAX, INT32_MAX, SEGMENT_CHUNKS
from federation.protocol.tables import ID_PATTERN, UPDATE_PATTERN
from federation.types import DIGEST_BYTES, FederationId, HelperId, ModelVersion, NodeId, UpdateId

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_SEGMENT = re.compile(r"[kd](?:0|[1-9][0-9]{0,2})", re.ASCII)
_SUM = re.compile(rf"(?:0|[1-9][0-9]?)-[0-9a-f]{{{2 * DIGEST_BYTES}}}", re.ASCII)
_SEGMENTS_MAX = CHUNKS_MAX // SEGMENT_CHUNKS
_KNOWN_MAX: Final = 4096
"""Topics whose meaning is remembered: most messages come on few of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStateTopic:
    """``srv``: who coordinates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTopic:
    """``round``: the current round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChunkTopic:
    """``model/{version}/{segment}/{index}``: one chunk of a model part; the index counts within the segment."""

    version: ModelVersion
    segment: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStateTopic:
    """``n/{node}/state``: birth and death."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCommandTopic:
    """``n/{node}/cmd``: the coordinator's word to one node."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKeyTopic:
    """``n/{node}/key``: the group key of a sealed model, for one node."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEventTopic:
    """``n/{node}/evt``: offers and declines."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChunkTopic:
    """``n/{node}/up/{update}/{index}``: one chunk of a granted update."""

    node: NodeId
    update: UpdateId
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTelemetryTopic:
    """``n/{node}/tel``: progress."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTicketTopic:
    """``n/{node}/ticket``: never published to; the place that the signature of a ticket is for."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperStateTopic:
    """``h/{helper}/state``: birth, death and key of a helper."""

    helper: HelperId


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperCommandTopic:
    """``h/{helper}/cmd``: the coordinator's word to one helper."""

    helper: HelperId


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperEventTopic:
    """``h/{helper}/evt``: what a helper holds, and its sums."""

    helper: HelperId


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperChunkTopic:
    """``h/{helper}/sum/{transfer}/{index}``: one chunk of a granted sum (`sum_messages.transfer_id`)."""

    helper: HelperId
    transfer: UpdateId
    index: int


ParsedTopic = (
    CoordinatorStateTopic
    | RoundTopic
    | ModelChunkTopic
    | NodeStateTopic
    | NodeCommandTopic
    | NodeKeyTopic
    | NodeEventTopic
    | NodeChunkTopic
    | NodeTelemetryTopic
    | NodeTicketTopic
    | HelperStateTopic
    | HelperCommandTopic
    | HelperEventTopic
    | HelperChunkTopic
)
"""Everything that a topic of the tree can be."""


_OF_A_NODE: Final[Mapping[str, Callable[..., "ParsedTopic"]]] = {
    "state": NodeStateTopic,
    "cmd": NodeCommandTopic,
    "key": NodeKeyTopic,
    "evt": NodeEventTopic,
    "tel": NodeTelemetryTopic,
    "ticket": NodeTicketTopic,
}


@dataclass(frozen=True, slots=True)
class Topics:
    """The tree of one federation below ``{root}/{federation}``.

    Attributes:
        federation: Its name.
        root: The first level, so that a broker can be shared.

    Raises:
        LocalProtocolError: One of the two cannot be a topic level.
    """

    federation: FederationId
    root: str = "fl"

    def __post_init__(self) -> None:
        validate_federation_id(self.federation)
        if not ID_PATTERN.fullmatch(self.root):
            raise LocalProtocolError(f"topic root {self.root!r}: needs {ID_PATTERN.pattern}")

    @property
    def coordinator_state(self) -> str:
        """Retained, and the coordinator's will."""
        return f"{self._prefix}/srv"

    @property
    def round(self) -> str:
        """Retained: the current announcement."""
        return f"{self._prefix}/round"

    def model_chunk(self, version: ModelVersion, segment: str, index: int) -> str:
        """Retained: one chunk, ``index`` counted within its segment."""
        return f"{self._prefix}/model/{version}/{segment}/{index}"

    def model_segment(self, version: ModelVersion, segment: str) -> str:
        """The filter that pulls one segment: at most 256 retained chunks."""
        return f"{self._prefix}/model/{version}/{segment}/+"

    def node_state(self, node: NodeId) -> str:
        """Retained, and the node's will."""
        return f"{self._prefix}/n/{node}/state"

    def node_command(self, node: NodeId) -> str:
        """From the coordinator to one node."""
        return f"{self._prefix}/n/{node}/cmd"

    def node_key(self, node: NodeId) -> str:
        """Retained: what opens the model, sealed to one node."""
        return f"{self._prefix}/n/{node}/key"

    def node_event(self, node: NodeId) -> str:
        """Offers and declines of one node."""
        return f"{self._prefix}/n/{node}/evt"

    def node_chunk(self, node: NodeId, update: UpdateId, index: int) -> str:
        """One chunk of an update."""
        return f"{self._prefix}/n/{node}/up/{update}/{index}"

    def node_chunks(self, node: NodeId) -> str:
        """How the topics of all chunks of one node begin."""
        return f"{self._prefix}/n/{node}/up/"

    def node_telemetry(self, node: NodeId) -> str:
        """Progress of one node, QoS 0."""
        return f"{self._prefix}/n/{node}/tel"

    def node_ticket(self, node: NodeId) -> str:
        """The place that the signature of a node's ticket is for; nothing is published there."""
        return f"{self._prefix}/n/{node}/ticket"

    def helper_state(self, helper: HelperId) -> str:
        """Retained, and the helper's will."""
        return f"{self._prefix}/h/{helper}/state"

    def helper_command(self, helper: HelperId) -> str:
        """From the coordinator to one helper."""
        return f"{self._prefix}/h/{helper}/cmd"

    def helper_event(self, helper: HelperId) -> str:
        """What one helper holds, and its sums."""
        return f"{self._prefix}/h/{helper}/evt"

    def helper_chunk(self, helper: HelperId, transfer: UpdateId, index: int) -> str:
        """One chunk of a sum."""
        return f"{self._prefix}/h/{helper}/sum/{transfer}/{index}"

    def helper_chunks(self, helper: HelperId) -> str:
        """How the topics of all chunks of one helper begin."""
        return f"{self._prefix}/h/{helper}/sum/"

    @property
    def helper_states(self) -> str:
        """The filter for the states of all helpers."""
        return f"{self._prefix}/h/+/state"

    @property
    def helper_answers(self) -> tuple[str, ...]:
        """Filters for all else that helpers say."""
        return (f"{self._prefix}/h/+/evt", f"{self._prefix}/h/+/sum/+/+")

    @property
    def coordinator_subscriptions_control(self) -> tuple[str, ...]:
        """Filters of the coordinator's control connection."""
        return (f"{self._prefix}/n/+/state", f"{self._prefix}/n/+/evt", f"{self._prefix}/n/+/tel")

    @property
    def coordinator_subscriptions_data(self) -> tuple[str, ...]:
        """Filters of the coordinator's data connection: bulk does not share the window with births."""
        return (f"{self._prefix}/n/+/up/+/+",)

    def node_subscriptions(self, node: NodeId) -> tuple[str, ...]:
        """Filters that a node holds all the time; model segments come and go."""
        return (self.coordinator_state, self.round, self.node_command(node))

    def helper_subscriptions(self, helper: HelperId) -> tuple[str, ...]:
        """Filters of one helper; its own state tells it of a second process with its name."""
        return (self.coordinator_state, self.helper_command(helper), self.helper_state(helper))

    def below(self, topic: str) -> str:
        """The levels of ``topic`` below this federation's: the same under any root.

        Raises:
            MalformedTopic: It is outside this federation's tree.
        """
        prefix = f"{self._prefix}/"
        if not topic.startswith(prefix):
            raise MalformedTopic(f"{topic[:200]!r} is outside {self._prefix}")
        return topic.removeprefix(prefix)

    def parse(self, topic: str) -> ParsedTopic:
        """What ``topic`` is.

        Raises:
            MalformedTopic: It is outside this federation's tree, or a level of it is malformed.
        """
        return _below(self.below(topic))

    @property
    def _prefix(self) -> str:
        return f"{self.root}/{self.federation}"


def validate_node_id(text: str) -> NodeId:
    """``text`` as a node's name.

    Raises:
        LocalProtocolError: It is not 1 to 64 characters of ``[A-Za-z0-9_-]``.
    """
    if not ID_PATTERN.fullmatch(text):
        raise LocalProtocolError(f"node id {text!r}: needs {ID_PATTERN.pattern}")
    return NodeId(text)


def validate_helper_id(text: str) -> HelperId:
    """``text`` as a helper's name.

    Raises:
        LocalProtocolError: It is not 1 to 64 characters of ``[A-Za-z0-9_-]``.
    """
    if not ID_PATTERN.fullmatch(text):
        raise LocalProtocolError(f"helper id {text!r}: needs {ID_PATTERN.pattern}")
    return HelperId(text)


def validate_federation_id(text: str) -> FederationId:
    """``text`` as a federation's name.

    Raises:
        LocalProtocolError: It is not 1 to 64 characters of ``[A-Za-z0-9_-]``.
    """
    if not ID_PATTERN.fullmatch(text):
        raise LocalProtocolError(f"federation id {text!r}: needs {ID_PATTERN.pattern}")
    return FederationId(text)


@lru_cache(_KNOWN_MAX)
def _below(path: str) -> ParsedTopic:
    """What the topic with this path below the federation is."""
    match path.split("/"):
        case ["srv"]:
            return CoordinatorStateTopic()
        case ["round"]:
            return RoundTopic()
        case ["model", version, segment, index]:
            return _model_chunk(version, segment, index)
        case ["n", node, *rest] if ID_PATTERN.fullmatch(node):
            return _node_topic(NodeId(node), rest)
        case ["h", helper, *rest] if ID_PATTERN.fullmatch(helper):
            return _helper_topic(HelperId(helper), rest)
        case _:
            raise MalformedTopic(f"the tree has no topic {path[:200]!r}")


def _node_topic(node: NodeId, levels: list[str]) -> ParsedTopic:
    match levels:
        case [name] if name in _OF_A_NODE:
            return _OF_A_NODE[name](node=node)
        case ["up", update, index]:
            return _node_chunk(node, update, index)
        case _:
            raise MalformedTopic(f"a node has no topic {'/'.join(levels)[:200]!r}")


def _helper_topic(helper: HelperId, levels: list[str]) -> ParsedTopic:
    match levels:
        case ["state"]:
            return HelperStateTopic(helper=helper)
        case ["cmd"]:
            return HelperCommandTopic(helper=helper)
        case ["evt"]:
            return HelperEventTopic(helper=helper)
        case ["sum", transfer, index] if _SUM.fullmatch(transfer):
            return HelperChunkTopic(helper=helper, transfer=UpdateId(transfer), index=_number(index, CHUNKS_MAX - 1))
        case _:
            raise MalformedTopic(f"a helper has no topic {'/'.join(levels)[:200]!r}")


def _model_chunk(version: str, segment: str, index: str) -> ModelChunkTopic:
    if not _SEGMENT.fullmatch(segment) or int(segment[1:]) >= _SEGMENTS_MAX:
        raise MalformedTopic(f"no model segment: {segment[:200]!r}")
    return ModelChunkTopic(
        version=ModelVersion(_number(version, INT32_MAX)),
        segment=segment,
        index=_number(index, SEGMENT_CHUNKS - 1),
    )


def _node_chunk(node: NodeId, update: str, index: str) -> NodeChunkTopic:
    parts = UPDATE_PATTERN.fullmatch(update)
    # The broker's access rules vouch for the node's level, so an update id with another node's name is a forgery.
    if not parts or parts[2] != node:
        raise MalformedTopic(f"no update of {node}: {update[:200]!r}")
    return NodeChunkTopic(node=node, update=UpdateId(update), index=_number(index, CHUNKS_MAX - 1))


def _number(level: str, most: int) -> int:
    if not _NUMBER.fullmatch(level) or int(level) > most:
        raise MalformedTopic(f"needs a number up to {most}, not {level[:200]!r}")
    return int(level)

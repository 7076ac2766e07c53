"""What other brokers take: sizes, windows, depths and lifetimes by name; the sources are in docs/reference/brokers.md.

A profile only lowers what we would do anyway, so one that is stricter than its broker costs speed and nothing else.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator

from federation.protocol.chunking import chunk_count
from federation.protocol.limits import CHUNK_BYTES
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Will

__all__ = ["PROFILES", "BrokerProfile", "ProfileName", "profile_named"]

KEYFRAMES = 2
"""Versions of the model that are retained whole."""

_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerProfile:
    """The limits of one kind of broker.

    Attributes:
        name: What ``[broker] profile`` says.
        chunk_bytes: Body size of a chunk at most, in bytes.
        packet_bytes_max: Largest packet, in bytes.
        inflight_max: Our publishes without an acknowledgement.
        receive_max: The broker's publishes to us without one.
        window_chunks: Chunks of updates that may be under way to the coordinator from one node.
        session_expiry_s_max: How long a session is kept, in seconds.
        keepalive_s_max: Longest keep-alive, in seconds.
        will_delay_s_max: Longest will delay, in seconds; 0: the property is not sent.
        topic_levels_max: Levels of a topic.
        topic_bytes_max: UTF-8 bytes of a topic.
        filters_max: Topic filters in one SUBSCRIBE.
        subscriptions_max: Subscriptions of one connection.
        retained_messages_max: Retained messages of the whole broker; None is no limit of its own.
        retained_by_wildcard: Whether a subscription with a wildcard gets retained messages.
    """

    name: str
    chunk_bytes: int = CHUNK_BYTES
    packet_bytes_max: int = 262_144
    inflight_max: int = 65_535
    receive_max: int = 65_535
    window_chunks: int = 512
    session_expiry_s_max: int = 7 * _DAY_S
    keepalive_s_max: int = 65_535
    will_delay_s_max: int = 300
    topic_levels_max: int = 128
    topic_bytes_max: int = 65_535
    filters_max: int = 1_000
    subscriptions_max: int = 10_000
    retained_messages_max: int | None = None
    retained_by_wildcard: bool = True

    def session(self, wanted: SessionSettings) -> SessionSettings:
        """A session as we want it, within the limits."""
        return replace(
            wanted,
            packet_bytes_max=min(wanted.packet_bytes_max, self.packet_bytes_max),
            inflight_max=min(wanted.inflight_max, self.inflight_max),
            receive_max=min(wanted.receive_max, self.receive_max),
            session_expiry_s=min(wanted.session_expiry_s, self.session_expiry_s_max),
            keepalive_s=min(wanted.keepalive_s, self.keepalive_s_max),
            filters_max=min(wanted.filters_max, self.filters_max),
        )

    def will(self, wanted: Will) -> Will:
        """A will as we want it, within the limits."""
        return replace(wanted, delay_s=min(wanted.delay_s, self.will_delay_s_max))

    @property
    def named_chunks_max(self) -> int | None:
        """Chunks of a model that a node asks for by name at a time; None: a whole segment by one wildcard."""
        # Half of the subscriptions: the rest is for what a node always hears, and for a late answer to an unsubscribe.
        return None if self.retained_by_wildcard else self.subscriptions_max // 2

    def retained_objection(self, model_bytes: int, chunk_bytes: int) -> str | None:
        """Why a model cannot be retained there, or None.

        Args:
            model_bytes: Its size, in bytes.
            chunk_bytes: Body size of a chunk, in bytes.
        """
        needed = KEYFRAMES * chunk_count(max(1, model_bytes), chunk_bytes)
        if self.retained_messages_max is None or needed <= self.retained_messages_max:
            return None
        return f"the model takes {needed} retained messages, and {self.name} keeps {self.retained_messages_max}"


_KNOWN = (
    BrokerProfile(name="mosquitto"),
    BrokerProfile(name="emqx", inflight_max=32, receive_max=32),
    BrokerProfile(name="hivemq", inflight_max=10),
    BrokerProfile(name="vernemq", inflight_max=20, receive_max=20, topic_levels_max=10),
    BrokerProfile(
        name="aws-iot-core",
        packet_bytes_max=131_072,
        inflight_max=100,
        receive_max=100,
        session_expiry_s_max=3_600,
        keepalive_s_max=1_200,
        # Not in its list of properties.
        will_delay_s_max=0,
        topic_levels_max=8,
        topic_bytes_max=256,
        filters_max=8,
        subscriptions_max=50,
        retained_by_wildcard=False,
    ),
    BrokerProfile(
        name="azure-event-grid",
        # Two of them stay below the 64 KB that may be in flight.
        chunk_bytes=28_672,
        packet_bytes_max=65_536,
        inflight_max=2,
        receive_max=2,
        # An absent coordinator's session ends with 100 messages.
        window_chunks=32,
        session_expiry_s_max=3_600,
        keepalive_s_max=1_160,
        topic_levels_max=8,
        topic_bytes_max=256,
        filters_max=10,
        subscriptions_max=50,
        retained_messages_max=10_000,
    ),
)

PROFILES: Mapping[str, BrokerProfile] = MappingProxyType({profile.name: profile for profile in _KNOWN})
"""All of them by name; ``mosquitto`` is the default, and limits nothing."""


def _known(name: str) -> str:
    return profile_named(name).name


def profile_named(name: str) -> BrokerProfile:
    """The profile of this name.

    Raises:
        ValueError: There is none; the message has the nearest.
    """
    found = PROFILES.get(name)
    if found is None:
        near = difflib.get_close_matches(name, PROFILES, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no such broker profile{hint} There are {', '.join(PROFILES)}")
    return found


ProfileName = Annotated[str, AfterValidator(_known)]
"""A setting that names a profile."""

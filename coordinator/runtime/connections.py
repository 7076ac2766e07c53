"""The coordinator's two connections: control for what must be quick and acknowledged late, data for bulk."""

from dataclasses import dataclass, replace
from typing import Final

from coordinator.config.sections import BrokerSection, CoordinatorConfig
from coordinator.runtime.broker_log import BROKER_LOG
from federation.errors import ConfigError
from federation.protocol.messages import CoordinatorState, Presence
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.runtime.address import BrokerAddress
from federation.runtime.mqtt import MqttTransport
from federation.runtime.network_thread import NetworkThread
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Inbox, Transport, Will
from federation.types import Epoch, FederationId, RunId, Start
from update_codec import Manifest

__all__ = [
    "CONTROL",
    "DROPPED_TOPIC",
    "Connections",
    "coordinator_will",
    "data_address",
    "open_connections",
]

DROPPED_TOPIC: Final = "$SYS/broker/publish/messages/dropped"
"""Where Mosquitto says how many messages it has dropped; nobody hears of one otherwise."""
CONTROL: Final = "control"
"""Name of the connection that carries everything but bulk: its state is the machine's view of the broker."""
CONTROL_EXPIRY_S = 3600
DATA_EXPIRY_S = 600
RECEIVE_MAX = 64
"""Messages that the broker may have in flight to us, per connection."""
MOSQUITTO = "mosquitto"
"""The profile whose broker counts what it drops; others may end a connection that asks for ``$SYS``."""
QUEUE_BYTES_MIN = 256 * 1024 * 1024
RECONNECT_S_MAX = 5.0
"""Cap of the reconnect delay: without the coordinator nobody works, and one process is no stampede."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """Both connections.

    Attributes:
        control: For what must be quick.
        data: For bulk.
        control_filters: What control has subscribed to where nothing may be retained.
        data_filters: The same of data.
    """

    control: Transport
    data: Transport
    control_filters: tuple[str, ...] = ()
    data_filters: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether both network threads run."""
        return all(one.alive for one in self.threads)

    @property
    def threads(self) -> tuple[NetworkThread, ...]:
        """Both, where they are real ones."""
        return tuple(one for one in (self.data, self.control) if isinstance(one, NetworkThread))

    def open(self) -> None:
        """Start to connect."""
        self.data.open()
        self.control.open()

    def clear_retained(self, topic: str) -> None:
        """Take away what is retained on a topic."""
        self.control.publish(topic, b"", qos=1, retain=True)

    def look_again(self) -> None:
        """Have the broker send all that is retained where nothing may be."""
        for topic_filter in self.control_filters:
            self.control.subscribe(topic_filter)
        for topic_filter in self.data_filters:
            self.data.subscribe(topic_filter)

    def close(self, *, timeout_s: float) -> None:
        """Flush and disconnect; the presence on the control connection goes last."""
        self.data.close(timeout_s=timeout_s)
        self.control.close(timeout_s=timeout_s)


def data_address(section: BrokerSection, control: BrokerAddress) -> BrokerAddress:
    """The same broker with the data connection's own certificate, where it has one.

    A broker that takes the client id from the certificate would let two connections with one certificate end each
    other in turn.

    Raises:
        ConfigError: A certificate without its key, or for a connection without TLS.
    """
    if section.tls_data_certificate is None and section.tls_data_key is None:
        return control
    if section.tls_data_certificate is None or section.tls_data_key is None or control.tls is None:
        raise ConfigError("broker.tls_data_certificate", "needs broker.tls_data_key, and an mqtts:// or wss:// URL")
    tls = replace(control.tls, certificate=str(section.tls_data_certificate), key=str(section.tls_data_key))
    return replace(control, tls=tls)


def coordinator_will(writer: Writer, run: RunId, epoch: Epoch, start: Start | None = None) -> Will:
    """What the broker says for a coordinator that is gone; signed now, because then nobody can."""
    lost = CoordinatorState(
        presence=Presence.LOST,
        run=run,
        epoch=epoch,
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_VERSION,
        start=start,
    )
    topic = writer.topics.coordinator_state
    return Will(topic=topic, payload=writer.encode(topic, lost))


def open_connections(
    config: CoordinatorConfig, address: BrokerAddress, will: Will, inbox: Inbox, manifest: Manifest
) -> Connections:
    """Both connections with their subscriptions; they connect when they are opened.

    Raises:
        ConfigError: The broker cannot retain a model of this size.
    """
    topics, profile = Topics(FederationId(config.federation.id)), config.broker.limits
    objection = profile.retained_objection(manifest.fp32_bytes, config.broker.body_bytes)
    if objection is not None:
        raise ConfigError("broker.profile", objection)
    never_retained = [one for one in topics.coordinator_subscriptions_control if not one.endswith("/state")]
    name = config.broker.client_id or f"coordinator-{config.federation.id}"
    control_session = SessionSettings(
        client_id=f"{name}-control",
        session_expiry_s=CONTROL_EXPIRY_S,
        keepalive_s=config.broker.keepalive_s,
        receive_max=RECEIVE_MAX,
        inflight_max=RECEIVE_MAX,
        manual_ack=True,
        connection=CONTROL,
        reconnect_delay_s_max=RECONNECT_S_MAX,
        as_published=frozenset((*never_retained, *topics.coordinator_subscriptions_data)),
        census=frozenset({topics.coordinator_state, *topics.coordinator_subscriptions_control} - {*never_retained}),
        tells_answer=True,
    )
    data_session = replace(
        control_session,
        client_id=f"{name}-data",
        session_expiry_s=DATA_EXPIRY_S,
        connection="data",
        census=frozenset(),
        # A keyframe and a delta of the largest part of a model must fit the queue as a whole.
        queue_bytes_max=max(QUEUE_BYTES_MIN, 3 * manifest.fp32_bytes),
        queue_messages_max=8_192 + 3 * manifest.fp32_bytes // config.broker.body_bytes,
    )
    control = MqttTransport(address, profile.session(control_session), inbox, will=profile.will(will))
    data = MqttTransport(data_address(config.broker, address), profile.session(data_session), inbox)
    events, chunks = topics.helper_answers
    helpers = (topics.helper_states, events) if config.privacy.masked else ()
    for topic_filter in (topics.coordinator_state, *topics.coordinator_subscriptions_control, *helpers):
        control.subscribe(topic_filter)
    if config.security.broker_log:
        # QoS 0: a line that waits for an absent coordinator would expire in its queue, and block what comes behind it.
        control.subscribe(f"{BROKER_LOG}#", qos=0)
    if profile.name == MOSQUITTO:
        control.subscribe(DROPPED_TOPIC, qos=0)
    for topic_filter in (*topics.coordinator_subscriptions_data, *((chunks,) if config.privacy.masked else ())):
        data.subscribe(topic_filter)
    return Connections(
        control=control,
        data=data,
        control_filters=tuple(never_retained),
        data_filters=tuple(topics.coordinator_subscriptions_data),
    )

"""The broker connection over MQTT 5: one network thread that owns the client library; nobody else touches it.

`publish`, `subscribe` and acknowledgements only queue and wake that thread, and its callbacks only put into the inbox.
So no lock of the library is ever shared, no handler can stop its keep-alive, and no exception can kill it unseen: it
costs the connection, not the thread.

An inbox that stays full for `INBOX_WAIT_S` costs the connection: what was not taken was not acknowledged either, so
the broker sends it again after the reconnect. Nothing is lost at QoS 1; duplicates are the receiver's business.
"""

import queue
import random
import secrets
import selectors
import time
from functools import partial

from paho.mqtt import MQTTException
from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from federation.errors import ConfigError
from federation.runtime import obstacles
from federation.runtime.address import BrokerAddress, TlsFiles, parse_broker_url
from federation.runtime.client import Connection, make_client
from federation.runtime.network_thread import INBOX_WAIT_S, NetworkThread
from federation.runtime.obstacles import Obstacle
from federation.runtime.outbound import Outgoing
from federation.runtime.session import SessionSettings, TakeoverDetector, publish_packet_bytes
from federation.runtime.subscriptions import Subscriptions
from federation.runtime.transport import (
    Inbox,
    InboxItem,
    MessageReceived,
    TransportAnswered,
    TransportConnected,
    TransportDisconnected,
    Will,
)

__all__ = ["BrokerAddress", "MqttTransport", "SessionSettings", "TlsFiles", "parse_broker_url"]

CONNACK_WAIT_S = 10.0
DISCONNECT_WAIT_S = 0.5
TICK_S_MAX = 5.0
REFUSED_NAMED_MAX = 16
TAKEN_OVER = 0x8E
"""DISCONNECT's reason where another client has connected with our id; Mosquitto 2.0 closes without a word."""
_WITH_WILL = ReasonCode(PacketTypes.DISCONNECT, identifier=0x04)
_SIGNATURE = "process"
"""User property of what is retained on the will's topic; see `TakeoverDetector`."""


class MqttTransport(NetworkThread):
    """One MQTT 5 session that survives its connections. Thread-safe.

    Attributes:
        refused: Publishes that the broker answered with a failure (not authorized, quota exceeded, too large).
        refused_topics: The topics of the first ones, at most `REFUSED_NAMED_MAX`.
    """

    def __init__(
        self,
        address: BrokerAddress,
        session: SessionSettings,
        inbox: Inbox,
        *,
        will: Will | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(session, inbox, rng)
        self._address = address
        self._client = make_client(address, session, will)
        self._wire_callbacks()
        self._takeovers = TakeoverDetector(secrets.token_hex(8))
        self._signed_topic = None if will is None else will.topic
        self._subscriptions = Subscriptions(self._signed_topic or "")
        self._inflight_max = session.inflight_max
        self._ending: str | None = None
        self._obstacle: Obstacle | None = None
        self._generation = self._unanswered = 0
        self._is_old = self._shared = False
        self.refused = 0
        self.refused_topics: list[str] = []

    # --- the network thread -----------------------------------------------------------------------------------------

    def _live(self) -> None:
        """One connection, from connect to its end."""
        self._generation += 1
        self._ending = self._obstacle = None
        self._renew()
        try:
            self._client.connect_anew(clean=self._shared)
        except (OSError, ValueError) as problem:  # name look-up, refused, TLS, websocket handshake
            where = {"host": self._address.host, "port": self._address.port}
            self._blocked("connect_failed", self._client.obstacle(problem), **where)
            return
        self._shared = False
        try:
            self._serve()
        except MQTTException as problem:
            self._ending = f"{obstacles.GARBLED} ({problem})"
        except Exception:
            self._ending = "an error of our own"
            raise
        finally:
            self._ended()

    def _renew(self) -> None:
        try:
            self._client.renew_credentials()
        except ConfigError as problem:
            self._log.warning(
                "credentials_kept", reason=str(problem), remedy="those of before are used until it is mended"
            )

    def _serve(self) -> None:
        connection = self._client.socket()
        if connection is None:
            return
        connack_by = time.monotonic() + CONNACK_WAIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup.receiver, selectors.EVENT_READ)
            selector.register(connection, selectors.EVENT_READ)
            while self._ending is None:
                self._turn(selector, connection)
                if not self.connected and time.monotonic() > connack_by:
                    self._ending = f"nothing came within {CONNACK_WAIT_S:.0f} s"
                if time.monotonic() > self._close_by + DISCONNECT_WAIT_S:
                    self._ending = "closed before the broker took everything"

    def _turn(self, selector: selectors.BaseSelector, connection: Connection) -> None:
        """Send what is queued, wait for something to happen, and take it."""
        self._send_all()
        if self._client.socket() is not connection:
            self._ending = self._ending or self._no_word()
            return
        selector.modify(connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._client.want_write() else 0))
        # TLS may hold decrypted bytes that no selector can see, and so does the client.
        pending = self._client.has_read or getattr(connection, "pending", int)() > 0
        ready = {key.fileobj for key, _ in selector.select(0.0 if pending else self._patience_s())}
        if self._wakeup.receiver in ready:
            self._wakeup.heard()
        if connection in ready or pending:
            self._client.loop_read()
            while self._client.has_read and self._ending is None and self._client.socket() is connection:
                self._client.loop_read()
        self._client.loop_misc()

    def _patience_s(self) -> float:
        # A broker may want to hear of us more often than we have offered; the library knows, and only asks the clock.
        tick_s = min(TICK_S_MAX, (self._client.keepalive or self._session.keepalive_s) / 4)
        left_s = self._close_by - time.monotonic()
        return min(tick_s, left_s if left_s > 0 else DISCONNECT_WAIT_S)

    def _send_all(self) -> None:
        while self._commands:
            self._commands.popleft()()
        while self.connected and (message := self._outbound.take(self._inflight_max)) is not None:
            if not self._send(message):
                break
        leaves = self._closing.is_set() or (self._leaves and self.connected)
        if leaves and (not len(self._outbound) or time.monotonic() >= self._close_by):
            self._client.disconnect(_WITH_WILL if self._lost else None)
        if self._client.want_write():
            self._client.loop_write()

    def _send(self, message: Outgoing) -> bool:
        """Whether the next message may follow."""
        if publish_packet_bytes(message.topic, message.payload, qos=message.qos) > self._packet_bytes_max:
            self._log.error("publish_dropped", topic=message.topic, bytes=len(message.payload), reason="too large")
            self._outbound.drop(message)
            return True
        properties = None
        if self._is_signed(message):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = (_SIGNATURE, self._takeovers.signature)
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # a packet id of 65,535 publishes ago is still in flight
            self._outbound.give_back(message)
            return False
        self._outbound.sent(info.mid, message)
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def _is_signed(self, message: Outgoing) -> bool:
        return message.retain and message.topic == self._signed_topic

    def _ended(self) -> None:
        accepted_at, self._accepted_at = self._accepted_at, None
        if self._outbound.forget_unreliable():
            self._send_anew()
        if (connection := self._client.socket()) is not None:
            connection.close()
        reason = self._ending or self._no_word()
        if accepted_at is None:
            if not self._closing.is_set():
                self._blocked("connect_refused", self._obstacle or self._without_answer(reason))
            return
        lived_s = time.monotonic() - accepted_at
        self._backoff.ended(lived_s)
        self._log.info("disconnected", reason=reason, seconds=round(lived_s, 3))
        self._tell(TransportDisconnected(connection=self._session.connection, reason=reason))

    def _without_answer(self, reason: str) -> Obstacle:
        """There was a connection and no CONNACK: what may be the matter; now and then it is asked what it speaks."""
        self._client.distrust()
        if (refusal := self._client.refusal()) is not None:
            return refusal
        tls = self._address.tls
        self._unanswered += 1
        is_time = self._is_old or self._unanswered & (self._unanswered - 1) == 0
        if is_time and self._address.transport == "tcp":
            self._is_old = obstacles.speaks_only_older(self._client.make_connection)
        if self._is_old:
            return obstacles.OLD
        certified = tls is not None and tls.certificate is not None
        return obstacles.unanswered(reason, encrypted=tls is not None, with_certificate=certified)

    def _subscribe(self, topic_filter: str, qos: int) -> None:
        self._subscriptions.add(topic_filter, qos)
        if self.connected and topic_filter != self._signed_topic:
            self._ask([(topic_filter, self._options(topic_filter, qos))])

    def _ask(self, wanted: list[tuple[str, SubscribeOptions]]) -> None:
        _, packet = self._client.subscribe(wanted)
        if packet is not None:
            self._subscriptions.asked(packet, [one for one, _ in wanted])

    def _options(self, topic_filter: str, qos: int, *, counted: bool = False) -> SubscribeOptions:
        handling = SubscribeOptions.RETAIN_DO_NOT_SEND if counted else SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
        return SubscribeOptions(
            qos=qos, retainAsPublished=topic_filter in self._session.as_published, retainHandling=handling
        )

    def _unsubscribe(self, topic_filter: str) -> None:
        if self._subscriptions.remove(topic_filter, connected=self.connected):
            self._client.unsubscribe(topic_filter)

    def _acknowledge(self, generation: int, mid: int) -> None:
        # A packet id means nothing on another connection: there it could acknowledge a message that nobody has seen.
        if generation == self._generation and self.connected:
            self._client.ack(mid, 1)

    # --- callbacks: network thread, never an exception, never work --------------------------------------------------

    def _wire_callbacks(self) -> None:
        client = self._client
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe

    def _on_connect(
        self, client: paho.Client, _u: object, flags: paho.ConnectFlags, reason: ReasonCode, limits: Properties | None
    ) -> None:
        if reason.is_failure:
            self._obstacle = obstacles.refused(
                reason.value, str(reason), client_id=self._session.client_id, properties=limits
            )
        else:
            self._obstacle = obstacles.lacking(limits)
        if self._obstacle is not None:
            self._ending = self._obstacle.reason
            return
        self._refusals.accepted()
        self._unanswered, self._is_old = 0, False
        present = flags.session_present
        self._adopt_limits(limits)
        self._client.ping_within(self._session.keepalive_s)
        self._subscriptions.connected()
        self._accepted_at = time.monotonic()
        wanted, forgotten = self._subscriptions.wanted(), self._subscriptions.take_forgotten()
        if self._signed_topic is not None:
            # QoS 0: it is there before our own signature is acknowledged, and nothing of it waits in the session.
            wanted = [(self._signed_topic, 0), *(one for one in wanted if one[0] != self._signed_topic)]
        counted = [one for one, _ in wanted if one in self._session.census]
        if counted:  # what is retained comes with QoS 0, and what follows with the QoS that is wanted
            self._ask([(one, self._options(one, 0)) for one in counted])
        for begin in range(0, len(wanted), self._session.filters_max):
            batch = wanted[begin : begin + self._session.filters_max]
            self._ask([(one, self._options(one, qos, counted=one in counted)) for one, qos in batch])
        if forgotten and present:
            client.unsubscribe(forgotten)
        self._log.info("connected", session_present=present, packet_bytes_max=self._packet_bytes_max)
        self._tell(
            TransportConnected(
                connection=self._session.connection, session_present=present, packet_bytes_max=self._packet_bytes_max
            )
        )

    def _adopt_limits(self, limits: Properties | None) -> None:
        before = self._packet_bytes_max
        offered = getattr(limits, "MaximumPacketSize", self._session.packet_bytes_max)
        self._packet_bytes_max = min(self._session.packet_bytes_max, offered)
        self._inflight_max = min(self._session.inflight_max, getattr(limits, "ReceiveMaximum", 65_535))
        if self._packet_bytes_max < before:
            # The library would send its unacknowledged messages as they are, and reconnect for ever.
            self._send_anew()

    def _send_anew(self) -> None:
        """Everything that was not acknowledged goes through our own queue again, not through the library's."""
        self._client.drop_out_messages()
        self._outbound.rewind()

    def _on_disconnect(
        self, _c: paho.Client, _u: object, flags: paho.DisconnectFlags, reason: ReasonCode, told: Properties | None
    ) -> None:
        said = flags.is_disconnect_packet_from_server
        if said and reason.value == TAKEN_OVER and self._takeovers.evicted(time.monotonic()):
            self._failure = self._twin()
        why = obstacles.ending(reason.value, str(reason), by_broker=said, properties=told)
        self._ending = self._ending or why or self._no_word()

    def _no_word(self) -> str:
        """Why a connection has ended of which the broker said nothing."""
        return "closed here" if self._closing.is_set() or self._leaves else "connection lost"

    def _on_message(self, client: paho.Client, _u: object, message: paho.MQTTMessage) -> None:
        if self._is_signature(client, message) or self._is_of_twin(message):
            return
        try:
            event = MessageReceived(
                topic=message.topic, payload=bytes(message.payload), retained=message.retain, duplicate=message.dup
            )
        except UnicodeDecodeError:
            self._log.warning("message_refused", reason="topic is not UTF-8")
            client.ack(message.mid, message.qos)
            return
        item = InboxItem(event=event)
        manual = self._session.manual_ack and message.qos > 0
        if manual:
            later = partial(self._acknowledge, self._generation, message.mid)
            item = InboxItem(event=event, acknowledge=partial(self._command, later))
        try:
            self._inbox.put(item, timeout=INBOX_WAIT_S)
        except queue.Full:
            self._ending = "our inbox is full"
            return
        if not manual:
            client.ack(message.mid, message.qos)

    def _is_signature(self, client: paho.Client, message: paho.MQTTMessage) -> bool:
        """Whether this is only our own view of who signs our will's topic.

        A role that has subscribed to that topic hears all that is said there, its own words too: they tell that the
        broker has nothing newer.
        """
        # The topic as bytes: the library's property raises when a stranger's is not UTF-8.
        if self._signed_topic is None or message._topic != self._signed_topic.encode():  # noqa: SLF001
            return False
        signatures = [text for name, text in getattr(message.properties, "UserProperty", ()) if name == _SIGNATURE]
        for signature in signatures:
            if self._takeovers.seen(signature, time.monotonic()):
                self._failure = self._twin()
                client.disconnect()
        return not self._subscriptions.wants(self._signed_topic)

    def _is_of_twin(self, message: paho.MQTTMessage) -> bool:
        """Whether another federation's client has subscribed to this, in the session that we have by the same id.

        Such a session is left, and begun anew: what the other one wants to hear would come to us for as long as it is
        kept.
        """
        if self._signed_topic is None or not self._subscriptions.is_foreign(message._topic):  # noqa: SLF001
            return False
        if not self._shared:
            self._shared = True
            self._ending = f"another federation's client uses the id {self._session.client_id!r}"
            if self._takeovers.evicted(time.monotonic(), outlasts=self._signed_topic.encode() > message._topic):  # noqa: SLF001
                self._failure = self._twin()
        return True

    def _twin(self) -> str:
        return f"another client uses the id {self._session.client_id!r}; give each client its own"

    def _on_publish(self, _c: paho.Client, _u: object, mid: int, reason: ReasonCode, _p: Properties | None) -> None:
        message = self._outbound.settle(mid)
        if reason.is_failure:
            self.refused += 1
            topic = None if message is None else message.topic
            if topic is not None and len(self.refused_topics) < REFUSED_NAMED_MAX:
                self.refused_topics.append(topic)
            self._log.warning("publish_refused", topic=topic, reason=str(reason))
        elif message is not None and self._is_signed(message):
            self._takeovers.signed(time.monotonic())

    def _on_subscribe(
        self, _c: paho.Client, _u: object, mid: int, reasons: list[ReasonCode], _p: Properties | None
    ) -> None:
        said = [str(reason) if reason.is_failure else None for reason in reasons]
        if refusals := self._subscriptions.refused(mid, said):
            self._unheard(obstacles.unheard(refusals))
        if self._session.tells_answer and self._subscriptions.answered():
            self._tell(TransportAnswered(connection=self._session.connection))

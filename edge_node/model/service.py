"""``edge-node score``: windows from the live topics, through the present model, to a score on a topic.

A process of its own: what the agent trains cannot hold a score up, and what hangs here cannot cost an update. A thread
looks for another present version and opens it; only when it is ready it takes the place of the former.
"""

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.config import NodeConfig
from edge_node.model.live_rows import LiveRows
from edge_node.model.runner import Answering, load_model
from edge_node.model.saying import OFFLINE, ONLINE, Said, ScoreTopics, Silence, discovery, state_of
from edge_node.model.versions import CURRENT, Versions
from edge_node.readings.settings import MqttSection, topic_map
from edge_node.readings.topics import Reading
from federation.config import broker_address
from federation.errors import ConfigError, FederationError, TaskError, TransportError
from federation.runtime.log import configure_log, get_log
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.signals import StopSignals
from federation.runtime.supervision import Supervision
from federation.runtime.transport import (
    INBOX_ITEMS_MAX,
    Inbox,
    InboxItem,
    MessageReceived,
    TransportConnected,
    TransportFailed,
    Will,
)
from federation.tasks.sensors.rules import ScoreRule

__all__ = ["Loaded", "ModelWatch", "Scorer", "check_score", "run_score"]

LOOK_S = 0.5
"""How often another present version is looked for, in seconds."""

EARLY_MAX = 20_000
"""Readings that are kept until there is a model: its first window need not wait for as many rows."""

FLUSH_S = 2.0
LATE_TOLD = 100
"""So many readings that come too late are said in the log, and again at ten times as many."""

SESSION_S = 0
"""What was said while nobody scored is not scored later: the agent's own session keeps it for training."""


@dataclass(frozen=True, slots=True)
class _Stop:
    """Somebody asks for an orderly end."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is open.

    Attributes:
        model: It.
        rule: How its answers become scores.
        number: Its place on this device.
    """

    model: Answering
    rule: ScoreRule
    number: int


class Scorer:
    """From readings to what is said of them. Pure, but for the model that it asks.

    Attributes:
        failed: Windows that the model could not answer.
    """

    def __init__(self) -> None:
        self.failed = 0
        self._loaded: Loaded | None = None
        self._rows: LiveRows | None = None
        self._early: deque[Reading] = deque(maxlen=EARLY_MAX)

    @property
    def late(self) -> tuple[int, str, float]:
        """Readings that came too late for their row, and of the last one the column and the seconds."""
        return (0, "", 0.0) if self._rows is None else (self._rows.late, *self._rows.latest)

    def behind(self, latest: float) -> bool:
        """Begin anew where the newest row is later than can be: the clock was set back since. Says whether it was.

        Without this nothing would be scored before that time comes: all of it would be too late.

        Args:
            latest: In seconds since 1970.
        """
        if self._loaded is None or self._rows is None or self._rows.newest <= latest:
            return False
        self._rows = LiveRows(self._loaded.rule.window, self._loaded.rule.rows)
        return True

    def use(self, loaded: Loaded) -> None:
        """Ask this model from now on; rows that are there stay where it takes the same windows."""
        before = self._loaded
        if before is None or (before.rule.window, before.rule.rows) != (loaded.rule.window, loaded.rule.rows):
            self._rows = LiveRows(loaded.rule.window, loaded.rule.rows)
            self._rows.add(self._early)  # nobody asks for the scores of what is past
            self._early.clear()
        self._loaded = loaded

    def scores(self, readings: list[Reading]) -> list[tuple[Said, Loaded]]:
        """What these readings come to.

        Raises:
            TaskError: The model cannot answer.
        """
        loaded, rows = self._loaded, self._rows
        if loaded is None or rows is None:
            self._early.extend(readings)
            return []
        found = rows.add(readings)
        return [(self._said(loaded, when, window), loaded) for when, window in found]

    def _said(self, loaded: Loaded, when: float, window: NDArray[np.float32]) -> Said:
        rule, given = loaded.rule, window[None]
        try:
            answer = loaded.model.ask(rule.inputs(given))
            scores = rule.scores_of(answer, given)
        except TaskError:
            self.failed += 1
            raise
        if not np.isfinite(scores).all():
            self.failed += 1
            raise TaskError("the model answers no number: see its version's figures, and edge-node model rollback")
        return Said(
            time=when,
            score=float(scores[0]),
            threshold=rule.threshold,
            anomaly=bool(rule.alarms(scores)[0]),
            answer=rule.classes[int(rule.answers(answer)[0])] if rule.classes else None,
            number=loaded.number,
        )


class ModelWatch:
    """Opens the present version whenever it is another one, on a thread of its own.

    Args:
        versions: The folder.
        open_model: Opens the model in a version's folder.
    """

    def __init__(self, versions: Versions, open_model: Callable[[Versions], Loaded]) -> None:
        self._versions, self._open = versions, open_model
        self._log = get_log("score")
        self._ended = threading.Event()
        self._ready: queue.SimpleQueue[Loaded] = queue.SimpleQueue()
        self._known: Path | None = None
        self._thread = threading.Thread(target=self._work, name="model-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def newest(self) -> Loaded | None:
        """What has been opened since it was asked last; None is nothing new."""
        found = None
        while not self._ready.empty():
            found = self._ready.get()
        return found

    def close(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join(FLUSH_S)

    def look(self) -> None:
        """Open the present version, where it is another one than the last time."""
        try:
            here = (self._versions.folder / CURRENT).readlink()
        except OSError:
            return
        if here == self._known:
            return
        self._known = here
        try:
            loaded = self._open(self._versions)
        except FederationError as error:
            self._log.error("model_not_opened", place=str(here), reason=str(error))
            return
        self._log.info("model_opened", version=loaded.model.notes.version, number=loaded.number)
        self._ready.put(loaded)

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
            except Exception:  # noqa: BLE001 - whatever a damaged file makes a library raise: the former model goes on
                self._log.exception("model_not_opened")
            self._ended.wait(LOOK_S)


def open_present(versions: Versions, config: NodeConfig) -> Loaded:
    """Open the present version.

    Raises:
        ConfigError: It scores nothing, or cannot be run here.
        StorageError: It is damaged.
        TaskError: Its task cannot be built.
    """
    written = versions.whole()
    if written is None:
        raise ConfigError("model.folder", f"{versions.folder} has no model yet")
    # By its own folder: the link may lead elsewhere in the next moment.
    model = load_model(versions.path_of(written), config.task.name, config.task.data)
    rule = written.notes.score
    if rule is None:
        raise ConfigError("model.folder", f"the model of {written.notes.task} scores no windows (see sensors.md)")
    return Loaded(model, rule, written.number)


def check_score(config: NodeConfig) -> tuple[MqttSection, Path]:
    """The topics to score and the model's folder.

    Raises:
        ConfigError: One of them is missing.
    """
    if config.data.mqtt is None:
        raise ConfigError("data.mqtt", "scores are made of topics: name them under [data.mqtt] (sensors.md)")
    if config.model.folder is None:
        raise ConfigError("model.folder", "name the folder of the model that [model] writes")
    return config.data.mqtt, config.model.folder


def run_score(config: NodeConfig, following: Callable[[Callable[[], None]], object] | None = None) -> int:
    """Score until stopped; returns the exit code.

    Args:
        config: The node's settings.
        following: Is given what asks for an orderly end, for who wants one beside signals.

    Raises:
        ConfigError: A setting is missing or wrong.
        TransportError: The broker cannot be used.
    """
    configure_log(json=config.log.as_json, level=config.log.level)
    source, folder = check_score(config)
    topics = ScoreTopics.of(config.score.topic or f"fedmq/{config.federation.id}/{config.node.id}/score")
    inbox: Inbox = queue.Queue(INBOX_ITEMS_MAX)
    transport = _transport(config, source, topics, inbox)
    versions = Versions(folder)
    watch = ModelWatch(versions, lambda of: open_present(of, config))
    service = ScoreService(config, source, topics, transport, watch)
    if following is not None:
        following(lambda: inbox.put(InboxItem(event=_Stop())))
    with StopSignals(inbox, _Stop()) as signals:
        watch.start()
        transport.open()
        get_log("score").info("score_started", node=config.node.id, topic=topics.state)
        with Supervision(inbox, lambda: transport.alive) as supervision:
            translate = supervision.watching(lambda event: event)
            while service.turn(inbox, translate):
                pass
        watch.close()
        transport.publish(topics.availability, OFFLINE, retain=True)
        transport.close(timeout_s=FLUSH_S)
    return signals.exit_code


def _transport(config: NodeConfig, source: MqttSection, topics: ScoreTopics, inbox: Inbox) -> MqttTransport:
    session = SessionSettings(
        client_id=f"{source.client_id or f'{config.federation.id}.{config.node.id}'}.score",
        session_expiry_s=SESSION_S,
        keepalive_s=source.keepalive_s,
        receive_max=source.window,
        connection="data",
        perishable=topics.state,
    )
    will = source.limits.will(Will(topic=topics.availability, payload=OFFLINE, delay_s=5))
    transport = MqttTransport(broker_address(source), source.limits.session(session), inbox, will=will)
    for topic_filter in topic_map(source).filters:
        transport.subscribe(topic_filter, qos=0)
    return transport


class ScoreService:
    """One turn after the other: an event of the broker, or nothing for a moment."""

    def __init__(
        self,
        config: NodeConfig,
        source: MqttSection,
        topics: ScoreTopics,
        transport: MqttTransport,
        watch: ModelWatch,
    ) -> None:
        self._config, self._topics, self._transport, self._watch = config, topics, transport, watch
        self._map, self._scorer, self._log = topic_map(source), Scorer(), get_log("score")
        self._plausible, self._refused = config.data.plausible(), Counter[str]()
        self._announced: bool | None = None
        self._complaint = ""
        self._silence, self._late_told = Silence(), LATE_TOLD

    def turn(self, inbox: Inbox, translate: Callable[[object], object]) -> bool:
        """Wait for one thing; False is the end.

        Raises:
            TransportError: The broker cannot be used.
        """
        try:
            item = inbox.get(timeout=LOOK_S)
        except queue.Empty:
            self._renew()
            self._listen()
            return True
        self._renew()
        self._listen()
        match translate(item.event):
            case MessageReceived() as message:
                self._hear(message)
            case TransportConnected():
                self._say_available()
            case TransportFailed() as failed:
                raise TransportError(failed.reason)
            case _Stop():
                return False
            case _:
                pass
        item.acknowledge()
        return True

    def _renew(self) -> None:
        loaded = self._watch.newest()
        if loaded is None:
            return
        self._scorer.use(loaded)
        prefix, classes = self._config.score.home_assistant, bool(loaded.rule.classes)
        if prefix is not None and self._announced is not classes:
            self._announced = classes
            node, federation = self._config.node.id, self._config.federation.id
            for topic, body in discovery(prefix, federation, node, self._topics, classes=classes).items():
                self._transport.publish(topic, body, retain=True)

    def _listen(self) -> None:
        if self._silence.begin(time.monotonic()):
            self._log.warning("scores_stopped", why="no row has come for long: see the sensor, and edge-node doctor")
            self._say_available()

    def _say_available(self) -> None:
        word = OFFLINE if self._silence.told else ONLINE
        self._transport.publish(self._topics.availability, word, retain=True)

    def _hear(self, message: MessageReceived) -> None:
        now = time.time()
        found, _ = self._map.readings(message.topic, message.payload, arrived=now, retained=message.retained)
        readings, refused = self._plausible.of(found, now)
        for why in refused.keys() - self._refused.keys():  # once each: edge-node status counts what the agent refuses
            self._log.warning("reading_refused", reason=why, topic=message.topic)
        self._refused += refused
        if self._scorer.behind(now + self._plausible.future_max_s):
            self._log.warning("clock_set_back", why="the newest row was from the future: rows begin anew")
        self._score(readings)
        late, column, behind_s = self._scorer.late
        if late >= self._late_told:
            self._late_told = 10 * late
            why = "their rows were scored before they came: see the clocks of the sensors, or set period_s"
            self._log.warning("readings_too_late", count=late, column=column, behind_s=round(behind_s, 3), why=why)

    def _score(self, readings: list[Reading]) -> None:
        try:
            for said, loaded in self._scorer.scores(readings):
                if self._silence.end(time.monotonic()):
                    self._log.info("scores_go_on")
                    self._say_available()
                self._transport.publish(
                    self._topics.state, state_of(said, loaded.model.notes), qos=self._config.score.qos, retain=True
                )
            self._complaint = ""
        except TaskError as error:
            if str(error) != self._complaint:  # once: the next window will hardly be another
                self._complaint = str(error)
                self._log.error("score_failed", reason=self._complaint)

"""Follows the federation's releases of the task: hears, fetches, tries, switches, goes back, and says so upward.

It stands before the node's inbound translation and takes what is its own out of the inbox. It runs on the driver's
thread; only the trial has a process of its own.
"""

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from edge_node.engine.events import Event, StopRequested, TrainingFailed, TrainingFinished
from edge_node.rollout.installed import Installed
from edge_node.rollout.trial import Trial, TrialEnded, TrialPlan
from federation.errors import ConfigError, FederationError, StorageError
from federation.identity.task_release import RELEASE_BYTES_MAX, TaskRelease, read_release
from federation.protocol.limits import REASON_BYTES_MAX, fit_text
from federation.protocol.task_messages import TaskReport, TaskState
from federation.protocol.topics import Topics
from federation.rollout.transfer import Collected, chunk_filter, is_release_topic, release_topic, takes_part
from federation.runtime.log import get_log
from federation.runtime.transport import Inbox, InboxItem, MessageReceived, Transport, TransportConnected
from federation.types import NodeId

__all__ = ["Rollout", "RolloutParts"]

STOPPED = "stopped"
"""What a training says that was told to give up."""

Translate = Callable[[object], Event | None]

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutParts:
    """What it needs of its node.

    Attributes:
        topics: The federation's tree.
        node: Who it is.
        authority: Certificate of whoever may sign releases, PEM.
        installed: What is on the disk.
        plan: How a release is tried.
        transport: The node's connection.
        inbox: The driver's.
        say: Tells the coordinator.
        busy: Whether a training is under way: a restart waits for its end.
    """

    topics: Topics
    node: NodeId
    authority: str
    installed: Installed
    plan: TrialPlan
    transport: Transport
    inbox: Inbox
    say: Callable[[TaskReport], None]
    busy: Callable[[], bool]


class Rollout:
    """What one process makes of the releases that it hears of.

    Attributes:
        restarts: Whether the process must start again, with another release.
    """

    def __init__(self, parts: RolloutParts) -> None:
        self._parts, self._installed = parts, parts.installed
        self._log = get_log("rollout")
        self._release: TaskRelease | None = None
        self._collected: Collected | None = None
        self._trial: Trial | None = None
        self._said: TaskReport | None = None
        self._refused = ""
        self.restarts = False
        self._asked = False
        parts.transport.subscribe(release_topic(parts.topics))

    def watching(self, translate: Translate) -> Translate:
        """``translate``, behind this."""

        def translated(item: object) -> Event | None:
            if isinstance(item, MessageReceived) and is_release_topic(self._parts.topics, item.topic):
                self._guarded(self._received, item)
                event = None
            elif isinstance(item, TrialEnded):
                self._guarded(self._tried, item)
                event = None
            else:
                self._see(item)
                event = translate(item)
            self._leave_when_idle()
            return event

        return translated

    def close(self) -> None:
        """Stop a trial that is under way."""
        if self._trial is not None:
            self._trial.close()

    def _guarded(self, handle: Callable[[ItemT], None], item: ItemT) -> None:
        """A disk that is full costs this release, not the node."""
        try:
            handle(item)
        except StorageError as error:
            self._log.error("task_release_not_kept", reason=str(error))
            self._report(TaskState.REFUSED, str(error))

    def _see(self, item: object) -> None:
        match item:
            case TransportConnected():
                self._said = None  # the coordinator may be another one
            # Once another release waits for its start, what ends is a training of the one before.
            case TrainingFinished() if not self.restarts and self._installed.trained():
                self._log.info("task_release_active", number=self._installed.state.running)
                self._report(TaskState.ACTIVE)
            case TrainingFailed(reason=reason) if self._installed.on_trial and not self.restarts:
                self._training_failed(reason)

    def _training_failed(self, reason: str) -> None:
        if reason != STOPPED:
            self._go_back(f"its first training failed: {reason}")
        elif self._installed.training_stopped():
            self._go_back("its first trainings took longer than anybody waited")

    def _received(self, message: MessageReceived) -> None:
        if message.topic == release_topic(self._parts.topics):
            self._hear(message.payload)
        elif self._collected is not None:
            collected = self._collected
            if collected.take(message.topic, message.payload) and collected.is_whole:
                self._fetched(collected)

    def _hear(self, payload: bytes) -> None:
        if not payload:
            return  # it was cleared
        try:
            text = payload[: RELEASE_BYTES_MAX + 1].decode()
            release = read_release(text, self._parts.authority, federation=self._parts.topics.federation)
        except (ConfigError, UnicodeDecodeError) as error:
            self._warn(str(error))
            return
        if not self._installed.hear(release.order):
            newest = self._installed.state.heard[0]
            self._warn(f"release {release.number} is older than {newest}, which this device has heard of")
            return
        self._release = release
        self._weigh(release)

    def _warn(self, reason: str) -> None:
        """Once for each reason in a row: a broker may say it again and again."""
        if reason != self._refused:
            self._log.warning("task_release_refused", reason=reason)
        self._refused = reason

    def _weigh(self, release: TaskRelease) -> None:
        """What is to be done about the newest statement."""
        state, number = self._installed.state, release.number
        if self._collected is not None and (release.withdrawn or self._collected.release.name != release.name):
            self._forget()
        if release.withdrawn:
            if state.running == number and not self.restarts:
                self._log.warning("task_release_withdrawn", number=number)
                self._installed.go_back(None)
                self.restarts = True
            self._report(TaskState.WITHDRAWN)
        elif state.running == number:
            self._report(TaskState.TRYING if self._installed.on_trial else TaskState.ACTIVE)
        elif number in state.ended:
            self._report(TaskState(state.ended[number].state), state.ended[number].reason)
        elif not takes_part(release, self._parts.node):
            self._report(TaskState.WAITING)
        elif self._trial is None and not self.restarts:
            self._fetch(release)

    def _fetch(self, release: TaskRelease) -> None:
        self._report(TaskState.FETCHING)
        if self._collected is None:
            self._collected = Collected(self._parts.topics, release)
            self._parts.transport.subscribe(chunk_filter(self._parts.topics, release.name))

    def _forget(self) -> None:
        if self._collected is not None:
            self._parts.transport.unsubscribe(chunk_filter(self._parts.topics, self._collected.release.name))
            self._collected = None

    def _fetched(self, collected: Collected) -> None:
        release, installed = collected.release, self._installed
        self._forget()
        try:
            place = installed.place_archive(release, collected.archive())
        except ConfigError as error:
            self._refuse(release, str(error))
            return
        self._log.info("task_release_fetched", number=release.number, bytes=release.archive_bytes)
        self._trial = Trial(
            release, place, self._parts.plan, lambda ended: self._parts.inbox.put(InboxItem(event=ended))
        )

    def _tried(self, ended: TrialEnded) -> None:
        self._trial = None
        release = ended.release
        if self._release is None or self._release.number != release.number or self._release.withdrawn:
            if self._release is not None:
                self._weigh(self._release)
        elif ended.problem is not None:
            self._refuse(release, ended.problem)
        else:
            self._installed.begin(release)
            self._log.info("task_release_begins", number=release.number)
            self.restarts = True

    def _refuse(self, release: TaskRelease, problem: str) -> None:
        self._log.warning("task_release_refused", number=release.number, reason=problem)
        self._installed.end(release.number, TaskState.REFUSED, problem)
        self._report(TaskState.REFUSED, problem)

    def _go_back(self, reason: str) -> None:
        number = self._installed.state.running
        self._installed.go_back(reason)
        self._log.warning("task_release_failed", number=number, reason=reason, back_to=self._installed.state.running)
        self.restarts = True
        self._report(TaskState.FAILED, reason)

    def _leave_when_idle(self) -> None:
        if self.restarts and not self._asked and not self._parts.busy():
            try:
                self._parts.inbox.put_nowait(InboxItem(event=StopRequested()))
                self._asked = True
            except queue.Full:
                return  # asked again with the next message

    def _report(self, state: TaskState, reason: str = "") -> None:
        """Say it, unless it was the last thing that was said on this connection."""
        if self._release is None:
            return
        report = TaskReport(
            number=self._release.number,
            step=self._release.step,
            state=state,
            running=self._installed.state.running,
            reason=fit_text(self._installed.told(reason), REASON_BYTES_MAX),
        )
        if report != self._said:
            self._said = report
            try:
                self._parts.say(report)
            except FederationError as error:
                self._log.warning("task_report_not_sent", reason=str(error))

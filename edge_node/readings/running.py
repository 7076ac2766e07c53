"""A node's readings while it runs: its sources, the thread that takes them in, and what its task sees of them."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from edge_node.readings.ingest import Ingest, IngestSettings
from edge_node.readings.live import NodeReadings
from edge_node.readings.settings import DataSection, MqttSection, topic_map
from edge_node.readings.topics import Reading
from federation.config import broker_address
from federation.runtime.clock import MonotonicClock
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Inbox
from federation.task import TaskContext
from federation.tasks.registry import load_task

__all__ = ["Ingestion", "sensor_transport"]

Rows = Callable[[], Iterable[Mapping[str, object]]]


class Ingestion:
    """All that takes readings in for one node.

    Args:
        section: Where from, and how many are kept.
        folder: The node's state folder.
        owner: Names the session at the sensors' broker.
        data: Folder with the data that a function of rows may ask its context for.
        hear: Called with readings as they come, before they are on the disk, on the thread that takes them in.

    Attributes:
        readings: What a task sees of them.

    Raises:
        ConfigError: A source is described wrongly.
    """

    def __init__(
        self,
        section: DataSection,
        folder: Path,
        *,
        owner: str,
        data: Path | None = None,
        hear: Callable[[Sequence[Reading]], None] = lambda _: None,
    ) -> None:
        self._mqtt, self._owner = section.mqtt, owner
        self._ingest = Ingest(
            folder,
            IngestSettings(
                plausible=section.plausible(),
                bounds=section.bounds(),
                flush_s=section.flush_s,
                poll_s=section.poll_s,
                window=1 if section.mqtt is None else min(section.mqtt.window, section.mqtt.limits.receive_max),
            ),
            clock=MonotonicClock(),
            wall=_wall,
            sources=section.sources(),
            topics=None if section.mqtt is None else topic_map(section.mqtt),
            rows=None if section.iterable is None else _rows(section.iterable, data),
            hear=hear,
        )
        self._folder, self._report = folder, section.report
        self.readings = NodeReadings(
            folder, wall=_wall, remember=self._ingest.remember, report=section.report, future_max_s=section.future_max_s
        )

    def open(self) -> None:
        """Open the store, and begin.

        Raises:
            ConfigError: A setting of the broker, or a certificate, is wrong.
            StorageError: The store is damaged, or cannot be written.
        """
        transport = None
        if self._mqtt is not None:
            transport = sensor_transport(self._mqtt, self._owner, self._ingest.inbox)
        self._ingest.open(transport)

    @property
    def alive(self) -> bool:
        """Whether readings are taken in."""
        return self._ingest.alive

    def close(self) -> None:
        """Store what has come, and stop."""
        with contextlib.suppress(RuntimeError):  # it was never opened
            self._ingest.close()


def sensor_transport(section: MqttSection, owner: str, inbox: Inbox) -> MqttTransport:
    """A session of its own at the sensors' broker, in which nothing is acknowledged before it is stored.

    Raises:
        ConfigError: A setting of the broker, or a certificate, is wrong.
    """
    session = SessionSettings(
        client_id=section.client_id or f"{owner}.data",
        session_expiry_s=section.session_s,
        keepalive_s=section.keepalive_s,
        receive_max=section.window,
        manual_ack=True,
        connection="data",
    )
    return MqttTransport(broker_address(section), section.limits.session(session), inbox)


def _wall() -> float:
    return time.time()


def _rows(name: str, data: Path | None) -> Rows:
    """A function by its name, which gets a task's context and gives rows.

    Raises:
        ConfigError: There is none.
    """
    build = cast("Callable[[TaskContext], Iterable[Mapping[str, object]]]", load_task(name))
    return partial(build, TaskContext(node_index=0, node_count=1, data=data, device="cpu"))

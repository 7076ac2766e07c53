"""What is said of a score: the state as JSON, and what Home Assistant must know to show it (MQTT discovery).

The keys of a discovery message are those of https://www.home-assistant.io/integrations/mqtt (discovery),
``sensor.mqtt`` and ``binary_sensor.mqtt``. Home Assistant makes a device of the node with two entities: the score, and
whether it is above the threshold.
"""

import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from federation import RELEASE
from federation.model_notes import ModelNotes

__all__ = ["OFFLINE", "ONLINE", "Said", "ScoreTopics", "Silence", "discovery", "state_of"]

ONLINE, OFFLINE = b"online", b"offline"

SILENT_PAUSES, SILENT_S_MIN, PAUSES_KEPT = 10, 60.0, 50
"""Scores have stopped when the next one is so late: in longest pauses among so many of late, and in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTopics:
    """Where a device says its scores.

    Attributes:
        state: The newest score, retained.
        availability: ``online`` or ``offline``, retained; the broker says the latter for a service that is gone.
    """

    state: str
    availability: str

    @classmethod
    def of(cls, state: str) -> "ScoreTopics":
        """Availability is one level below."""
        return cls(state=state, availability=f"{state}/availability")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One score.

    Attributes:
        time: Of the window's last row, in seconds since 1970.
        score: The number.
        threshold: Above it, or below it by the rule, it is an alarm; None: nobody has set one.
        anomaly: Whether it is one.
        answer: Name of the class; None where there are none.
        number: The version's place on this device.
    """

    time: float
    score: float
    threshold: float | None
    anomaly: bool
    answer: str | None = None
    number: int = 0


class Silence:
    """Whether scores have stopped: `SILENT_PAUSES` times the longest pause of late, and `SILENT_S_MIN` at least.

    Whoever looks at the last score would take a machine for well whose sensor has died.

    Attributes:
        told: Whether they have.
    """

    def __init__(self) -> None:
        self._pauses: deque[float] = deque(maxlen=PAUSES_KEPT)
        self._last: float | None = None
        self.told = False

    def end(self, now: float) -> bool:
        """There is a score; says whether it is the first after a silence. In monotonic seconds, as all here."""
        if self._last is not None and not self.told:
            self._pauses.append(now - self._last)
        self._last, ended, self.told = now, self.told, False
        return ended

    def begin(self, now: float) -> bool:
        """Whether it begins now; once."""
        if self._last is None or self.told or not self._pauses:
            return False
        self.told = now - self._last >= max(SILENT_S_MIN, SILENT_PAUSES * max(self._pauses))
        return self.told


def state_of(said: Said, notes: ModelNotes) -> bytes:
    """The state message."""
    known: dict[str, object] = {
        "time": said.time,
        "score": round(said.score, 6),
        "threshold": said.threshold,
        "anomaly": said.anomaly,
        "version": notes.version,
        "number": said.number,
        "task": notes.task,
    }
    return json.dumps(known | ({} if said.answer is None else {"class": said.answer})).encode()


def discovery(prefix: str, federation: str, node: str, topics: ScoreTopics, *, classes: bool) -> Mapping[str, bytes]:
    """Retained messages by topic; an empty one would take the entity away again.

    Args:
        prefix: Home Assistant's own, ``homeassistant`` unless somebody has changed it.
        federation: Its name.
        node: The node's.
        topics: Where scores are said.
        classes: Whether there is a class to show, too.
    """
    place = re.sub(r"[^A-Za-z0-9_-]", "_", f"fedmq_{federation}_{node}")
    shared: dict[str, object] = {
        "state_topic": topics.state,
        "availability_topic": topics.availability,
        "payload_available": ONLINE.decode(),
        "payload_not_available": OFFLINE.decode(),
        "device": {
            "identifiers": [place],
            "name": node,
            "manufacturer": "fedmq",
            "model": "edge node",
            "sw_version": RELEASE,
        },
        "origin": {"name": "fedmq", "sw_version": RELEASE},
    }
    score = {
        "name": "Score",
        "unique_id": f"{place}_score",
        "value_template": "{{ value_json.score }}",
        "json_attributes_topic": topics.state,
        "state_class": "measurement",
        "icon": "mdi:chart-bell-curve",
    }
    anomaly = {
        "name": "Anomaly",
        "unique_id": f"{place}_anomaly",
        "value_template": "{{ 'ON' if value_json.anomaly else 'OFF' }}",
        "payload_on": "ON",
        "payload_off": "OFF",
        "device_class": "problem",
    }
    named = {"name": "Class", "unique_id": f"{place}_class", "value_template": "{{ value_json.class }}"}
    entities = [("sensor", "score", score), ("binary_sensor", "anomaly", anomaly)]
    entities += [("sensor", "class", named)] if classes else []
    return {
        f"{prefix}/{component}/{place}/{name}/config": json.dumps(shared | own).encode()
        for component, name, own in entities
    }

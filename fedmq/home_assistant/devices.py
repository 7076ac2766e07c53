"""A run as devices: for each what describes it (Home Assistant's MQTT device discovery) and what its state is now.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from coordinator.config.alerts import HomeAssistantSection
from federation import RELEASE
from fedmq.run_view import Snapshot, encoded

__all__ = ["OFFLINE", "ONLINE", "Topics", "retained"]

ONLINE, OFFLINE = b"online", b"offline"
STATE_MAX: Final = 255
"""Characters that Home Assistant takes as a state."""

PERCENT_DIGITS: Final = 2
"""Decimals of the accuracy in percent, which are shown as they are said."""

_BYTES = {"device_class": "data_size", "unit_of_measurement": "B", "state_class": "total_increasing"}
_COUNT = {"state_class": "total_increasing"}
_NOW = {"state_class": "measurement"}
_OF_RUN: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "version": ("Version", _NOW),
    "nodes_online": ("Nodes online", _NOW),
    "nodes": ("Nodes known", _NOW),
    "updates": ("Updates", _COUNT),
    "accuracy": ("Accuracy", {**_NOW, "unit_of_measurement": "%"}),
    "bytes_up": ("Bytes up", _BYTES),
    "bytes_down": ("Bytes down", _BYTES),
    "waiting": ("Waits for", {}),
}
_OF_NODE: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "updates_applied": ("Updates applied", _COUNT),
    "updates_stale": ("Updates too late", _COUNT),
    "updates_refused": ("Updates refused", _COUNT),
    "bytes_up": ("Payload", _BYTES),
    "bytes_down": ("Pulled", _BYTES),
    "restarts": ("Restarts", _COUNT),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Where it is published.

    Attributes:
        federation: Its name.
        settings: Home Assistant's prefix, and the tree for states.
    """

    federation: str
    settings: HomeAssistantSection

    @property
    def online(self) -> str:
        """Whether whoever publishes is there: `ONLINE` or `OFFLINE`."""
        return f"{self._tree}/online"

    @property
    def every_node(self) -> str:
        """A filter for the states of all nodes, those of a former run too."""
        return f"{self._tree}/node/+"

    @property
    def run(self) -> str:
        """The state of the run."""
        return f"{self._tree}/run"

    def node(self, node: str) -> str:
        """The state of one node."""
        return f"{self._tree}/node/{node}"

    def discovery(self, node: str = "") -> str:
        """What describes the federation, or one node."""
        return f"{self.settings.prefix}/device/{self.identifier(node)}/config"

    def identifier(self, node: str = "") -> str:
        """A name that nobody else has, of letters, digits, ``_`` and ``-``."""
        mark = blake2b(f"{self.federation}/{node}".encode(), digest_size=4).hexdigest()
        return f"fedmq_{mark}_{node or self.federation}"

    @property
    def _tree(self) -> str:
        return f"{self.settings.topic}/{self.federation}"


def retained(snapshot: Snapshot, topics: Topics) -> dict[str, bytes]:
    """Everything that is to be retained for a run, by topic.

    Of more nodes than ``nodes_max`` the first by name are shown: nobody has a use for ten thousand devices at home.
    """
    nodes = sorted(snapshot.nodes, key=lambda node: str(node["id"]))[: topics.settings.nodes_max]
    made = {topics.discovery(): _federation(topics), topics.run: encoded(_run_state(snapshot))}
    for node in nodes:
        name = str(node["id"])
        made[topics.discovery(name)] = _node(topics, name)
        made[topics.node(name)] = encoded({key: node[key] for key in _OF_NODE})
    return made


def _run_state(snapshot: Snapshot) -> dict[str, Any]:
    summary, waiting = snapshot.summary, snapshot.summary["waiting"]
    measured = (one["accuracy"] for one in reversed(snapshot.versions) if one["accuracy"] is not None)
    accuracy = next(measured, None)
    sentence = str(waiting["sentence"])
    return {
        "coordinator": "ON" if waiting["running"] else "OFF",
        "version": summary["head"] or 0,
        "nodes_online": waiting["online"],
        "nodes": summary["nodes"],
        "updates": summary["updates"],
        "accuracy": None if accuracy is None else round(100 * accuracy, PERCENT_DIGITS),
        "bytes_up": summary["bytes_up"],
        "bytes_down": summary["bytes_down"],
        "waiting": sentence if len(sentence) <= STATE_MAX else f"{sentence[: STATE_MAX - 1]}…",
    }


def _federation(topics: Topics) -> bytes:
    device = {"name": f"fedmq {topics.federation}", "model": "federation"}
    running = _component(topics, "", "coordinator", "Coordinator", {"device_class": "running"}) | {
        "platform": "binary_sensor"
    }
    return _described(topics, "", device, _OF_RUN, topics.run, {"coordinator": running})


def _node(topics: Topics, node: str) -> bytes:
    device = {"name": node, "model": "edge node", "via_device": topics.identifier()}
    return _described(topics, node, device, _OF_NODE, topics.node(node), {})


def _described(
    topics: Topics,
    node: str,
    device: Mapping[str, str],
    entities: Mapping[str, tuple[str, Mapping[str, str]]],
    state: str,
    more: Mapping[str, Any],
) -> bytes:
    components = {key: _component(topics, node, key, name, traits) for key, (name, traits) in entities.items()}
    return json.dumps(
        {
            "device": {
                "identifiers": [topics.identifier(node)],
                "manufacturer": "fedmq",
                "sw_version": RELEASE,
                **device,
            },
            "origin": {"name": "fedmq", "sw_version": RELEASE},
            "components": {**more, **components},
            "state_topic": state,
            "availability_topic": topics.online,
            "qos": 1,
        }
    ).encode()


def _component(topics: Topics, node: str, key: str, name: str, traits: Mapping[str, str]) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "name": name,
        "unique_id": f"{topics.identifier(node)}_{key}",
        "value_template": f"{{{{ value_json.{key} }}}}",
        **traits,
    }

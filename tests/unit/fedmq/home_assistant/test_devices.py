"""What is retained for Home Assistant follows its documented discovery, and names no state that is not published.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload, /integrations/sensor.mqtt/,
/integrations/binary_sensor.mqtt/, /integrations/sensor/#device-class
"""

import json
import re
from typing import Any

from coordinator.config.alerts import HomeAssistantSection
from fedmq.home_assistant.devices import Topics, retained
from fedmq.run_view import Rows, Snapshot

DISCOVERY = re.compile(r"homeassistant/device/([a-zA-Z0-9_-]+)/config")
DEVICE_KEYS = {"identifiers", "manufacturer", "model", "name", "sw_version", "via_device"}
SHARED_KEYS = {"device", "origin", "components", "state_topic", "availability_topic", "qos"}
COMPONENT_KEYS = {
    "platform",
    "name",
    "unique_id",
    "value_template",
    "device_class",
    "state_class",
    "unit_of_measurement",
}
CLASSES = {"sensor": {"data_size"}, "binary_sensor": {"running"}}
UNITS_OF_SIZE = {"B", "kB", "MB", "GB", "KiB", "MiB", "GiB"}
STATE_CLASSES = {"measurement", "total", "total_increasing"}
STATE_MAX = 255


def topics(federation: str = "plant", **settings: Any) -> Topics:
    return Topics(federation=federation, settings=HomeAssistantSection(**settings))


def node(name: str) -> dict[str, Any]:
    figures = ("updates_applied", "updates_stale", "updates_refused", "bytes_up", "bytes_down", "restarts")
    return {"id": name, **dict.fromkeys(figures, 1)}


def snapshot(*nodes: str, sentence: str = "nodes that train", accuracy: float | None = 0.5) -> Snapshot:
    waiting = {"sentence": sentence, "running": True, "online": len(nodes), "reason": "assignments", "since_s": 1.0}
    sums = {"head": 2, "nodes": len(nodes), "updates": 3, "bytes_up": 4, "bytes_down": 5, "waiting": waiting}
    versions: list[dict[str, Any]] = [{"version": 1, "accuracy": accuracy}, {"version": 2, "accuracy": None}]
    rows = Rows({}).replaced(iter(enumerate(versions)), 0), Rows({}).replaced(iter(enumerate(map(node, nodes))), 0)
    return Snapshot(number=1, summary=sums, versions=rows[0], nodes=rows[1])


def check_description(topic: str, payload: bytes, published: dict[str, bytes]) -> set[str]:
    """Hold one description against the documented schema; returns the unique ids in it."""
    found = DISCOVERY.fullmatch(topic)
    assert found
    told = json.loads(payload)
    assert told.keys() == SHARED_KEYS
    assert told["device"]["identifiers"] == [found.group(1)]
    assert told["device"].keys() <= DEVICE_KEYS
    assert told["origin"]["name"]
    assert told["qos"] in (0, 1, 2)
    state = json.loads(published[told["state_topic"]])
    for component in told["components"].values():
        assert component.keys() <= COMPONENT_KEYS
        assert component["platform"] in CLASSES
        assert component.get("device_class") in CLASSES[component["platform"]] | {None}
        assert component.get("state_class", "measurement") in STATE_CLASSES
        if component.get("device_class") == "data_size":
            assert component["unit_of_measurement"] in UNITS_OF_SIZE
        value = re.fullmatch(r"\{\{ value_json\.([a-z_]+) \}\}", component["value_template"])
        assert value
        shown = state[value.group(1)]
        assert len(str(shown)) <= STATE_MAX
        if component["platform"] == "binary_sensor":
            assert shown in ("ON", "OFF")
        elif "state_class" in component:
            assert shown is None or isinstance(shown, int | float)
    return {component["unique_id"] for component in told["components"].values()}


def test_every_description_follows_the_documented_schema() -> None:
    published = retained(snapshot("press-1", "press-2"), topics())
    described = [topic for topic in published if topic.endswith("/config")]
    assert len(described) == 3
    ids = [check_description(topic, published[topic], published) for topic in described]
    assert sum(map(len, ids)) == len(set.union(*ids)), "no two entities have one id"


def test_nodes_belong_to_their_federation() -> None:
    made, published = topics(), retained(snapshot("press-1"), topics())
    device = json.loads(published[made.discovery("press-1")])["device"]
    assert device["via_device"] == json.loads(published[made.discovery()])["device"]["identifiers"][0]


def test_names_that_could_be_taken_for_others_have_ids_of_their_own() -> None:
    assert topics("a").identifier("b_c") != topics("a_b").identifier("c")
    assert topics("a").identifier() != topics("b").identifier("a")


def test_what_cannot_be_a_state_is_cut_or_unknown() -> None:
    made = topics()
    state = json.loads(retained(snapshot("a", sentence="x" * 1000, accuracy=None), made)[made.run])
    assert len(state["waiting"]) == STATE_MAX
    assert state["accuracy"] is None
    assert json.loads(retained(snapshot("a", accuracy=float("inf")), made)[made.run])["accuracy"] is None


def test_an_accuracy_is_said_with_two_decimals() -> None:
    """A card showed 96.37883008356546 %."""
    made = topics()
    assert json.loads(retained(snapshot("a", accuracy=0.9637883008356546), made)[made.run])["accuracy"] == 96.38


def test_of_many_nodes_the_first_are_shown() -> None:
    published = retained(snapshot(*(f"n{number:04}" for number in range(1000))), topics(nodes_max=3))
    assert sum("/node/" in topic for topic in published) == 3

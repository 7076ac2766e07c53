"""What is said of a score, and what Home Assistant is told: only keys that its documentation has."""

import json

from edge_node.model.saying import Said, ScoreTopics, discovery, state_of
from federation.model_notes import ModelNotes

TOPICS = ScoreTopics.of("fedmq/plant/press-7/score")

COMMON = {
    "availability_topic", "device", "device_class", "icon", "json_attributes_topic", "name", "origin",
    "payload_available", "payload_not_available", "state_topic", "unique_id", "value_template",
}  # fmt: skip
KEYS = {"sensor": COMMON | {"state_class"}, "binary_sensor": COMMON | {"payload_on", "payload_off"}}
"""The keys of sensor.mqtt and binary_sensor.mqtt that we use, from https://www.home-assistant.io/integrations/."""

DEVICE = {"identifiers", "name", "manufacturer", "model", "sw_version"}
NEEDED = {"state_topic", "unique_id", "device", "origin"}


def test_home_assistant_is_told_documented_keys_only() -> None:
    messages = discovery("homeassistant", "plant", "press.7", TOPICS, classes=True)
    assert len(messages) == 3
    for topic, body in messages.items():
        prefix, component, place, _, config = topic.split("/")
        said = json.loads(body)
        assert (prefix, config) == ("homeassistant", "config")
        assert all(letter.isalnum() or letter in "_-" for letter in place)
        assert NEEDED <= said.keys() <= KEYS[component]
        assert said["device"].keys() <= DEVICE
        assert said["device"]["identifiers"] == ["fedmq_plant_press_7"]
        assert said["origin"].keys() == {"name", "sw_version"}
        assert said["availability_topic"] == "fedmq/plant/press-7/score/availability"
    assert len({json.loads(body)["unique_id"] for body in messages.values()}) == 3


def test_a_model_without_classes_has_no_entity_for_them() -> None:
    assert len(discovery("homeassistant", "plant", "press-7", TOPICS, classes=False)) == 2


def test_a_state_is_one_document() -> None:
    said = Said(time=12.0, score=0.12345678, threshold=0.5, anomaly=False, answer="dry", number=4)
    assert json.loads(state_of(said, ModelNotes(version=9, task="pump.toml"))) == {
        "time": 12.0,
        "score": 0.123457,
        "threshold": 0.5,
        "anomaly": False,
        "class": "dry",
        "version": 9,
        "number": 4,
        "task": "pump.toml",
    }

"""What real sensors send becomes readings by the example settings: message by message, as their logs have them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from edge_node.config import read_config
from edge_node.readings.settings import topic_map

EXAMPLES = Path(__file__).parents[4] / "deploy/examples/sensors"
RECORDED = Path(__file__).parent / "recorded"
NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))

FLAGS = {"broker.url": "mqtt://plant", "federation.id": "plant", "node.id": "press-7"}


def test_every_example_has_its_recording() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.toml")) == NAMES
    assert len(NAMES) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_what_sensors_send_becomes_readings(name: str) -> None:
    section = read_config(EXAMPLES / f"{name}.toml", FLAGS, environ={}).data.mqtt
    assert section is not None
    recorded = json.loads((RECORDED / f"{name}.json").read_text("utf-8"))
    topics, readings, refused = topic_map(section), [], Counter[str]()
    for topic, payload in recorded["messages"]:
        body = bytes.fromhex(payload[4:]) if payload.startswith("hex:") else payload.encode()
        found, problems = topics.readings(topic, body, arrived=1e9)
        readings += found
        refused.update(problems)
    assert [(time, column) for time, column, _ in readings] == [tuple(each[:2]) for each in recorded["readings"]]
    assert [value for *_, value in readings] == pytest.approx([each[2] for each in recorded["readings"]])
    assert refused == Counter(recorded["refused"])

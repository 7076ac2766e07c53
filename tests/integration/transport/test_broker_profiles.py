"""A federation with each broker profile, through a Mosquitto that is limited to its numbers and logs every packet."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.runtime.local_broker import BROKER_LIMITS, LocalBroker
from federation.runtime.profiles import PROFILES, BrokerProfile
from tests.rigs.network_hosts import Program

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

VERSIONS = 3
NODES = ("edge-01", "edge-02", "edge-03")
# A quarter of a megabyte: a model and updates of several chunks.
TASK = "null-65000"
QUEUES = {"emqx": 1_000, "hivemq": 1_000, "vernemq": 1_000, "azure-event-grid": 100}
PUBLISH = re.compile(r"Received PUBLISH from (\S+) \(d\d, q(\d), r(\d), m\d+, '([^']+)', \.\.\. \((\d+) bytes\)\)")
FILTER = re.compile(r"^(?:\d+: )?\t(fl/\S+) \(QoS (\d)\)$")


def limits(profile: BrokerProfile) -> dict[str, str]:
    """Mosquitto's settings for it."""
    strict = {
        "max_packet_size": str(profile.packet_bytes_max),
        "max_inflight_messages": str(min(20, profile.inflight_max)),
        "max_queued_messages": str(QUEUES.get(profile.name, 20_000)),
        "max_keepalive": str(min(300, profile.keepalive_s_max)),
        "persistent_client_expiration": "1h" if profile.session_expiry_s_max <= 3_600 else "7d",
    }
    return {**BROKER_LIMITS, **strict}


def environ(role: str, profile: BrokerProfile, broker: LocalBroker, state: Path) -> dict[str, str]:
    prefix = f"FEDMQ_{role}__"
    values = {
        "BROKER__URL": broker.url,
        "BROKER__PROFILE": profile.name,
        "FEDERATION__ID": "plant",
        "TASK__NAME": TASK,
        "STORE__FOLDER": str(state),
        "LOG__JSON": "true",
    }
    return os.environ | {"OMP_NUM_THREADS": "1"} | {prefix + key: value for key, value in values.items()}


@contextmanager
def federation(profile: BrokerProfile, broker: LocalBroker, folder: Path) -> Iterator[Program]:
    """Three nodes and their coordinator, which is given."""
    started = []
    rounds = {"CONCURRENCY": "3", "NODES_MIN": "3", "VERSIONS": str(VERSIONS), "EXIT_WHEN_FINISHED": "true"}
    told = {f"FEDMQ_COORDINATOR__ROUND__{key}": value for key, value in rounds.items()}
    told |= {"FEDMQ_COORDINATOR__EVALUATION__EVERY": "0", "FEDMQ_COORDINATOR__CODEC__UP": "lossless"}
    try:
        for name in NODES:
            told_node = {"FEDMQ_NODE__NODE__ID": name}
            variables = environ("NODE", profile, broker, folder / name) | told_node
            started.append(Program([sys.executable, "-m", "edge_node", "run"], folder, variables))
        variables = environ("COORDINATOR", profile, broker, folder / "coordinator") | told
        started.append(Program([sys.executable, "-m", "coordinator", "run"], folder, variables))
        yield started[-1]
    finally:
        for program in started:
            program.stop()


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_a_federation_keeps_to_what_its_broker_takes(profile: BrokerProfile, tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    lines = (f"log_dest file {log}", "log_type debug")
    with (
        LocalBroker(settings=limits(profile), lines=lines) as broker,
        federation(profile, broker, tmp_path) as coordinator,
    ):
        coordinator.event("version_committed", version=VERSIONS)
        assert coordinator.wait_for_end() == 0
    said = log.read_text(errors="replace").splitlines()
    published = [found.groups() for line in said if (found := PUBLISH.search(line))]
    filters = [found.groups() for line in said if (found := FILTER.match(line))]
    assert {client for client, *_ in published} >= {*(f"plant.{name}" for name in NODES), "coordinator-plant-control"}
    assert any("/up/" in topic for _, _, _, topic, _ in published)
    assert any("/model/" in topic for _, _, _, topic, _ in published)
    for _, qos, retain, topic, size in published:
        assert int(qos) <= 1
        assert topic.count("/") + 1 <= profile.topic_levels_max
        assert len(topic) <= profile.topic_bytes_max
        assert int(size) <= (profile.chunk_bytes if retain == "1" else profile.packet_bytes_max)
    assert filters
    assert all(int(qos) <= 1 for _, qos in filters)
    assert longest_subscribe(said) <= profile.filters_max
    by_wildcard = [name for name, _ in filters if name.startswith("fl/plant/model/") and name.endswith("/+")]
    assert bool(by_wildcard) == profile.retained_by_wildcard
    assert not any("exceeded" in line or "oversize" in line or "quota" in line for line in said)


def longest_subscribe(said: list[str]) -> int:
    """The most filters that followed one SUBSCRIBE in the log."""
    longest = here = 0
    for line in said:
        here = here + 1 if FILTER.match(line) else 0
        longest = max(longest, here)
    return longest

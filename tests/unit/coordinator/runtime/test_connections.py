"""The coordinator's two connections, before anything is opened."""

import queue
from typing import Any

import pytest

from coordinator.config.sections import read_config
from coordinator.runtime import connections
from coordinator.runtime.connections import coordinator_will, open_connections
from federation.config import broker_address
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.runtime.session import SessionSettings
from federation.types import Epoch, FederationId, RunId
from tests.rigs.model_values import MANIFEST


class Recorder:
    """Stands where the transport is made."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionSettings] = {}
        self.filters: list[str] = []

    def __call__(self, _address: object, session: SessionSettings, *_: object, **__: Any) -> "Recorder":
        self.sessions[session.connection] = session
        return self

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        del qos
        self.filters.append(topic_filter)


def test_the_coordinator_is_back_before_its_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    """[FED-10] Its reconnects are at most 5 s apart: nobody works without it, and one process is no stampede."""
    recorder = Recorder()
    monkeypatch.setattr(connections, "MqttTransport", recorder)
    config = read_config(None, {"federation.id": "demo", "broker.url": "mqtt://localhost"}, environ={})
    will = coordinator_will(Writer(Topics(FederationId(config.federation.id))), RunId("0" * 16), Epoch(1))
    open_connections(config, broker_address(config.broker), will, queue.Queue(), MANIFEST)
    assert {name: session.reconnect_delay_s_max for name, session in recorder.sessions.items()} == {
        "control": 5.0,
        "data": 5.0,
    }
    assert SessionSettings(client_id="node").reconnect_delay_s_max == 15.0
    assert len(recorder.filters) == len(set(recorder.filters)) == 6

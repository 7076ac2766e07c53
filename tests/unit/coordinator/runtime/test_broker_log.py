"""Lines of Mosquitto 2.0.11's log become counts for ``status``; every other line says nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.runtime.broker_log import BROKER_LOG, denied_publish, incident_of
from federation.protocol.topics import Topics
from federation.types import FederationId

TOPICS = Topics(FederationId("plant"))
FAILED = "Client connection from 127.0.0.1 failed: error:0A00010B:SSL routines::"


def said(line: str, kind: str = "N") -> tuple[str, str] | None:
    return incident_of(f"{BROKER_LOG}{kind}", f"1795611253: {line}".encode(), TOPICS)


@pytest.mark.parametrize(
    ("line", "incident"),
    [
        (f"{FAILED}wrong version number.", ("unknown", "no_tls")),
        (f"{FAILED}peer did not return a certificate.", ("unknown", "certificate_refused")),
        (f"{FAILED}certificate verify failed.", ("unknown", "certificate_refused")),
        (
            "OpenSSL Error[0]: error:0A000086:SSL routines::certificate verify failed",
            ("unknown", "certificate_refused"),
        ),
        ("OpenSSL Error[0]: error:0A00010B:SSL routines::wrong version number", ("unknown", "no_tls")),
        (
            "OpenSSL Error[0]: error:0A0000C7:SSL routines::peer did not return a certificate",
            ("unknown", "certificate_refused"),
        ),
        ("OpenSSL Error[0]: error:0A000126:SSL routines::unexpected eof while reading", None),
        ("Client <unknown> disconnected: Protocol error.", None),
        ("New client connected from 127.0.0.1:1 as edge-01 (p5, c1, k60, u'edge-01').", None),
        ("New client connected from 127.0.0.1:1 as edge-01 (p2, c1, k60, u'edge-01').", ("edge-01", "old_protocol")),
        ("Client edge-01 disconnected due to oversize packet.", ("edge-01", "oversize_packet")),
        ("Client edge-01 disconnected due to malformed packet.", ("edge-01", "malformed_packet")),
        ("Client edge-01 already connected, closing old connection.", ("edge-01", "taken_over")),
        ("Client ../x\ny already connected, closing old connection.", None),
        ("Client <unknown> disconnected, not authorised.", ("unknown", "not_authorised")),
        ("Client edge-01 closed its connection.", None),
        ("", None),
    ],
)
def test_a_line_says_who_tried_what(line: str, incident: tuple[str, str] | None) -> None:
    assert said(line) == incident


@pytest.mark.parametrize(
    ("asked", "foreign"),
    [
        ("fl/plant/round", False),
        ("fl/plant/srv", False),
        ("fl/plant/n/edge-01/cmd", False),
        ("fl/plant/n/edge-01/key", False),
        ("fl/plant/n/edge-02/key", True),
        ("fl/plant/n/edge-01/state", False),
        ("fl/plant/h/+/state", False),
        ("fl/plant/h/edge-01/cmd", False),
        ("fl/plant/h/edge-01/state", False),
        ("fl/plant/h/edge-02/cmd", True),
        ("fl/plant/h/+/cmd", True),
        ("fl/plant/h/edge-01/evt", True),
        ("fl/plant/model/7/k0/+", False),
        ("fl/plant/model/7/d0/12", False),
        ("fl/plant/n/edge-02/cmd", True),
        ("fl/plant/n/+/cmd", True),
        ("fl/plant/model/#", True),
        ("fl/other/round", True),
        ("#", True),
        ("", True),
    ],
)
def test_who_asks_for_what_it_may_not_read_is_noticed(asked: str, foreign: bool) -> None:
    """The broker grants it and delivers nothing."""
    expected = ("edge-01", "foreign_subscription") if foreign else None
    assert said(f"edge-01 1 {asked}", "M/subscribe") == expected
    assert said(f"coordinator-plant-control 1 {asked}", "M/subscribe") is None


def test_only_debug_lines_tell_of_denied_publishes() -> None:
    line = "Denied PUBLISH from edge-01 (d0, q1, r1, m1, 'fl/plant/round', ... (1 bytes))"
    assert denied_publish(line) == ("edge-01", "denied_publish")
    assert denied_publish("Received PUBLISH from edge-01 (d0, q1, r1, m1, 'x', ... (1 bytes))") is None
    assert said(line) is None


@given(st.binary(max_size=2_000), st.sampled_from(["N", "E", "M/subscribe", "", "M"]))
def test_no_line_raises(payload: bytes, kind: str) -> None:
    """FED-18: what a log says is as foreign as any payload."""
    found = incident_of(f"{BROKER_LOG}{kind}", payload, TOPICS)
    assert found is None or found[1].isidentifier()

"""Where alerts go: a log line always; a topic, a webhook and a command where they are configured."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from coordinator.config.alerts import AlertsSection
from federation.errors import FederationError
from federation.runtime.address import parse_broker_url
from federation.runtime.visit import visit_broker

__all__ = ["NotDelivered", "Sink", "make_sinks"]

Sink = Callable[[Mapping[str, object]], None]
"""Delivers one alert, as plain data; raises `NotDelivered`."""

ANSWER_BYTES_MAX = 4096


class NotDelivered(FederationError):  # noqa: N818 - the name says what it is
    """An alert did not get to where it should; it is tried again."""


def make_sinks(limits: AlertsSection, federation: str) -> Mapping[str, Sink]:
    """By name, all that are configured.

    Args:
        limits: The configuration.
        federation: Its name, which every alert says.

    Raises:
        ConfigError: ``alerts.broker`` is no broker's URL.
    """
    sinks: dict[str, Sink] = {"log": _log}
    if limits.webhook:
        sinks["webhook"] = lambda alert: _post(limits, alert)
    if limits.topic:
        address = parse_broker_url(limits.broker, source="alerts.broker")
        sinks["topic"] = lambda alert: _publish(limits, address, f"fedmq-alerts-{federation}", alert)
    if limits.command:
        sinks["command"] = lambda alert: _run(limits, alert)
    return sinks


def _log(alert: Mapping[str, object]) -> None:
    log = structlog.get_logger()
    (log.info if alert["over"] else log.warning)("alert", alert=dict(alert))


def _post(limits: AlertsSection, alert: Mapping[str, object]) -> None:
    request = urllib.request.Request(  # noqa: S310 - the configuration admits http and https
        limits.webhook,
        data=json.dumps(alert).encode(),
        headers={"content-type": "application/json", "user-agent": "fedmq"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=limits.timeout_s) as answer:  # noqa: S310 - as above
            answer.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        raise NotDelivered(f"the webhook answered {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:  # what a URL holds may be a secret: it is not repeated
        raise NotDelivered(f"the webhook cannot be reached: {getattr(error, 'reason', error)}") from error


def _publish(limits: AlertsSection, address: Any, client_id: str, alert: Mapping[str, object]) -> None:
    probes = [(limits.topic, json.dumps(alert).encode())]
    seen = visit_broker(address, client_id, filters=(), probes=probes, enough=lambda _: True)
    if not seen.accepted:
        raise NotDelivered(f"the broker of alerts.broker: {seen.reason}")
    if seen.refused:
        raise NotDelivered(f"the broker of alerts.broker does not let us publish on {limits.topic}")


def _run(limits: AlertsSection, alert: Mapping[str, object]) -> None:
    try:
        done = subprocess.run(
            list(limits.command),
            input=json.dumps(alert).encode(),
            capture_output=True,
            timeout=limits.timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotDelivered(f"the command failed: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-200:]
        raise NotDelivered(f"the command ended with {done.returncode}: {said}")

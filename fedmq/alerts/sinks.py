"""Where alerts go: a log line always; a topic, a webhook and a command where they are configured."""

import http.client
import io
import json
import subprocess
import tempfile
import threading
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
SAID_BYTES_MAX = 200
"""Of what a failed command has said last."""


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
        sinks["webhook"] = _Webhook(limits)
    if limits.topic:
        address = parse_broker_url(limits.broker, source="alerts.broker")
        sinks["topic"] = lambda alert: _publish(limits, address, f"fedmq-alerts-{federation}", alert)
    if limits.command:
        sinks["command"] = lambda alert: _run(limits, alert)
    return sinks


def _log(alert: Mapping[str, object]) -> None:
    log = structlog.get_logger()
    (log.info if alert["over"] else log.warning)("alert", alert=dict(alert))


class _Webhook:
    """Posts one alert at a time; the library's own limit begins anew with every byte that a slow server sends."""

    def __init__(self, limits: AlertsSection) -> None:
        self._limits, self._under_way = limits, threading.Thread()

    def __call__(self, alert: Mapping[str, object]) -> None:
        """Post it, and wait for an answer as long as the settings say.

        Raises:
            NotDelivered: It was not taken.
        """
        late = f"the webhook has not answered within {self._limits.timeout_s:g} s"
        if self._under_way.is_alive():
            raise NotDelivered(f"{late}, the time before")
        problems: list[str] = []
        self._under_way = threading.Thread(target=lambda: problems.append(self._post(alert)), daemon=True)
        self._under_way.start()
        self._under_way.join(self._limits.timeout_s)
        problem = problems[0] if problems else late
        if problem:
            raise NotDelivered(problem)

    def _post(self, alert: Mapping[str, object]) -> str:
        """What was wrong; empty where it was taken."""
        try:
            request = urllib.request.Request(  # noqa: S310 - the configuration admits http and https
                self._limits.webhook,
                data=json.dumps(alert).encode(),
                headers={"content-type": "application/json", "user-agent": "fedmq"},
                method="POST",
            )
            with urllib.request.urlopen(request, timeout=self._limits.timeout_s) as answer:  # noqa: S310 - as above
                answer.read(ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as error:
            return f"the webhook answered {error.code} {error.reason}"
        except http.client.HTTPException as error:
            return f"the webhook does not answer as HTTP has it: {type(error).__name__}"
        except (OSError, ValueError) as error:  # what a URL holds may be a secret: it is not repeated
            return f"the webhook cannot be reached: {getattr(error, 'reason', error)}"
        return ""


def _publish(limits: AlertsSection, address: Any, client_id: str, alert: Mapping[str, object]) -> None:
    probes = [(limits.topic, json.dumps(alert).encode())]
    seen = visit_broker(address, client_id, filters=(), probes=probes, enough=lambda _: True)
    if not seen.accepted:
        raise NotDelivered(f"the broker of alerts.broker: {seen.reason}")
    if seen.refused:
        raise NotDelivered(f"the broker of alerts.broker does not let us publish on {limits.topic}")


def _run(limits: AlertsSection, alert: Mapping[str, object]) -> None:
    # A file, and no pipe: what the command leaves running would hold that open, and print without an end.
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                list(limits.command),
                input=json.dumps(alert).encode(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                timeout=limits.timeout_s,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise NotDelivered(f"the command failed: {error}") from error
        if done.returncode:
            errors.seek(max(0, errors.seek(0, io.SEEK_END) - SAID_BYTES_MAX))
            said = errors.read().decode(errors="replace").strip()
            raise NotDelivered(f"the command ended with {done.returncode}: {said}")

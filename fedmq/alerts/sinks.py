"""Where alerts go: a log line always; a topic, a webhook and a command where they are configured."""

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from coordinator.config.alerts import AlertsSection
from federation.errors import FederationError
from federation.programs import run_program
from federation.protocol.limits import fit_text
from federation.runtime.address import parse_broker_url
from federation.runtime.visit import visit_broker

__all__ = ["NotDelivered", "Sink", "make_sinks"]

Sink = Callable[[Mapping[str, object]], None]
"""Delivers one alert, as plain data; raises `NotDelivered`."""

ANSWER_BYTES_MAX = 4096
SAID_BYTES_MAX = 200
"""Of what a webhook says that refuses."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})


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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The library would ask there with GET, without the alert, and take the answer for a delivery."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Follow none: what is answered counts."""


_OPENER = urllib.request.build_opener(_NoRedirect)


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
            with _OPENER.open(request, timeout=self._limits.timeout_s) as answer:
                answer.read(ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as error:
            elsewhere = ": it is elsewhere, and an alert is not sent on" if error.code in REDIRECTS else ""
            return f"the webhook answered {error.code} {fit_text(str(error.reason), SAID_BYTES_MAX)}{elsewhere}"
        except http.client.InvalidURL:
            return "the webhook's URL is none: a user and a password before @ are not sent"
        except http.client.HTTPException as error:
            return f"the webhook does not answer as HTTP has it: {type(error).__name__}"
        except (OSError, ValueError) as error:  # what a URL holds may be a secret: it is not repeated
            return f"the webhook cannot be reached: {getattr(error, 'reason', error)}"
        return ""


def _publish(limits: AlertsSection, address: Any, client_id: str, alert: Mapping[str, object]) -> None:
    probes = [(limits.topic, json.dumps(alert).encode())]
    patience_s = limits.timeout_s
    seen = visit_broker(address, client_id, filters=(), probes=probes, enough=lambda _: True, close_s=patience_s)
    if not seen.accepted:
        raise NotDelivered(f"the broker of alerts.broker: {seen.reason}")
    if seen.refused:
        raise NotDelivered(f"the broker of alerts.broker does not let us publish on {limits.topic}")
    if seen.unanswered:
        raise NotDelivered(f"the broker of alerts.broker has not acknowledged it ({patience_s:g} s are its most)")


def _run(limits: AlertsSection, alert: Mapping[str, object]) -> None:
    if problem := run_program(limits.command, limit_s=limits.timeout_s, told=json.dumps(alert).encode()):
        raise NotDelivered(f"the command failed: {problem}")

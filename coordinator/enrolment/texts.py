"""The texts of a federation's folder: settings, broker configuration, access rules, and the compose file."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from federation.types import FederationId

__all__ = ["FleetPlan", "access_rules", "broker_text", "compose_text", "settings_text"]


PATIENCE = 50
"""Evaluations in a row without improvement after which a new federation's run is over, where it evaluates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What ``coordinator init`` was told.

    Attributes:
        federation: Its name.
        hosts: Names and addresses of the broker; devices use the first.
        port: The broker's, for TLS.
        task: What is trained.
        evaluate: Whether the coordinator evaluates each version.
    """

    federation: FederationId
    hosts: tuple[str, ...]
    port: int
    task: str
    evaluate: bool

    @property
    def broker_url(self) -> str:
        """As devices reach the broker."""
        host = self.hosts[0]
        return f"mqtts://[{host}]:{self.port}" if ":" in host else f"mqtts://{host}:{self.port}"

    @property
    def portable_task(self) -> str | None:
        """The task's name for enrolment files; None for a task of the user's own, whose place differs by device."""
        return self.task if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.task) else None


def settings_text(plan: FleetPlan) -> str:
    """``coordinator.toml``."""
    return _fill(
        "coordinator.toml",
        federation=plan.federation,
        port=plan.port,
        # A basic TOML string: the only two characters that mean something in it.
        task=plan.task.replace("\\", "\\\\").replace('"', '\\"'),
        evaluate=int(plan.evaluate),
        patience=PATIENCE if plan.evaluate else 0,
    )


def broker_text(plan: FleetPlan) -> str:
    """``mosquitto.conf``."""
    return _fill("mosquitto.conf", federation=plan.federation, port=plan.port)


def compose_text(plan: FleetPlan, *, user: str) -> str:
    """``compose.yaml``; both containers run as ``user`` (``uid:gid``), who owns the folder."""
    port_hex = f"{plan.port:04X}"
    return _fill("compose.yaml", federation=plan.federation, port=plan.port, port_hex=port_hex, user=user)


def access_rules(federation: FederationId, *, control: str, data: str, revoked: Iterable[str]) -> str:
    """The ACL.

    Args:
        federation: Its name.
        control: CN of the coordinator's control connection.
        data: CN of its data connection.
        revoked: Nodes that have no valid certificate any more. A connection that such a node still holds is not ended
            by a revocation list; this takes every topic away from it at once.
    """
    rules = _fill("acl", federation=federation, control=control, data=data)
    names = sorted(set(revoked))
    if names:
        rules += "\n# Revoked: a connection that is still open says and hears nothing more.\n"
    return rules + "".join(f"user {name}\ntopic deny fl/{federation}/#\n" for name in names)


def _fill(name: str, **values: object) -> str:
    return Template((files("coordinator.enrolment.templates") / name).read_text(encoding="utf-8")).substitute(values)

"""``[alerts]``: what is worth waking somebody for, and how; ``[home_assistant]``: what a home's automation is shown."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from federation.config import Seconds, Section
from federation.protocol.limits import MESSAGE_BYTES_MAX

__all__ = ["AlertKind", "AlertsSection", "HomeAssistantSection"]

AlertKind = Literal[
    "stopped", "nobody_online", "no_version", "node_silent", "accuracy_fell", "dropped", "disk", "certificate"
]
"""What can be told."""

_Url = Annotated[str, Field(pattern=r"^(https?://[^\s/]+\S*)?$")]
_Topic = Annotated[str, Field(pattern=r"^[^+#\x00]*$", max_length=MESSAGE_BYTES_MAX // 2)]


class AlertsSection(Section):
    """``[alerts]``: a number that is 0 turns its alert off; ``coordinator alerts`` and ``serve`` tell them.

    Attributes:
        stopped_s: No coordinator runs for so long, and the run is not over, in seconds.
        nobody_online_s: No node is online for so long, in seconds.
        no_version_leases: No new version in so many leases (``round.lease_s``), beyond ``round.interval_min_s``.
        node_silent_s: A node has sent nothing for so long although it was asked, in seconds.
        accuracy_drop: The newest accuracy is so much below the best, as a share of 1.
        dropped: The broker drops messages.
        disk_free: Less than this share of the state folder's disk is free.
        certificate_days: A certificate ends within so many days; of a federation's folder.
        webhook: URL to which each alert is posted as JSON.
        broker: URL of a broker for ``topic``; a client of its own, never the coordinator's.
        topic: Each alert is published here as JSON.
        command: Program and arguments; it reads the alert as JSON on its standard input.
        timeout_s: So long may the webhook, the command and the broker's acknowledgement take, in seconds.
    """

    stopped_s: Seconds = 120.0
    nobody_online_s: Seconds = 600.0
    no_version_leases: NonNegativeFloat = 10.0
    node_silent_s: Seconds = 86_400.0
    accuracy_drop: Annotated[float, Field(ge=0, le=1)] = 0.05
    dropped: bool = True
    disk_free: Annotated[float, Field(ge=0, lt=1)] = 0.05
    certificate_days: NonNegativeInt = 30
    webhook: _Url = ""
    broker: str = ""
    topic: _Topic = ""
    command: tuple[str, ...] = ()
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0

    @model_validator(mode="after")
    def _both_or_neither(self) -> "AlertsSection":
        if bool(self.broker) is not bool(self.topic):
            raise ValueError("broker and topic go together")
        return self

    @property
    def somebody_is_told(self) -> bool:
        """Whether there is more than the log."""
        return bool(self.webhook or self.topic or self.command)


_Level = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=128)]


class HomeAssistantSection(Section):
    """``[home_assistant]``: with a broker, ``coordinator serve`` shows the federation and its nodes there as devices.

    Attributes:
        broker: URL of the broker that Home Assistant uses; a client of its own. Nothing turns it off.
        prefix: Home Assistant's discovery prefix.
        topic: The states are retained below ``TOPIC/FEDERATION/``.
        nodes_max: Nodes that are shown, the first by name.
        every_s: How often the state folder is looked at, in seconds.
    """

    broker: str = ""
    prefix: _Level = "homeassistant"
    topic: _Level = "fedmq-status"
    nodes_max: Annotated[PositiveInt, Field(le=1000)] = 200
    every_s: Annotated[float, Field(ge=1, le=3600)] = 5.0

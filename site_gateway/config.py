"""The settings of one gateway: its own, and those of both its roles, each in a file of a folder, all checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeInt

import coordinator.config.sections as below
import edge_node.config as above
from federation.config import LogSection, PositiveSeconds, Section, load_config
from federation.errors import ConfigError
from federation.types import NodeId
from site_gateway.runtime.uplink import Form
from update_codec.limits import MEMBERS_MAX

__all__ = [
    "ABOVE",
    "ABOVE_FOLDER",
    "BELOW",
    "BELOW_FOLDER",
    "CONFIG_FILE",
    "GatewayConfig",
    "GatewaySettings",
    "read_config",
]

PREFIX = "FEDMQ_GATEWAY"
"""Prefix of the environment variables."""

CONFIG_FILE, ABOVE, BELOW = "gateway.toml", "above.toml", "below.toml"
"""What the files in a gateway's folder are called: its own settings, the node's above, the coordinator's below."""

ABOVE_FOLDER, BELOW_FOLDER = "above", "below"
"""In their place: a folder of ``edge-node join``, and one as of ``coordinator init``, each with settings and keys."""


class GatewaySection(Section):
    """``[gateway]``: how a site stands in the federation above.

    Attributes:
        form: ``exact`` sends the integers of the site's sum, and the result is that of a federation without gateways;
            ``mean`` codes their mean once more, as small as one node's update.
        find_s: How long a first start looks for the run above, in seconds.
        members_max: As ``gateways.members_max`` of the coordinator above says of this gateway; whoever is behind
            gateways below it counts, too. No sum has more. While that coordinator cannot be reached the site goes on
            training from the version that it has, as long as all updates fit one sum of so many; 0 trains once and
            waits, and leaves it to the coordinator above to refuse a sum of too many.
    """

    form: Form = Form.EXACT
    find_s: PositiveSeconds = 60.0
    members_max: NonNegativeInt = 0


class GatewayConfig(Section):
    """What only a gateway is told."""

    gateway: GatewaySection
    log: LogSection


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Everything that a gateway is told.

    Attributes:
        own: What only a gateway is told.
        above: As a node of the federation above.
        below: As the coordinator of the site.
    """

    own: GatewayConfig
    above: above.NodeConfig
    below: below.CoordinatorConfig


def read_config(folder: Path, flags: Mapping[str, object], environ: Mapping[str, str] | None = None) -> GatewaySettings:
    """Read and check the three files of a gateway's folder.

    Args:
        folder: What ``fedmq gateway init`` has made.
        flags: Values of the command line by dotted key, of `GatewayConfig`.
        environ: None is the process's own.

    Raises:
        ConfigError: A file or key is missing, unknown or out of range; or the two roles do not fit together.
    """
    above_place, below_place = _place(folder, ABOVE, ABOVE_FOLDER), _place(folder, BELOW, BELOW_FOLDER)
    own = load_config(GatewayConfig, prefix=PREFIX, file=folder, flags=flags, environ=environ, in_folder=CONFIG_FILE)
    node, site = above.read_config(above_place, {}, environ), below.read_config(below_place, {}, environ)
    if site.task.name != node.task.name:
        why = f"the site trains {site.task.name}, the federation above {node.task.name}"
        raise ConfigError("task.name", f"{why}: they are one", source=BELOW)
    if (site.round.max_staleness or 0) > 0 or site.round.buffer is not None:
        raise ConfigError("round.buffer", "a site answers each order with one sum: leave it out", source=BELOW)
    _check_caps(own.gateway, site.gateways.caps)
    if site.privacy.masked:
        raise ConfigError("privacy.masked", "masked sums do not pass through a gateway", source=BELOW)
    return GatewaySettings(own=own, above=node, below=site)


def _place(folder: Path, file: str, inner: str) -> Path:
    """Where one role's settings are.

    Raises:
        ConfigError: There are none.
    """
    for place in (folder / file, folder / inner):
        if place.exists():
            return place
    raise ConfigError(file, f"{folder} has none: fedmq gateway init makes it", source=str(folder))


def _check_caps(own: GatewaySection, below: Mapping[NodeId, int]) -> None:
    """The gateways below speak for no more nodes than this one may.

    Raises:
        ConfigError: They do.
    """
    together, most = sum(below.values()), own.members_max or MEMBERS_MAX
    if together > most:
        why = f"they may speak for {together} nodes, and this gateway for {most} (gateway.members_max)"
        raise ConfigError("gateways.members_max", f"{why}: raise that here and above, or lower these", source=BELOW)

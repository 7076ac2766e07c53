"""``[gateways]``: nodes that stand for a whole site, and how large a site may be; and what does not go with sums."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, PositiveInt

from federation.config import Section
from federation.errors import ConfigError
from federation.types import NodeId
from update_codec.limits import MEMBERS_MAX

__all__ = ["PER_BASE", "PER_UPDATE", "GatewaysSection", "refuse_beside_sums"]

PER_BASE = "per_base"
"""``strategy.sums``: the integers of all updates with one base are added before the staleness is weighed."""

PER_UPDATE = "per_update"
"""``strategy.sums``: each update has a weight of its own, in which its staleness is."""


class GatewaysSection(Section):
    """``[gateways]``: site gateways, which send the exact sum of a site's updates (docs/how-to/site-gateway.md).

    Attributes:
        members_max: The most nodes that each gateway may speak for, by its name, such as ``{ press-shop = 64 }``. A sum
            of more is refused, and so is one of whoever is not named here.
    """

    members_max: Mapping[str, Annotated[PositiveInt, Field(le=MEMBERS_MAX)]] = Field(default_factory=dict)

    @property
    def caps(self) -> Mapping[NodeId, int]:
        """The most nodes that each gateway may speak for."""
        return {NodeId(name): most for name, most in self.members_max.items()}

    def per_base(self, sums: str | None) -> bool:
        """Whether staleness is weighed once for all updates of one base.

        Args:
            sums: ``strategy.sums``; None is not given.

        Raises:
            ConfigError: Gateways send sums, and every single update is to be weighed.
        """
        if self.members_max and sums == PER_UPDATE:
            raise ConfigError("strategy.sums", f"gateways send sums: {PER_BASE}, or leave it out")
        return sums == PER_BASE or bool(self.members_max)


def refuse_beside_sums(given: Mapping[str, bool]) -> None:
    """Refuse what needs every single update where only their sum is seen.

    Args:
        given: Settings by their keys, and whether each asks for that.

    Raises:
        ConfigError: Names the first one that does.
    """
    because = f"[gateways] and strategy.sums = {PER_BASE} add updates before anybody looks at one"
    for key, asked in given.items():
        if asked:
            raise ConfigError(key, f"does not go with sums of a site: {because}")

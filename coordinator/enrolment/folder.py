"""Where everything of a federation's folder is. ``authority/`` is the only part that must stay off other machines."""

from dataclasses import dataclass
from pathlib import Path

from coordinator.config.sections import CONFIG_FILE
from federation.types import NodeId

__all__ = ["FleetFolder"]


@dataclass(frozen=True, slots=True)
class FleetFolder:
    """Paths below ``root``.

    Attributes:
        root: What ``coordinator init`` has made.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The coordinator's settings."""
        return self.root / CONFIG_FILE

    @property
    def compose(self) -> Path:
        """Broker and coordinator as containers."""
        return self.root / "compose.yaml"

    @property
    def register(self) -> Path:
        """What was issued to whom, and what was revoked."""
        return self.root / "authority" / "issued.json"

    @property
    def authority(self) -> tuple[Path, Path]:
        """Certificate and key of the authority."""
        return self.root / "authority" / "ca.crt", self.root / "authority" / "ca.key"

    @property
    def revoked_pair(self) -> tuple[Path, Path]:
        """Certificate and key that nobody uses and every broker must refuse: they are in its list of revoked ones."""
        return self.root / "authority" / "revoked.crt", self.root / "authority" / "revoked.key"

    def coordinator(self, connection: str) -> tuple[Path, Path]:
        """Certificate and key of one of the coordinator's connections."""
        return self.root / "coordinator" / f"{connection}.crt", self.root / "coordinator" / f"{connection}.key"

    @property
    def coordinator_authority(self) -> Path:
        """What the coordinator trusts."""
        return self.root / "coordinator" / "ca.crt"

    @property
    def signing_key(self) -> Path:
        """The key with which the coordinator signs; nodes pin its public half."""
        return self.root / "coordinator" / "signing.key"

    @property
    def node_keys(self) -> Path:
        """The public keys of the nodes; a coordinator that runs follows it."""
        return self.root / "coordinator" / "nodes.json"

    @property
    def broker(self) -> Path:
        """The broker's whole configuration: mounted into its container, or copied to its host."""
        return self.root / "broker"

    @property
    def broker_pair(self) -> tuple[Path, Path]:
        """Certificate and key of the broker."""
        return self.broker / "broker.crt", self.broker / "broker.key"

    @property
    def revoked(self) -> Path:
        """The broker's list of revoked certificates."""
        return self.broker / "revoked.crl"

    def bundle(self, node: NodeId) -> Path:
        """The file that enrols one node."""
        return self.root / "enrolled" / f"{node}.fedmq"

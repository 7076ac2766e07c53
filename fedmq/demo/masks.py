"""A demo with masked sums: keys for everybody, helpers as processes of their own, and what is killed of the servers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from federation.identity.private_files import PRIVATE, PUBLIC, write_text
from federation.identity.signing_keys import SigningKey, node_keys_text
from fedmq.demo.processes import Exited, Fleet, Line

__all__ = ["Masks", "ServerSaboteur", "helper_names"]

KILLS = (("helper-0", 2), ("coordinator", 4))
"""Which server is killed while which version's sum is under way."""

LEVELS = 7

FIRST_CLIP = 1.0
"""Longest update of the first noised version; later ones follow the updates' lengths."""

Sections = Mapping[str, Mapping[str, object]]


def helper_names(count: int) -> tuple[str, ...]:
    """The helpers of a demo."""
    return tuple(f"helper-{number}" for number in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Keys and settings. In a real federation nobody has them all: each party makes its own.

    Attributes:
        folder: Where they are written.
        federation: Its name.
        keys: Everybody's key by name.
        helpers: The helpers' names.
    """

    folder: Path
    federation: str
    keys: Mapping[str, SigningKey]
    helpers: Sequence[str]

    @classmethod
    def make(cls, folder: Path, federation: str, nodes: Iterable[str], helpers: Sequence[str]) -> "Masks":
        """Make a key for everybody, and the register of nodes that the helpers count."""
        names = tuple(nodes)
        keys = {name: SigningKey.new() for name in ("coordinator", *helpers, *names)}
        for name, key in keys.items():
            write_text(folder / f"{name}.key", key.pem, mode=PRIVATE)
        write_text(folder / "coordinator.pub", keys["coordinator"].public_pem, mode=PUBLIC)
        register = node_keys_text({name: [keys[name].public_hex] for name in names})
        write_text(folder / "register.json", register, mode=PUBLIC)
        return cls(folder=folder, federation=federation, keys=keys, helpers=helpers)

    def coordinator(self, epsilon: float | None = None) -> Sections:
        """What the coordinator's configuration has more; with ``epsilon`` helpers add noise for whole nodes."""
        noise: Mapping[str, object] = {}
        if epsilon is not None:
            noise = {"unit": "nodes", "epsilon": epsilon, "clip": FIRST_CLIP, "adaptive_clip": True}
        return {
            # A demo has few versions: finer integers than a long run needs.
            "privacy": {"masked": True, "helpers": self._pins, "levels": LEVELS, **noise},
            "security": {"signing_key": str(self.folder / "coordinator.key")},
        }

    def node(self, name: str) -> Sections:
        """What a node's configuration has more."""
        return {"privacy": {"helpers": self._pins}, "security": {"signing_key": str(self.folder / f"{name}.key")}}

    def helper(self, name: str, url: str) -> Sections:
        """A helper's whole configuration."""
        return {
            "federation": {"id": self.federation},
            "helper": {"id": name, "register": str(self.folder / "register.json")},
            "broker": {"url": url},
            "security": {
                "coordinator_key": str(self.folder / "coordinator.pub"),
                "signing_key": str(self.folder / f"{name}.key"),
            },
            "store": {"folder": str(self.folder / name)},
        }

    @property
    def _pins(self) -> list[str]:
        return [f"{name}={self.keys[name].public_hex}" for name in self.helpers]


@dataclass(slots=True)
class ServerSaboteur:
    """Kills a helper and the coordinator, each once, while a sum is under way, and starts them again.

    Attributes:
        fleet: The processes.
        targets: Who is still to be killed, and from which version on.
        victim: Who was killed and is not yet started again.
        kills: How many were.
    """

    fleet: Fleet
    targets: list[tuple[str, int]] = field(default_factory=lambda: list(KILLS))
    victim: str | None = None
    kills: int = 0

    def hear(self, line: Line) -> str | None:
        """Watch the coordinator's log; returns a sentence when somebody was killed."""
        if line.source != "coordinator" or line.event != "batch_frozen" or self.victim is not None:
            return None
        version = line.fields.get("version")
        if not self.targets or not isinstance(version, int) or version < self.targets[0][1]:
            return None
        self.victim, _ = self.targets.pop(0)
        self.fleet.kill(self.victim)
        return f"chaos: SIGKILL to {self.victim} while the sum of version {version} is under way"

    def notice(self, exited: Exited) -> str | None:
        """A process has ended: start the victim again."""
        if exited.source != self.victim:
            return None
        self.victim, self.kills = None, self.kills + 1
        self.fleet.restart(exited.source)
        return f"chaos: {exited.source} was killed; started again"

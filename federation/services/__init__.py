"""The systemd units of all roles, and their texts for this installation: where the programs and the settings are."""

import re
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from federation.errors import ConfigError

__all__ = ["PROGRAMS", "SETTINGS", "UNITS", "check_place", "unit_text"]

UNITS: Final = (
    "fedmq-broker.service",
    "fedmq-coordinator.service",
    "fedmq-node.service",
    "fedmq-helper.service",
    "fedmq-backup.service",
    "fedmq-backup.timer",
)
PROGRAMS: Final = Path("/opt/fedmq/bin")
"""Where the units look for our programs, unless told otherwise."""
SETTINGS: Final[Mapping[str, Path]] = {
    "fedmq-broker.service": Path("/etc/fedmq/plant"),
    "fedmq-coordinator.service": Path("/etc/fedmq/plant"),
    "fedmq-node.service": Path("/etc/fedmq/node"),
    "fedmq-helper.service": Path("/etc/fedmq/helper"),
}
"""Where they look for the settings: the folder of `coordinator init`, `edge-node join` or `fedmq helper init`."""

_PLAIN = re.compile(r"/[A-Za-z0-9._+@/-]+")
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - what the units cannot see


def unit_text(name: str, *, programs: Path | None = None, settings: Path | None = None) -> str:
    """A unit's text.

    Args:
        name: Which, of `UNITS`.
        programs: The folder with our programs; None is the one of this installation.
        settings: The folder with the settings; None is what the unit says.

    Raises:
        ConfigError: The unit could not see one of these folders, or its name needs quotes.
    """
    text = (files("federation.services") / name).read_text(encoding="utf-8")
    there = Path(sys.prefix) / "bin" if programs is None else programs
    text = text.replace(f"{PROGRAMS}/", f"{check_place(there)}/")
    if settings is not None and name in SETTINGS:
        text = text.replace(str(SETTINGS[name]), str(check_place(settings)))
    return text


def check_place(folder: Path) -> Path:
    """A folder that a unit can see and name.

    Raises:
        ConfigError: It is hidden from services, such as one below /home, or has other than plain characters.
    """
    place = folder.absolute()
    text = str(place)
    if _PLAIN.fullmatch(text) is None:
        raise ConfigError("--service", f"{text} has characters that a unit cannot name: take another folder")
    if any(place.is_relative_to(hidden) for hidden in _HIDDEN):
        said = (
            "a service cannot see what is below /home, /root or /tmp: install into /opt/fedmq (docs/how-to/systemd.md)"
        )
        raise ConfigError("--service", f"{text}: {said}", source="command line")
    return place

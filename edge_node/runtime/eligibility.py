"""When this device may train: its owner's conditions on load, power, network, temperature and time of day.

They are looked at when an assignment is taken; a training that has begun goes on. A condition that is set but cannot be
read is not met: the owner asked for it.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from federation.errors import ConfigError
from federation.task import ReadsFrames, Task
from federation.types import COLUMNS

__all__ = ["Conditions", "Sensors", "columns_said", "parse_hours", "why_not"]

_COLUMN_BYTES = 6
"""Of the digest of columns' names: a float64 holds them exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What must hold; None, False and empty ask for nothing.

    Attributes:
        load_max: Load of the last minute per CPU core.
        mains: Only on mains power; a device without a battery is.
        battery_min: Charge from which a device may train without mains, 0 to 1; needs no ``mains``.
        interfaces: Networks that cost nothing: the default route must use one of these interfaces.
        temperature_max_c: Of the hottest sensor, in degrees Celsius.
        hours: From and to, in minutes since local midnight; to before from is over midnight.
    """

    load_max: float | None = None
    mains: bool = False
    battery_min: float | None = None
    interfaces: tuple[str, ...] = ()
    temperature_max_c: float | None = None
    hours: tuple[int, int] | None = None


class Sensors:
    """Reads this device; Linux keeps everything in files.

    Args:
        root: Folder that holds ``sys`` and ``proc``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def load(self) -> float | None:
        """Load of the last minute per CPU core."""
        text = _read(self._root / "proc/loadavg")
        try:
            return float((text or "").split()[0]) / (os.cpu_count() or 1)
        except (IndexError, ValueError):
            return None

    def on_mains(self) -> bool:
        """Whether a power supply is connected, or there is no battery."""
        supplies = list((self._root / "sys/class/power_supply").glob("*"))
        kinds = {supply: _read(supply / "type") for supply in supplies}
        if any(kind != "Battery" and _read(supply / "online") == "1" for supply, kind in kinds.items()):
            return True
        return "Battery" not in kinds.values()

    def battery(self) -> float | None:
        """Charge of the emptiest battery, 0 to 1."""
        return _least(number / 100 for number in self._numbers("sys/class/power_supply/*/capacity"))

    def temperature_c(self) -> float | None:
        """The hottest sensor, in degrees Celsius."""
        coldest = _least(-number / 1000 for number in self._numbers("sys/class/thermal/thermal_zone*/temp"))
        return None if coldest is None else -coldest

    def interface(self) -> str | None:
        """The interface of the default route with the lowest metric."""
        rows = [line.split() for line in (_read(self._root / "proc/net/route") or "").splitlines()[1:]]
        routes = [(int(row[6]), row[0]) for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
        return min(routes)[1] if routes else None

    def memory_bytes(self) -> float | None:
        """Memory that a training could use."""
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(self._root / "proc/meminfo") or "", re.MULTILINE)
        return None if found is None else 1024.0 * int(found[1])

    def capabilities(self) -> dict[str, float]:
        """What this device has, as it says at its birth [FED-74]; what cannot be read is left out."""
        known = {
            "memory_bytes": self.memory_bytes(),
            "cores": float(os.cpu_count() or 1),
            "battery": self.battery(),
            "mains": float(self.on_mains()),
        }
        return {name: value for name, value in known.items() if value is not None}

    def minute(self) -> int:
        """Minutes since local midnight."""
        now = time.localtime()
        return now.tm_hour * 60 + now.tm_min

    def _numbers(self, pattern: str) -> Iterator[float]:
        for path in self._root.glob(pattern):
            try:
                yield float(_read(path) or "")
            except ValueError:
                continue


def why_not(conditions: Conditions, sensors: Sensors) -> str | None:
    """The first condition that is not met, as the reason of a decline; None when the device may train."""
    checks: tuple[Callable[[Conditions, Sensors], str | None], ...] = (_idle, _power, _network, _cool, _hours)
    return next((reason for check in checks if (reason := check(conditions, sensors)) is not None), None)


def parse_hours(text: str) -> tuple[int, int]:
    """``22:00-06:00`` as minutes since midnight.

    Raises:
        ConfigError: It is not such a window.
    """
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", text)
    if found is None:
        raise ConfigError("eligibility.hours", f"{text!r} is not a window such as 22:00-06:00")
    hour, minute, until_hour, until_minute = (int(part) for part in found.groups())
    return hour * 60 + minute, until_hour * 60 + until_minute


def _idle(conditions: Conditions, sensors: Sensors) -> str | None:
    if conditions.load_max is None:
        return None
    return _above("load", sensors.load(), conditions.load_max)


def _power(conditions: Conditions, sensors: Sensors) -> str | None:
    if not conditions.mains and conditions.battery_min is None:
        return None
    if sensors.on_mains():
        return None
    if conditions.battery_min is None:
        return "power: on battery"
    charge = sensors.battery()
    if charge is not None and charge >= conditions.battery_min:
        return None
    return "power: battery unknown" if charge is None else f"power: battery {charge:.0%} < {conditions.battery_min:.0%}"


def _network(conditions: Conditions, sensors: Sensors) -> str | None:
    if not conditions.interfaces:
        return None
    interface = sensors.interface()
    return None if interface in conditions.interfaces else f"network: {interface or 'no default route'} may be metered"


def _cool(conditions: Conditions, sensors: Sensors) -> str | None:
    if conditions.temperature_max_c is None:
        return None
    return _above("temperature", sensors.temperature_c(), conditions.temperature_max_c)


def _hours(conditions: Conditions, sensors: Sensors) -> str | None:
    if conditions.hours is None:
        return None
    start, end = conditions.hours
    minute = sensors.minute()
    inside = start <= minute < end if start < end else minute >= start or minute < end
    return None if inside else f"hours: {minute // 60:02}:{minute % 60:02} is outside the window"


def _above(what: str, value: float | None, most: float) -> str | None:
    if value is None:
        return f"{what}: no sensor"
    return f"{what}: {value:.3g} > {most:.3g}" if value > most else None


def _least(numbers: Iterator[float]) -> float | None:
    return min(numbers, default=None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def columns_said(task: Task) -> dict[str, float]:
    """What a node says of the columns of its data frame, where nobody has said which are wanted [FED-304]."""
    names = task.columns_unsaid() if isinstance(task, ReadsFrames) else ()
    if not names:
        return {}
    digest = blake2b("\0".join(names).encode(), digest_size=_COLUMN_BYTES).digest()
    return {COLUMNS: float(int.from_bytes(digest, "big"))}

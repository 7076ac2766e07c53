"""Units that sensors speak, and how one becomes another: a line for each quantity."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

__all__ = ["UNITS", "converter"]

_PSI = 6_894.757293168
_INCH = 0.0254
_G = 9.80665

UNITS: Mapping[str, tuple[str, float, float]] = MappingProxyType(
    {
        **dict.fromkeys(("degC", "°C", "C"), ("temperature", 1.0, 0.0)),
        **dict.fromkeys(("degF", "°F", "F"), ("temperature", 5 / 9, -160 / 9)),
        "K": ("temperature", 1.0, -273.15),
        "Pa": ("pressure", 1.0, 0.0),
        "hPa": ("pressure", 100.0, 0.0),
        "mbar": ("pressure", 100.0, 0.0),
        "kPa": ("pressure", 1e3, 0.0),
        "bar": ("pressure", 1e5, 0.0),
        "MPa": ("pressure", 1e6, 0.0),
        "psi": ("pressure", _PSI, 0.0),
        "mW": ("power", 1e-3, 0.0),
        "W": ("power", 1.0, 0.0),
        "kW": ("power", 1e3, 0.0),
        "hp": ("power", 745.699872, 0.0),
        "Wh": ("energy", 3_600.0, 0.0),
        "kWh": ("energy", 3.6e6, 0.0),
        "J": ("energy", 1.0, 0.0),
        "mV": ("voltage", 1e-3, 0.0),
        "V": ("voltage", 1.0, 0.0),
        "kV": ("voltage", 1e3, 0.0),
        "mA": ("current", 1e-3, 0.0),
        "A": ("current", 1.0, 0.0),
        "rpm": ("frequency", 1 / 60, 0.0),
        "Hz": ("frequency", 1.0, 0.0),
        "kHz": ("frequency", 1e3, 0.0),
        "um": ("length", 1e-6, 0.0),
        "mm": ("length", 1e-3, 0.0),
        "cm": ("length", 1e-2, 0.0),
        "m": ("length", 1.0, 0.0),
        "in": ("length", _INCH, 0.0),
        "mm/s": ("speed", 1e-3, 0.0),
        "in/s": ("speed", _INCH, 0.0),
        "m/s": ("speed", 1.0, 0.0),
        "km/h": ("speed", 1 / 3.6, 0.0),
        "g": ("acceleration", _G, 0.0),
        "mg": ("acceleration", _G / 1e3, 0.0),
        "m/s2": ("acceleration", 1.0, 0.0),
        "l/min": ("flow", 1 / 60_000, 0.0),
        "l/h": ("flow", 1 / 3.6e6, 0.0),
        "m3/h": ("flow", 1 / 3_600, 0.0),
        "m3/s": ("flow", 1.0, 0.0),
        "ms": ("time", 1e-3, 0.0),
        "s": ("time", 1.0, 0.0),
        "min": ("time", 60.0, 0.0),
        "h": ("time", 3_600.0, 0.0),
        "%": ("share", 1e-2, 0.0),
        "1": ("share", 1.0, 0.0),
    }
)
"""By name: the quantity, and what a value is multiplied by, then moved by, to be in the quantity's own unit."""


def converter(text: str) -> Callable[[float], float]:
    """What makes one unit of another, from ``degF -> degC``.

    Raises:
        ValueError: It is not written so, a unit is unknown, or the two are of different quantities.
    """
    names = [part.strip() for part in text.split("->")]
    unknown = [name for name in names if name not in UNITS]
    if len(names) != 2 or unknown:
        what = f"{unknown[0]!r} is no unit known here" if unknown and len(names) == 2 else f"{text!r} is no conversion"
        raise ValueError(f"{what}: write it as 'degF -> degC'; known are {', '.join(UNITS)}")
    (before, scale, offset), (after, other_scale, other_offset) = (UNITS[name] for name in names)
    if before != after:
        raise ValueError(f"{text!r}: {names[0]} is a {before}, and {names[1]} a {after}")
    return partial(_converted, scale / other_scale, (offset - other_offset) / other_scale)


def _converted(factor: float, shift: float, value: float) -> float:
    return value * factor + shift

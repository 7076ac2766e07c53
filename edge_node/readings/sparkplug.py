"""Sparkplug B payloads, by their protobuf schema: metrics with names, aliases, times and numbers.

Eclipse Sparkplug 3.0: topics are ``spBv1.0/GROUP/TYPE/NODE[/DEVICE]``; a birth (``NBIRTH``, ``DBIRTH``) names its
metrics and gives them aliases, and the data that follows (``NDATA``, ``DDATA``) may say only the aliases. The fields
that a reading needs are read, and the others are passed over as protobuf's wire format says (varint, 64 bits, length,
32 bits); no library and no code made from a schema is needed for that.
"""

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from edge_node.readings.payloads import PAYLOAD_BYTES_MAX, NoReading

__all__ = ["ALIASES_MAX", "Aliases", "Metric", "device_of", "metrics_of"]

METRICS_MAX = 10_000
"""Metrics of one payload."""

ALIASES_MAX = 512
"""Aliases that are remembered, of all devices: those of metrics that become columns."""

NAME_BYTES_MAX = 512

_PAYLOAD_TIME, _PAYLOAD_METRICS = 1, 2
_NAME, _ALIAS, _TIME, _DATATYPE, _HISTORICAL, _NULL = 1, 2, 3, 4, 5, 7
_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN, _STRING = 10, 11, 12, 13, 14, 15
_SIGNED: Mapping[int, int] = {1: 8, 2: 16, 3: 32, 4: 64}
"""Datatypes of signed whole numbers, and their bits: the schema carries them without a sign."""

Value = float | bool | str | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a payload.

    Attributes:
        name: Empty where only the alias is said.
        alias: None where there is none.
        time: Seconds since 1970; None where neither it nor its payload says one.
        value: A number, a truth value or a text; None where it is null, or of a kind that is no reading.
        datatype: As the schema numbers them; None where it is not said.
    """

    name: str
    alias: int | None
    time: float | None
    value: Value
    datatype: int | None


class Aliases:
    """What names the aliases of devices stand for; the oldest go when there are too many.

    Args:
        known: As `plain` gave it.
    """

    def __init__(self, known: object = None) -> None:
        self._names: dict[tuple[str, int], tuple[str, int | None]] = {}
        self.changed = False
        for row in known if isinstance(known, list) else ():
            match row:
                case [str(device), int(alias), str(name), None | int() as datatype]:
                    self._names[device, alias] = (name, datatype)

    def named(self, topic: str, metric: Metric, wanted: Collection[str]) -> Metric | None:
        """The metric with its name, which a birth may have said earlier; None where nobody wants it.

        Args:
            topic: Where it came.
            metric: Of a birth or of data.
            wanted: Names of the metrics that become columns: only their aliases are remembered.

        Raises:
            NoReading: No birth of this device has been heard.
        """
        key = (device_of(topic), metric.alias or 0)
        if metric.name or metric.alias is None:
            if metric.alias is not None:
                self._forget(key, metric.name)
                if metric.name in wanted:
                    self._learn(key, (metric.name, metric.datatype))
            return metric if metric.name in wanted else None
        if key not in self._names:
            if any(device == key[0] for device, _ in self._names):
                return None
            raise NoReading("unknown alias")
        name, datatype = self._names[key]
        value = metric.value if metric.datatype is not None else _signed(metric.value, datatype)
        return Metric(name, metric.alias, metric.time, value, metric.datatype or datatype)

    def plain(self) -> list[list[object]]:
        """As JSON has it, to be kept over a restart: the broker does not send a birth again."""
        return [[*key, *value] for key, value in self._names.items()]

    def _forget(self, key: tuple[str, int], name: str) -> None:
        """A device that is born again may number its metrics in another way: each name has one alias, and no other."""
        former = [
            one for one, (known, _) in self._names.items() if one[0] == key[0] and (one == key) != (known == name)
        ]
        for one in former:
            self.changed = True
            del self._names[one]

    def _learn(self, key: tuple[str, int], value: tuple[str, int | None]) -> None:
        if self._names.get(key) == value:
            return
        self.changed = True
        self._names[key] = value
        while len(self._names) > ALIASES_MAX:
            del self._names[next(iter(self._names))]


def metrics_of(payload: bytes) -> list[Metric]:
    """All metrics of a payload.

    Raises:
        NoReading: It is no such payload, or has too many.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise NoReading("too large")
    try:
        fields = list(_fields(payload))
        when = next((value for number, value in fields if number == _PAYLOAD_TIME and isinstance(value, int)), None)
        bodies = [value for number, value in fields if number == _PAYLOAD_METRICS and isinstance(value, bytes)]
        if len(bodies) > METRICS_MAX:
            raise NoReading("too large")
        return [_metric(body, when) for body in bodies]
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise NoReading("not Sparkplug") from error


def _metric(body: bytes, when: int | None) -> Metric:
    found = dict(_fields(body))  # of a field that is said twice the last one counts
    name, alias, time, datatype = (found.get(number) for number in (_NAME, _ALIAS, _TIME, _DATATYPE))
    said = name.decode() if isinstance(name, bytes) and len(name) <= NAME_BYTES_MAX else ""
    millis = time if isinstance(time, int) else when
    kind = datatype if isinstance(datatype, int) else None
    return Metric(
        name=said,
        alias=alias if isinstance(alias, int) else None,
        time=None if millis is None else millis / 1_000,
        value=None if found.get(_NULL) else _signed(_value(found), kind),
        datatype=kind,
    )


def _value(found: Mapping[int, int | bytes]) -> Value:
    for number in (_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN, _STRING):
        raw = found.get(number)
        match number, raw:
            case ((10 | 11), int()):
                return raw
            case 12, bytes() if len(raw) == 4:
                return float(struct.unpack("<f", raw)[0])
            case 13, bytes() if len(raw) == 8:
                return float(struct.unpack("<d", raw)[0])
            case 14, int():
                return bool(raw)
            case 15, bytes():
                return raw.decode()
    return None


def _signed(value: Value, datatype: int | None) -> Value:
    bits = _SIGNED.get(datatype or 0)
    if bits is None or isinstance(value, bool) or not isinstance(value, int):
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field; fixed ones as their bytes.

    Raises:
        IndexError: The body ends within one.
        ValueError: A field is of a kind that there is not.
    """
    place = 0
    while place < len(body):
        key, place = _varint(body, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(body, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _varint(body, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if place + size > len(body):
            raise IndexError
        yield key >> 3, body[place : place + size]
        place += size


def _varint(body: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = body[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), place
        shift += 7
    raise ValueError("a number of more than 64 bits")


def device_of(topic: str) -> str:
    """Group, node and device of a topic: births and data of one device have one set of aliases."""
    levels = topic.split("/")
    return "/".join([*levels[1:2], *levels[3:5]])

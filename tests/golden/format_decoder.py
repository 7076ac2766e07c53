"""A second decoder, written from compression/FORMAT.md alone, in plain Python: slow, short, and trusting.

It shares no code with the library. Where it and the library agree on the golden frames, the page is complete.
"""

import math
import struct
from functools import cache
from hashlib import blake2b

import zstandard

Tensor = tuple[str, list[int], str, str]
"""Name, shape, type, role."""
MAGIC = b"\x28\xb5\x2f\xfd"
FLOAT_MAX = struct.unpack("<f", bytes.fromhex("ffff7f7f"))[0]
POINTS = {
    1: (817,),
    2: (464, 1547),
    3: (251, 774, 1376, 2204),
    4: (131, 397, 673, 965, 1286, 1657, 2119, 2798),
}
WIDTHS = {2: 8, 3: 5, 4: 4, 6: 3, 16: 2, 256: 1}


def rounded(value: float) -> float:
    """The nearest float32, at most the largest."""
    value = max(-FLOAT_MAX, min(FLOAT_MAX, value))
    nearest: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return nearest


def product(sides: list[int]) -> int:
    """Entries of a shape."""
    total = 1
    for side in sides:
        total *= side
    return total


class Reader:
    """The elements of section 3."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, count: int) -> bytes:
        """Bytes."""
        self.place += count
        assert self.place <= len(self.data)
        return self.data[self.place - count : self.place]

    def number(self) -> int:
        """LEB128."""
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def stream(self, size: int) -> bytes:
        """A stream of `size` bytes."""
        coded = self.number()
        stored = self.take(coded >> 1)
        data = zstandard.ZstdDecompressor().decompress(MAGIC + stored) if coded & 1 else stored
        assert len(data) == size
        return data

    def bits(self, count: int) -> list[int]:
        """Bits, lowest first."""
        data = self.stream(-(-count // 8))
        return [data[i // 8] >> i % 8 & 1 for i in range(count)]

    def digits(self, count: int) -> list[int]:
        """Base-k digits with escapes."""
        base = self.take(1)[0] or 256
        escapes = self.number()
        width = WIDTHS[base]
        packed = self.stream(-(-count // width))
        escaped = iter(self.stream(escapes) if escapes else b"")
        values = [packed[i // width] // base ** (i % width) % base for i in range(count)]
        return [base - 1 + next(escaped) if escapes and value == base - 1 else value for value in values]

    def places(self, count: int, layout: int) -> list[int]:
        """Positions that are not zero."""
        marked = self.number()
        if layout == 2:
            found = [i for i, bit in enumerate(self.bits(count)) if bit]
        else:
            found, place = [], -1
            for gap in self.stream(marked + self.number()):
                place += gap + 1 if gap < 255 else 255
                if gap < 255:
                    found.append(place)
        assert len(found) == marked
        return found

    def level(self, count: int) -> list[int]:
        """Magnitudes."""
        layout = self.take(1)[0]
        if layout == 1:
            return self.digits(count)
        values = [0] * count
        if layout in (2, 3):
            places = self.places(count, layout)
            for place, value in zip(places, self.level(len(places)), strict=True):
                values[place] = value + 1
        return values

    def symbols(self, count: int) -> list[int]:
        """Signed symbols."""
        layout = self.take(1)[0]
        if layout == 1:
            return [(z + 1) // 2 if z & 1 else -z // 2 for z in self.digits(count)]
        values = [0] * count
        if layout in (2, 3):
            places = self.places(count, layout)
            signs = self.bits(len(places))
            for place, sign, value in zip(places, signs, self.level(len(places)), strict=True):
                values[place] = -(value + 1) if sign else value + 1
        return values

    def floats(self, count: int) -> list[float]:
        """Byte planes of rotated words."""
        planes = [self.stream(count) for _ in range(4)]
        words = [int.from_bytes(bytes(plane[i] for plane in planes), "little") for i in range(count)]
        return [struct.unpack("<f", struct.pack("<I", word >> 1 | (word & 1) << 31))[0] for word in words]

    def codes(self, count: int, bits: int) -> list[int]:
        """Fixed-length codes."""
        whole = int.from_bytes(self.take(-(-count * bits // 8)), "little")
        return [whole >> i * bits & ((1 << bits) - 1) for i in range(count)]

    def words(self, count: int) -> list[int]:
        """Little-endian u32."""
        return list(struct.unpack(f"<{count}I", self.take(4 * count)))


def hashed(seed: int, index: int) -> int:
    """The counter-based hash of section 5."""
    mask = 0xFFFFFFFF
    word = (index + seed * 0x9E3779B9) & mask
    word = ((word ^ word >> 16) * 0x7FEB352D) & mask
    word = ((word ^ word >> 15) * 0x846CA68B) & mask
    return word ^ word >> 16


def groups(tensors: list[Tensor], partition: int, reader: Reader) -> list[list[int]]:
    """Positions of each group (partitions 0, 1 and 3)."""
    runs, place = [], 0
    for _, shape, _, role in tensors:
        if role == "parameter" and product(shape):
            runs.append((len(shape) >= 2, range(place, place + product(shape))))
            place += product(shape)
    if partition == 0:
        return [[i for _, run in runs for i in run]]
    matrices = sum(is_matrix for is_matrix, _ in runs)
    classes = iter([0] * matrices)
    if partition == 3:
        assert reader.take(1)[0] == 6
        classes = iter(reader.codes(matrices, 2))
    found: list[list[int]] = [[] for _ in range(5)]
    for is_matrix, run in runs:
        found[next(classes) if is_matrix else 4] += run
    return [group for group in found if group]


def deadzone(values: list[float], found: list[list[int]], reader: Reader, step: float) -> int:
    """The segments of the symbols; returns how many they are."""
    for group in found:
        assert reader.take(1)[0] == 1
        scale, *shifts = struct.unpack("<Bbbb", reader.take(4))
        for place, q in zip(group, reader.symbols(len(group)), strict=True):
            if q:
                point = rounded((128 * abs(q) + shifts[min(abs(q), 3) - 1]) * step * 2.0 ** (-7 - scale))
                values[place] = point if q > 0 else -point
    return len(found)


def bands(tensors: list[Tensor], reader: Reader) -> tuple[list[tuple[int, int, int]], list[list[int]]]:
    """Where turned matrices begin, their rows and the entries of a row; and the positions of each group (kind 6)."""
    assert reader.take(1)[0] == 8
    found, place, others = list[tuple[int, int, int]](), 0, list[int]()
    for _, shape, _, role in tensors:
        if role == "parameter":
            if len(shape) >= 2 and product(shape):
                found.append((place, shape[0], product(shape) // shape[0]))
            else:
                others += range(place, place + product(shape))
            place += product(shape)
    flags = reader.codes(len(found), 1)
    blocks = [min(length, 1024) for _, _, length in found]
    widths = [-(-block // 64) for block in blocks]
    counts = [-(-block // width) if flag else 1 for flag, block, width in zip(flags, blocks, widths, strict=True)]
    classes = reader.codes(sum(counts), 3)
    groups: list[list[int]] = [[] for _ in range(8)]
    for flag, width, count, (start, rows, length) in zip(flags, widths, counts, found, strict=True):
        own, classes = classes[:count], classes[count:]
        for entry in range(rows * length):
            groups[own[entry % length % 1024 // width] if flag else own[0]].append(start + entry)
    return [one for flag, one in zip(flags, found, strict=True) if flag], [
        group for group in (*groups, others) if group
    ]


def turn_back(values: list[float], start: int, length: int, step: float) -> None:
    """One row from its coefficients, block by block."""
    for first in range(start, start + length, 1024):
        size = min(1024, start + length - first)
        units = [max(-(2**30), min(2**30, round(value * 128.0 / step))) for value in values[first : first + size]]
        for place in range(size):
            total = sum(unit * factor(size, number, place) for number, unit in enumerate(units) if unit)
            values[first + place] = rounded(total * (step * 2.0**-23))


@cache
def factor(size: int, number: int, place: int) -> int:
    """A factor of the cosine transform."""
    scale = math.sqrt((2 if number else 1) / size)
    return round(65536 * scale * math.cos(math.pi * (2 * place + 1) * number / (2 * size)))


def decode(frame: bytes, tensors: list[Tensor]) -> tuple[list[float], list[float], list[int]]:
    """Parameters, statistics and counters."""
    assert frame[:5] == b"FMQU\x01"
    assert blake2b(frame[:-16], digest_size=16).digest() == frame[-16:]
    kind, segments, text = frame[5:8]
    step, seed, partition, bits, reserved, length = struct.unpack("<fIBBHI", frame[24:40])
    assert (reserved, length) == (0, len(frame))
    reader = Reader(frame[40 + text : -16])
    sizes = {
        role: sum(product(t[1]) for t in tensors if t[3] == role) for role in ("parameter", "statistic", "counter")
    }
    size = sizes["parameter"]
    used, turned = 0, list[tuple[int, int, int]]()
    values = [0.0] * size
    if kind == 0:
        assert reader.take(1)[0] == 0
        values, used = reader.floats(size), 1
    elif kind == 1:
        found = groups(tensors, partition, reader)
        used = (partition == 3) + deadzone(values, found, reader, step)
    elif kind == 2:
        used = 1
        assert reader.take(1)[0] == 1
        for place, q in enumerate(reader.symbols(size)):
            noise = hashed(seed, place) // 256 * 2.0**-24 - 0.5
            values[place] = rounded(rounded(q * step) - rounded(noise * step))
    elif kind == 6:
        turned, found = bands(tensors, reader)
        used = 1 + deadzone(values, found, reader, step)
    else:
        used = 1
        assert reader.take(1)[0] == 5
        values = eden(reader, size, bits, seed) if kind == 3 else common(reader, size, bits, step)
    others = (sizes["statistic"] > 0) + (sizes["counter"] > 0)
    if segments > used + others:
        assert reader.take(1)[0] == 2
        count = reader.number()
        positions = struct.unpack(f"<{count}I", reader.take(4 * count))
        for place, value in zip(positions, struct.unpack(f"<{count}f", reader.take(4 * count)), strict=True):
            values[place] = value
    for start, rows, length in turned:
        for row in range(rows):
            turn_back(values, start + row * length, length, step)
    statistics, counters = [], []
    if sizes["statistic"]:
        assert reader.take(1)[0] == 3
        statistics = reader.floats(sizes["statistic"])
    if sizes["counter"]:
        assert reader.take(1)[0] == 4
        planes = [reader.stream(sizes["counter"]) for _ in range(8)]
        words = (bytes(plane[i] for plane in planes) for i in range(sizes["counter"]))
        counters = [int.from_bytes(word, "little", signed=True) for word in words]
    assert reader.place == len(reader.data)
    return values, statistics, counters


def unmask(frames: list[bytes], revealed: bytes, *, size: int) -> tuple[list[float], list[int]]:
    """Parameters and tail of the sum of a batch of masked frames, whose masks' sum has been revealed."""
    codes, tail, step, bits = [0] * size, list[int](), 0.0, 0
    for frame in frames:
        assert (frame[5], frame[6]) == (5, 2)
        step, _, _, bits = struct.unpack("<fIBB", frame[24:34])
        reader = Reader(frame[40 + frame[7] : -16])
        assert reader.take(1)[0] == 5
        codes = [one + two for one, two in zip(codes, reader.codes(size, bits), strict=True)]
        assert reader.take(1)[0] == 7
        count = reader.number()
        tail = [one + two for one, two in zip(tail or [0] * count, reader.words(count), strict=True)]
        assert reader.place == len(reader.data)
    masks = Reader(revealed)
    codes = [one - two for one, two in zip(codes, masks.codes(size, bits), strict=True)]
    tail = [one - two for one, two in zip(tail, masks.words(len(tail)), strict=True)]
    assert masks.place == len(revealed)
    half = 1 << bits - 1
    return [rounded(((code + half) % (2 * half) - half) * step) for code in codes], [
        (one + (1 << 31)) % (1 << 32) - (1 << 31) for one in tail
    ]


def read_sum(frame: bytes, sizes: tuple[int, int, int]) -> tuple[int, int, list[list[int]]]:
    """Members, weight, and the integers of the three vectors of a sum."""
    assert (frame[5], frame[6]) == (7, 1 + sum(map(bool, sizes)))
    reader = Reader(frame[40 + frame[7] : -16])
    assert reader.take(1)[0] == 9
    members, weight = reader.number(), int.from_bytes(reader.take(8), "little")
    found = []
    for tag, size in zip((10, 3, 4), sizes, strict=True):
        if size:
            assert reader.take(1)[0] == tag
        found.append(integers(reader, size) if size else [])
    assert reader.place == len(reader.data)
    return members, weight, found


def integers(reader: Reader, size: int) -> list[int]:
    """Those that are not zero, as zigzag numbers in planes of bytes."""
    count = reader.number()
    bits = reader.stream(-(-size // 8)) if 0 < count < size else bytes([255 if count else 0]) * (-(-size // 8))
    places = [place for place in range(size) if bits[place // 8] >> place % 8 & 1]
    assert len(places) == count
    planes = [reader.stream(count) for _ in range(8)] if count else []
    values = [0] * size
    for index, place in enumerate(places):
        number = int.from_bytes(bytes(plane[index] for plane in planes), "little")
        values[place] = number // 2 if number % 2 == 0 else -(number + 1) // 2
    return values


def common(reader: Reader, size: int, bits: int, step: float) -> list[float]:
    """Integers of two's complement on a grid."""
    half = 1 << bits - 1
    return [rounded(((code ^ half) - half) * step) for code in reader.codes(size, bits)]


def eden(reader: Reader, size: int, bits: int, seed: int) -> list[float]:
    """Blocks of rotated centroids."""
    full, rest = divmod(size, 4096)
    blocks = [4096] * full + ([1 << (rest - 1).bit_length()] if rest else [])
    scales = struct.unpack(f"<{len(blocks)}f", reader.take(4 * len(blocks)))
    points = [-point for point in reversed(POINTS[bits])] + list(POINTS[bits])
    codes = iter(reader.codes(sum(blocks), bits))
    values: list[float] = []
    for block, scale in zip(blocks, scales, strict=True):
        start = len(values)
        sums = [points[next(codes)] for _ in range(block)]
        half = 1
        while half < block:
            for i in range(block):
                if not i & half:
                    sums[i], sums[i + half] = sums[i] + sums[i + half], sums[i] - sums[i + half]
            half *= 2
        values += [
            rounded(total * (-1 if hashed(seed, start + i) >> 31 else 1) * scale) for i, total in enumerate(sums)
        ]
    return values[:size]

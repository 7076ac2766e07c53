"""Named limits of the format, each with its unit; all are checked before anything is allocated."""

from typing import Final

MANIFEST_BYTES_MAX: Final = 1 << 20
"""Encoded manifest, in bytes."""
TENSORS_MAX: Final = 16_384
"""Tensors in one manifest."""
NAME_BYTES_MAX: Final = 256
"""UTF-8 bytes of one tensor name."""
DIMENSIONS_MAX: Final = 8
"""Dimensions of one tensor."""
ENTRIES_MAX: Final = 1 << 31
"""Entries of one role: positions fit 32 bits."""

SPEC_BYTES_MAX: Final = 40
"""ASCII bytes of the specification text inside a frame."""
WINDOW_BYTES_MAX: Final = 8 << 20
"""Window that a zstd frame may ask the decoder for, in bytes."""
SYMBOL_MAX: Final = 127
"""Largest magnitude of a quantized symbol; larger values travel as exact outliers."""
CHUNK_ENTRIES: Final = 30_720
"""Entries that a decoder expands at a time: divisible by 8 and by 2, 3, 4 and 5 digits per byte."""
PIECE_ENTRIES: Final = 8 * CHUNK_ENTRIES
"""Entries that a decoder adds at a time where they need no room of their own."""
STEP_RMS_MIN: Final = 0.1
"""Smallest step, in rms of the fresh update."""
STEP_RMS_MAX: Final = 12.0
"""Largest step, in rms of the fresh update, unless a promised size needs a larger one."""
LEVELS_MAX: Final = 6
"""Nested levels of magnitudes in one group."""
MASK_BITS_MAX: Final = 32
"""Bits of the modulus of a masked sum."""
MEMBERS_MAX: Final = 1 << 24
"""Updates in one sum."""
TAIL_MAX: Final = 65_535
"""Numbers of 32 bits behind the codes of a masked update."""
BLOCK_MAX: Final = 1_024
"""Entries of a row that the cosine transform turns at once."""
BANDS_MAX: Final = 64
"""Bands of coefficients of one matrix."""

/* Loops over whole vectors, with the bits of their twins in reference.py.
 *
 * Plain C for little-endian machines: no header but stdint.h, nothing of a C library but memcpy and memset, no state, no
 * allocation. compiled.py checks types, layouts and lengths; what the contents could reach out of bounds is checked here.
 * Build without contraction of products and sums (-ffp-contract=off) and without -ffast-math: see build.py.
 *
 * Where a loop writes its next result before it knows whether that counts, the result has room for one more.
 */

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef uint8_t u8;
typedef int8_t i8;
typedef uint32_t u32;
typedef int64_t i64;
typedef uint64_t u64;

/* Tells of this very file: compiled.py loads no other. build.py gives it. */
EXPORT u32 update_codec_kernel_version(void) { return VERSION; }

/* ---- Decoding ---- */

/* Add rint(value · factor) to sums; half to even. Products are below 2^62. */
EXPORT void add_scaled(const float *values, i64 count, double factor, i64 *sums) {
  for (i64 i = 0; i < count; i++) sums[i] += __builtin_llrint((double)values[i] * factor);
}

/* A width that the compiler knows makes a row one move or a few. */
#define BY_WIDTH(NAME, OUT)                                                                                          \
  switch (width) {                                                                                                   \
    case 1: return NAME##_of(table, rows, 1, bytes, size, OUT);                                                      \
    case 2: return NAME##_of(table, rows, 2, bytes, size, OUT);                                                      \
    case 3: return NAME##_of(table, rows, 3, bytes, size, OUT);                                                      \
    case 4: return NAME##_of(table, rows, 4, bytes, size, OUT);                                                      \
    case 5: return NAME##_of(table, rows, 5, bytes, size, OUT);                                                      \
    case 8: return NAME##_of(table, rows, 8, bytes, size, OUT);                                                      \
    default: return NAME##_of(table, rows, width, bytes, size, OUT);                                                 \
  }

/* The rows of a table that bytes name, one after the other, `size` entries in all: written over a vector, or each entry added
 * to the one of it. -1, and some are done, if a byte names no row. */
#define DEFINE_ROWS(NAME, TYPE, INTO)                                                                                \
  INLINE i64 NAME##_of(const TYPE *table, i64 rows, i64 width, const u8 *bytes, i64 size, TYPE *target) {            \
    const i64 whole = size / width;                                                                                  \
    for (i64 i = 0; i < whole; i++) {                                                                                \
      if (bytes[i] >= rows) return -1;                                                                               \
      const TYPE *row = table + bytes[i] * width;                                                                    \
      for (i64 j = 0; j < width; j++) target[i * width + j] INTO row[j];                                             \
    }                                                                                                                \
    if (whole * width == size) return 0;                                                                             \
    if (bytes[whole] >= rows) return -1;                                                                             \
    for (i64 j = 0; whole * width + j < size; j++) target[whole * width + j] INTO table[bytes[whole] * width + j];   \
    return 0;                                                                                                        \
  }                                                                                                                  \
  EXPORT i64 NAME(const TYPE *table, i64 rows, i64 width, const u8 *bytes, i64 size, TYPE *target) {                 \
    BY_WIDTH(NAME, target)                                                                                           \
  }
DEFINE_ROWS(rows_1, u8, =)
DEFINE_ROWS(rows_4, u32, =)
DEFINE_ROWS(rows_8, u64, =)
DEFINE_ROWS(add_rows_f4, float, +=)
DEFINE_ROWS(add_rows_i8, u64, +=)

/* Positions of set bits, of `size` places in all. Each byte stands for `width` places, which of them are set says
 * masks[byte]. `out` has room for one more than there are. Returns how many. */
EXPORT i64 marked(const u8 *masks, i64 width, const u8 *bytes, i64 size, i64 *out) {
  i64 found = 0;
  for (i64 i = 0, begin = 0; begin < size; i++, begin += width) {
    const u32 mask = masks[bytes[i]];
    if (!mask) continue;
    const i64 here = size - begin < width ? size - begin : width;
    for (i64 j = 0; j < here; j++) {
      out[found] = begin + j;
      found += mask >> j & 1;
    }
  }
  return found;
}

/* How many there are. */
EXPORT i64 count_marked(const u8 *masks, i64 width, const u8 *bytes, i64 size) {
  u8 counts[256] = {0};
  for (i64 i = 0; i < 256; i++)
    for (i64 j = 0; j < width; j++) counts[i] += masks[i] >> j & 1;
  i64 found = 0, whole = size / width;
  for (i64 i = 0; i < whole; i++) found += counts[bytes[i]];
  for (i64 j = 0; whole * width + j < size; j++) found += masks[bytes[whole]] >> j & 1;
  return found;
}

/* Positions that gaps tell, from the last one before them, *place, on: see levels.py. `out` has room for count + 1.
 * Returns how many there are. */
EXPORT i64 gap_positions(const u8 *gaps, i64 count, i64 *place, i64 *out) {
  i64 at = *place, found = 0;
  for (i64 i = 0; i < count; i++) {
    const i64 ends = gaps[i] != 255;
    at += gaps[i] + ends;
    out[found] = at;
    found += ends;
  }
  *place = at;
  return found;
}

static i64 inside(const i64 *positions, i64 count, i64 size) {
  u64 outside = 0;
  for (i64 i = 0; i < count; i++) outside |= (u64)positions[i] | (u64)(size - 1 - positions[i]);
  return !(outside >> 63);
}

/* Add values at distinct positions. -1, and nothing is added, if one is not inside. */
#define DEFINE_ADD_AT(NAME, TYPE)                                                                                    \
  EXPORT i64 NAME(TYPE *target, i64 size, const i64 *positions, const TYPE *values, i64 count) {                     \
    if (!inside(positions, count, size)) return -1;                                                                  \
    for (i64 i = 0; i < count; i++) target[positions[i]] += values[i];                                               \
    return 0;                                                                                                        \
  }
DEFINE_ADD_AT(add_at_f4, float)
DEFINE_ADD_AT(add_at_i8, u64)

/* Add table[next index] to each place that is set, of `size` places; which are, says `marked`. Returns how many indices
 * are left, or -1 if there are too few. Bytes of eight places may be of a dense mask: there nothing depends on a branch, and
 * what is not set gets NEUTRAL, which changes no number. Of others most have no place that is set. */
#define DEFINE_ADD_MARKED(NAME, TYPE, WORD, NEUTRAL)                                                                 \
  EXPORT i64 NAME(const TYPE *restrict table, const u8 *restrict masks, i64 width, const u8 *restrict bytes, i64 size, \
                  const u8 *restrict indices, i64 count, TYPE *restrict target) {                                    \
    const u8 *end = indices + count;                                                                                 \
    const i64 all = (size + width - 1) / width, whole = size / width;                                                \
    u32 hits[BLOCK];                                                                                                 \
    for (i64 block = 0; block < all; block += BLOCK) {                                                               \
      const i64 stop = all - block < BLOCK ? all : block + BLOCK;                                                    \
      i64 found = 0;                                                                                                 \
      for (i64 i = block; i < stop; i++) {                                                                           \
        hits[found] = (u32)(i - block);                                                                              \
        found += masks[bytes[i]] != 0;                                                                               \
      }                                                                                                              \
      for (i64 hit = 0; hit < found; hit++) {                                                                        \
        const i64 i = block + hits[hit];                                                                             \
        TYPE *const place = target + i * width;                                                                      \
        u32 mask = masks[bytes[i]];                                                                                  \
        if (width == 8 && i < whole && end - indices >= 8) {                                                         \
          for (i64 j = 0; j < 8; j++) {                                                                              \
            const WORD set = (WORD)0 - (WORD)(mask >> j & 1);                                                        \
            union { TYPE value; WORD word; } each = {table[*indices]};                                               \
            each.word = (each.word & set) | (NEUTRAL & ~set);                                                        \
            place[j] += each.value;                                                                                  \
            indices += mask >> j & 1;                                                                                \
          }                                                                                                          \
          continue;                                                                                                  \
        }                                                                                                            \
        if (i == whole) mask &= (1u << (size - whole * width)) - 1;                                                  \
        for (; mask; mask &= mask - 1) {                                                                             \
          if (indices == end) return -1;                                                                             \
          place[__builtin_ctz(mask)] += table[*indices++];                                                           \
        }                                                                                                            \
      }                                                                                                              \
    }                                                                                                                \
    return end - indices;                                                                                            \
  }
#define BLOCK 1024
DEFINE_ADD_MARKED(add_marked_i8, u64, u64, (u64)0)
DEFINE_ADD_MARKED(add_marked_f4, float, u32, 0x80000000u) /* -0.0 */

/* Values at positions among zeros, `size` entries in all. -1 if one is not inside. */
EXPORT i64 spread(const i64 *positions, const u8 *values, i64 count, u8 *out, i64 size) {
  if (!inside(positions, count, size)) return -1;
  for (i64 i = 0; i < size; i++) out[i] = 0;
  for (i64 i = 0; i < count; i++) out[positions[i]] = values[i];
  return 0;
}

/* ---- Encoding ---- */

INLINE float magnitude(float value) {
  union { float value; u32 bits; } each = {value};
  each.bits &= 0x7fffffffu;
  return each.value;
}

/* Bits of the largest magnitude; above those of infinity where a value is NaN. */
EXPORT i64 peak(const float *values, i64 count) {
  int32_t largest = 0;
  for (i64 i = 0; i < count; i++) {
    union { float value; int32_t bits; } each = {values[i]};
    const int32_t bits = each.bits & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

#define FOLD 16384

/* Sums of squares of rows of FOLD values: halves are added until one is left. `sums` has one for each row. */
EXPORT void row_sums(const float *values, i64 count, float *sums) {
  float row[FOLD / 2];
  for (i64 begin = 0; begin < count; begin += FOLD) {
    const float *from = values + begin;
    const i64 left = count - begin;
    if (left >= FOLD) {
      for (i64 i = 0; i < FOLD / 2; i++) row[i] = from[i] * from[i] + from[i + FOLD / 2] * from[i + FOLD / 2];
    } else {
      for (i64 i = 0; i < FOLD / 2; i++) {
        const float first = i < left ? from[i] : 0, second = i + FOLD / 2 < left ? from[i + FOLD / 2] : 0;
        row[i] = first * first + second * second;
      }
    }
    for (i64 half = FOLD / 4; half; half /= 2)
      for (i64 i = 0; i < half; i++) row[i] += row[i + half];
    sums[begin / FOLD] = row[0];
  }
}

/* Floats come as doubles, which hold them exactly: one kind of number to call with. */

/* A value in steps, moved away from zero by the rounding. */
INLINE float scaled(float value, float inverse, float rounding) {
  union { float value; u32 bits; } sign = {value}, moved = {rounding};
  moved.bits |= sign.bits & 0x80000000u;
  return value * inverse + moved.value;
}

/* Symbols; 0 where there is none, and how many these are. */
EXPORT i64 quantize(const float *values, i64 count, double inverse, double rounding, i8 *symbols) {
  const float step = (float)inverse, moved = (float)rounding;
  i64 beyond = 0;
  for (i64 begin = 0; begin < count; begin += BLOCK) {
    const i64 end = count - begin < BLOCK ? count : begin + BLOCK;
    u32 here = 0;
    for (i64 i = begin; i < end; i++) {
      const float each = scaled(values[i], step, moved);
      const int32_t is_inside = magnitude(each) < 128.0f;
      symbols[i] = (i8)(int32_t)(is_inside ? each : 0.0f);
      here += (u32)!is_inside;
    }
    beyond += here;
  }
  return beyond;
}

/* Where there is none; `out` has room for them. */
EXPORT void beyond(const float *values, i64 count, double inverse, double rounding, i64 *out) {
  for (i64 i = 0; i < count; i++)
    if (!(magnitude(scaled(values[i], (float)inverse, (float)rounding)) < 128.0f)) *out++ = i;
}

/* How many magnitudes are as large as a limit. */
EXPORT i64 count_large(const float *values, i64 count, double limit) {
  const float least = (float)limit;
  i64 found = 0;
  for (i64 begin = 0; begin < count; begin += BLOCK) {
    const i64 end = count - begin < BLOCK ? count : begin + BLOCK;
    u32 here = 0;
    for (i64 i = begin; i < end; i++) here += magnitude(values[i]) >= least;
    found += here;
  }
  return found;
}

/* Those, and their positions from `first` on. Both have room for one more than there are. */
EXPORT void large(const float *restrict values, i64 count, double limit, i64 first, u32 *restrict positions,
                  float *restrict found) {
  const float least = (float)limit;
  i64 place = 0;
  for (i64 i = 0; i < count; i++) {
    positions[place] = (u32)(first + i);
    found[place] = values[i];
    place += magnitude(values[i]) >= least;
  }
}

/* Symbols of single values that are not zero, with their positions; those beyond the last symbol apart; and of those
 * whose position is a multiple of `stride` the value again. found[0..2]: how many of each. `kept` and `symbols` have room
 * for one more than values, `outliers` and `shown` for as many. `shown` are places among what is kept. */
EXPORT void pick(const u32 *restrict positions, const float *restrict values, i64 count, double inverse, double rounding,
                 i64 stride, u32 *restrict kept, i8 *restrict symbols, i64 *restrict outliers, float *restrict shown,
                 i8 *restrict shown_symbols, i64 *restrict found) {
  i64 places = 0, out = 0, seen = 0;
  const u64 share = ~(u64)0 / (u64)stride + 1; /* a multiple of the stride times this is below it, modulo 2^64 */
  for (i64 i = 0; i < count; i++) {
    const float each = scaled(values[i], (float)inverse, (float)rounding);
    const i64 position = positions[i];
    if (!(magnitude(each) < 128.0f)) {
      outliers[out++] = position;
      continue;
    }
    const i8 symbol = (i8)(int32_t)each;
    kept[places] = positions[i];
    symbols[places] = symbol;
    places += symbol != 0;
    if ((u64)position * share <= share - 1 && symbol) {
      shown[seen] = values[i];
      shown_symbols[seen++] = symbol;
    }
  }
  found[0] = places;
  found[1] = out;
  found[2] = seen;
}

/* For magnitudes of 1, of 2, and above: how many symbols, and the sum of |value| / step - |symbol|, one after another. */
EXPORT void excess(const float *values, const i8 *symbols, i64 count, double step, i64 *counts, double *sums) {
  i64 found[4] = {0}; /* the first for symbols that are zero: they are counted rather than branched for */
  double added[4] = {0};
  for (i64 i = 0; i < count; i++) {
    const i64 size = symbols[i] < 0 ? -(i64)symbols[i] : symbols[i];
    const i64 bin = size < 3 ? size : 3;
    found[bin] += 1;
    added[bin] += (double)magnitude(values[i]) / step - (double)size;
  }
  for (i64 bin = 0; bin < 3; bin++) {
    counts[bin] = found[bin + 1];
    sums[bin] = added[bin + 1];
  }
}

/* How many bytes are not zero. */
EXPORT i64 count_nonzero(const u8 *values, i64 count) {
  i64 found = 0;
  for (i64 begin = 0; begin < count; begin += BLOCK) {
    const i64 end = count - begin < BLOCK ? count : begin + BLOCK;
    u32 here = 0;
    for (i64 i = begin; i < end; i++) here += values[i] != 0;
    found += here;
  }
  return found;
}

/* Those, and their positions. Both have room for one more than there are. */
EXPORT void nonzero(const u8 *restrict values, i64 count, u32 *restrict positions, u8 *restrict found) {
  i64 place = 0;
  for (i64 i = 0; i < count; i++) {
    positions[place] = (u32)i;
    found[place] = values[i];
    place += values[i] != 0;
  }
}

/* Those alone; `out` has room for count + 1. Returns how many. */
EXPORT i64 squeeze(const u8 *restrict values, i64 count, u8 *restrict out) {
  i64 found = 0;
  for (i64 i = 0; i < count; i++) {
    out[found] = values[i];
    found += values[i] != 0;
  }
  return found;
}

/* Gaps before increasing positions, see levels.py. Returns how many bytes; `out` has room for count + last / 255. */
EXPORT i64 gap_bytes(const u32 *positions, i64 count, u8 *out) {
  i64 place = 0, next = 0;
  for (i64 i = 0; i < count; i++) {
    i64 gap = positions[i] - next;
    for (; gap >= 255; gap -= 255) out[place++] = 255;
    out[place++] = (u8)gap;
    next = (i64)positions[i] + 1;
  }
  return place;
}

#define DIGITS 15360 /* at a time: whole bytes for every width */

/* Digits of a base, `width` to a byte, larger values as the largest digit. The bytes of the factor are the powers of the
 * base, the highest first: the sum comes to be in one byte of the product, and none below it carries. `packed` has room
 * for count / width, rounded up. */
EXPORT void pack(const u8 *values, i64 count, i64 base, i64 width, u8 *packed) {
  u8 digits[DIGITS + 8];
  const u8 largest = (u8)(base - 1);
  u64 factor = 0, power = 1;
  for (i64 i = width - 1; i >= 0; i--, power *= (u64)base) factor |= power << 8 * i;
  for (i64 begin = 0; begin < count; begin += DIGITS) {
    const i64 here = count - begin < DIGITS ? count - begin : DIGITS;
    for (i64 i = 0; i < here; i++) digits[i] = values[begin + i] < largest ? values[begin + i] : largest;
    for (i64 i = here; i < here + 8; i++) digits[i] = 0;
    for (i64 i = 0; i < here; i += width) {
      u64 word;
      __builtin_memcpy(&word, digits + i, 8);
      *packed++ = (u8)(word * factor >> 8 * (width - 1));
    }
  }
}

/* What is as large as a limit, less it; `out` has room for one more. Returns how many. */
EXPORT i64 above(const u8 *restrict values, i64 count, i64 limit, u8 *restrict out) {
  i64 found = 0;
  for (i64 i = 0; i < count; i++) {
    out[found] = (u8)(values[i] - limit);
    found += values[i] >= limit;
  }
  return found;
}

/* 0, 1, -1, 2, -2 and so on as 0, 1, 2, 3, 4 and so on. */
EXPORT void zigzag(const i8 *symbols, i64 count, u8 *out) {
  for (i64 i = 0; i < count; i++) {
    const u8 size = (u8)(symbols[i] < 0 ? -symbols[i] : symbols[i]);
    out[i] = (u8)(size + size - (symbols[i] > 0));
  }
}

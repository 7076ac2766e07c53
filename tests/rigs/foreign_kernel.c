/* Calls one function of the kernel with arguments from standard input, and writes back what came of it: so that a kernel
 * for another machine can be run by an emulator. Twelve integers or pointers and two doubles at most. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.c"

static void need(void *to, size_t size) {
  if (fread(to, 1, size, stdin) != size) exit(3);
}

#define ENTRY(NAME) {#NAME, (void *)NAME},
static const struct { const char *name; void *function; } FUNCTIONS[] = {FUNCTION_LIST};

int main(void) {
  typedef i64 (*Any)(i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, double, double);
  char name[64] = {0};
  u8 size, count, kinds[16];
  i64 lengths[16], values[16] = {0};
  double numbers[2] = {0};
  int number = 0;
  need(&size, 1);
  need(name, size);
  need(&count, 1);
  need(kinds, count);
  int place = 0, places[16];
  for (int i = 0; i < count; i++) {
    if (kinds[i] == 'd') {
      need(&numbers[number++], 8);
      continue;
    }
    places[i] = place++;
    need(&lengths[i], 8);
    if (kinds[i] == 'l') values[places[i]] = lengths[i];
    if (kinds[i] == 'p') {
      void *memory = malloc((size_t)lengths[i] + 1);
      need(memory, (size_t)lengths[i]);
      values[places[i]] = (i64)memory;
    }
  }
  for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++) {
    if (strcmp(FUNCTIONS[i].name, name)) continue;
    const i64 *v = values;
    const i64 result = ((Any)FUNCTIONS[i].function)(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11],
                                                          numbers[0], numbers[1]);
    fwrite(&result, 8, 1, stdout);
    for (int j = 0; j < count; j++)
      if (kinds[j] == 'p') fwrite((void *)v[places[j]], 1, (size_t)lengths[j], stdout);
    return 0;
  }
  return 4;
}

/* Runs the front end of the C library on noise, so that a QEMU plugin can count its instructions.
 *
 *   front_end N_ELECTRODES N_BANDS HOP SPAN N_HOPS
 *
 * The filter sections of the bands are stable but arbitrary; the cost does not depend on them. */
#include <stdio.h>
#include <stdlib.h>

#include "encoder.h"

int main(int argc, char **argv) {
  static const double section[6] = {0.1, 0, -0.1, 1, -1.7, 0.8};
  cpep_front_end_spec spec = {0};
  cpep_front_end *front_end;
  size_t i, n_hops, n_features, n_tokens = 0;
  if (argc != 6) return 2;
  spec.n_electrodes = strtoul(argv[1], NULL, 10);
  spec.n_bands = strtoul(argv[2], NULL, 10);
  spec.n_sections = 2;
  spec.hop_samples = strtoul(argv[3], NULL, 10);
  spec.span_samples = strtoul(argv[4], NULL, 10);
  n_hops = strtoul(argv[5], NULL, 10);
  spec.shrinkage = 0.01;
  spec.floor = 1e-6;
  n_features = spec.n_bands * spec.n_electrodes * (spec.n_electrodes + 1) / 2;
  double *sections = malloc(spec.n_bands * 2 * sizeof section);
  float *samples = malloc(spec.hop_samples * spec.n_electrodes * sizeof *samples);
  float *tokens = malloc(2 * n_features * sizeof *tokens), *centre = calloc(n_features, sizeof *centre);
  uint8_t *live = malloc(spec.n_electrodes);
  if (!sections || !samples || !tokens || !centre || !live) return 1;
  for (i = 0; i < spec.n_bands * 12; i++) sections[i] = section[i % 6];
  for (i = 0; i < spec.n_electrodes; i++) live[i] = 1;
  for (i = 0; i < spec.hop_samples * spec.n_electrodes; i++) samples[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  spec.sections = sections;
  spec.live = live;
  spec.centre = centre;
  front_end = cpep_front_end_open(&spec);
  if (!front_end) return 1;
  for (i = 0; i < n_hops; i++) n_tokens += cpep_front_end_run(front_end, samples, spec.hop_samples, tokens);
  printf("%zu tokens, the last begins with %g\n", n_tokens, (double)tokens[0]);
  cpep_front_end_close(front_end);
  return 0;
}

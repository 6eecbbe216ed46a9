// The causal filter in front of the encoder, so that a device needs no scipy while it runs.
//
// The same sums in the same order as scipy.signal.sosfilt, so the same numbers; contracted multiply-adds would round
// otherwise and are switched off where this is compiled. Channels lie side by side and vectorise.

#include "encoder.h"

namespace {

// Transposed direct form II; state: two rows of n_channels.
void advance(const double *section, double *row, size_t n_channels, double *state) {
  const double b0 = section[0], b1 = section[1], b2 = section[2], a1 = section[4], a2 = section[5];
  double *const first = state, *const second = state + n_channels;
  for (size_t c = 0; c < n_channels; ++c) {
    const double in = row[c], out = b0 * in + first[c];
    first[c] = b1 * in - a1 * out + second[c];
    second[c] = b2 * in - a2 * out;
    row[c] = out;
  }
}

}  // namespace

void cpep_filter(const double *sections, size_t n_sections, double *samples, size_t n_samples, size_t n_channels,
                 double *state) {
  for (size_t n = 0; n < n_samples; ++n) {
    for (size_t s = 0; s < n_sections; ++s) {
      advance(sections + 6 * s, samples + n * n_channels, n_channels, state + 2 * n_channels * s);
    }
  }
}

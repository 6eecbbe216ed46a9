// The causal filter in front of the encoder, so that a device does not need scipy at run time.
//
// It computes the same sums in the same order as scipy.signal.sosfilt, so the results are equal. Contracted
// multiply-adds would round differently, so the build switches them off for this file. Channels are adjacent in memory:
// a few at a time go through all samples with their state in registers.

#include "encoder.h"
#include "vectors.h"

namespace {

// Transposed direct form II, in place, for N of the n_channels adjacent channels.
template <size_t N>
inline __attribute__((always_inline)) void advance(const double *section, double *samples, size_t n_samples,
                                                   size_t n_channels, double *state) {
  const double b0 = section[0], b1 = section[1], b2 = section[2], a1 = section[4], a2 = section[5];
  double first[N], second[N];
  for (size_t c = 0; c < N; ++c) first[c] = state[c], second[c] = state[n_channels + c];
  for (size_t n = 0; n < n_samples; ++n, samples += n_channels) {
    for (size_t c = 0; c < N; ++c) {
      const double in = samples[c], out = b0 * in + first[c];
      first[c] = b1 * in - a1 * out + second[c];
      second[c] = b2 * in - a2 * out;
      samples[c] = out;
    }
  }
  for (size_t c = 0; c < N; ++c) state[c] = first[c], state[n_channels + c] = second[c];
}

CPEP_VECTORS void filter(const double *sections, size_t n_sections, double *samples, size_t n_samples,
                         size_t n_channels, double *state) {
  for (size_t s = 0; s < n_sections; ++s, sections += 6, state += 2 * n_channels) {
    size_t c = 0;
    for (; c + 8 <= n_channels; c += 8) advance<8>(sections, samples + c, n_samples, n_channels, state + c);
    for (; c + 2 <= n_channels; c += 2) advance<2>(sections, samples + c, n_samples, n_channels, state + c);
    for (; c < n_channels; ++c) advance<1>(sections, samples + c, n_samples, n_channels, state + c);
  }
}

}  // namespace

void cpep_filter(const double *sections, size_t n_sections, double *samples, size_t n_samples, size_t n_channels,
                 double *state) {
  filter(sections, n_sections, samples, n_samples, n_channels, state);
}

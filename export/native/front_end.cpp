// The front end of one stream: band filters, covariances block by block, and their matrix logarithms. The logarithms
// are the chip engine's source, compiled in double precision.

#include "encoder.h"
#include "vectors.h"

#include <algorithm>
#include <new>
#include <vector>

extern "C" {
#include "mpf.h"
}

struct cpep_front_end {
  explicit cpep_front_end(const cpep_front_end_spec &spec)
      : n(spec.n_electrodes),
        n_bands(spec.n_bands),
        n_sections(spec.n_sections),
        hop(spec.hop_samples),
        n_span_blocks(spec.span_samples / spec.hop_samples),
        shrinkage(spec.shrinkage),
        floor(spec.floor),
        sections(spec.sections, spec.sections + spec.n_bands * spec.n_sections * 6),
        live(spec.live, spec.live + spec.n_electrodes),
        centre(spec.centre, spec.centre + spec.n_bands * spec.n_electrodes * (spec.n_electrodes + 1) / 2),
        state(n_bands * n_sections * 2 * n),
        filtered(hop * n),
        block(n_bands * n * n),
        blocks(n_span_blocks * block.size()),
        covariance(block.size()),
        work(static_cast<size_t>(CPEP_MPF_WORK(static_cast<int>(n)))) {}

  size_t n, n_bands, n_sections, hop, n_span_blocks;
  double shrinkage, floor;
  std::vector<double> sections;
  std::vector<uint8_t> live;
  std::vector<float> centre;
  std::vector<double> state, filtered;
  std::vector<double> block;   // sums of products of the current block: whole matrices, only upper triangles are read
  std::vector<double> blocks;  // those of the last full blocks, a ring buffer
  std::vector<double> covariance, work;
  size_t n_before = 0;  // samples left before the first block
  size_t n_in_block = 0, n_blocks = 0, at_block = 0;
};

namespace {

CPEP_VECTORS void add_products(const double *samples, size_t n_samples, size_t n, double *sum) {
  for (size_t i = 0; i < n; ++i) {
    double *__restrict row = sum + i * n;
    for (size_t s = 0; s < n_samples; ++s) {
      const double *__restrict sample = samples + s * n;
      const double x = sample[i];
      for (size_t j = i & ~size_t{3}; j < n; ++j) row[j] += x * sample[j];  // start at a whole vector
    }
  }
}

// Filter the next samples in all bands and add their products. They must not go beyond the end of the block.
void take(cpep_front_end *f, const float *samples, size_t n_samples) {
  for (size_t band = 0; band < f->n_bands; ++band) {
    std::copy(samples, samples + n_samples * f->n, f->filtered.begin());
    cpep_filter(f->sections.data() + band * f->n_sections * 6, f->n_sections, f->filtered.data(), n_samples, f->n,
                f->state.data() + band * f->n_sections * 2 * f->n);
    if (f->n_before == 0) add_products(f->filtered.data(), n_samples, f->n, f->block.data() + band * f->n * f->n);
  }
}

// End a full block. Returns whether there are enough blocks for a span; if so, its token is written.
bool close_block(cpep_front_end *f, float *token) {
  std::copy(f->block.begin(), f->block.end(), f->blocks.begin() + static_cast<long>(f->at_block * f->block.size()));
  std::fill(f->block.begin(), f->block.end(), 0.0);
  f->at_block = (f->at_block + 1) % f->n_span_blocks;
  f->n_in_block = 0;
  f->n_blocks = std::min(f->n_blocks + 1, f->n_span_blocks);
  if (f->n_blocks < f->n_span_blocks) return false;
  std::fill(f->covariance.begin(), f->covariance.end(), 0.0);
  for (size_t number = 0; number < f->n_span_blocks; ++number) {
    const double *block = f->blocks.data() + (f->at_block + number) % f->n_span_blocks * f->block.size();
    for (size_t i = 0; i < f->block.size(); ++i) f->covariance[i] += block[i];
  }
  for (double &product : f->covariance) product /= static_cast<double>(f->n_span_blocks * f->hop);
  const size_t n_numbers = f->n * (f->n + 1) / 2;
  const float *centre = f->centre.data();
  for (size_t band = 0; band < f->n_bands; ++band, token += n_numbers, centre += n_numbers) {
    cpep_log_covariance(f->covariance.data() + band * f->n * f->n, static_cast<int>(f->n), f->live.data(), f->shrinkage,
                        f->floor, token, f->work.data());
    float *number = token;
    for (size_t i = 0; i < f->n; ++i) {
      for (size_t j = i; j < f->n; ++j, ++number) {
        *number = f->live[i] && f->live[j] ? *number - centre[number - token] : 0.0f;
      }
    }
  }
  return true;
}

}  // namespace

cpep_front_end *cpep_front_end_open(const cpep_front_end_spec *spec) {
  try {
    return new cpep_front_end(*spec);
  } catch (const std::bad_alloc &) {
    return nullptr;
  }
}

void cpep_front_end_reset(cpep_front_end *f, uint64_t sample_index) {
  std::fill(f->state.begin(), f->state.end(), 0.0);
  std::fill(f->block.begin(), f->block.end(), 0.0);
  f->n_before = (f->hop - sample_index % f->hop) % f->hop;
  f->n_in_block = f->n_blocks = f->at_block = 0;
}

size_t cpep_front_end_run(cpep_front_end *f, const float *samples, size_t n_samples, float *tokens) {
  const size_t n_features = f->centre.size();
  size_t n_tokens = 0;
  while (n_samples > 0) {
    const size_t to_come = f->n_before > 0 ? f->n_before : f->hop - f->n_in_block;
    const size_t n = std::min(n_samples, to_come);
    take(f, samples, n);
    samples += n * f->n;
    n_samples -= n;
    if (f->n_before > 0) {
      f->n_before -= n;
    } else if ((f->n_in_block += n) == f->hop) {
      n_tokens += close_block(f, tokens + n_tokens * n_features);
    }
  }
  return n_tokens;
}

void cpep_front_end_close(cpep_front_end *f) {
  delete f;
}

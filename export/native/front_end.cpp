// The matrix logarithms of the front end: the chip engine's own source, in double precision.

#include "encoder.h"

#include <new>
#include <vector>

extern "C" {
#include "mpf.h"
}

int cpep_log_covariances(const double *covariances, size_t n_matrices, size_t n_electrodes, const uint8_t *live,
                         double shrinkage, double floor, float *tokens) {
  try {
    const int n = static_cast<int>(n_electrodes);
    std::vector<double> work(static_cast<size_t>(CPEP_MPF_WORK(n)));
    for (size_t matrix = 0; matrix < n_matrices; ++matrix) {
      cpep_log_covariance(covariances + matrix * n_electrodes * n_electrodes, n, live, shrinkage, floor,
                          tokens + matrix * (n_electrodes * (n_electrodes + 1) / 2), work.data());
    }
    return 0;
  } catch (const std::bad_alloc &) {
    return -1;
  }
}

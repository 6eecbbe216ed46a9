/* The eigen-decomposition is Householder's reduction to a tridiagonal matrix, then implicit QL steps (Golub and Van Loan,
   Matrix Computations, 8.3): about 9 n^3 multiply-adds, a fifth of what Jacobi's rotations take for 16 electrodes. */
#include "mpf.h"

#include <float.h>
#include <math.h>
#include <tgmath.h>

#define MOST_STEPS 50 /* of QL for one eigenvalue; two or three are usual */

static const cpep_mpf_real EPSILON = sizeof(cpep_mpf_real) == sizeof(double) ? (cpep_mpf_real)DBL_EPSILON
                                                                             : (cpep_mpf_real)FLT_EPSILON;

/* A symmetric matrix to its tridiagonal form: diagonal d, off-diagonal e from e[1] on; a becomes the orthogonal matrix
   that does it, its columns the new axes. */
static void tridiagonal(cpep_mpf_real *a, int32_t n, cpep_mpf_real *d, cpep_mpf_real *e) {
    int32_t i, j, k;
    for (i = n - 1; i > 0; i--) {
        cpep_mpf_real *row = a + i * n, scale = 0, h = 0;
        for (k = 0; k < i; k++) scale += fabs(row[k]);
        if (i == 1 || scale == 0) {
            e[i] = row[i - 1];
        } else {
            cpep_mpf_real f, g, sum = 0;
            for (k = 0; k < i; k++) row[k] /= scale, h += row[k] * row[k];
            f = row[i - 1];
            g = f >= 0 ? -sqrt(h) : sqrt(h);
            e[i] = scale * g;
            h -= f * g;
            row[i - 1] = f - g;
            for (j = 0; j < i; j++) {
                a[j * n + i] = row[j] / h; /* kept for the axes */
                g = 0;
                for (k = 0; k <= j; k++) g += a[j * n + k] * row[k];
                for (k = j + 1; k < i; k++) g += a[k * n + j] * row[k];
                e[j] = g / h;
                sum += e[j] * row[j];
            }
            sum /= h + h;
            for (j = 0; j < i; j++) {
                f = row[j];
                e[j] = g = e[j] - sum * f;
                for (k = 0; k <= j; k++) a[j * n + k] -= f * e[k] + g * row[k];
            }
        }
        d[i] = h;
    }
    d[0] = e[0] = 0;
    for (i = 0; i < n; i++) { /* the axes, from the reflections that were kept */
        if (d[i] != 0) {
            for (j = 0; j < i; j++) {
                cpep_mpf_real g = 0;
                for (k = 0; k < i; k++) g += a[i * n + k] * a[k * n + j];
                for (k = 0; k < i; k++) a[k * n + j] -= g * a[k * n + i];
            }
        }
        d[i] = a[i * n + i];
        a[i * n + i] = 1;
        for (j = 0; j < i; j++) a[j * n + i] = a[i * n + j] = 0;
    }
}

/* The eigenvalues of a tridiagonal matrix into d, and its axes turned into eigenvectors, the columns of z. */
static void diagonal(cpep_mpf_real *d, cpep_mpf_real *e, int32_t n, cpep_mpf_real *z) {
    int32_t i, k, l, m, step;
    for (i = 1; i < n; i++) e[i - 1] = e[i];
    e[n - 1] = 0;
    for (l = 0; l < n; l++) {
        for (step = 0; step < MOST_STEPS; step++) {
            cpep_mpf_real g, r, s = 1, c = 1, p = 0;
            for (m = l; m < n - 1; m++) {
                if (fabs(e[m]) <= EPSILON * (fabs(d[m]) + fabs(d[m + 1]))) break;
            }
            if (m == l) break;
            g = (d[l + 1] - d[l]) / (2 * e[l]);
            r = sqrt(g * g + 1);
            g = d[m] - d[l] + e[l] / (g + (g >= 0 ? r : -r));
            for (i = m - 1; i >= l; i--) {
                cpep_mpf_real f = s * e[i], b = c * e[i];
                r = sqrt(f * f + g * g);
                e[i + 1] = r;
                if (r == 0) {
                    d[i + 1] -= p;
                    e[m] = 0;
                    break;
                }
                s = f / r, c = g / r;
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                for (k = 0; k < n; k++) {
                    f = z[k * n + i + 1];
                    z[k * n + i + 1] = s * z[k * n + i] + c * f;
                    z[k * n + i] = c * z[k * n + i] - s * f;
                }
            }
            if (i >= l) continue; /* an off-diagonal vanished on the way: look again */
            d[l] -= p;
            e[l] = g;
            e[m] = 0;
        }
    }
}

void cpep_log_covariance(const cpep_mpf_real *covariance, int32_t n, const uint8_t *live, cpep_mpf_real shrinkage,
                         cpep_mpf_real floor, float *token, cpep_mpf_real *work) {
    cpep_mpf_real *z = work, *d = work + n * n, *e = d + n, *logs = e + n, power = 0, least;
    int32_t i, j, k, n_live = 0;
    for (i = 0; i < n; i++) {
        if (live != NULL && !live[i]) continue;
        power += covariance[i * n + i];
        n_live++;
    }
    least = shrinkage * power / (cpep_mpf_real)(n_live > 0 ? n_live : 1) + floor;
    for (i = 0; i < n; i++) {
        for (j = i; j < n; j++) {
            const int kept = live == NULL || (live[i] && live[j]);
            z[i * n + j] = z[j * n + i] = (kept ? covariance[i * n + j] : 0) + (i == j ? least : 0);
        }
    }
    tridiagonal(z, n, d, e);
    diagonal(d, e, n, z);
    for (k = 0; k < n; k++) { /* rounding may leave an eigenvalue below what was added to all of them */
        logs[k] = log(d[k] > least * (cpep_mpf_real)0.5 ? d[k] : least * (cpep_mpf_real)0.5);
    }
    for (i = 0; i < n; i++) {
        for (j = i; j < n; j++) {
            cpep_mpf_real sum = 0;
            for (k = 0; k < n; k++) sum += z[i * n + k] * logs[k] * z[j * n + k];
            *token++ = (float)(i == j ? sum : sum * (cpep_mpf_real)1.41421356237309504880);
        }
    }
}

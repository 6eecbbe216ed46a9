/* The constants of one model, as the exporter writes them into model.c. */
#ifndef CPEP_MODEL_H
#define CPEP_MODEL_H

#include <stdint.h>

#include "fixed.h"
#include "shape.h"

#if CPEP_LAYERS
/* y = (W x + bias) * multiplier / 2^(31 + shift); each output has its own multiplier. */
typedef struct {
    const int8_t *weight;      /* [n_outputs][depth] */
    const int32_t *bias;       /* [n_outputs] */
    const int32_t *multiplier; /* [n_outputs], 0 <= multiplier < 2^30 */
    int32_t shift;             /* 1..31 */
    int32_t n_outputs;         /* a multiple of 4 */
    int32_t depth;             /* a multiple of 16 */
} cpep_linear;

/* y = x * gain / root(sum of squares of x + epsilon). */
typedef struct {
    cpep_real gain;
    uint64_t epsilon; /* > 0 */
} cpep_norm;

typedef struct {
    int32_t score_multiplier; /* turns a score into an exponent of two: score * multiplier / 2^(31 + shift) */
    int32_t score_shift;
    cpep_real mixed; /* unit of the values divided by that of the mixed values */
} cpep_head;

typedef struct {
    cpep_norm attention_norm;
    cpep_linear query, key, value, out;
    cpep_head heads[CPEP_HEADS];
    cpep_norm mlp_norm;
    cpep_linear inner, outer;
    const int8_t *gelu; /* [CPEP_GELU_ENTRIES] */
} cpep_block;
#endif

/* y = b0 x + b1 x1 + b2 x2 - a1 y1 - a2 y2, coefficients in 2^-29. */
typedef struct {
    int32_t b0, b1, b2, minus_a1, minus_a2;
    int32_t rest_gain; /* DC gain, in 2^-29 */
} cpep_section;

#if CPEP_BANDS
/* Transposed direct form II, as in scipy. */
typedef struct {
    float b0, b1, b2, minus_a1, minus_a2;
} cpep_band_section;
#endif

#if CPEP_HEAD_GESTURES
#define CPEP_HEAD_TRIANGLE (CPEP_HEAD_DIMENSIONS * (CPEP_HEAD_DIMENSIONS + 1) / 2)

/* A head: a linear map, then one Gaussian per gesture (cpep_edge.head). */
typedef struct {
    const float *origin;           /* [CPEP_HEAD_INPUTS], subtracted before the map */
    const float *projection;       /* [CPEP_HEAD_INPUTS][CPEP_HEAD_DIMENSIONS] */
    const float *means;            /* [CPEP_HEAD_GESTURES][CPEP_HEAD_DIMENSIONS] */
    const float *factors;          /* [CPEP_HEAD_GESTURES][CPEP_HEAD_TRIANGLE], upper triangles, column after column */
    const float *log_determinants; /* [CPEP_HEAD_GESTURES] */
    const uint16_t *gestures;      /* [CPEP_HEAD_GESTURES], their indices among all gestures */
    float inverse_temperature;
    int32_t least_typicality; /* in 2^-24; below it the answer may be a gesture that the head does not know */
} cpep_discriminant;
#endif

typedef struct {
    cpep_section sections[CPEP_SECTIONS];
    int32_t input_multiplier; /* scales filtered samples to the window's unit, or to 2^-20 for the front end */
    int32_t input_shift;
    uint8_t is_masked[CPEP_CHANNELS]; /* the band's channels that were dead in training, so they are not read */
#if CPEP_BANDS
    const cpep_band_section (*bands)[CPEP_BAND_SECTIONS]; /* [CPEP_BANDS] */
    float shrinkage, floor;                              /* of covariances */
    const float *centre;                                 /* [CPEP_INPUTS], without a calibration; NULL: none */
    float step_scale;                                    /* scales tokens to the encoder's unit */
#endif
#if CPEP_HEAD_GESTURES
    cpep_discriminant head;
#endif
#if CPEP_LAYERS
    cpep_linear patch;
    const int16_t *offset; /* [CPEP_TOKENS][CPEP_WIDTH_DEPTH], the constant part of tokens: positions and [CLS] */
    cpep_block blocks[CPEP_LAYERS];
    cpep_norm norm;
    cpep_linear projection;
    const int8_t *prototypes; /* [CPEP_PADDED(2 * CPEP_PROTOTYPES)][CPEP_EMBEDDING_DEPTH]: coarse, then fine */
    int32_t coarse_length, fine_length; /* largest lengths of such rows */
    cpep_real product_cosine;           /* scales a product with an embedding to a cosine in 2^-24 */
    const uint16_t *prototype_gestures; /* [CPEP_PROTOTYPES] */
    const int32_t *gesture_penalties;   /* [CPEP_GESTURES], subtracted from the products of each, 0 or more */
#endif
    const char *const *gestures; /* [CPEP_GESTURES], names */
} cpep_model;

extern const cpep_model cpep_the_model;

#endif

/* What the emitter writes into model.c: the constants of one model. */
#ifndef CPEP_MODEL_H
#define CPEP_MODEL_H

#include <stdint.h>

#include "fixed.h"
#include "shape.h"

#if CPEP_LAYERS
/* y = (W x + bias) * multiplier / 2^(31 + shift), each output with a multiplier of its own. */
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
    int32_t score_multiplier; /* scores to powers of two: score * multiplier / 2^(31 + shift) */
    int32_t score_shift;
    cpep_real mixed; /* unit of the values over the unit of what they are mixed to */
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
    int32_t rest_gain; /* of a level that has always been there, in 2^-29 */
} cpep_section;

#if CPEP_BANDS
/* Transposed direct form II, as scipy has it. */
typedef struct {
    float b0, b1, b2, minus_a1, minus_a2;
} cpep_band_section;
#endif

#if CPEP_HEAD_GESTURES
#define CPEP_HEAD_TRIANGLE (CPEP_HEAD_DIMENSIONS * (CPEP_HEAD_DIMENSIONS + 1) / 2)

/* A Gaussian a gesture behind a linear map: cpep_edge.head. */
typedef struct {
    const float *origin;           /* [CPEP_HEAD_INPUTS], subtracted before the map */
    const float *projection;       /* [CPEP_HEAD_INPUTS][CPEP_HEAD_DIMENSIONS] */
    const float *means;            /* [CPEP_HEAD_GESTURES][CPEP_HEAD_DIMENSIONS] */
    const float *factors;          /* [CPEP_HEAD_GESTURES][CPEP_HEAD_TRIANGLE], upper triangles, column after column */
    const float *log_determinants; /* [CPEP_HEAD_GESTURES] */
    const uint16_t *gestures;      /* [CPEP_HEAD_GESTURES], their numbers among all */
    float inverse_temperature;
    int32_t least_typicality; /* in 2^-24; below it a gesture that the head does not know may answer */
} cpep_discriminant;
#endif

typedef struct {
    cpep_section sections[CPEP_SECTIONS];
    int32_t input_multiplier; /* filtered samples to the unit of the window, or of the scaled signal, which is 2^-20 */
    int32_t input_shift;
    uint8_t is_masked[CPEP_CHANNELS]; /* by the band's channels: dead while training, so they are not read */
#if CPEP_BANDS
    const cpep_band_section (*bands)[CPEP_BAND_SECTIONS]; /* [CPEP_BANDS] */
    float shrinkage, floor;                              /* of covariances */
    const float *centre;                                 /* [CPEP_INPUTS], of a wearer who did not calibrate; NULL: none */
    float step_scale;                                    /* of a token to the encoder's unit */
#endif
#if CPEP_HEAD_GESTURES
    cpep_discriminant head;
#endif
#if CPEP_LAYERS
    cpep_linear patch;
    const int16_t *offset; /* [CPEP_TOKENS][CPEP_WIDTH_DEPTH], positions and [CLS] */
    cpep_block blocks[CPEP_LAYERS];
    cpep_norm norm;
    cpep_linear projection;
    const int8_t *prototypes; /* [CPEP_PADDED(2 * CPEP_PROTOTYPES)][CPEP_EMBEDDING_DEPTH]: coarse, then fine */
    int32_t coarse_length, fine_length; /* no such row is longer */
    cpep_real product_cosine;           /* a product with an embedding to a cosine in 2^-24 */
    const uint16_t *prototype_gestures; /* [CPEP_PROTOTYPES] */
    const int32_t *gesture_penalties;   /* [CPEP_GESTURES], off the products of each, 0 or more */
#endif
    const char *const *gestures; /* [CPEP_GESTURES], names */
} cpep_model;

extern const cpep_model cpep_the_model;

#endif

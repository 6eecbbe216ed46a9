/* The sizes of one model, from its config.h, and sizes that follow from them. */
#ifndef CPEP_SHAPE_H
#define CPEP_SHAPE_H

#include <stdint.h>

#include "config.h"

/* Depths of products are padded with zero weights to whole vectors, so that kernels need no loop for a remainder. */
#define CPEP_PADDED(n) (((n) + 15) / 16 * 16)

/* A step of the window is a sample of all channels, in the encoder's unit, or a token of the front end. */
#define CPEP_TRIANGLE (CPEP_CHANNELS * (CPEP_CHANNELS + 1) / 2)
#if CPEP_BANDS
#define CPEP_INPUTS (CPEP_BANDS * CPEP_TRIANGLE)
typedef float cpep_step;
#if defined(__arm__) && !(defined(__ARM_FP) && (__ARM_FP & 4))
#error "this model's front end needs a processor with a floating-point unit: compile with -mfloat-abi=hard and its -mfpu"
#endif
#else
#define CPEP_INPUTS CPEP_CHANNELS
typedef int16_t cpep_step;
#endif

/* The head's input: the mean of the window's tokens, the embedding, or the former followed by the latter. */
#define CPEP_HEAD_INPUTS (CPEP_HEAD_TOKENS * CPEP_INPUTS + CPEP_HEAD_EMBEDDING * CPEP_EMBEDDING)

#if CPEP_LAYERS /* 0: the answer needs no encoder */
#define CPEP_TOKENS (CPEP_WINDOW / CPEP_PATCH + 1) /* [CLS] is the first */
#define CPEP_PATCH_DEPTH CPEP_PADDED(CPEP_INPUTS * CPEP_PATCH / CPEP_LEVEL)
#define CPEP_WIDTH_DEPTH CPEP_PADDED(CPEP_WIDTH)
#define CPEP_HIDDEN_DEPTH CPEP_PADDED(CPEP_HIDDEN)
#define CPEP_HEAD_WIDTH (CPEP_WIDTH / CPEP_HEADS)
#define CPEP_HEAD_DEPTH CPEP_PADDED(CPEP_HEAD_WIDTH)
#define CPEP_HEADS_DEPTH (CPEP_HEADS * CPEP_HEAD_DEPTH)
#define CPEP_KEYS CPEP_PADDED(CPEP_TOKENS)
#define CPEP_EMBEDDING_DEPTH CPEP_PADDED(CPEP_EMBEDDING)
#define CPEP_SCORES (CPEP_KEYS > CPEP_HEAD_WIDTH ? CPEP_KEYS : CPEP_HEAD_WIDTH) /* rows also hold mixed values */

#define CPEP_TILE 64          /* outputs of a linear layer computed at a time */
#define CPEP_GELU_ENTRIES 1024 /* of the table that replaces computing GELU */
#endif

#endif

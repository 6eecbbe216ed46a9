/* CPEP on a microcontroller: samples of EMG in, embeddings and gestures out.

   Everything lives in one `cpep` that the caller places, most often as a static variable; its size is a constant. There
   is no heap, no floating point and no library call but memcpy and memset. The same bits come out on every processor.

       static cpep engine;                       cpep_reset(&engine);
       every sample:                             cpep_push(&engine, sample);
       every hop, once cpep_is_full(&engine):    cpep_take_window(&engine);
                                                 cpep_embed(&engine, embedding);
                                                 vote = cpep_vote_of(embedding);

   cpep_push must not interrupt cpep_take_window, which reads the ring; it may interrupt everything after it. */
#ifndef CPEP_H
#define CPEP_H

#include <stdint.h>

#include "fixed.h"
#include "shape.h"

/* A session's: zero until cpep_reset or cpep_calibrate. */
typedef struct {
    cpep_real input[CPEP_CHANNELS]; /* of a filtered sample to the unit of the window */
    int32_t turn;                   /* channel c of the model is channel c + turn of the band */
} cpep_calibration;

typedef struct {
    int32_t x1, x2, y1, y2;
    uint32_t rest; /* what rounding cut from the last output, given back to the next one */
} cpep_section_state;

typedef struct {
    /* The signal. */
    cpep_calibration calibration; /* outlives a reset */
    cpep_section_state sections[CPEP_CHANNELS][CPEP_SECTIONS];
    int16_t ring[CPEP_WINDOW * CPEP_CHANNELS]; /* filtered samples; the oldest stands at `head` */
    int32_t head;                              /* in samples */
    int32_t n_samples;                         /* so far, at most CPEP_WINDOW */

    /* The window on its way through the encoder: matrices, row after row. */
    int16_t stream[CPEP_TOKENS * CPEP_WIDTH_DEPTH]; /* the residual stream */
    int8_t key[CPEP_KEYS * CPEP_HEADS_DEPTH];
    int8_t value[CPEP_WIDTH * CPEP_KEYS]; /* a row a channel, unlike the keys */
    int8_t normed[CPEP_BLOCK * CPEP_WIDTH_DEPTH];
    int32_t tile[CPEP_BLOCK * CPEP_TILE];
    union {
        int16_t patch[CPEP_PATCH_BLOCK * CPEP_PATCH_DEPTH];
        struct {
            int8_t query[CPEP_BLOCK * CPEP_HEADS_DEPTH];
            int8_t mixed[CPEP_BLOCK * CPEP_WIDTH_DEPTH];
            int32_t score[CPEP_BLOCK * CPEP_SCORES]; /* of one head */
            int16_t share[CPEP_BLOCK * CPEP_KEYS];
        } attend;
        int8_t hidden[CPEP_BLOCK * CPEP_HIDDEN_DEPTH];
        int32_t features[CPEP_EMBEDDING_DEPTH];
    } scratch;
} cpep;

typedef struct {
    int32_t gesture;     /* a number of cpep_gesture_name */
    int32_t n_votes;     /* for it */
    int32_t n_neighbours; /* that voted */
    int32_t similarity;  /* cosine of its nearest prototype, in 2^-24 */
} cpep_vote;

/* Multiply each channel, as the model counts them, by a gain in 2^-16 beyond its usual scale, and undo a band's turn by so
   many electrodes, 0 <= turn < CPEP_CHANNELS. No gains, a null pointer, are gains of one. What is in the ring stays. */
void cpep_calibrate(cpep *c, const uint32_t *gains, int32_t turn);

/* Forget the past: the next sample is taken for a steady level, so that a DC offset makes no step. */
void cpep_reset(cpep *c);

/* Filter the next sample of all channels, in counts of the converter, limited to 24 bits. */
void cpep_push(cpep *c, const int32_t sample[CPEP_CHANNELS]);

/* Whether a whole window was pushed since the reset. */
int cpep_is_full(const cpep *c);

/* Put a filtered window, [CPEP_WINDOW][CPEP_CHANNELS], into the ring: for tests and for measuring. */
void cpep_load_window(cpep *c, const int16_t *samples);

/* Cut the window that ends with the last sample into tokens. Until here the ring must stand still. */
void cpep_take_window(cpep *c);

/* Embed the window that was taken. embedding: of length 32767. */
void cpep_embed(cpep *c, int16_t embedding[CPEP_EMBEDDING_DEPTH]);

/* The majority among the nearest prototypes; between equal counts the gesture with the nearest one wins. */
cpep_vote cpep_vote_of(const int16_t embedding[CPEP_EMBEDDING_DEPTH]);

const char *cpep_gesture_name(int32_t gesture);

#endif

/* CPEP on a microcontroller: samples of EMG in, gestures out.

   All state is in one `cpep` that the caller provides, usually as a static variable; its size is a constant. The engine
   uses no heap and no library functions except memcpy and memset. The filter, the encoder and the search use integers.
   The front end and the head, if a model has them (CPEP_BANDS, CPEP_HEAD_GESTURES), use single precision on processors
   with a floating-point unit, and so does decide.h, once per hop. The results have the same bits on every processor.

       static cpep engine;                       cpep_reset(&engine, 0);
       every sample:                             cpep_push(&engine, sample);
       every hop, once cpep_is_full(&engine):    cpep_take_window(&engine);
                                                 vote = cpep_recognise(&engine);

   cpep_push must not interrupt cpep_take_window and cpep_take_tokens, which read the ring buffer; it may interrupt
   everything else. */
#ifndef CPEP_H
#define CPEP_H

#include <stdint.h>

#include "fixed.h"
#include "mpf.h"
#include "shape.h"

/* One donning, that is one wearing of the band, from a calibration. A NULL field means: as in training. The caller owns
   the arrays of the other fields, and must keep them valid while the engine runs. */
typedef struct {
    const uint32_t *gains;   /* [CPEP_CHANNELS], in 2^-16, multiply the usual scale of each of the model's channels */
    const uint8_t *order;    /* [CPEP_CHANNELS], a permutation: the band's channel for each of the model's */
    const uint8_t *live;     /* [CPEP_CHANNELS], zero for a dead electrode */
    const float *centre;     /* [CPEP_INPUTS], the mean token, subtracted from every token */
    const float *head_means; /* [CPEP_HEAD_GESTURES][CPEP_HEAD_DIMENSIONS], means of this wearer's gestures */
} cpep_donning;

/* A donning in the engine's own format; zero until cpep_reset or cpep_calibrate. */
typedef struct {
    cpep_real input[CPEP_CHANNELS]; /* scale from filtered samples to the unit of the window or the front end's input */
    uint8_t order[CPEP_CHANNELS];
    uint8_t live[CPEP_CHANNELS];
#if CPEP_BANDS
    const float *centre; /* NULL: none */
#endif
#if CPEP_HEAD_GESTURES
    const float *head_means; /* NULL: the model's */
#endif
} cpep_calibration;

typedef struct {
    int32_t x1, x2, y1, y2;
    uint32_t rest; /* rounding error of the last output, added to the next sum */
} cpep_section_state;

#if CPEP_BANDS
/* From scaled samples to tokens. A covariance is [CPEP_BANDS][CPEP_TRIANGLE], upper triangles row by row. */
typedef struct {
    float filter[CPEP_BANDS][CPEP_BAND_SECTIONS][2][CPEP_CHANNELS];
    float block[CPEP_INPUTS];                    /* sums of products of the current block */
    float blocks[CPEP_SPAN_BLOCKS][CPEP_INPUTS]; /* those of the last full blocks, a ring buffer */
    float mean[CPEP_INPUTS];                     /* of the tokens of the window that was taken */
    int32_t n_before;                            /* samples left before the first block */
    int32_t n_in_block;
    int32_t n_blocks;  /* full blocks so far, at most CPEP_SPAN_BLOCKS */
    int32_t at_block;  /* place of the next block in the ring */
    int32_t n_waiting; /* newest steps of the window ring that are still covariances, without logarithms */
} cpep_front_end;
#endif

typedef struct {
    /* The signal. */
    cpep_calibration calibration; /* kept by a reset */
    cpep_section_state sections[CPEP_CHANNELS][CPEP_SECTIONS];
    cpep_step ring[CPEP_WINDOW * CPEP_INPUTS]; /* steps; the oldest is at `head` */
    int32_t head;                              /* in steps */
    int32_t n_steps;                           /* so far, at most CPEP_WINDOW */
    int32_t has_begun;                         /* whether the filter has seen a sample */
#if CPEP_BANDS
    cpep_front_end front_end;
#endif

    /* The encoder's activations for one window: matrices, row by row. */
#if CPEP_LAYERS
    int16_t stream[CPEP_TOKENS * CPEP_WIDTH_DEPTH]; /* the residual stream */
    int8_t key[CPEP_KEYS * CPEP_HEADS_DEPTH];
    int8_t value[CPEP_WIDTH * CPEP_KEYS]; /* transposed: one row per output, unlike the keys */
    int8_t normed[CPEP_BLOCK * CPEP_WIDTH_DEPTH];
    int32_t tile[CPEP_BLOCK * CPEP_TILE];
#endif
    union {
#if CPEP_LAYERS
        int16_t patch[CPEP_PATCH_BLOCK * CPEP_PATCH_DEPTH];
        struct {
            int8_t query[CPEP_BLOCK * CPEP_HEADS_DEPTH];
            int8_t mixed[CPEP_BLOCK * CPEP_WIDTH_DEPTH];
            int32_t score[CPEP_BLOCK * CPEP_SCORES]; /* of one head */
            int16_t share[CPEP_BLOCK * CPEP_KEYS];
        } attend;
        int8_t hidden[CPEP_BLOCK * CPEP_HIDDEN_DEPTH];
        int32_t features[CPEP_EMBEDDING_DEPTH];
#endif
#if CPEP_BANDS
        struct {
            float covariance[CPEP_CHANNELS * CPEP_CHANNELS];
            float work[CPEP_MPF_WORK(CPEP_CHANNELS)];
        } logarithm;
#endif
        int8_t none;
    } scratch;
} cpep;

typedef struct {
    int32_t gesture;    /* index for cpep_gesture_name */
    int32_t share;      /* its share of the votes, or its probability by the head, in 2^-24 */
    int32_t similarity; /* cosine of its nearest prototype, or the head's typicality of the window, in 2^-24 */
    int32_t shares[CPEP_GESTURES]; /* share of every gesture, in 2^-24 */
} cpep_vote;

/* Adapt the engine to a wearer; NULL: as in training. The content of the ring is kept. Returns 0 and changes nothing if
   the order is not a permutation or fewer than two electrodes are live. */
int cpep_calibrate(cpep *c, const cpep_donning *donning);

/* Forget the past. The filter settles on the next sample, so that a DC offset causes no step. That sample gets this
   index; tokens begin at indices that are multiples of their hop. */
void cpep_reset(cpep *c, uint32_t sample_index);

/* Process the next sample of all channels, in counts of the converter, clamped to 24 bits. */
void cpep_push(cpep *c, const int32_t sample[CPEP_CHANNELS]);

/* Whether a whole window was pushed since the last reset. */
int cpep_is_full(const cpep *c);

/* Put the steps of a window, [CPEP_WINDOW][CPEP_INPUTS], into the ring: for tests and for measuring. */
void cpep_load_window(cpep *c, const cpep_step *steps);

#if CPEP_BANDS
/* Compute the logarithms of the waiting covariances, and return how many there were. cpep_take_window does the same;
   calling this after every token makes that call shorter. */
int32_t cpep_take_tokens(cpep *c);
#endif

/* Take the window that ends with the last sample, or with the last complete token, for the calls that follow. The ring
   buffer must not change until this returns. */
void cpep_take_window(cpep *c);

/* Classify the window that was taken, by the head or by the prototypes nearest to its embedding. */
cpep_vote cpep_recognise(cpep *c);

#if CPEP_LAYERS
/* Embed the window that was taken. This consumes it, so take it again before another call. embedding: length 32767. */
void cpep_embed(cpep *c, int16_t embedding[CPEP_EMBEDDING_DEPTH]);

/* The majority vote of the nearest prototypes; in a tie the gesture with the nearest prototype wins. */
cpep_vote cpep_vote_of(const int16_t embedding[CPEP_EMBEDDING_DEPTH]);
#endif

const char *cpep_gesture_name(int32_t gesture);

#endif

/* Compute an embedding from the ring buffer. Tokens are processed in blocks, so that little memory is needed.

   Linear layers run in tiles of outputs: first the products in 32 bits, then the scale of each output, then the output
   is stored. Only [CLS] is read after the last layer, so only its row gets a query, an output and an MLP there. */
#include <string.h>

#include "cpep.h"
#include "front_end.h"
#include "kernels.h"
#include "softmax.h"

#if CPEP_LAYERS

#define MIN(a, b) ((a) < (b) ? (a) : (b))

static int16_t limited16(int32_t value) {
    return (int16_t)cpep_clamp(value, INT16_MIN, INT16_MAX);
}

/* Compute n outputs of a layer, from `first` on, for some rows: (rows, n) in the tile. */
static void run_tile(int32_t *tile, const cpep_linear *layer, cpep_rows8 x, int32_t first, int32_t n) {
    cpep_rows8 weight = {layer->weight + first * layer->depth, layer->depth, n};
    cpep_multiply8(x, weight, layer->depth, tile);
    cpep_requantise(tile, x.n, layer, first, n);
}

/* Run a layer and store its outputs in 8 bits; row_step and step: distances in memory between rows and outputs. */
static void run_to8(cpep *c, const cpep_linear *layer, cpep_rows8 x, int8_t *to, int32_t row_step, int32_t step) {
    int32_t first, i;
    for (first = 0; first < layer->n_outputs; first += CPEP_TILE) {
        int32_t n = MIN(CPEP_TILE, layer->n_outputs - first);
        const int32_t *y = c->tile;
        run_tile(c->tile, layer, x, first, n);
        for (i = 0; i < x.n; i++, y += n) cpep_store8(y, n, to + i * row_step + first * step, step);
    }
}

static void run_to_hidden(cpep *c, const cpep_block *block, cpep_rows8 x) {
    int32_t first, i;
    for (first = 0; first < block->inner.n_outputs; first += CPEP_TILE) {
        int32_t n = MIN(CPEP_TILE, block->inner.n_outputs - first);
        const int32_t *y = c->tile;
        run_tile(c->tile, &block->inner, x, first, n);
        for (i = 0; i < x.n; i++, y += n) {
            cpep_store_gelu(y, n, block->gelu, c->scratch.hidden + i * CPEP_HIDDEN_DEPTH + first);
        }
    }
}

/* Run a layer and add its outputs to the residual stream. */
static void run_to_stream(cpep *c, const cpep_linear *layer, cpep_rows8 x, int32_t token) {
    int32_t first, i;
    for (first = 0; first < layer->n_outputs; first += CPEP_TILE) {
        int32_t n = MIN(CPEP_TILE, layer->n_outputs - first);
        const int32_t *y = c->tile;
        run_tile(c->tile, layer, x, first, n);
        for (i = 0; i < x.n; i++, y += n) cpep_add16(y, n, c->stream + (token + i) * CPEP_WIDTH_DEPTH + first);
    }
}

/* The gain of a norm divided by the root of a token's sum of squares: multiplier / 2^shift, multiplier < 2^15. */
static int32_t norm_of(const int16_t *x, const cpep_norm *norm, int32_t *shift) {
    cpep_real root = cpep_root(cpep_square_sum(x, CPEP_WIDTH_DEPTH) + norm->epsilon);
    uint64_t multiplier = ((uint64_t)norm->gain.mantissa << 15) / root.mantissa;
    int32_t places = 15 + norm->gain.exponent - root.exponent;
    while (multiplier > INT16_MAX) multiplier >>= 1, places--;
    *shift = cpep_clamp(places, 0, 31);
    return (int32_t)multiplier;
}

static cpep_rows8 normed_rows(cpep *c, const cpep_norm *norm, int32_t token, int32_t n) {
    cpep_rows8 rows = {c->normed, CPEP_WIDTH_DEPTH, 0};
    int32_t shift;
    for (; rows.n < n; rows.n++) {
        const int16_t *x = c->stream + (token + rows.n) * CPEP_WIDTH_DEPTH;
        int32_t multiplier = norm_of(x, norm, &shift);
        cpep_scale16_to8(x, CPEP_WIDTH_DEPTH, multiplier, shift, c->normed + rows.n * CPEP_WIDTH_DEPTH);
    }
    return rows;
}

/* Compute keys and values of all tokens. */
static void look_up(cpep *c, const cpep_block *block) {
    int32_t token;
    for (token = 0; token < CPEP_TOKENS; token += CPEP_BLOCK) {
        cpep_rows8 x = normed_rows(c, &block->attention_norm, token, MIN(CPEP_BLOCK, CPEP_TOKENS - token));
        run_to8(c, &block->key, x, c->key + token * CPEP_HEADS_DEPTH, CPEP_HEADS_DEPTH, 1);
        run_to8(c, &block->value, x, c->value + token, 1, CPEP_KEYS);
    }
}

/* One attention head: scores, attention weights (shares), mixed values. n: rows of queries. */
static void attend_head(cpep *c, const cpep_head *head, int32_t number, int32_t n) {
    cpep_rows8 queries = {c->scratch.attend.query + number * CPEP_HEAD_DEPTH, CPEP_HEADS_DEPTH, n};
    cpep_rows8 keys = {c->key + number * CPEP_HEAD_DEPTH, CPEP_HEADS_DEPTH, CPEP_KEYS};
    cpep_rows16 shares = {c->scratch.attend.share, CPEP_KEYS, n};
    cpep_rows8 values = {c->value + number * CPEP_HEAD_WIDTH * CPEP_KEYS, CPEP_KEYS, CPEP_HEAD_WIDTH};
    int32_t *score = c->scratch.attend.score;
    int16_t *share = c->scratch.attend.share;
    int8_t *mixed = c->scratch.attend.mixed + number * CPEP_HEAD_WIDTH;
    int32_t sums[CPEP_BLOCK], i;
    cpep_multiply8(queries, keys, CPEP_HEAD_DEPTH, score);
    for (i = 0; i < n; i++) sums[i] = cpep_softmax(score + i * CPEP_KEYS, head, share + i * CPEP_KEYS);
    cpep_multiply16(shares, values, CPEP_KEYS, score);
    for (i = 0; i < n; i++) cpep_mix(score + i * CPEP_HEAD_WIDTH, head, sums[i], mixed + i * CPEP_WIDTH_DEPTH);
}

static void attend(cpep *c, const cpep_block *block, int32_t token, int32_t n) {
    cpep_rows8 x = normed_rows(c, &block->attention_norm, token, n);
    cpep_rows8 mixed = {c->scratch.attend.mixed, CPEP_WIDTH_DEPTH, n};
    int32_t head;
    run_to8(c, &block->query, x, c->scratch.attend.query, CPEP_HEADS_DEPTH, 1);
    for (head = 0; head < CPEP_HEADS; head++) attend_head(c, &block->heads[head], head, n);
    run_to_stream(c, &block->out, mixed, token);
}

static void think(cpep *c, const cpep_block *block, int32_t token, int32_t n) {
    cpep_rows8 hidden = {c->scratch.hidden, CPEP_HIDDEN_DEPTH, n};
    run_to_hidden(c, block, normed_rows(c, &block->mlp_norm, token, n));
    run_to_stream(c, &block->outer, hidden, token);
}

static void run_block(cpep *c, const cpep_block *block, int32_t n_read) {
    int32_t token;
    look_up(c, block);
    for (token = 0; token < n_read; token += CPEP_BLOCK) {
        int32_t n = MIN(CPEP_BLOCK, n_read - token);
        attend(c, block, token, n);
        think(c, block, token, n);
    }
}

#if CPEP_BANDS
/* Write a patch, which is one token of the front end, in the format of the patch layer. */
static void cut_patch(const cpep *c, int32_t number, int16_t *patch) {
    const float *token = c->ring + (c->head + number) % CPEP_WINDOW * CPEP_INPUTS;
    int32_t i;
    for (i = 0; i < CPEP_INPUTS; i++) {
        const float scaled = token[i] * cpep_the_model.step_scale;
        const float limit = scaled < -CPEP_STEP_LIMIT ? -CPEP_STEP_LIMIT : scaled > CPEP_STEP_LIMIT ? CPEP_STEP_LIMIT : scaled;
        patch[i] = (int16_t)(limit + (limit < 0 ? -0.5f : 0.5f));
    }
    memset(patch + CPEP_INPUTS, 0, (CPEP_PATCH_DEPTH - CPEP_INPUTS) * sizeof *patch);
}
#else
/* Write a patch in the format of the patch layer: every CPEP_LEVEL samples are added up. */
static void cut_patch(const cpep *c, int32_t number, int16_t *patch) {
    int32_t at = (c->head + number * CPEP_PATCH) % CPEP_WINDOW, level, i, channel;
    for (level = 0; level < CPEP_PATCH / CPEP_LEVEL; level++, patch += CPEP_CHANNELS) {
        int16_t sum[CPEP_CHANNELS] = {0};
        for (i = 0; i < CPEP_LEVEL; i++) {
            const int16_t *sample = c->ring + at * CPEP_CHANNELS;
            for (channel = 0; channel < CPEP_CHANNELS; channel++) sum[channel] = (int16_t)(sum[channel] + sample[channel]);
            at = at + 1 == CPEP_WINDOW ? 0 : at + 1;
        }
        memcpy(patch, sum, sizeof sum);
    }
    memset(patch, 0, (CPEP_PATCH_DEPTH - CPEP_CHANNELS * CPEP_PATCH / CPEP_LEVEL) * sizeof *patch);
}
#endif

/* Run the patch layer on some patches and add them to the stream. */
static void run_patches(cpep *c, int32_t number, cpep_rows16 patches) {
    const cpep_linear *layer = &cpep_the_model.patch;
    int32_t first, i;
    for (first = 0; first < layer->n_outputs; first += CPEP_TILE) {
        int32_t n = MIN(CPEP_TILE, layer->n_outputs - first);
        cpep_rows8 weight = {layer->weight + first * layer->depth, layer->depth, n};
        const int32_t *y = c->tile;
        cpep_multiply16(patches, weight, layer->depth, c->tile);
        cpep_requantise(c->tile, patches.n, layer, first, n);
        for (i = 0; i < patches.n; i++, y += n) {
            cpep_add16(y, n, c->stream + (1 + number + i) * CPEP_WIDTH_DEPTH + first);
        }
    }
}

static void take_patches(cpep *c) {
    int32_t number, i;
    memcpy(c->stream, cpep_the_model.offset, sizeof c->stream);
    for (number = 0; number < CPEP_TOKENS - 1; number += CPEP_PATCH_BLOCK) {
        cpep_rows16 patches = {c->scratch.patch, CPEP_PATCH_DEPTH, MIN(CPEP_PATCH_BLOCK, CPEP_TOKENS - 1 - number)};
        for (i = 0; i < patches.n; i++) cut_patch(c, number + i, c->scratch.patch + i * CPEP_PATCH_DEPTH);
        run_patches(c, number, patches);
    }
}

/* Scale features of any length to length 32767. */
static void to_unit(const int32_t *features, int16_t *embedding) {
    uint64_t squares = 0;
    cpep_real root;
    int32_t i;
    for (i = 0; i < CPEP_EMBEDDING; i++) squares += (uint64_t)((int64_t)features[i] * features[i]);
    root = cpep_root(squares + 1);
    memset(embedding, 0, CPEP_EMBEDDING_DEPTH * sizeof *embedding);
    for (i = 0; i < CPEP_EMBEDDING; i++) {
        int64_t scaled = (int64_t)features[i] * ((int64_t)1 << root.exponent) * INT16_MAX;
        embedding[i] = (int16_t)((scaled + (scaled < 0 ? -1 : 1) * (int64_t)(root.mantissa / 2)) / root.mantissa);
    }
}

/* The last norm and the projection. Only [CLS] is read, so 16 bits are cheap here. */
static void project(cpep *c, int16_t *embedding) {
    const cpep_linear *layer = &cpep_the_model.projection;
    cpep_rows16 x = {c->stream, CPEP_WIDTH_DEPTH, 1};
    cpep_rows8 weight = {layer->weight, layer->depth, layer->n_outputs};
    int32_t shift, i, multiplier = norm_of(c->stream, &cpep_the_model.norm, &shift);
    for (i = 0; i < CPEP_WIDTH_DEPTH; i++) {
        c->stream[i] = limited16(cpep_round_shift(c->stream[i] * multiplier, shift));
    }
    cpep_multiply16(x, weight, layer->depth, c->scratch.features);
    cpep_requantise(c->scratch.features, 1, layer, 0, layer->n_outputs);
    to_unit(c->scratch.features, embedding);
}

void cpep_embed(cpep *c, int16_t embedding[CPEP_EMBEDDING_DEPTH]) {
    int32_t layer;
    for (layer = 0; layer < CPEP_LAYERS; layer++) {
        run_block(c, &cpep_the_model.blocks[layer], layer == CPEP_LAYERS - 1 ? 1 : CPEP_TOKENS);
    }
    project(c, embedding);
}

#endif

void cpep_take_window(cpep *c) {
#if CPEP_BANDS
    cpep_front_end_take(c);
#endif
#if CPEP_LAYERS
    take_patches(c);
#endif
}

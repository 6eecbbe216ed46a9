/* Classify a window: by the head, as in cpep_edge.head and cpep_edge.recogniser, or by the prototypes. */
#include "cpep.h"
#include "floats.h"
#include "model.h"

#define ONE 16777216.0f /* 2^24 */

#if CPEP_HEAD_GESTURES

/* Add the contribution of some of the head's inputs, from `first` on, to its dimensions. */
static void project(float *restrict z, const float *x, int32_t first, int32_t n) {
    const float *restrict row = cpep_the_model.head.projection + first * CPEP_HEAD_DIMENSIONS;
    const float *origin = cpep_the_model.head.origin + first;
    int32_t i, j;
    for (i = 0; i < n; i++, row += CPEP_HEAD_DIMENSIONS) {
        const float offset = x[i] - origin[i];
        for (j = 0; j < CPEP_HEAD_DIMENSIONS; j++) z[j] += offset * row[j];
    }
}

/* Squared Mahalanobis distance to a gesture. factor: upper triangle, column after column */
static float distance(const float *restrict z, const float *restrict mean, const float *restrict factor) {
    float whitened[CPEP_HEAD_DIMENSIONS] = {0}, sum = 0;
    int32_t i, j;
    for (j = 0; j < CPEP_HEAD_DIMENSIONS; factor += ++j) {
        const float offset = z[j] - mean[j];
        for (i = 0; i <= j; i++) whitened[i] += factor[i] * offset;
    }
    for (i = 0; i < CPEP_HEAD_DIMENSIONS; i++) sum += whitened[i] * whitened[i];
    return sum;
}

static cpep_vote ask_head(const cpep *c, const float z[CPEP_HEAD_DIMENSIONS]) {
    const cpep_discriminant *head = &cpep_the_model.head;
    const float *means = c->calibration.head_means == NULL ? head->means : c->calibration.head_means;
    float squared[CPEP_HEAD_GESTURES], logits[CPEP_HEAD_GESTURES], weights[CPEP_HEAD_GESTURES], sum = 0;
    int32_t k, best = 0;
    cpep_vote vote = {0, 0, 0, {0}};
    for (k = 0; k < CPEP_HEAD_GESTURES; k++) {
        squared[k] = distance(z, means + k * CPEP_HEAD_DIMENSIONS, head->factors + k * CPEP_HEAD_TRIANGLE);
        logits[k] = (head->log_determinants[k] - squared[k] * 0.5f) * head->inverse_temperature;
        if (logits[k] > logits[best]) best = k;
    }
    for (k = 0; k < CPEP_HEAD_GESTURES; k++) sum += weights[k] = cpep_exp(logits[k] - logits[best]);
    for (k = 0; k < CPEP_HEAD_GESTURES; k++) vote.shares[head->gestures[k]] = (int32_t)(ONE * (weights[k] / sum));
    vote.gesture = head->gestures[best];
    vote.share = (int32_t)(ONE / sum);
    vote.similarity = (int32_t)(ONE * cpep_exp(squared[best] * (-0.5f / CPEP_HEAD_DIMENSIONS)));
    return vote;
}

#if CPEP_HEAD_GESTURES < CPEP_GESTURES
static int is_of_head(int32_t gesture) {
    int32_t k;
    for (k = 0; k < CPEP_HEAD_GESTURES; k++) {
        if (cpep_the_model.head.gestures[k] == gesture) return 1;
    }
    return 0;
}
#endif

cpep_vote cpep_recognise(cpep *c) {
    float z[CPEP_HEAD_DIMENSIONS] = {0};
#if CPEP_LAYERS
    int16_t embedding[CPEP_EMBEDDING_DEPTH];
#endif
    cpep_vote vote;
#if CPEP_HEAD_TOKENS
    project(z, c->front_end.mean, 0, CPEP_INPUTS);
#endif
#if CPEP_HEAD_EMBEDDING
    {
        float numbers[CPEP_EMBEDDING];
        int32_t i;
        cpep_embed(c, embedding);
        for (i = 0; i < CPEP_EMBEDDING; i++) numbers[i] = (float)embedding[i] * (1.0f / 32767);
        project(z, numbers, CPEP_HEAD_TOKENS * CPEP_INPUTS, CPEP_EMBEDDING);
    }
#endif
    vote = ask_head(c, z);
#if CPEP_HEAD_GESTURES < CPEP_GESTURES
    if (vote.similarity < cpep_the_model.head.least_typicality) { /* not typical of the head: try the others */
        cpep_vote other;
#if !CPEP_HEAD_EMBEDDING
        cpep_embed(c, embedding);
#endif
        other = cpep_vote_of(embedding);
        if (!is_of_head(other.gesture)) return other;
    }
#endif
    return vote;
}

#else

cpep_vote cpep_recognise(cpep *c) {
    int16_t embedding[CPEP_EMBEDDING_DEPTH];
    cpep_embed(c, embedding);
    return cpep_vote_of(embedding);
}

#endif

const char *cpep_gesture_name(int32_t gesture) {
    return cpep_the_model.gestures[gesture];
}

/* The nearest prototypes, and what most of them say.

   A prototype has 14 bits: a coarse row and a fine one, 128 times smaller. In 8 bits their rounding would change more
   votes than the whole encoder's. */
#include "cpep.h"
#include "kernels.h"

#define TILE 8
#define FINE_BITS 7

typedef struct {
    int32_t cosine; /* in 2^-24 */
    int32_t gesture;
} neighbour;

/* Put one among the nearest, which stand nearest first; between equals the first one stays. Returns how many stand. */
static int32_t insert(neighbour *nearest, int32_t n, neighbour one) {
    int32_t at;
    if (n == CPEP_NEIGHBOURS && one.cosine <= nearest[n - 1].cosine) return n;
    at = n < CPEP_NEIGHBOURS ? n : n - 1;
    for (; at > 0 && nearest[at - 1].cosine < one.cosine; at--) nearest[at] = nearest[at - 1];
    nearest[at] = one;
    return n < CPEP_NEIGHBOURS ? n + 1 : n;
}

static int32_t find_nearest(const int16_t *embedding, neighbour *nearest) {
    const cpep_model *model = &cpep_the_model;
    cpep_rows16 query = {embedding, CPEP_EMBEDDING_DEPTH, 1};
    int32_t products[2 * TILE], n = 0, first, j;
    for (first = 0; first < CPEP_PROTOTYPES; first += TILE) {
        const int8_t *at = model->prototypes + 2 * first * CPEP_EMBEDDING_DEPTH;
        cpep_rows8 prototypes = {at, CPEP_EMBEDDING_DEPTH, 2 * TILE};
        cpep_multiply16(query, prototypes, CPEP_EMBEDDING_DEPTH, products);
        for (j = 0; j < TILE && first + j < CPEP_PROTOTYPES; j++) {
            int32_t multiplier = model->prototype_multipliers[first + j];
            neighbour one;
            one.cosine = (int32_t)(cpep_scale(products[2 * j], multiplier, 31 - FINE_BITS) +
                                   cpep_scale(products[2 * j + 1], multiplier, 31));
            one.gesture = model->prototype_gestures[first + j];
            n = insert(nearest, n, one);
        }
    }
    return n;
}

cpep_vote cpep_vote_of(const int16_t embedding[CPEP_EMBEDDING_DEPTH]) {
    neighbour nearest[CPEP_NEIGHBOURS];
    cpep_vote vote = {0, 0, 0, 0};
    int32_t i, j;
    vote.n_neighbours = find_nearest(embedding, nearest);
    for (i = 0; i < vote.n_neighbours; i++) {
        int32_t n_votes = 0;
        for (j = 0; j < vote.n_neighbours; j++) n_votes += nearest[j].gesture == nearest[i].gesture;
        if (n_votes > vote.n_votes) {
            vote.n_votes = n_votes;
            vote.gesture = nearest[i].gesture;
            vote.similarity = nearest[i].cosine;
        }
    }
    return vote;
}

const char *cpep_gesture_name(int32_t gesture) {
    return cpep_the_model.gestures[gesture];
}

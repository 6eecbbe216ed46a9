/* The nearest prototypes, and the majority vote among them.

   A prototype has about 14 bits: a coarse row and a fine one, 128 times smaller. Rounding it to 8 bits would change
   more votes than quantising the whole encoder does. But the 8 bits give an upper bound of the similarity
   (Cauchy-Schwarz), and only prototypes that can be among the nearest are compared in full, so the vote is exact. */
#include "cpep.h"
#include "kernels.h"

#if CPEP_LAYERS

#define TILE 64
#define FINE_BITS 7
#define SHARE_BITS 24
#define ROWS_OF_PROTOTYPES CPEP_PADDED(2 * CPEP_PROTOTYPES)
#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef struct {
    int32_t product; /* with the embedding, minus the gesture's penalty; the prototypes' unit keeps it within 32 bits */
    int32_t gesture;
} neighbour;

typedef struct {
    int32_t n;
    neighbour near[CPEP_NEIGHBOURS]; /* nearest first; of equal ones, the first found comes first */
} neighbours;

typedef struct {
    const int16_t *whole;
    int8_t coarse[CPEP_EMBEDDING_DEPTH]; /* in steps of `unit` */
    int32_t unit;
    int32_t most_beyond; /* bound on what the coarse product leaves out, in 2^FINE_BITS */
} query;

static void make_query(query *q, const int16_t embedding[CPEP_EMBEDDING_DEPTH]) {
    int16_t rest[CPEP_EMBEDDING_DEPTH];
    int32_t largest = 1, i;
    cpep_real length;
    for (i = 0; i < CPEP_EMBEDDING_DEPTH; i++) {
        int32_t size = embedding[i] < 0 ? -embedding[i] : embedding[i];
        if (size > largest) largest = size;
    }
    q->whole = embedding;
    q->unit = (largest + 126) / 127;
    for (i = 0; i < CPEP_EMBEDDING_DEPTH; i++) {
        q->coarse[i] = (int8_t)((embedding[i] + (embedding[i] < 0 ? -q->unit : q->unit) / 2) / q->unit);
        rest[i] = (int16_t)(embedding[i] - q->coarse[i] * q->unit);
    }
    length = cpep_root(cpep_square_sum(rest, CPEP_EMBEDDING_DEPTH) + 1);
    q->most_beyond = (int32_t)((length.mantissa >> length.exponent) + 1) * cpep_the_model.coarse_length +
                     ((INT16_MAX >> FINE_BITS) + 2) * cpep_the_model.fine_length;
}

/* Only prototypes with a coarse product above this can be nearer than the farthest neighbour found so far. */
static int32_t least_of(const neighbours *found, const query *q) {
    int32_t needed;
    if (found->n < CPEP_NEIGHBOURS) return INT32_MIN;
    needed = (found->near[found->n - 1].product >> FINE_BITS) - q->most_beyond;
    return needed / q->unit - (needed < 0);
}

static void insert(neighbours *found, neighbour one) {
    int32_t at = found->n;
    if (found->n < CPEP_NEIGHBOURS) found->n++;
    else if (one.product <= found->near[--at].product) return;
    for (; at > 0 && found->near[at - 1].product < one.product; at--) found->near[at] = found->near[at - 1];
    found->near[at] = one;
}

static neighbour compare(const query *q, int32_t number) {
    const int8_t *coarse = cpep_the_model.prototypes + 2 * number * CPEP_EMBEDDING_DEPTH;
    const int32_t high = cpep_multiply_row(q->whole, coarse, CPEP_EMBEDDING_DEPTH);
    const int32_t low = cpep_multiply_row(q->whole, coarse + CPEP_EMBEDDING_DEPTH, CPEP_EMBEDDING_DEPTH);
    neighbour one;
    int64_t product;
    one.gesture = cpep_the_model.prototype_gestures[number];
    product = (int64_t)high * (1 << FINE_BITS) + low - cpep_the_model.gesture_penalties[one.gesture];
    one.product = (int32_t)(product < INT32_MIN ? INT32_MIN : product); /* too far to be a neighbour */
    return one;
}

static int32_t cosine_of(int32_t product) {
    const cpep_real *unit = &cpep_the_model.product_cosine;
    return (int32_t)cpep_scale(product, (int32_t)unit->mantissa, unit->exponent);
}

static void find_nearest(const query *q, neighbours *found) {
    cpep_rows8 coarse = {q->coarse, CPEP_EMBEDDING_DEPTH, 1};
    int32_t products[TILE], least = least_of(found, q), first, j;
    for (first = 0; first < CPEP_PROTOTYPES; first += TILE) {
        const int8_t *at = cpep_the_model.prototypes + 2 * first * CPEP_EMBEDDING_DEPTH;
        cpep_rows8 rows = {at, 2 * CPEP_EMBEDDING_DEPTH, MIN(TILE, ROWS_OF_PROTOTYPES / 2 - first)};
        int32_t n = MIN(TILE, CPEP_PROTOTYPES - first);
        cpep_multiply8(coarse, rows, CPEP_EMBEDDING_DEPTH, products);
        for (j = 0; j < n; j++) {
            if (products[j] <= least) continue;
            insert(found, compare(q, first + j));
            least = least_of(found, q);
        }
    }
}

cpep_vote cpep_vote_of(const int16_t embedding[CPEP_EMBEDDING_DEPTH]) {
    neighbours found = {0, {{0, 0}}};
    cpep_vote vote = {0, 0, 0, {0}};
    int32_t i, j, winner = 0, most = 0;
    query q;
    make_query(&q, embedding);
    find_nearest(&q, &found);
    for (i = 0; i < found.n; i++) {
        int32_t n_votes = 0;
        for (j = 0; j < found.n; j++) n_votes += found.near[j].gesture == found.near[i].gesture;
        vote.shares[found.near[i].gesture] = (int32_t)(((int64_t)n_votes << SHARE_BITS) / found.n);
        if (n_votes > most) {
            most = n_votes;
            winner = i;
        }
    }
    vote.gesture = found.near[winner].gesture;
    vote.share = vote.shares[vote.gesture];
    /* The cosine without the penalty. The sum does not overflow, because it is a product again. */
    vote.similarity = cosine_of(found.near[winner].product + cpep_the_model.gesture_penalties[vote.gesture]);
    return vote;
}

#endif

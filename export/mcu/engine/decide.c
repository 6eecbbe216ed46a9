/* Beliefs are single precision. They use sums, products and the engine's own logarithm and exponential, so that the
   results have the same bits on every processor. */
#include "decide.h"

#include "floats.h"

#define ONE 16777216.0f /* 2^24 */
#define DWELL_MS 25000.0f
#define WAKE_WITHIN_MS 3000.0f
#define AWAKE_MS 10000.0f
#define LIMIT (-4.0f)      /* nats: least log-likelihood that one hop gives a state, relative to the likeliest */
#define CLEAR (-10.0f)     /* nats, before weighting: that of the other states in a rejected or quiet window */
#define LEAST_SHARE 1e-6f

static int32_t hops(float time_ms, float hop_ms) {
    return (int32_t)(time_ms / hop_ms + 0.5f);
}

void cpep_begin(cpep_decider *d, const cpep_decision_spec *spec) {
    const cpep_decider fresh = {CPEP_UNKNOWN, *spec, {0}, 0, 0, 0, 0, 0, CPEP_UNKNOWN, 0, 0, 0, 0, 0};
    *d = fresh;
    d->belief[spec->rest < 0 ? CPEP_UNKNOWN : spec->rest] = 1;
    d->weight = spec->hop_ms < spec->evidence_ms ? spec->hop_ms / spec->evidence_ms : 1;
    d->leave = (1 - cpep_exp(-spec->hop_ms / DWELL_MS)) / CPEP_GESTURES;
    d->release = hops(spec->release_ms, spec->hop_ms);
    d->within = hops(WAKE_WITHIN_MS, spec->hop_ms);
    d->awake = hops(AWAKE_MS, spec->hop_ms);
}

int cpep_is_active(const cpep_decider *d, int32_t gesture) {
    return gesture != CPEP_UNKNOWN && gesture != d->spec.rest;
}

static int is_accepted(const cpep_decider *d, const cpep_vote *vote) {
    return (float)vote->share >= d->spec.min_share * ONE && (float)vote->similarity >= d->spec.min_similarity * ONE;
}

/* Bayes' rule: allow for a change of state since the last hop, then multiply by the likelihoods of this one.
   said: log-likelihoods in nats, relative to the likeliest state */
static void update(cpep_decider *d, const float said[CPEP_STATES]) {
    float sum = 0;
    int32_t k;
    for (k = 0; k < CPEP_STATES; k++) {
        const float nats = d->weight * said[k];
        const float before = d->belief[k] + d->leave * (1 - CPEP_STATES * d->belief[k]);
        d->belief[k] = before * cpep_exp(nats > LIMIT ? nats : LIMIT);
        sum += d->belief[k];
    }
    for (k = 0; k < CPEP_STATES; k++) d->belief[k] /= sum;
}

/* Whether a gesture that was just decided on counts, or is ignored because the band is not awake. */
static int is_awake(cpep_decider *d, int32_t gesture) {
    const int32_t wake = d->spec.wake;
    if (wake >= 0 && d->hop >= d->woken_until && !(gesture == wake && d->hop < d->wake_by)) {
        d->wake_by = gesture == wake ? d->hop + (uint32_t)d->within + 1 : 0;
        return 0;
    }
    d->woken_until = d->hop + (uint32_t)d->awake + 1;
    return 1;
}

static void decide(cpep_decider *d, int32_t lead) {
    const float belief = d->belief[lead];
    if (lead == d->spec.other) lead = CPEP_UNKNOWN;
    if (lead == d->decided) {
        if (cpep_is_active(d, lead) && d->hop - d->since >= (uint32_t)d->release) d->released = d->hop + (uint32_t)d->release;
        return;
    }
    if (belief < d->spec.min_belief || (cpep_is_active(d, lead) && d->hop < d->released)) return;
    d->decided = lead;
    d->since = d->hop;
    d->gesture = lead;
    if (cpep_is_active(d, lead) && !is_awake(d, lead)) d->gesture = d->spec.rest < 0 ? CPEP_UNKNOWN : d->spec.rest;
}

int cpep_decide(cpep_decider *d, const cpep_vote *vote) {
    const int32_t before = d->gesture;
    float said[CPEP_STATES];
    int32_t k, lead = 0;
    if (vote != NULL && (vote->gesture == d->decided || is_accepted(d, vote))) {
        const float least = LEAST_SHARE * (float)vote->share;
        for (k = 0; k < CPEP_GESTURES; k++) {
            const float share = (float)vote->shares[k];
            said[k] = cpep_log((share > least ? share : least) / (float)vote->share);
        }
        said[CPEP_UNKNOWN] = LIMIT / d->weight;
    } else {
        const int32_t alone = vote != NULL || d->spec.rest < 0 ? CPEP_UNKNOWN : d->spec.rest;
        for (k = 0; k < CPEP_STATES; k++) said[k] = k == alone ? 0 : CLEAR;
    }
    update(d, said);
    for (k = 1; k < CPEP_STATES; k++) {
        if (d->belief[k] > d->belief[lead]) lead = k;
    }
    decide(d, lead);
    d->hop++;
    return d->gesture != before;
}

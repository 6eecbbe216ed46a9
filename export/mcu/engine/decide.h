/* From votes to decisions: quick, stable, and silent when unsure. The same as cpep_edge.decisions, which says why.

   A belief over the gestures and "unknown" is carried from hop to hop by Bayes' rule, and a decision changes to the state
   that leads with enough of it.

       static cpep_decider decider;   cpep_begin(&decider, &spec);
       every hop:                     if (cpep_decide(&decider, &vote)) act_on(decider.gesture); */
#ifndef CPEP_DECIDE_H
#define CPEP_DECIDE_H

#include <stdint.h>

#include "cpep.h"

#define CPEP_UNKNOWN CPEP_GESTURES /* the state in which no gesture is known */
#define CPEP_STATES (CPEP_GESTURES + 1)

/* When a decision falls; the numbers stand under "decision" in the bundle's manifest.json. */
typedef struct {
    float hop_ms;         /* between two votes */
    float evidence_ms;    /* of signal that count as one look at the hand */
    float min_share;      /* of a vote, below which it is rejected: min_vote_share */
    float min_similarity; /* likewise */
    float min_belief;     /* that a decision takes */
    float release_ms;     /* after a gesture stood as long, until the next may */
    int32_t rest;         /* the gesture that means nothing is done; -1: none */
    int32_t wake;         /* made twice, others count for a while; -1: they always do */
    int32_t other;        /* the one called "unknown", taught to be no gesture; -1: none */
} cpep_decision_spec;

/* The belief of one stream, and the decision that stands. */
typedef struct {
    int32_t gesture; /* that stands: a number of cpep_gesture_name, or CPEP_UNKNOWN */
    cpep_decision_spec spec;
    float belief[CPEP_STATES];
    float weight, leave;               /* of a vote; of a state's belief, to each other one at every hop */
    int32_t release, within, awake;    /* release_ms, and the times of the wake gesture, in hops */
    int32_t decided;                   /* what leads, also while the band is not awake */
    uint32_t hop, since, released;     /* now; when the decision fell; the first at which another may be decided on */
    uint32_t woken_until, wake_by;     /* hops before which the band is awake, or one more wake gesture wakes it */
} cpep_decider;

/* Start from "unknown". */
void cpep_begin(cpep_decider *d, const cpep_decision_spec *spec);

/* Take in the vote of one window, NULL for one in which the muscles are quiet. Returns whether the decision changed. */
int cpep_decide(cpep_decider *d, const cpep_vote *vote);

/* Whether a decision asks an application to act: it is neither "unknown" nor rest. */
int cpep_is_active(const cpep_decider *d, int32_t gesture);

#endif

/* Turn votes into decisions that are quick and stable, and "unknown" when unsure. cpep_edge.decisions does the same and
   gives the reasons.

   Bayes' rule updates a belief (the probabilities of all gestures and "unknown") at every hop. The decision changes to
   the most probable state when its belief is high enough.

       static cpep_decider decider;   cpep_begin(&decider, &spec);
       every hop:                     if (cpep_decide(&decider, &vote)) act_on(decider.gesture); */
#ifndef CPEP_DECIDE_H
#define CPEP_DECIDE_H

#include <stdint.h>

#include "cpep.h"

#define CPEP_UNKNOWN CPEP_GESTURES /* the state in which no gesture is known */
#define CPEP_STATES (CPEP_GESTURES + 1)

/* The parameters of decisions; their values are under "decision" in the bundle's manifest.json. */
typedef struct {
    float hop_ms;         /* time between two votes */
    float evidence_ms;    /* length of signal that counts as one independent observation */
    float min_share;      /* votes with a smaller share are rejected: min_vote_share */
    float min_similarity; /* likewise for the similarity */
    float min_belief;     /* belief that a state needs to be decided on */
    float release_ms;     /* after a gesture that was held this long, none is decided on for the same time */
    int32_t rest;         /* the gesture of a resting hand; -1: none */
    int32_t wake;         /* the wake gesture: made twice, gestures count for a while; -1: they always count */
    int32_t other;        /* the gesture called "unknown", which was taught as no gesture; -1: none */
} cpep_decision_spec;

/* The belief of one stream, and its current decision. */
typedef struct {
    int32_t gesture; /* the current decision: an index for cpep_gesture_name, or CPEP_UNKNOWN */
    cpep_decision_spec spec;
    float belief[CPEP_STATES];
    float weight, leave;               /* weight of a vote; share of a belief that moves to each other state per hop */
    int32_t release, within, awake;    /* release_ms, and the times of the wake gesture, in hops */
    int32_t decided;                   /* the state decided on, also while the band is not awake */
    uint32_t hop, since, released;     /* now; the hop of the decision; the first hop that allows another gesture */
    uint32_t woken_until, wake_by;     /* hops before which the band is awake, or one more wake gesture wakes it */
} cpep_decider;

/* Start from "unknown". */
void cpep_begin(cpep_decider *d, const cpep_decision_spec *spec);

/* Process the vote of one window; NULL: the muscles are quiet. Returns whether the decision changed. */
int cpep_decide(cpep_decider *d, const cpep_vote *vote);

/* Whether an application should act on a decision, that is whether it is neither "unknown" nor rest. */
int cpep_is_active(const cpep_decider *d, int32_t gesture);

#endif

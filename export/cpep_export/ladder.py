"""The accuracy ladder: accuracy of each step from the trained module to the deployed bundle, on the same windows.

Each step is scored on the same zero-shot tests as in `cpep_train.evaluate`: seen gestures among the seen, unseen ones
among the unseen, and both among all. The votes among all gestures are compared with those of the first step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cpep_edge.encoder import EmgEncoder
from cpep_edge.manifest import LadderStep
from cpep_edge.pose_index import PoseIndex, Vote
from cpep_edge.spread import evenly_spread
from cpep_train.evaluate import N_NEIGHBOURS, Embed, EvaluationSet, Examples, answers, balanced_accuracy
from cpep_train.seen_penalty import with_seen_penalty

MAX_WINDOWS = 3_000  # all steps together take some 20 ms per window
MAX_LOSS = 0.01  # of balanced accuracy that the program may lose; one percentage point
MIN_VOTE_AGREEMENT = 0.98  # share of the program's votes that must equal the module's
MODULE, FUSED, GRAPH = "fp32 module", "fused fp32", "quantised graph"
PROGRAM, INDEX, LIVE = "program on the device", "compact index", "replayed as live"
HEAD = "head, adapted by the calibration"
CHIP = "integers of the microcontroller"  # compared with the same index or head

Answer = Callable[[NDArray[np.bool_]], NDArray[np.int64]]  # gestures that may answer, (K,), to one answer a query


class Ladder:
    """The queries of one evaluation, and the steps that were scored on them."""

    def __init__(self, evaluation: EvaluationSet, references: NDArray[np.float32], seen_penalty: float = 0.0) -> None:
        """references: (R, D), the embedded poses of the evaluation
        seen_penalty: of the bundle's index, which the steps before it answer with too
        """
        self._penalty = seen_penalty
        self.evaluation = replace(evaluation, queries=_chosen(evaluation.queries))
        self._references = references
        self._first_votes: NDArray[np.int64] | None = None
        self.steps: tuple[LadderStep, ...] = ()

    def climb_by_embedding(self, step: str, embedding: NDArray[np.float32]) -> None:
        """Add a step with its own embeddings, (Q, D), and an exact search of all references."""
        everyone = np.ones(len(self.evaluation.queries), bool)
        asking, asked = with_seen_penalty(self.evaluation, embedding, self._references, self._penalty)
        self._climb(step, lambda allowed: answers(self.evaluation, asking, asked, everyone, allowed, N_NEIGHBOURS))

    def climb_by_index(
        self, step: str, embedding: NDArray[np.float32], index_of: Callable[[NDArray[np.bool_]], PoseIndex]
    ) -> None:
        """Add a step that looks up an index; `index_of` makes that of some gestures, (K,)."""

        def answer(allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
            index = index_of(allowed)
            return np.array([index.vote(query, N_NEIGHBOURS).gesture_index for query in embedding], np.int64)

        self._climb(step, answer)

    def climb_by_votes(self, step: str, votes: Sequence[Vote]) -> None:
        """Add a step with known votes among all gestures, which score both seen and unseen gestures."""
        found = np.array([vote.gesture_index for vote in votes], np.int64)
        self._climb(step, lambda allowed: found)

    def _climb(self, step: str, answer: Answer) -> None:
        votes = answer(np.ones(len(self.evaluation.gestures), bool))
        if self._first_votes is None:
            self._first_votes = votes
        self.steps = (
            *self.steps,
            LadderStep(
                step=step,
                seen=self._accuracy(answer, self.evaluation.seen),
                unseen=self._accuracy(answer, ~self.evaluation.seen),
                seen_among_all=self._accuracy(lambda allowed: votes, self.evaluation.seen),
                unseen_among_all=self._accuracy(lambda allowed: votes, ~self.evaluation.seen),
                vote_agreement=float(np.mean(votes == self._first_votes)),
            ),
        )

    def _accuracy(self, answer: Answer, allowed: NDArray[np.bool_]) -> float | None:
        """Balanced accuracy over the gestures of one kind, answered among themselves; None where there are none."""
        true = self.evaluation.queries.gesture_index
        asked = allowed[true]
        if not asked.any():
            return None
        n_gestures = len(allowed)
        confusion = np.zeros((n_gestures, n_gestures), np.int64)
        np.add.at(confusion, (true[asked], answer(allowed)[asked]), 1)
        return float(balanced_accuracy(confusion))


def refusals(steps: tuple[LadderStep, ...]) -> tuple[str, ...]:
    """Reasons not to make a bundle: losses of its program against the trained module beyond the limits."""
    by_name = {step.step: step for step in steps}
    module, program = by_name[MODULE], by_name[PROGRAM]
    reasons = [
        f"the program loses {before - after:.1%} of accuracy on {kind} gestures, {MAX_LOSS:.0%} is allowed"
        for kind, before, after in (
            ("seen", module.seen, program.seen),
            ("unseen", module.unseen, program.unseen),
        )
        if before is not None and after is not None and before - after > MAX_LOSS
    ]
    if program.vote_agreement < MIN_VOTE_AGREEMENT:
        reasons.append(f"it keeps {program.vote_agreement:.1%} of the votes, {MIN_VOTE_AGREEMENT:.0%} is asked")
    return tuple(reasons)


def one_by_one(encoder: EmgEncoder) -> Embed:
    """Wrap a device's encoder as a function of many windows."""

    def embed(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([encoder.embed(window) for window in windows])

    return embed


def _chosen(queries: Examples) -> Examples:
    """Queries of held-out people, or of all if none are held out, limited to `MAX_WINDOWS`, evenly spread."""
    places = np.flatnonzero(queries.held_out_user) if queries.held_out_user.any() else np.arange(len(queries))
    kept = places[evenly_spread(len(places), MAX_WINDOWS)]
    return queries.only(kept)

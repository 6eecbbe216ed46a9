"""Choose when a bundle gives no answer: the rejection thresholds, and the level below which muscles are at rest.

Both are chosen on windows of the validation split, so that the people a bundle is tested on have no influence. If a
corpus has no validation windows, all windows of the evaluation are used.

For rejection, every pair of thresholds, on the share of votes and on the cosine of the nearest pose, keeps a share of
the windows (coverage), of which a share is wrong (risk). The pairs that no other pair beats in both are the
coverage-risk curve (El-Yaniv & Wiener, JMLR 2010). The bundle contains the curve, and `cpep-edge live --max-risk`
chooses a point on it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cpep_edge.donning import LEVEL_STRETCH_S
from cpep_edge.input_stream import InputStream
from cpep_edge.live_loop import level
from cpep_edge.manifest import DecisionSpec, OperatingPoint
from cpep_edge.pose_index import Vote
from cpep_edge.spread import evenly_spread
from cpep_train.evaluate import N_NEIGHBOURS, EvaluationSet, Examples

REST_STAGES = ("Rest", "NoMotion")  # gestures that mean rest
LEAST_COVERAGE = 0.05  # with fewer windows the risk cannot be estimated
CORRECT_KEPT = 0.9  # share of right votes that a bundle's default thresholds keep
ACTIVE_KEPT = 0.98  # share of a gesture's windows that must be above the rest level
SHORT_WINDOW_S = 0.5  # with shorter windows a bundle should be fast, so it hops twice as often
EVIDENCE_SHARE = 0.5  # share of a window that counts as one independent observation

MOST_WATCHED = 2_000  # windows, some milliseconds each
_N_SIMILARITIES = 40
_CURVE_POINTS = 20


def decision_spec(evaluation: EvaluationSet, votes: Sequence[Vote]) -> DecisionSpec:
    """The decision parameters of a bundle.

    evaluation: windows of validation recordings, if there are any (`watched_windows`)
    votes: of the device, one for each query of `evaluation`
    """
    queries = evaluation.queries
    rate_hz = queries.dataset.store.preprocessing.sample_rate_hz
    true = queries.gesture_index
    share = np.array([vote.share for vote in votes])
    similarity = np.array([vote.similarity for vote in votes])
    right = np.array([vote.gesture_index for vote in votes]) == true
    curve = coverage_risk(share, similarity, right)
    start = _starting_point(curve, share, similarity, right)
    rest = next((name for name in evaluation.gestures if name in REST_STAGES), "")
    is_rest = np.array([evaluation.gestures[gesture] == rest for gesture in true])
    hop_ms = 100.0 if queries.dataset.window_samples >= SHORT_WINDOW_S * rate_hz else 50.0
    return DecisionSpec(
        k=N_NEIGHBOURS,
        min_vote_share=start.min_vote_share,
        min_similarity=start.min_similarity,
        hop_ms=hop_ms,
        evidence_ms=max(hop_ms, EVIDENCE_SHARE * queries.dataset.window_samples / rate_hz * 1e3),
        rest_gesture=rest,
        rest_level=_rest_level(queries, is_rest, round(LEVEL_STRETCH_S * rate_hz)) if rest else 0.0,
        rejection=curve,
    )


def coverage_risk(
    share: NDArray[np.float64], similarity: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[OperatingPoint, ...]:
    """The pairs of thresholds that no other pair beats, in the order of falling coverage and risk.

    share, similarity, right: (n_windows,)
    """
    shares = np.unique(share)
    similarities = np.unique(np.quantile(similarity, np.linspace(0, 0.95, _N_SIMILARITIES)))
    points = []
    for least_share in shares:
        for least_similarity in similarities:
            kept = (share >= least_share) & (similarity >= least_similarity)
            if kept.mean() >= LEAST_COVERAGE:
                risk = float(1 - right[kept].mean())
                points.append((float(kept.mean()), risk, float(least_share), float(least_similarity)))
    best: list[OperatingPoint] = []
    for coverage, risk, least_share, least_similarity in sorted(points, key=lambda point: (-point[0], point[1])):
        if not best or risk < best[-1].risk:
            best.append(_point(least_share, least_similarity, coverage, risk))
    spread = np.unique(evenly_spread(len(best), _CURVE_POINTS))
    return tuple(best[number] for number in spread)


def _point(least_share: float, least_similarity: float, coverage: float, risk: float) -> OperatingPoint:
    """Thresholds are rounded down, so that no kept window becomes rejected."""
    return OperatingPoint(
        min_vote_share=np.floor(least_share * 1e4) / 1e4,
        min_similarity=max(-1.0, float(np.floor(least_similarity * 1e4) / 1e4)),
        coverage=round(coverage, 4),
        risk=round(risk, 4),
    )


def _starting_point(
    curve: tuple[OperatingPoint, ...],
    share: NDArray[np.float64],
    similarity: NDArray[np.float64],
    right: NDArray[np.bool_],
) -> OperatingPoint:
    """The strictest pair of the curve that keeps most of the right votes."""

    def kept(point: OperatingPoint) -> float:
        inside = (share >= point.min_vote_share) & (similarity >= point.min_similarity)
        return float(inside[right].mean()) if right.any() else 1.0

    return next((point for point in reversed(curve) if kept(point) >= CORRECT_KEPT), curve[0])


def _rest_level(queries: Examples, is_rest: NDArray[np.bool_], stretch_samples: int) -> float:
    """A level that most rest windows stay below and the ends of most gesture windows exceed.

    If the two overlap, the level is chosen so that gestures are not taken for rest.
    """
    if not is_rest.any() or is_rest.all():
        return 0.0
    levels = _end_levels(queries, stretch_samples)
    active = float(np.quantile(levels[~is_rest], 1 - ACTIVE_KEPT))
    resting = float(np.quantile(levels[is_rest], ACTIVE_KEPT))
    return round(min(active, float(np.sqrt(active * resting))), 4)


def watched_windows(evaluation: EvaluationSet) -> EvaluationSet:
    """Windows of validation recordings, or all if there are none; at most `MOST_WATCHED`, evenly spread."""
    places = np.flatnonzero(watched(evaluation.queries))
    kept = places[evenly_spread(len(places), MOST_WATCHED)]
    return replace(evaluation, queries=evaluation.queries.only(kept))


def _end_levels(queries: Examples, stretch_samples: int) -> NDArray[np.float64]:
    """The level of the last stretch of each window, (n,)."""
    store, levels = queries.dataset.store, np.empty(len(queries))
    sessions = queries.places[:, 0]
    for number in np.unique(sessions):
        row = store.corpus.rows[number]
        with store.corpus.session(row) as recording:
            raw_uv = recording.emg()
        scaled = np.empty_like(raw_uv)
        for first, last in store.layout(int(number)).spans:
            stream = InputStream(store.preprocessing, None, raw_uv.shape[1], store.donnings.of(row))
            scaled[first:last] = stream.scaled(raw_uv[first:last])
        for place in np.flatnonzero(sessions == number):
            end = queries.places[place, 1] + queries.dataset.window_samples
            levels[place] = level(scaled[end - stretch_samples : end])
    return levels


def watched(queries: Examples) -> NDArray[np.bool_]:
    """Which queries are of validation recordings, (Q,); all if there are none."""
    rows = queries.dataset.store.corpus.rows
    watched = np.array([rows[session].split == "val" for session, _ in queries.places], bool)
    return watched if watched.any() else np.ones(len(watched), bool)

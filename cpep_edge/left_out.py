"""Cross-validate a personal head by leaving out one round of repetitions at a time, and choose its decision settings.

Testing a head on windows that it was fitted on says nothing, because windows of one repetition are very similar. So
each round is classified by a head that was fitted on the other rounds. The results give the accuracy and its confidence
interval, the gestures most easily confused, the effect of one more repetition or one gesture less, and the thresholds
of live decisions. The thresholds have a margin, because the next repetition never quite equals those that were
recorded.

Shapes: n windows, K gestures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cpep_edge.decisions import choose
from cpep_edge.head import Head, calibrate_temperature
from cpep_edge.manifest import DecisionSpec
from cpep_edge.names import UNKNOWN
from cpep_edge.personal import Windows
from cpep_edge.pose_index import Vote

WRONG_KEPT = 0.05  # share of wrong windows among the accepted ones that the rejection threshold aims at
RIGHT_KEPT = 0.7  # least share of each gesture's correct windows that rejection must keep
SHARE_MARGIN = 0.9  # factor on the vote share that keeps just as many, as a margin
TYPICAL_KEPT = 0.98  # share of correct windows whose squared distance sets the scale for known movements
DISTANCE_SHARE = (
    0.75  # share of that squared distance within which a gesture may begin; in trials on 16 people of myo-wrist a
)
# larger share let more small movements begin one, a smaller one missed more gestures on the next donning
CAN_WIN = 0.5  # share of its repetitions that a gesture must win
SAME_MOVEMENT = 0.35  # two gestures are one movement if more of their windows are confused; chance is .5
_SURE = 1.959964  # standard deviations, for 95 %


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The classification of each window by a head that was fitted on other rounds."""

    windows: Windows
    likelihood: NDArray[np.float32]  # (n, K), log; minus infinity for a gesture that the other rounds do not contain
    typicality: NDArray[np.float32]  # (n, K)

    @property
    def answer(self) -> NDArray[np.int64]:
        """The likeliest gesture of each window."""
        likeliest: NDArray[np.int64] = self.likelihood.argmax(axis=1)
        return likeliest


@dataclass(frozen=True, slots=True)
class Judgement:
    """How well the gestures are distinguished, by cross-validation."""

    gestures: tuple[str, ...]
    accuracy: float  # balanced: the mean of the gestures' recall
    low: float  # lower end of its 95 % interval
    high: float  # upper end
    n_repetitions: int
    recall: dict[str, float]
    confused: tuple[str, str, float] | None  # the two most easily confused, and the share of their windows confused
    same: tuple[tuple[str, str], ...]  # pairs of gestures that the electrodes cannot distinguish
    without: dict[str, float]  # accuracy if this gesture were removed
    with_one_more: float | None  # accuracy expected with one more repetition of each; None: too few to say
    cannot_win: tuple[str, ...] = ()  # gestures that win too few of their repetitions (`CAN_WIN`)
    decided: float = 0.0  # share of the repetitions that live decisions would get right


def leave_out(windows: Windows, n_gestures: int, *, also_without: int = 0) -> LeftOut | None:
    """Classify each round by a head fitted on the others; None when there are too few rounds or windows to fit on.

    also_without: number of further rounds to leave out of each fit, to measure the effect of more repetitions
    """
    rounds = np.unique(windows.round)
    if len(rounds) < 2 + also_without:
        return None
    likelihood = np.full((len(windows.x), n_gestures), -np.inf, np.float32)
    typicality = np.zeros((len(windows.x), n_gestures), np.float32)
    for place, number in enumerate(rounds):
        gone = [rounds[(place + step) % len(rounds)] for step in range(1 + also_without)]
        fitted = ~np.isin(windows.round, gone)
        present, label = np.unique(windows.gesture[fitted], return_inverse=True)
        if len(present) < 2 or np.bincount(label).min() < 2:
            return None
        head = windows.fit(fitted, label)
        asked = np.flatnonzero(windows.round == number)
        projected = head.project(windows.x[asked])
        likelihood[np.ix_(asked, present)] = head.log_likelihood(projected)
        typicality[np.ix_(asked, present)] = head.typicality(projected)
    return LeftOut(windows, likelihood, typicality)


def halved(windows: Windows) -> Windows:
    """The windows with each half of a repetition as a round of its own, for a wearer who made each gesture once."""
    later = np.zeros(len(windows.x), np.int64)
    for number in np.unique(windows.repetition):
        mine = np.flatnonzero(windows.repetition == number)
        later[mine[len(mine) // 2 :]] = 1
    return replace(windows, round=2 * windows.round + later)


def judge(windows: Windows, gestures: Sequence[str]) -> tuple[Judgement, LeftOut] | None:
    """How well the gestures of these windows are distinguished; None when there are too few windows to say."""
    held = leave_out(windows, len(gestures)) or leave_out(halved(windows), len(gestures))
    if held is None:
        return None
    counts = _confusion(held, len(gestures))
    recall = _recall(counts)
    accuracy = float(recall.mean())
    low, high = interval(accuracy, len(np.unique(windows.repetition)))  # windows of one repetition are not independent
    both = (counts + counts.T) / (counts.sum(axis=1)[:, None] + counts.sum(axis=1)[None, :])
    np.fill_diagonal(both, 0)
    first, second = divmod(int(np.argmax(both)), len(gestures))
    most = float(both[first, second])
    same = [(a, b) for a in range(len(gestures)) for b in range(a + 1, len(gestures)) if both[a, b] >= SAME_MOVEMENT]
    return Judgement(
        gestures=tuple(gestures),
        accuracy=accuracy,
        low=low,
        high=high,
        n_repetitions=len(np.unique(windows.repetition)),
        recall=dict(zip(gestures, recall.tolist(), strict=True)),
        confused=(gestures[first], gestures[second], most) if most > 0 else None,
        same=tuple((gestures[a], gestures[b]) for a, b in same),
        without=_without_each(held, gestures) if len(gestures) > 2 else {},
        with_one_more=_with_one_more(windows, len(gestures), accuracy),
    ), held


def interval(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that was found in n independent trials."""
    middle = (share + _SURE**2 / (2 * n)) / (1 + _SURE**2 / n)
    half = _SURE / (1 + _SURE**2 / n) * np.sqrt(share * (1 - share) / n + _SURE**2 / (4 * n**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def choose_decision(
    held: LeftOut, head: Head, judgement: Judgement, spec: DecisionSpec, windows_a_second: float
) -> tuple[DecisionSpec, Head, Judgement]:
    """Choose decision settings and the head's temperature by cross-validation; find gestures that cannot win.

    The rejection thresholds are no stricter than the error rate requires, and keep most correct windows of every
    gesture.

    spec: settings that are not chosen here are kept
    windows_a_second: rate of the windows in `held`
    """
    known = held.likelihood.max(axis=1) > -np.inf
    likelihood = np.where(np.isfinite(held.likelihood), held.likelihood, -1e30)
    true = held.windows.gesture
    head = replace(head, temperature=calibrate_temperature(likelihood[known], true[known]))
    logits = likelihood / head.temperature
    share = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    answer = held.answer
    right = known & (answer == true)
    typical = held.typicality[np.arange(len(answer)), answer]
    min_share = _min_share(share, right, true)
    min_typicality = float(np.quantile(typical[right], 1 - TYPICAL_KEPT)) ** DISTANCE_SHARE if right.any() else 0.0
    spec = spec.model_copy(
        update={"min_vote_share": round(min_share, 3), "min_similarity": float(f"{min_typicality:.2g}")}
    )
    shares = np.exp(logits - logits.max(axis=1, keepdims=True)) * share[:, None]
    votes = [
        Vote(int(answer[n]), float(share[n]), float(typical[n]), tuple(shares[n].tolist())) for n in range(len(answer))
    ]
    places = [np.flatnonzero(held.windows.repetition == number) for number in np.unique(held.windows.repetition)]
    repetitions = [(judgement.gestures[true[mine[0]]], [votes[place] for place in mine]) for mine in places]
    spec, decided = choose(spec, judgement.gestures, repetitions, 1e3 / windows_a_second)
    won = np.array(decided)
    of_each = held.windows.gesture[np.unique(held.windows.repetition, return_index=True)[1]]
    wins = [won[of_each == number].mean() if (of_each == number).any() else 0.0 for number in range(head.n_gestures)]
    cannot = [
        name
        for name, share_won in zip(judgement.gestures, wins, strict=True)
        if share_won < CAN_WIN and name not in (spec.rest_gesture, UNKNOWN)
    ]
    return spec, head, replace(judgement, cannot_win=tuple(cannot), decided=float(won.mean()))


def _min_share(share: NDArray[np.float32], right: NDArray[np.bool_], true: NDArray[np.int64]) -> float:
    """The lowest threshold for the vote share at which few accepted windows are wrong.

    It may be lower, so that every gesture keeps most of its correct windows.
    """
    candidates = np.linspace(0.3, 0.95, 27)
    errors = [np.mean(~right[share >= least]) if (share >= least).any() else 0.0 for least in candidates]
    wanted = next((least for least, error in zip(candidates, errors, strict=True) if error <= WRONG_KEPT), 0.95)
    kept = [np.quantile(share[right & (true == g)], 1 - RIGHT_KEPT) for g in np.unique(true[right])]
    return float(min(wanted, SHARE_MARGIN * min(kept, default=0.0)))


def _confusion(held: LeftOut, n_gestures: int) -> NDArray[np.float64]:
    counts = np.zeros((n_gestures, n_gestures))
    np.add.at(counts, (held.windows.gesture, held.answer), 1)
    return counts


def _recall(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    recall: NDArray[np.float64] = np.diagonal(counts) / np.maximum(1, counts.sum(axis=1))
    return recall


def _without_each(held: LeftOut, gestures: Sequence[str]) -> dict[str, float]:
    found = {}
    for number, name in enumerate(gestures):
        kept = held.windows.gesture != number
        likelihood = held.likelihood[kept].copy()
        likelihood[:, number] = -np.inf
        right = likelihood.argmax(axis=1) == held.windows.gesture[kept]
        others = [g for g in range(len(gestures)) if g != number]
        found[name] = float(np.mean([right[held.windows.gesture[kept] == g].mean() for g in others]))
    return found


def _with_one_more(windows: Windows, n_gestures: int, accuracy: float) -> float | None:
    """Extrapolate the error by a power law in the number of rounds, from one round fewer and the present number."""
    fewer = leave_out(windows, n_gestures, also_without=1)
    if fewer is None or accuracy >= 1:
        return None
    n = len(np.unique(windows.round)) - 1  # rounds in each fit
    before = 1 - float(_recall(_confusion(fewer, n_gestures)).mean())
    after = 1 - accuracy
    steepness = float(np.clip(np.log(before / after) / np.log(n / (n - 1)), 0, 1.5)) if before > after else 0.0
    return float(1 - after * (n / (n + 2)) ** steepness)

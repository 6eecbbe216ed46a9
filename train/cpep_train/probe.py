"""Linear probing: how well a linear classifier reads gestures from the frozen EMG embedding.

The probe is fitted on EMG of training people, including their recordings of unseen gestures, which the encoder was not
trained on. It is tested on people it was not fitted on. Its regularisation is chosen by cross-validation over people.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cpep_train.embedded_windows import EmbeddedWindows
from cpep_train.evaluate import Gestures, Score, Users, score_of, select

INVERSE_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
_MOST_FOLDS = 4
_MOST_STEPS = 300


def probe(embedded: EmbeddedWindows) -> list[Score]:
    """Score a linear probe on every kind of question that allows one.

    Known people are tested on seen gestures only, because the probe was fitted on their windows of unseen ones.
    """
    kinds: list[tuple[Users, Gestures]] = [
        ("held-out", "seen"),
        ("held-out", "unseen"),
        ("validation", "seen"),
        ("known", "seen"),
    ]
    scores = (_score(embedded, users, gestures) for users, gestures in kinds)
    return [score for score in scores if score is not None]


def _score(embedded: EmbeddedWindows, users: Users, gestures: Gestures) -> Score | None:
    examples, fitting = embedded.examples, embedded.fitting
    chosen, allowed = select(examples, users, gestures)
    usable = allowed[fitting.gesture_index]
    if not chosen.any() or len(np.unique(fitting.gesture_index[usable])) < 2:
        return None
    answered = fit_and_answer(
        embedded.fitted[usable],
        fitting.gesture_index[usable],
        fitting.user_index[usable],
        embedded.queries[chosen],
    )
    return score_of(examples, users, gestures, chosen, allowed, answered)


def fit_and_answer(
    fitted: NDArray[np.float32], gesture: NDArray[np.int64], person: NDArray[np.int64], queries: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Choose the regularisation, fit on everybody, and answer.

    fitted: (F, D); gesture, person: (F,)
    queries: (Q, D); returns: (Q,)
    """
    classifier = _classifier(choose_strength(fitted, gesture, person))
    answered: NDArray[np.int64] = _fitted(classifier, fitted, gesture).predict(queries)
    return answered


def choose_strength(fitted: NDArray[np.float32], gesture: NDArray[np.int64], person: NDArray[np.int64]) -> float:
    """The inverse regularisation with the best accuracy on people left out of the fit; the strongest for one person.

    fitted: (F, D); gesture, person: (F,)
    """
    n_people = len(np.unique(person))
    if n_people < 2:
        return INVERSE_STRENGTHS[0]
    folds = list(GroupKFold(min(_MOST_FOLDS, n_people)).split(fitted, gesture, person))
    accuracy = [
        np.mean([_accuracy(_classifier(strength), fitted, gesture, train, test) for train, test in folds])
        for strength in INVERSE_STRENGTHS
    ]
    return INVERSE_STRENGTHS[int(np.argmax(accuracy))]


def _accuracy(
    classifier: Pipeline,
    fitted: NDArray[np.float32],
    gesture: NDArray[np.int64],
    train: NDArray[np.intp],
    test: NDArray[np.intp],
) -> float:
    if len(np.unique(gesture[train])) < 2:
        return 0.0
    answered = _fitted(classifier, fitted[train], gesture[train]).predict(fitted[test])
    return float(balanced_accuracy_score(gesture[test], answered))


def _classifier(inverse_strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=inverse_strength, max_iter=_MOST_STEPS))


def _fitted(classifier: Pipeline, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> Pipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # more iterations do not change answers
        return classifier.fit(rows, labels)

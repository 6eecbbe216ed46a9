import numpy as np
import pytest
from scipy.stats import hmean
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score
from sklearn.neighbors import KNeighborsClassifier

from cpep_edge.errors import DataError
from cpep_edge.pose_index import vote
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import (
    EvaluationSet,
    balanced_accuracy,
    bootstrap_interval,
    by_prototypes,
    embed_emg,
    embed_poses,
    evaluation_set,
    harmonic_mean,
    majority,
    nearest_labels,
    score,
    torch_embedding,
    zero_shot,
)
from tests.train.toy_corpus import HELD_OUT_STAGE


def _unit(rng: np.random.Generator, n: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    rows = rng.standard_normal((n, 6)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def trained(trained_run) -> Checkpoint:
    return load_checkpoint(trained_run)


@pytest.fixture(scope="module")
def toy_set(trained, toy_corpus) -> EvaluationSet:
    return evaluation_set(trained, toy_corpus, windows_per_recording=7)


def test_the_vote_is_that_of_k_nearest_neighbours():
    rng = np.random.default_rng(0)
    references, queries, labels = _unit(rng, 300), _unit(rng, 200), rng.integers(0, 4, 300)
    peer = KNeighborsClassifier(9, metric="cosine", algorithm="brute").fit(references, labels)
    shares = np.sort(peer.predict_proba(queries), axis=1)
    clear = shares[:, -1] > shares[:, -2]  # without ties, which scikit-learn breaks by label and we by distance
    ours = majority(nearest_labels(queries, references, labels, 9))
    assert clear.sum() > 100
    np.testing.assert_array_equal(ours[clear], peer.predict(queries)[clear])


def test_a_tie_goes_to_the_nearer_and_the_runtime_votes_alike():
    assert majority(np.array([[2, 1, 1, 2, 0], [0, 1, 2, 3, 4], [3, 1, 1, 0, 2]])).tolist() == [2, 0, 1]
    nearest = np.random.default_rng(1).integers(0, 4, (500, 10))
    similarity = np.linspace(1, 0, 10, dtype=np.float32)
    assert majority(nearest).tolist() == [vote(row, similarity).gesture_index for row in nearest]


def test_balanced_accuracy_is_scikit_learns():
    rng = np.random.default_rng(2)
    true, answered = rng.integers(0, 5, 400), rng.integers(0, 5, 400)
    true[true == 4] = 0  # one gesture without queries
    got = score("known", "seen", tuple("abcde"), true, answered, rng.integers(0, 3, 400))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        assert got.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, answered))
    np.testing.assert_array_equal(got.confusion, confusion_matrix(true, answered, labels=range(5)))
    assert (got.chance, got.n_windows, got.n_users) == (0.2, 400, 3)
    assert set(got.by_gesture) == set("abcd")
    assert np.mean(list(got.by_gesture.values())) == pytest.approx(got.balanced_accuracy)


def test_the_harmonic_mean_is_that_of_scikit_learns_recalls_and_falls_with_either():
    rng = np.random.default_rng(5)
    true, answered = rng.integers(0, 5, 600), rng.integers(0, 5, 600)
    seen = np.array([True, False, True, True, False])
    confusion = confusion_matrix(true, answered, labels=range(5))
    recalls = recall_score(true, answered, average=None)
    expected = hmean([recalls[seen].mean(), recalls[~seen].mean()])
    assert harmonic_mean(confusion, seen) == pytest.approx(expected)
    never_unseen = np.array([[9, 1], [10, 0]])
    assert harmonic_mean(never_unseen, np.array([True, False])) == 0


def test_among_all_the_harmonic_mean_stands_beside_its_two_parts(toy_set):
    rng = np.random.default_rng(7)
    queries, references = _unit(rng, len(toy_set.queries)), _unit(rng, len(toy_set.references))
    scores = {s.gestures: s for s in zero_shot(toy_set, queries, references) if s.users == "held-out"}
    seen, unseen, both = (scores[kind] for kind in ("seen among all", "unseen among all", "harmonic mean"))
    assert both.balanced_accuracy == pytest.approx(hmean([seen.balanced_accuracy, unseen.balanced_accuracy]))
    assert both.low <= both.balanced_accuracy <= both.high
    assert both.by_gesture == seen.by_gesture | unseen.by_gesture
    assert both.n_windows == seen.n_windows + unseen.n_windows


def test_each_person_is_scored_alone():
    true, answered, user = np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1]), np.array([2, 2, 0, 0])
    got = score("held-out", "seen", ("a", "b"), true, answered, user, ("first", "second", "third"))
    assert got.by_user == {"first": 0.5, "third": 1.0}


def test_prototypes_answer_as_the_nearest_class_mean_does():
    rng = np.random.default_rng(6)
    references, queries, labels = _unit(rng, 300), _unit(rng, 200), rng.integers(0, 4, 300) * 2
    means = np.array([references[labels == label].mean(axis=0) for label in (0, 2, 4, 6)])
    peer = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(means, [0, 2, 4, 6])
    np.testing.assert_array_equal(by_prototypes(queries, references, labels), peer.predict(queries))


def test_the_interval_holds_the_score_and_narrows_with_more_users():
    rng = np.random.default_rng(3)

    def people(n: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.int64]]:
        right = rng.integers(20, 60, (n, 1, 1))
        return (right * np.eye(3, dtype=np.int64) + (60 - right) // 2 * (1 - np.eye(3, dtype=np.int64))).astype(
            np.int64
        )

    few, many = people(4), people(64)
    widths = []
    for per_user in (few, many):
        low, high = bootstrap_interval(per_user)
        assert low <= balanced_accuracy(per_user.sum(axis=0)) <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    alone = bootstrap_interval(people(1))
    assert alone[0] == alone[1]  # one person gives no interval


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(200):
        skill = np.clip(rng.normal(0.6, 0.1, 20), 0, 1)
        right = rng.binomial(50, skill[:, None], (20, 2))
        per_user = np.array([[[a, 50 - a], [50 - b, b]] for a, b in right])
        low, high = bootstrap_interval(per_user, n_draws=400)
        hits += low <= 0.6 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_references_are_poses_of_training_people_and_queries_nobodys_training(toy_set, toy_corpus):
    asked = {toy_corpus.rows[number] for number, _ in toy_set.queries.places}
    looked_up = {toy_corpus.rows[number] for number, _ in toy_set.references.places}
    assert not any(row.split == "train" for row in asked)
    assert not any(row.held_out_user for row in looked_up)
    assert {row.stage for row in looked_up} == set(toy_set.gestures)
    assert [name for name, seen in zip(toy_set.gestures, toy_set.seen, strict=True) if not seen] == [HELD_OUT_STAGE]


def test_training_reads_new_people_on_a_corpus_that_can_be_read(trained, toy_set):
    queries = embed_emg(torch_embedding(trained.emg), toy_set.queries)
    references = embed_poses(trained.pose, toy_set.references)
    scores = {(s.users, s.gestures): s for s in zero_shot(toy_set, queries, references)}
    kinds = ("seen", "unseen", "seen among all", "unseen among all", "harmonic mean")
    of_trained = {("known", gestures) for gestures in ("unseen", "unseen among all")}  # their seen ones were trained on
    assert set(scores) == {(users, kind) for users in ("held-out", "validation") for kind in kinds} | of_trained
    assert scores["held-out", "seen"].balanced_accuracy > 0.9
    assert scores["held-out", "seen"].chance == 0.25
    assert scores["held-out", "unseen"].chance == 1.0
    assert scores["held-out", "unseen among all"].chance == 0.2


def test_nobody_is_answered_by_their_own_poses(toy_set):
    """Each person's EMG of a gesture gets the embedding of that person's own poses of it, so only those would match."""
    n_gestures = len(toy_set.gestures)
    queries, references = (
        np.eye(5 * n_gestures, dtype=np.float32)[examples.user_index * n_gestures + examples.gesture_index]
        for examples in (toy_set.queries, toy_set.references)
    )
    (unseen,) = (
        s for s in zero_shot(toy_set, queries, references) if (s.users, s.gestures) == ("known", "unseen among all")
    )
    assert unseen.balanced_accuracy < 0.5


def test_batches_do_not_change_embeddings(trained, toy_set):
    embed = torch_embedding(trained.emg)
    np.testing.assert_allclose(
        embed_emg(embed, toy_set.queries, batch_size=5), embed_emg(embed, toy_set.queries, batch_size=64), atol=1e-5
    )
    norms = np.linalg.norm(embed_poses(trained.pose, toy_set.references), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_a_corpus_with_nothing_to_test_says_so(trained, toy_corpus):
    training_only = Corpus(toy_corpus.folder, tuple(row for row in toy_corpus.rows if row.split == "train"))
    with pytest.raises(DataError, match="no recordings to test"):
        evaluation_set(trained, training_only)

import csv
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cpep_edge.errors import DataError
from cpep_edge.json_text import to_json
from cpep_edge.report_page import INK, SERIES
from cpep_train.checkpoint import load_checkpoint
from cpep_train.corpus import Row, write_metadata
from cpep_train.embedded_windows import EmbeddedWindows, ProtocolScores
from cpep_train.embedding_quality import EmbeddingQuality
from cpep_train.eval_report import CSV_FILE, FIGURES_FILE, PAGE_FILE, write_report
from cpep_train.evaluate import embed_emg, embed_poses, evaluation_set, torch_embedding, zero_shot
from cpep_train.few_shot import Repetitions, find_repetitions
from cpep_train.plain_poses import fit_plain_pair
from cpep_train.probe import INVERSE_STRENGTHS, choose_strength
from cpep_train.protocols import PROTOCOLS, Evaluation, evaluate_run
from cpep_train.seen_penalty import (
    GIVEN_UP,
    choose_seen_penalty,
    largest_bearable,
    penalty_curve,
    set_apart,
    with_seen_penalty,
)
from cpep_train.windows import WindowDataset
from tests.processes import invoke
from tests.train.toy_corpus import HELD_OUT_STAGE, write_toy_session


@pytest.fixture(scope="module")
def judged(trained_run, toy_corpus) -> tuple[Evaluation, EmbeddedWindows]:
    return evaluate_run(trained_run, load_checkpoint(trained_run), toy_corpus.folder)


@pytest.fixture(scope="module")
def evaluation(judged) -> Evaluation:
    return judged[0]


@pytest.fixture(scope="module")
def embedded(judged) -> EmbeddedWindows:
    return judged[1]


@pytest.fixture(scope="module")
def repetitions(embedded) -> Repetitions:
    return find_repetitions(embedded)


def _accuracy(reading: ProtocolScores, users: str, gestures: str) -> float:
    return next(s.balanced_accuracy for s in reading.scores if (s.users, s.gestures) == (users, gestures))


def test_every_protocol_reads_a_corpus_that_can_be_read(evaluation):
    assert {reading.protocol for reading in evaluation.readings} == {"zero-shot", "probe", "enrolment"}
    for reading in evaluation.readings:
        kinds = {score.gestures for score in reading.scores}
        kind = "seen" if "seen" in kinds else "seen among all"
        assert _accuracy(reading, "held-out", kind) > 0.7, reading.name


def test_the_penalty_costs_validation_people_what_they_may_lose_and_no_more(embedded):
    examples, queries, references = embedded.examples, embedded.queries, embedded.references
    penalty = largest_bearable(examples, queries, references)

    def validation_accuracy(value: float) -> float:
        scores = zero_shot(examples, *with_seen_penalty(examples, queries, references, value))
        (score,) = (s for s in scores if (s.users, s.gestures) == ("validation", "seen among all"))
        return score.balanced_accuracy

    bearable = (1 - GIVEN_UP) * validation_accuracy(0)
    assert validation_accuracy(penalty) >= bearable > validation_accuracy(penalty + 0.01)


def test_the_penalty_is_that_whose_harmonic_mean_is_highest_on_gestures_set_apart(trained_run, toy_corpus):
    checkpoint = load_checkpoint(trained_run)
    apart = replace(toy_corpus, rows=tuple(map(_set_apart, toy_corpus.rows)))
    assert apart.validation_stages == (HELD_OUT_STAGE,)
    examples = evaluation_set(checkpoint, toy_corpus)
    store = examples.queries.dataset.store
    store.corpus = replace(store.corpus, rows=apart.rows)
    chosen = set_apart(checkpoint, examples)
    people = {chosen.users[number] for number in chosen.queries.user_index}
    assert people == {"u3"}  # the validation person; training people give only poses
    queries = embed_emg(torch_embedding(checkpoint.emg), chosen.queries)
    references = embed_poses(checkpoint.pose, chosen.references)
    curve = penalty_curve(chosen, queries, references)
    for point in (curve[0], curve[-1]):
        pair = with_seen_penalty(chosen, queries, references, point.seen_penalty)
        scores = {s.gestures: s.balanced_accuracy for s in zero_shot(chosen, *pair) if s.users == "validation"}
        assert point.seen == pytest.approx(scores["seen among all"], abs=1e-4)
        assert point.unseen == pytest.approx(scores["unseen among all"], abs=1e-4)
        assert point.harmonic_mean == pytest.approx(scores["harmonic mean"], abs=1e-4)
    assert all(a.unseen <= b.unseen and a.seen >= b.seen for a, b in pairwise(curve))
    found = choose_seen_penalty(checkpoint, examples, queries, references)
    assert found.curve == curve
    best = max(point.harmonic_mean for point in curve)
    assert found.penalty == min(point.seen_penalty for point in curve if point.harmonic_mean == best)


def _set_apart(row: Row) -> Row:
    """The row with the held-out gesture in the validation split, but not for the held-out person."""
    if row.stage != HELD_OUT_STAGE:
        return row
    return replace(row, split="" if row.held_out_user else "val")


def test_a_penalty_is_the_same_for_all_trained_gestures_and_moves_votes_to_the_others(embedded):
    examples, queries, references = embedded.examples, embedded.queries, embedded.references
    longer = with_seen_penalty(examples, queries, references, 0.3)
    trained = examples.seen[examples.references.gesture_index]
    expected = queries @ references.T - 0.3 * trained
    np.testing.assert_allclose(longer[0] @ longer[1].T, expected, atol=1e-5)
    without, with_it = (
        {(s.users, s.gestures): s.balanced_accuracy for s in zero_shot(examples, *pair)}
        for pair in ((queries, references), with_seen_penalty(examples, queries, references, 2.0))
    )
    assert with_it["held-out", "unseen among all"] == 1
    assert with_it["held-out", "seen among all"] == 0
    assert with_it["held-out", "seen"] == without["held-out", "seen"]


def test_the_probe_chooses_what_a_grid_search_over_left_out_people_chooses():
    rng = np.random.default_rng(0)
    person, gesture = np.repeat(np.arange(6), 30), np.tile(np.arange(3), 60)
    shared = np.eye(3)[gesture] + rng.standard_normal((180, 3))
    own = np.array([rng.standard_normal((3, 20)) for _ in range(6)])[person, gesture]  # does not help with other people
    rows = np.hstack([shared, 2 * own]).astype(np.float32)
    peer = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        {"logisticregression__C": INVERSE_STRENGTHS},
        scoring="balanced_accuracy",
        cv=GroupKFold(4),
    ).fit(rows, gesture, groups=person)
    assert choose_strength(rows, gesture, person) == peer.best_params_["logisticregression__C"]


def test_the_probe_is_fitted_on_nobody_who_is_asked(embedded):
    fitting = embedded.fitting
    assert not fitting.held_out_user.any()
    rows = embedded.store.corpus.rows
    assert {rows[number].split for number, _ in fitting.places[embedded.trained]} == {"train"}
    assert {rows[number].stage for number, _ in fitting.places[~embedded.trained]} == {HELD_OUT_STAGE}


def test_repetitions_enrolled_and_asked_share_no_sample_and_nothing_trained_is_asked(repetitions, embedded):
    places, length = repetitions.examples.places, repetitions.examples.dataset.window_samples
    enrolled = repetitions.number < repetitions.n_first
    for recording in np.unique(places[:, 0]):
        mine = places[:, 0] == recording
        asked, given = places[mine & repetitions.asked, 1], places[mine & enrolled, 1]
        assert np.all(np.abs(asked[:, None] - given[None, :]) >= length)
    rows = embedded.store.corpus.rows
    assert {rows[number].split for number in places[repetitions.asked, 0]} <= {"val", "test"}
    assert repetitions.asked.any()


def test_a_map_of_four_enrolled_repetitions_reads_a_person_better_than_poses_of_others(evaluation):
    readings = {reading.name: reading for reading in evaluation.readings if reading.protocol == "enrolment"}
    assert set(readings) == {
        "0 repetitions enrolled, beside the poses",
        *(f"{n} enrolled, {how}" for n in ("1 repetition", "2 repetitions", "4 repetitions") for how in (
            "beside the poses", "linear map"))
    }  # fmt: skip
    kinds = ("seen among all", "unseen among all")
    without, mapped = (
        np.mean([_accuracy(readings[name], "held-out", kind) for kind in kinds])
        for name in ("0 repetitions enrolled, beside the poses", "4 repetitions enrolled, linear map")
    )
    assert mapped > max(without, 0.8), (without, mapped)


def test_recall_rises_with_k_and_stands_beside_chance(evaluation):
    assert {(found.users, found.gestures) for found in evaluation.retrieval} == {
        ("held-out", "seen among all"), ("held-out", "unseen among all"),
        ("validation", "seen among all"), ("validation", "unseen among all"),
        ("known", "unseen among all"),
    }  # fmt: skip
    for found in evaluation.retrieval:
        assert found.recall["1"] <= found.recall["5"] <= found.recall["10"]
        assert 0 < found.chance["1"] < found.chance["10"] <= 1
    seen = next(f for f in evaluation.retrieval if (f.users, f.gestures) == ("held-out", "seen among all"))
    assert seen.recall["1"] > 2 * seen.chance["1"]
    assert seen.quality.linear_cka > 0.5


def test_a_run_is_not_judged_on_what_it_was_trained_on(trained_run, tmp_path, toy_corpus):
    row = next(row for row in toy_corpus.rows if row.split == "train")
    write_toy_session(tmp_path, row.filename, row.stage, row.user, seed=0)
    write_metadata(tmp_path, [replace(row, split="test", held_out_user=True)])
    with pytest.raises(DataError, match="holds the same EMG as"):
        evaluate_run(trained_run, load_checkpoint(trained_run), tmp_path)


def test_the_report_is_one_page_with_its_pictures_inside(evaluation, embedded, tmp_path):
    page = write_report(evaluation, embedded, tmp_path / "report").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert page.count("<svg") == len(list((tmp_path / "report").glob("*.svg"))) > 4
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))  # unique over all figures
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(ids)
    assert not re.findall(rf"(?:fill|stroke): (?:{INK}|{SERIES[0]})", page)  # dark mode has other colours
    assert all(reading.name in page for reading in evaluation.readings)
    for pdf in (tmp_path / "report").glob("*.pdf"):
        assert pdf.read_bytes().startswith(b"%PDF")
    rows = list(csv.reader((tmp_path / "report" / CSV_FILE).read_text().splitlines()))
    scores = [score for reading in evaluation.readings for score in reading.scores]
    assert [row[2] for row in rows[1 : len(scores) + 1]] == [f"{score.balanced_accuracy:.3f}" for score in scores]
    figures = json.loads((tmp_path / "report" / FIGURES_FILE).read_text())
    assert len(figures["readings"]) == len(evaluation.readings)
    assert (tmp_path / "report" / PAGE_FILE).is_file()


def test_figures_that_are_no_number_are_null_in_json():
    quality = EmbeddingQuality(float("nan"), 1.0, -np.inf, 0.0, float("nan"), 0.0, 1.0, 1.0, 2)
    read = json.loads(to_json({"quality": quality, "array": np.array([1.0, np.nan])}), parse_constant=pytest.fail)
    assert read["quality"]["linear_cka"] is None
    assert read["array"] == [1.0, None]


def test_a_report_of_a_person_with_one_recording_of_a_kind_is_json(trained_run, toy_corpus, tmp_path):
    checkpoint = load_checkpoint(trained_run)
    found, embedded = evaluate_run(trained_run, checkpoint, toy_corpus.folder, ("retrieval",))
    one = found.retrieval[0]
    assert one.quality is not None
    quality = replace(one.quality, neighbour_consistency=float("nan"))  # as with a single recording
    write_report(replace(found, retrieval=(replace(one, quality=quality),)), embedded, tmp_path)
    json.loads((tmp_path / FIGURES_FILE).read_text(), parse_constant=pytest.fail)


def test_the_command_prints_one_object_of_what_was_asked(trained_run, toy_corpus):
    words = ("eval", trained_run, "--data", toy_corpus.folder, "--protocol")
    answer = invoke(*words, "retrieval", "--json")
    assert answer.exit_code == 0, answer.output
    printed = json.loads(answer.stdout)
    assert (printed["protocol"], printed["readings"]) == ("retrieval", [])
    assert len(printed["retrieval"]) == 5
    table = invoke(*words, "zero-shot")
    assert "zero-shot: class prototypes" in table.stdout
    assert invoke(*words, "everything").exit_code == 2


def test_all_protocols_are_those_that_can_be_asked_for_alone():
    assert PROTOCOLS["all"] == tuple(name for name in PROTOCOLS if name != "all")


def test_the_plain_pair_is_a_ridge_regression_to_the_pose_at_the_end_of_a_window(embedded, evaluation):
    store, checkpoint = embedded.store, embedded.checkpoint
    windows = WindowDataset(store, store.corpus.numbers("train"), with_pose=True)
    batch = windows.fetch(windows.index)
    levels = np.log(batch.emg.numpy().std(axis=2))
    ends = batch.pose.numpy()[:, :, batch.pose.shape[2] // 2 :].mean(axis=2)
    level, late = StandardScaler().fit(levels), StandardScaler().fit(ends)
    peer = Ridge(alpha=0.05 * len(windows), fit_intercept=False).fit(level.transform(levels), late.transform(ends))
    emg = embedded.examples.queries.emg()
    expected = peer.predict(level.transform(np.log(emg.std(axis=2))))
    plain = fit_plain_pair(checkpoint, store)
    found = embed_emg(torch_embedding(plain.emg), embedded.examples.queries)
    cosine = np.sum(found * expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.99  # levels are centred here, but not there
    held = torch.randn(5, windows.store.recipe.n_joints, 1).expand(-1, -1, 8)
    arriving = torch.cat([torch.randn(5, held.shape[1], 8), held], dim=2)
    torch.testing.assert_close(plain.pose(arriving), plain.pose(held))
    (reading,) = (r for r in evaluation.readings if r.name.startswith("without an encoder") and "penalty" not in r.name)
    assert _accuracy(reading, "held-out", "seen") > 0.7


def test_the_page_leads_with_what_an_exported_bundle_reads_among_all(evaluation, embedded, tmp_path):
    first = evaluation.readings[0]
    (mean,) = (one for one in first.scores if (one.users, one.gestures) == ("held-out", "harmonic mean"))
    read = (replace(mean, balanced_accuracy=0.987),)
    both = (first, replace(first, name="with a penalty", scores=read, penalty=0.1))
    page = write_report(replace(evaluation, readings=both), embedded, tmp_path / "report").read_text()
    assert "0.987" in page[: page.index("<h2")]
    assert f"{mean.balanced_accuracy:.3f}" not in page[: page.index("<h2")]

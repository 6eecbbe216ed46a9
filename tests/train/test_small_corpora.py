"""Small or unbalanced corpora: one wearer, gestures of one person only, people and gestures outside all lists."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.errors import DataError
from cpep_train.checkpoint import load_checkpoint
from cpep_train.corpus import Corpus, Row, write_metadata
from cpep_train.evaluate import answers, evaluation_set
from cpep_train.protocols import evaluate_run
from tests.train.toy_corpus import (
    HELD_OUT_STAGE,
    STAGES,
    renamed,
    train_on,
    varied,
    write_toy_corpus,
    write_toy_session,
)


def _one_wearer(folder: Path, n_repetitions: int = 4) -> Corpus:
    """Repetitions of one wearer; the last is for testing, and only it has the held-out gesture."""
    folder.mkdir()
    rows = []
    for repetition in range(n_repetitions):
        for number, stage in enumerate(STAGES):
            held = stage == HELD_OUT_STAGE
            split = "test" if held or repetition == n_repetitions - 1 else "train"
            name = f"me-{repetition}-{stage}"
            write_toy_session(folder, name, stage, "me", seed=100 * repetition + number)
            rows.append(Row("me", f"s{repetition}", stage, "right", "right", False, held, split, "", name))
    write_metadata(folder, rows)
    return Corpus.open(folder)


@pytest.mark.slow
@pytest.mark.executorch
def test_one_wearer_gets_an_evaluation_and_a_bundle(tiny_recipe, tmp_path):
    from cpep_export.package import export_bundle

    corpus = _one_wearer(tmp_path / "mine")
    longer = varied(tiny_recipe, align={"epochs": 20, "learning_rate": 3e-3})
    train_on(longer, corpus, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    found, _ = evaluate_run(tmp_path / "run", checkpoint, corpus.folder)
    (score,) = (s for s in found.readings[0].scores if (s.users, s.gestures) == ("known", "seen"))
    assert score.balanced_accuracy > 0.75
    out, options = tmp_path / "mine.cpep", {"quant": "fp32", "pose_encoder": False, "force": True}
    manifest = export_bundle(checkpoint, corpus.folder, out, **options)
    assert len(manifest.gestures) == len(STAGES)


def test_two_gestures_are_no_collapse_although_their_poses_lie_on_a_line(tiny_recipe, tmp_path):
    corpus = write_toy_corpus(tmp_path / "two")
    write_metadata(corpus.folder, [row for row in corpus.rows if row.stage in STAGES[:2]])
    train_on(varied(tiny_recipe, align={"epochs": 10, "learning_rate": 3e-3}), corpus, tmp_path / "run")
    found, _ = evaluate_run(tmp_path / "run", load_checkpoint(tmp_path / "run"), corpus.folder)
    (score,) = (s for s in found.readings[0].scores if (s.users, s.gestures) == ("held-out", "seen"))
    assert score.balanced_accuracy > 0.75


def test_a_wearers_own_poses_answer_only_where_nobody_elses_are_and_never_of_the_same_recording(
    trained_run, toy_corpus
):
    rows = [r for r in toy_corpus.rows if r.stage != HELD_OUT_STAGE or r.user == "u0"]
    write_toy_session(toy_corpus.folder, "u0-Spread-2", HELD_OUT_STAGE, "u0", seed=77)
    rows.append(replace(next(r for r in rows if r.stage == HELD_OUT_STAGE), session="s1", filename="u0-Spread-2"))
    lopsided = Corpus(toy_corpus.folder, tuple(rows))
    examples = evaluation_set(load_checkpoint(trained_run), lopsided)
    n = len(lopsided.rows)
    queries, references = (
        np.eye(n, dtype=np.float32)[e.places[:, 0]] for e in (examples.queries, examples.references)
    )  # each recording has its own direction: EMG would match the poses of its own recording, if allowed

    seen = []

    def rule(asked: np.ndarray, answering: np.ndarray, labels: np.ndarray) -> np.ndarray:
        seen.append((set(asked.argmax(axis=1)), set(answering.argmax(axis=1))))
        return np.zeros(len(asked), np.int64)

    unseen = examples.queries.gesture_index == examples.gestures.index(HELD_OUT_STAGE)
    answers(examples, queries, references, unseen, np.ones(len(examples.gestures), bool), rule=rule)
    own = {number for number, row in enumerate(lopsided.rows) if (row.user, row.stage) == ("u0", HELD_OUT_STAGE)}
    assert len(seen) == 2
    for asked, answering in seen:
        assert not asked & answering
        assert answering & own == own - asked
        assert {lopsided.rows[number].user for number in answering - own} == {"u1", "u2"}


def test_a_gesture_that_one_person_recorded_once_is_said_to_have_no_answer(trained_run, toy_corpus):
    rows = [r for r in toy_corpus.rows if r.stage != HELD_OUT_STAGE or r.user == "u0"]
    examples = evaluation_set(load_checkpoint(trained_run), Corpus(toy_corpus.folder, tuple(rows)))
    n = len(rows)
    queries, references = (np.eye(n, dtype=np.float32)[e.places[:, 0]] for e in (examples.queries, examples.references))
    with pytest.raises(DataError, match="no pose that could answer for u0: nobody else recorded"):
        answers(examples, queries, references, np.ones(len(queries), bool), ~examples.seen)


def test_people_and_gestures_in_no_list_count_as_held_out_and_are_named(tiny_recipe, tmp_path, caplog):
    corpus = write_toy_corpus(tmp_path / "toy")
    rows = [replace(row, held_out_user=False, held_out_stage=False) for row in corpus.rows]
    with caplog.at_level(logging.WARNING):
        usable = Corpus(corpus.folder, tuple(rows)).usable(tiny_recipe)
    assert {row.user for row in usable.rows if row.held_out_user} == {"u4"}
    assert usable.unseen_stages == (HELD_OUT_STAGE,)
    assert [record.message for record in caplog.records] == [
        "person u4 has no training recording and counts as held out",
        f"gesture {HELD_OUT_STAGE} has no training recording and counts as held out",
    ]


def test_a_gesture_that_the_run_does_not_know_is_named(trained_run, tmp_path, caplog):
    corpus = write_toy_corpus(tmp_path / "toy")
    renamed(corpus.folder, {stage: "New" if stage == HELD_OUT_STAGE else stage for stage in STAGES})
    with caplog.at_level(logging.WARNING):
        evaluation_set(load_checkpoint(trained_run), Corpus.open(corpus.folder))
    assert "gesture New is in" in caplog.text
    assert "so it is not asked about" in caplog.text

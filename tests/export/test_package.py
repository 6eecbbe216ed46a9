import shutil
from dataclasses import replace

import numpy as np
import pytest

from cpep_edge.bundle import Bundle
from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.golden import Golden
from cpep_edge.verify import verify_bundle
from cpep_export.package import export_bundle
from cpep_export.rejection import watched_windows
from cpep_train.corpus import Corpus, write_metadata
from cpep_train.evaluate import embed_emg, embed_poses, evaluation_set, torch_embedding, zero_shot
from cpep_train.leakage import split_manifest
from cpep_train.seen_penalty import with_seen_penalty
from tests.processes import invoke

pytestmark = pytest.mark.executorch


def test_a_fresh_bundle_is_whole_and_fully_delegated(tiny_bundle, native_build):
    report = verify_bundle(tiny_bundle)
    encoder = Bundle(tiny_bundle).manifest.encoder

    assert (encoder.quantisation, encoder.n_delegates, encoder.n_operators_outside) == ("int8", 1, 0)
    assert (report.n_files, report.n_golden) == (len(Bundle(tiny_bundle).manifest.files), 6)
    assert report.smallest_cosine > 0.9999


def test_the_ladder_starts_where_the_evaluation_of_the_module_stands(tiny_bundle, tiny_checkpoint, tiny_corpus):
    evaluation = evaluation_set(tiny_checkpoint, Corpus.open(tiny_corpus))
    queries = embed_emg(torch_embedding(tiny_checkpoint.emg), evaluation.queries)
    manifest = Bundle(tiny_bundle).manifest
    references, first = embed_poses(tiny_checkpoint.pose, evaluation.references), manifest.ladder[0]
    scores = zero_shot(evaluation, *with_seen_penalty(evaluation, queries, references, manifest.index.seen_penalty))
    accuracy = {score.gestures: score.balanced_accuracy for score in scores if score.users == "held-out"}

    assert (first.seen, first.unseen) == (pytest.approx(accuracy["seen"]), pytest.approx(accuracy["unseen"]))
    among_all = (accuracy["seen among all"], accuracy["unseen among all"])
    assert (first.seen_among_all, first.unseen_among_all) == pytest.approx(among_all)
    assert first.harmonic_mean == pytest.approx(accuracy["harmonic mean"])


def test_shaping_costs_no_vote_and_int8_few(tiny_bundle):
    module, fused, graph, program, index, live, *_ = Bundle(tiny_bundle).manifest.ladder

    assert (module.vote_agreement, fused.vote_agreement) == (1, 1)
    assert program.vote_agreement >= 0.98
    assert graph.vote_agreement == pytest.approx(program.vote_agreement, abs=0.01)
    assert index.vote_agreement >= program.vote_agreement - 0.01
    assert live.vote_agreement == pytest.approx(index.vote_agreement, abs=0.002)  # same windows, other processing


def test_the_toy_learnt_enough_for_its_votes_to_mean_something(tiny_bundle):
    last = Bundle(tiny_bundle).manifest.ladder[-1]

    assert last.seen > 0.9
    assert last.unseen > 0.6


def test_gestures_say_whether_their_emg_was_trained_on(tiny_bundle, tiny_checkpoint):
    gestures = Bundle(tiny_bundle).manifest.gestures

    assert tuple(g.name for g in gestures if g.trained) == tiny_checkpoint.seen_stages
    assert tuple(g.name for g in gestures if not g.trained) == tiny_checkpoint.unseen_stages


def test_golden_inputs_are_recordings_that_training_did_not_see(tiny_bundle, tiny_corpus):
    bundle, corpus = Bundle(tiny_bundle), Corpus.open(tiny_corpus)
    golden = Golden.from_bytes(bundle.read(bundle.manifest.golden_file))
    trained = [corpus.rows[number] for number in corpus.numbers("train")]
    signals = []
    for row in trained:
        with corpus.session(row) as session:
            signals.append(session.emg()[:, 0])

    for stretch in golden.signal_uv:
        first = stretch[-100:, 0] - stretch[-100:, 0].mean()
        for signal in signals:
            slices = np.lib.stride_tricks.sliding_window_view(signal, 100)
            residual = np.abs((slices - slices.mean(axis=1, keepdims=True)) - first).max(axis=1).min()
            assert residual > 1  # microvolts: golden signals are not copies of recordings


def test_the_rejection_threshold_keeps_most_correct_votes(tiny_bundle):
    decision = Bundle(tiny_bundle).manifest.decision

    assert 0 < decision.min_similarity < 1
    assert decision.k == 10


@pytest.mark.slow
def test_progress_counts_up_to_its_total(tiny_bundle, tiny_checkpoint, tiny_corpus, tmp_path):
    """Also tests that an fp32 export works and that it replaces an existing bundle."""
    steps: list[tuple[int, int]] = []
    out = tmp_path / "other.cpep"
    shutil.copytree(tiny_bundle, out)

    manifest = export_bundle(
        tiny_checkpoint, tiny_corpus, out, quant="fp32", progress=lambda done, total: steps.append((done, total))
    )

    assert steps == [(number, len(steps)) for number in range(1, len(steps) + 1)]
    assert Bundle(out).manifest == manifest
    assert manifest.encoder.quantisation == "fp32"
    assert manifest.ladder[2].vote_agreement == 1


def test_a_name_that_no_bundle_can_have_is_refused_before_anything_is_done(tiny_checkpoint, tiny_corpus, tmp_path):
    with pytest.raises(ConfigError, match="' my' cannot be used: a name has no spaces around it"):
        export_bundle(tiny_checkpoint, tiny_corpus, tmp_path / " my.cpep", quant="fp32")
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_something_else_lies_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file"):
        answer = invoke("export", "no-such-run", "--data", "nowhere", "--out", tmp_path / name)
        assert isinstance(answer.exception, ArtifactError)
        assert "exists and is not a bundle" in str(answer.exception)
    assert (tmp_path / "file").read_text() == (tmp_path / "notes" / "x.txt").read_text() == "mine"


def test_an_export_refuses_to_measure_on_what_was_trained_on(tiny_checkpoint, tiny_corpus, tmp_path):
    corpus = Corpus.open(tiny_corpus)
    trained = replace(tiny_checkpoint, splits=split_manifest(corpus))
    data = tmp_path / "exchanged"
    shutil.copytree(tiny_corpus, data)
    swap = {"train": "val", "val": "train"}
    write_metadata(data, [replace(row, split=swap.get(row.split, row.split)) for row in corpus.rows])
    with pytest.raises(DataError, match="holds the same EMG as .*, which is trained on"):
        export_bundle(trained, data, tmp_path / "leaky.cpep", quant="fp32")
    assert not (tmp_path / "leaky.cpep").exists()


def test_thresholds_come_from_people_whom_the_training_only_watched(tiny_checkpoint, tiny_corpus):
    evaluation = evaluation_set(tiny_checkpoint, Corpus.open(tiny_corpus))
    watched = watched_windows(evaluation).queries
    rows = watched.dataset.store.corpus.rows
    assert {rows[session].split for session, _ in watched.places} == {"val"}
    assert len(watched) > 0


def test_a_corpus_that_does_not_fit_leaves_the_old_bundle(tiny_bundle, tiny_checkpoint, tiny_corpus, tmp_path):
    out, data = tmp_path / "kept.cpep", tmp_path / "corpus"
    shutil.copytree(tiny_bundle, out)
    shutil.copytree(tiny_corpus, data)
    next(data.glob("*.hdf5")).unlink()

    with pytest.raises(DataError):
        export_bundle(tiny_checkpoint, data, out)

    assert {f.name: f.read_bytes() for f in out.iterdir()} == {f.name: f.read_bytes() for f in tiny_bundle.iterdir()}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["corpus", "kept.cpep"]

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpep_bench.encoder_race import race_threads
from cpep_bench.peers import WINDOWS_A_STRETCH, check_peers, golden_windows, measure_peers
from cpep_bench.report import PeerFigure
from cpep_edge.bundle import Bundle
from cpep_edge.errors import ArtifactError, ConfigError, DataError
from cpep_edge.golden import Golden
from cpep_edge.recogniser import Recogniser
from cpep_train.checkpoint import build_encoders, save_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.leakage import SplitManifest, save_splits, split_manifest
from tests.export.programs import saved_run
from tests.train.toy_corpus import varied

pytestmark = pytest.mark.executorch


@pytest.fixture(scope="module")
def run(tiny_checkpoint, tiny_corpus, tmp_path_factory) -> Path:
    """The run folder of the tiny bundle's training."""
    return saved_run(tmp_path_factory.mktemp("run"), tiny_checkpoint, tiny_corpus)


@pytest.mark.slow
def test_peers_of_the_encoder_run_the_same_weights_and_ours_comes_first(tiny_bundle, tiny_corpus, run):
    for package in ("onnxruntime", "openvino"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'cpep-edge[peers]'")
    bundle = Bundle(tiny_bundle)
    recogniser = Recogniser(bundle)

    few = measure_peers(("onnxruntime",), bundle, recogniser, n_runs=200, run=run)
    figures = measure_peers(("openvino", "onnxruntime"), bundle, recogniser, n_runs=200, run=run, data=tiny_corpus)

    assert [figure.name for figure in figures] == [
        "cpep-edge", "ONNX Runtime fp32", "ONNX Runtime int8-static", "ONNX Runtime int8-dynamic", "OpenVINO float",
        "OpenVINO int8",
    ]  # fmt: skip
    setting = {figure.name: figure.setting for figure in figures}
    assert setting["ONNX Runtime int8-static"].endswith(", calibrated on 128 windows of training")
    assert few[2].setting.endswith(" windows of the bundle's golden signal")
    cosine = {figure.name: float(figure.agreement.split()[-1]) for figure in figures}  # the smallest over all windows
    assert cosine["ONNX Runtime fp32"] == 1
    assert cosine["OpenVINO float"] > 0.999  # it uses bfloat16 if the processor has it
    assert min(cosine.values()) > 0.7  # a toy in int8; with other weights it would be near 0
    assert figures[0].size_bytes == bundle.manifest.files[bundle.manifest.encoder.file].size_bytes


def test_answers_are_compared_on_windows_that_end_where_the_golden_ones_do(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    recogniser = Recogniser(bundle)
    golden = Golden.from_bytes(bundle.read(bundle.manifest.golden_file))

    windows = golden_windows(bundle, recogniser)

    assert len(windows) == WINDOWS_A_STRETCH * len(golden.embedding)
    ends = windows[WINDOWS_A_STRETCH - 1 :: WINDOWS_A_STRETCH]
    last = np.stack([recogniser.encoder.embed(window).copy() for window in ends])
    np.testing.assert_allclose(last, golden.embedding, atol=1e-5)


def test_the_training_of_another_bundle_is_refused(tiny_bundle, tiny_checkpoint, tmp_path):
    bundle = Bundle(tiny_bundle)
    wider = varied(tiny_checkpoint.recipe, emg={"width": 64})
    emg, pose = build_encoders(wider)
    save_checkpoint(tmp_path, replace(tiny_checkpoint, recipe=wider, emg=emg, pose=pose))

    with pytest.raises(ConfigError, match="its encoder has .* parameters, the bundle's has"):
        measure_peers(("torch",), bundle, Recogniser(bundle), n_runs=200, run=tmp_path)


def test_threads_that_change_the_answer_have_no_figures(tiny_bundle, tmp_path, monkeypatch):
    bundle = Bundle(tiny_bundle)
    spec = bundle.manifest.encoder
    window = np.random.default_rng(0).normal(size=(spec.n_channels, spec.window_samples)).astype(np.float32)
    np.save(tmp_path / "other.npy", -Recogniser(bundle).encoder.embed(window)[None])
    load = np.load
    monkeypatch.setattr(np, "load", lambda file: load(tmp_path / "other.npy" if file.name == "2.npy" else file))

    with pytest.raises(ArtifactError, match=r"on 2 threads it gives another embedding \(cosine -1\.0000\)"):
        race_threads(bundle, window, (1, 2), 200)


def libemg(bundle: Bundle, recogniser: Recogniser, run: Path, data: Path) -> dict[str, PeerFigure]:
    figures = measure_peers(("libemg",), bundle, recogniser, n_runs=200, run=run, data=data)
    return {figure.name: figure for figure in figures}


def test_libemgs_pipeline_is_timed_and_judged_on_the_windows_that_ours_is_judged_on(tiny_bundle, tiny_corpus, run):
    bundle = Bundle(tiny_bundle)
    recogniser = Recogniser(bundle)

    figures = libemg(bundle, recogniser, run, tiny_corpus)
    recogniser.index.gesture_index = np.roll(recogniser.index.gesture_index, 1 + len(recogniser.index.vectors) // 2)
    mistaught = libemg(bundle, recogniser, run, tiny_corpus)

    ours, theirs = figures["cpep-edge"], figures["LibEMG's features, LDA"]
    assert ours.agreement == theirs.agreement == "80 windows, 4 gestures, 1 people held out of training"
    assert min(ours.accuracy or 0, theirs.accuracy or 0) > 0.5  # twice chance
    assert mistaught["cpep-edge"].accuracy < 0.4
    assert mistaught["LibEMG's features, LDA"].accuracy == theirs.accuracy
    assert ours.latency.n == theirs.latency.n == 200


def test_accuracy_on_recordings_that_were_trained_on_is_refused(tiny_bundle, tiny_corpus, tiny_checkpoint, tmp_path):
    bundle = Bundle(tiny_bundle)
    save_checkpoint(tmp_path, tiny_checkpoint)
    splits = split_manifest(Corpus.open(tiny_corpus))
    all_trained = tuple(entry.model_copy(update={"split": "train"}) for entry in splits.entries)
    save_splits(tmp_path, SplitManifest(entries=all_trained))

    with pytest.raises(DataError, match="train"):
        libemg(bundle, Recogniser(bundle), tmp_path, tiny_corpus)


@pytest.mark.parametrize(
    ("name", "run", "words"),
    [
        ("tensorflow", None, "--vs tensorflow is not a peer: choose from onnxruntime, "),
        ("torch", None, "--vs torch needs the training that the bundle came from: add --run RUN"),
        ("libemg", Path("run"), "--vs libemg needs labelled recordings .* add --data DIR"),
    ],
)
def test_a_peer_that_lacks_something_is_told_what(name, run, words):
    with pytest.raises(ConfigError, match=words):
        check_peers((name,), run, None)


def test_a_peer_that_is_not_installed_is_told_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr("cpep_bench.peers.find_spec", lambda package: None)

    with pytest.raises(ConfigError, match="--vs faiss: faiss is not installed: pip install 'cpep-edge\\[peers,train]'"):
        check_peers(("numpy", "faiss"), None, None)

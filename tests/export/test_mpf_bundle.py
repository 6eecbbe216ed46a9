"""A training run with the log-covariance front end, from recipe to bundle to decisions."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.bundle import Bundle
from cpep_edge.calibration import Profile, donning_of, fit_to_wearer, save_profile, signal_id
from cpep_edge.chip import CortexMSpec, unpack_sources
from cpep_edge.donning import Donning
from cpep_edge.enrolment import OpenBundle, remove_gesture
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.golden import Golden
from cpep_edge.live_loop import LiveEngine
from cpep_edge.manifest import Manifest
from cpep_edge.recogniser import Recogniser
from cpep_edge.session import SessionMeta, write_session
from cpep_edge.verify import verify_bundle
from cpep_export.cortex_m import check_golden_on
from cpep_export.head_choice import READS, choose_head
from cpep_export.package import export_bundle
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import Corpus, Row, write_metadata
from cpep_train.evaluate import evaluation_set
from cpep_train.recipe import Recipe
from cpep_train.training import train
from cpep_train.windows import SessionStore, WindowDataset
from tests.cpep_edge.arm import blocks
from tests.cpep_edge.fake_stream import play
from tests.export.programs import needs_make
from tests.train.toy_corpus import tiny_recipe, toy_signals

pytestmark = pytest.mark.executorch

RATE_HZ, N_CHANNELS = 500, 8
HOP, SPAN, WINDOW = 20, 40, 100
STAGES = ("Fist", "Flat", "Point", "Spread")  # the last is held out
MUSCLES = ([0, 3], [1, 6], [4, 5], [2, 7])  # electrodes over the strong and the weak muscle of each gesture


def gesture_uv(stage: str, seed: int, n_samples: int = 1500) -> np.ndarray:
    """EMG of wearer number `seed`: two muscles of the gesture, which neighbouring electrodes pick up too."""
    rng = np.random.default_rng((seed, STAGES.index(stage)))
    gains = np.exp(np.random.default_rng(seed).normal(0, 0.2, N_CHANNELS))
    active = np.full(N_CHANNELS, 2.0)
    active[MUSCLES[STAGES.index(stage)]] = (30, 15)
    spread = np.exp(-np.minimum(np.arange(N_CHANNELS), N_CHANNELS - np.arange(N_CHANNELS)) / 0.8)
    mixing = np.stack([np.roll(spread, k) for k in range(N_CHANNELS)])
    emg_uv = (rng.normal(size=(n_samples, N_CHANNELS)) * active) @ mixing * gains + 100
    return emg_uv.astype(np.float32)


def mpf_recipe() -> Recipe:
    values = tiny_recipe().model_dump()
    values["signal"]["n_channels"] = N_CHANNELS
    values["emg"] |= {"front_end": "mpf", "patch_samples": HOP, "span_samples": SPAN, "level_samples": 1}
    values["windows"] |= {"window_samples": WINDOW, "stride_samples": 20, "jitter_samples": 0}
    values["calibration"] = {"repetitions": 1, "max_turn": 1}
    values["align"] |= {"epochs": 20, "learning_rate": 3e-3, "same_gesture": "positive", "temperature": 0.1}
    return Recipe.model_validate(values)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Five people with four gestures; one person is for validation, one person and one gesture are held out."""
    folder, rows = tmp_path_factory.mktemp("mpf"), []
    for person in range(5):
        for stage in STAGES:
            emg_uv = gesture_uv(stage, person)
            _, pose = toy_signals(stage, len(emg_uv), np.random.default_rng(person))
            held_user, held_stage = person == 4, stage == "Spread"
            split = "test" if held_user or held_stage else "val" if person == 3 else "train"
            kind = "_".join(word for word, held in (("user", held_user), ("stage", held_stage)) if held)
            name, time_s = f"u{person}-{stage}", np.arange(len(emg_uv)) / RATE_HZ
            meta = SessionMeta("s0", f"u{person}", stage, "right", 0.0, float(time_s[-1]), N_CHANNELS, RATE_HZ, name)
            write_session(folder / f"{name}.hdf5", meta, time_s, emg_uv, pose)
            rows.append(Row(f"u{person}", "s0", stage, "right", "right", held_user, held_stage, split, kind, name))
    write_metadata(folder, rows)
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory) -> Checkpoint:
    run = tmp_path_factory.mktemp("mpf_run") / "run"
    train(mpf_recipe(), corpus.folder, run, progress=False)
    return load_checkpoint(run)


@pytest.fixture(scope="module")
def bundle(checkpoint, corpus, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mpf_bundle") / "mpf.cpep"
    export_bundle(checkpoint, corpus.folder, path, quant="fp32", pose_encoder=False)
    return path


def someone(turn: int = 0) -> dict[str, np.ndarray]:
    """Raw EMG of a new wearer's gestures, with the band turned by some electrodes."""
    return {stage: np.roll(gesture_uv(stage, 100), turn, axis=1) for stage in STAGES}


def decisions(recogniser: Recogniser, samples_uv: np.ndarray, donning: Donning, size: int = 10) -> list[str]:
    """The gesture of each window, with nothing rejected."""
    info = StreamInfo("toy", N_CHANNELS, RATE_HZ)
    spec = recogniser.manifest.decision.model_copy(update={"min_vote_share": 0.0, "min_similarity": -1.0})
    engine = LiveEngine(recogniser, info, donning=donning, spec=spec, hop_ms=1e3 * HOP / RATE_HZ)
    return [decision.window_gesture for decision in play(blocks(samples_uv, RATE_HZ, size), engine)]


def test_a_bundle_gives_its_golden_answers_and_says_what_it_reads(bundle):
    assert verify_bundle(bundle).n_golden > 0
    manifest = Bundle(bundle).manifest
    assert manifest.input_shape == (manifest.front_end.n_features, 1 + (WINDOW - SPAN) // HOP)
    assert [manifest.gestures[g].name for g in manifest.head.gestures] == sorted(STAGES[:-1])


def test_what_answers_is_as_asked_or_what_reads_most_on_validation_windows(checkpoint, corpus):
    evaluation = evaluation_set(checkpoint, corpus)
    true = evaluation.queries.gesture_index
    for perfect in (True, False):  # the index is always right, or never
        by_poses = true if perfect else (true + 1) % len(evaluation.gestures)
        asked = {how: choose_head(checkpoint, evaluation, by_poses, 0, how) for how in ("auto", "index", *READS)}
        heads = {how: head.spec for how, head in asked.items() if head is not None}
        assert {how: heads[how].reads for how in READS} == {how: how for how in READS}
        assert (heads["index"].answers, heads["tokens"].answers) == (False, True)
        scores = heads["auto"].validation
        assert set(scores) == {"index", *READS}
        assert heads["auto"].answers == (scores[heads["auto"].reads] >= scores["index"])
        assert scores[heads["auto"].reads] == max(scores[reads] for reads in READS)
    assert scores["index"] < 0.5 < scores[heads["auto"].reads]


@pytest.mark.parametrize("size", [7, 64, 333])
def test_live_windows_are_those_that_training_cut(checkpoint, corpus, bundle, size):
    """Windows of a recording cut by training's store equal those of live processing, block by block."""
    recogniser = Recogniser(Bundle(bundle))
    store = SessionStore(corpus, checkpoint.recipe, checkpoint.statistics)
    number = next(n for n, row in enumerate(corpus.rows) if row.user == "u4" and row.stage == "Fist")
    windows = WindowDataset(store, [number], with_pose=False, stride_samples=HOP)
    offline = windows.fetch(windows.index).emg.numpy()
    with corpus.session(corpus.rows[number]) as session:
        emg_uv = session.emg()
    engine = LiveEngine(
        recogniser,
        StreamInfo("toy", N_CHANNELS, RATE_HZ),
        donning=replace(store.donnings.of(corpus.rows[number]), head_means=None),
        hop_ms=1e3 * HOP / RATE_HZ,
    )
    seen: list[np.ndarray] = []
    engine._recogniser = _Watching(recogniser, seen)
    play(blocks(emg_uv, RATE_HZ, size), engine)
    assert len(seen) == len(offline)
    assert np.allclose(np.stack(seen), offline, atol=1e-5)


class _Watching:
    """A recogniser that keeps the windows it receives."""

    def __init__(self, recogniser: Recogniser, seen: list[np.ndarray]) -> None:
        self._recogniser, self._seen = recogniser, seen

    def recognise(self, window: np.ndarray, head: object = None) -> object:
        self._seen.append(window)
        return self._recogniser.recognise(window)


def test_a_calibrated_newcomer_is_read_however_the_band_sits(bundle):
    recogniser = Recogniser(Bundle(bundle))
    trained = [stage for stage in STAGES[:-1]]
    for turn in (-1, 0, 1):
        signals = someone(turn)
        donning = donning_of(recogniser, [signals[stage] for stage in trained])
        assert donning.order[0] == turn % N_CHANNELS
        for stage in trained:
            found = decisions(recogniser, signals[stage], donning)
            assert np.mean([gesture == stage for gesture in found]) > 0.8
    unplaced = donning_of(recogniser, [signals[stage] for stage in trained], placed=False)
    right = [np.mean([g == stage for g in decisions(recogniser, signals[stage], unplaced)]) for stage in trained]
    assert np.mean(right) < 0.8  # without placement, the turn costs accuracy


def test_decisions_do_not_depend_on_the_size_of_blocks(bundle):
    recogniser = Recogniser(Bundle(bundle))
    signals = someone()
    donning = donning_of(recogniser, list(signals.values()))
    run = np.concatenate([signals["Fist"], signals["Flat"]])
    assert decisions(recogniser, run, donning, 7) == decisions(recogniser, run, donning, 250)


def test_what_stands_in_channels_that_the_device_lacks_changes_nothing(bundle):
    recogniser, signal = Recogniser(Bundle(bundle)), someone()["Fist"]
    other = signal.copy()
    other[:, 2], other[:, 5] = 0, np.random.default_rng(8).normal(0, 500, len(signal))
    lacking = StreamInfo("six of eight", N_CHANNELS, RATE_HZ, missing=(2, 5))
    for donning in (Donning(), donning_of(recogniser, list(someone().values()), missing=(2, 5))):
        windows: list[list[np.ndarray]] = [[], []]
        for samples_uv, seen in zip((signal, other), windows, strict=True):
            engine = LiveEngine(recogniser, lacking, donning=donning, hop_ms=1e3 * HOP / RATE_HZ)
            engine._recogniser = _Watching(recogniser, seen)
            engine.ingest(Block(samples_uv, 0, 0.0, 0.0))
            while engine.next_due is not None:
                engine.step(newest=False)
        assert len(windows[0]) == 1 + (len(signal) - WINDOW) // HOP
        assert np.array_equal(*windows)


def test_a_channel_that_was_masked_in_training_is_not_read(bundle, tiny_bundle):
    """Both with tokens and with an encoder that reads the signal itself."""
    rng = np.random.default_rng(4)
    for recogniser in (Recogniser(Bundle(bundle)), Recogniser(Bundle(tiny_bundle))):
        manifest = recogniser.manifest
        recogniser.manifest = manifest.model_copy(update={"masked_channels": (3,)})
        signal = rng.normal(0, 50, (2 * manifest.window_samples, manifest.n_channels)).astype(np.float32)
        other = signal.copy()
        other[:, 3] = 0
        assert np.array_equal(recogniser.last_window(signal), recogniser.last_window(other))
        donning = donning_of(recogniser, [np.tile(signal, (20, 1))])
        assert [(donning.order or range(99))[place] for place in donning.dead] == [3]


def test_a_profile_carries_all_of_a_donning_and_none_of_another_bundle_s(bundle, tiny_bundle, tmp_path):
    recogniser = Recogniser(Bundle(bundle))
    manifest = recogniser.manifest
    found = donning_of(recogniser, list(someone(1).values()))
    profile = Profile(
        signal=signal_id(manifest),
        level_uv=tuple(found.level_uv.tolist()),
        order=found.order,
        centre=tuple(found.centre.tolist()),
        head=manifest.files[manifest.head.file].sha256,
        head_means=tuple(map(tuple, found.head_means.tolist())),
        seconds=5,
        created_utc="",
    )
    save_profile(profile, tmp_path / "profile.json")
    again, _ = fit_to_wearer(manifest, tmp_path / "profile.json", None)
    assert again.order == found.order
    for name in ("level_uv", "centre", "head_means"):
        assert np.array_equal(getattr(again, name), getattr(found, name))
    with pytest.raises(ConfigError, match="another bundle's signal; run cpep-edge calibrate"):
        fit_to_wearer(Bundle(tiny_bundle).manifest, tmp_path / "profile.json", None)
    bare = profile.model_copy(update={"centre": ()})
    with pytest.raises(ConfigError, match=r"has no mean token.*make one with: cpep-edge calibrate mpf\.cpep"):
        bare.donning(manifest)
    cut = profile.model_copy(update={"centre": profile.centre[1:]})
    with pytest.raises(ConfigError, match="the profile is damaged; run cpep-edge calibrate again"):
        cut.donning(manifest)
    lonely = profile.model_copy(update={"dead": (0, 1, 2, 3, 4, 5, 6)})
    with pytest.raises(DataError, match="two live electrodes, but of 8 1, 2, 3, 4, 5, 6, 7 are dead"):
        recogniser.stream(lonely.donning(manifest))


def test_a_bundle_whose_bands_reach_beyond_half_the_rate_is_refused(bundle):
    manifest = Bundle(bundle).manifest
    fields = manifest.model_dump()
    fields["preprocessing"]["sample_rate_hz"] = 2 * manifest.front_end.bands[-1].high_hz
    with pytest.raises(ValueError, match="a band of the front end ends at 225 Hz, not below 225, half the rate"):
        Manifest.model_validate(fields)


def test_a_removed_gesture_leaves_the_head_too(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "copy.cpep")
    remove_gesture(OpenBundle.check(Bundle(tmp_path / "copy.cpep")), "Flat")
    left = Bundle(tmp_path / "copy.cpep")
    assert verify_bundle(left.path).n_golden > 0
    assert [left.manifest.gestures[g].name for g in left.manifest.head.gestures] == ["Fist", "Point"]
    recogniser, signals = Recogniser(left), someone()
    donning = donning_of(recogniser, [signals["Fist"], signals["Point"]])
    assert "Flat" not in decisions(recogniser, signals["Flat"], donning)
    assert np.mean([g == "Fist" for g in decisions(recogniser, signals["Fist"], donning)]) > 0.8


def test_recipes_that_cannot_be_are_refused_with_all_that_is_wrong():
    values = mpf_recipe().model_dump()
    values["emg"] |= {"span_samples": 90}
    values["windows"] |= {"stride_samples": 15}
    with pytest.raises(ValueError, match="not a whole number of patches.*not a multiple of a token's hop"):
        Recipe.model_validate(values)
    values["emg"] |= {"span_samples": 100, "band_edges_hz": [20, 300]}
    with pytest.raises(ValueError, match="fewer than two tokens.*0.45 of the sample rate"):
        Recipe.model_validate(values)


def test_a_calibration_of_dead_electrodes_names_them(bundle):
    signal = someone()["Fist"]
    signal[:, 1:] = 3
    with pytest.raises(DataError, match="two live electrodes, but of 8 channels 2, 3, 4, 5, 6, 7, 8 are dead"):
        donning_of(Recogniser(Bundle(bundle)), [signal])


@needs_make
@pytest.mark.slow
def test_the_chip_s_program_gives_the_bundle_s_golden_answers(checkpoint, corpus, tmp_path):
    path = tmp_path / "mpf.cpep"
    manifest = export_bundle(checkpoint, corpus.folder, path, quant="fp32", pose_encoder=False, chip_target="cortex-m")
    golden = Golden.from_bytes(Bundle(path).read("golden.npz"))
    assert isinstance(manifest.chip, CortexMSpec)
    assert manifest.forced == ()
    assert 0 < manifest.chip.token_error < 5e-3
    assert manifest.chip.votes_kept >= 0.97
    assert manifest.ladder[-1].step == "integers of the microcontroller"
    unpack_sources(Bundle(path), tmp_path / "sources")
    run = check_golden_on(tmp_path / "sources", "host", tmp_path / "objects")
    assert [stretch.gesture_index for stretch in run.golden] == golden.gesture_index.tolist()

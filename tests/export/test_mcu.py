"""Compare the microcontroller engine with the float32 encoder, scipy, the runtime's vote and its other builds."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from cpep_edge.errors import ArtifactError, ConfigError, DataError  # noqa: E402
from cpep_edge.pose_index import vote  # noqa: E402
from cpep_edge.preprocess import Preprocessing, Preprocessor, design_filter  # noqa: E402
from cpep_export.arm_toolchain import CheckRun, Kernels, Processor, compile_for, run_check  # noqa: E402
from cpep_export.chips import Chip, find_chip  # noqa: E402
from cpep_export.cortex_m import (  # noqa: E402
    build_host,
    check_golden_on,
    compare,
    count_multiply_adds,
    export_cortex_m,
    golden_stretch,
    to_counts,
    write_golden,
    write_sources,
)
from cpep_export.emit_c import DeviceModel, choose_block_tokens, stored_prototypes  # noqa: E402
from cpep_export.fixed_point import check_supported, padded, to_fixed_point  # noqa: E402
from cpep_export.fused import FusedEncoder  # noqa: E402
from cpep_export.host_engine import HostEngine  # noqa: E402
from cpep_export.prototypes import Prototypes  # noqa: E402
from cpep_train.model import Embedder, EncoderConfig  # noqa: E402
from tests.export.programs import needs_make, needs_qemu  # noqa: E402

pytestmark = needs_make

RATE_HZ = 1000.0
CLIP = 20.0
UV_PER_COUNT = 0.1

# No size is a multiple of 16: 10 electrodes, heads of width 12, 11 tokens, 20 outputs.
ODD = EncoderConfig(
    n_channels=10, window_samples=250, patch_samples=25, width=36, n_layers=2, n_heads=3, mlp_ratio=2, pooling="cls"
)


@dataclass(frozen=True, slots=True)
class Built:
    """An emitted folder, compiled for this machine."""

    folder: Path
    objects: Path
    encoder: FusedEncoder
    model: DeviceModel
    engine: HostEngine
    signal_uv: NDArray[np.float32]  # (n, n_samples, C), the golden stretches


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Built:
    return _built(tmp_path_factory.mktemp("odd"), _random_encoder(ODD))


def _random_encoder(config: EncoderConfig) -> FusedEncoder:
    torch.manual_seed(0)
    embedder = Embedder(config, 20).eval()
    for parameter in embedder.parameters():  # larger than at initialisation, so that every part has an effect
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return FusedEncoder(embedder).eval()


def _built(folder: Path, encoder: FusedEncoder) -> Built:
    rng = np.random.default_rng(1)
    windows, signal_uv = _windows(encoder, 24, rng), _signal_uv(encoder, 2, rng)
    centres = _embedded(encoder, windows[16:])
    model = _device_model(encoder, windows[:16], _prototypes_around(centres, rng))
    sources, objects = folder / "out", folder / "objects"
    sources.mkdir()
    write_sources(sources, model)
    engine = build_host(sources, model, objects)
    write_golden(sources, [golden_stretch(engine, model, counts) for counts in to_counts(signal_uv, UV_PER_COUNT)])
    return Built(sources, objects, encoder, model, engine, signal_uv)


def _device_model(encoder: FusedEncoder, calibration: NDArray[np.float32], prototypes: Prototypes) -> DeviceModel:
    integer = to_fixed_point(encoder, CLIP, calibration)
    return DeviceModel(
        encoder=integer,
        preprocessing=_preprocessing(),
        uv_per_count=UV_PER_COUNT,
        prototypes=prototypes,
        gestures=tuple(f"gesture {number}" for number in range(int(prototypes.gesture_index.max()) + 1)),
        n_neighbours=10,
        block_tokens=choose_block_tokens(integer.n_tokens, at_most=6),
        n_channels=integer.n_channels,
        n_steps=integer.window_samples,
    )


def _preprocessing() -> Preprocessing:
    return Preprocessing(RATE_HZ, design_filter(RATE_HZ, 20.0, notch_hz=50.0), 20.0, CLIP)


def _windows(encoder: FusedEncoder, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise whose level varies between electrodes and windows like EMG from rest to effort."""
    level = np.exp(rng.normal(-0.5, 0.8, (n, encoder.n_channels, 1)))
    noise = level * rng.normal(size=(n, encoder.n_channels, encoder.window_samples))
    return np.clip(noise, -CLIP, CLIP).astype(np.float32)


def _signal_uv(encoder: FusedEncoder, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Signals with an electrode offset, longer than a window by a fractional number of patches."""
    n_samples = encoder.window_samples + 137
    offset = rng.normal(0, 500, (n, 1, encoder.n_channels))
    return (offset + 30 * rng.normal(size=(n, n_samples, encoder.n_channels))).astype(np.float32)


def _embedded(encoder: FusedEncoder, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.concatenate([encoder(torch.from_numpy(window[None])).numpy() for window in windows])


def _prototypes_around(centres: NDArray[np.float32], rng: np.random.Generator) -> Prototypes:
    """More prototypes than the engine compares at once, and not a multiple of that number."""
    near = np.repeat(centres, 37, axis=0)
    near = near + 0.02 * rng.normal(size=near.shape)
    unit = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    every_other = tuple(0.1 * (number % 2) for number in range(len(centres)))
    return Prototypes(unit, np.repeat(np.arange(len(centres)), 37), every_other)


def test_sanitized_build_gives_the_golden_bits(odd):
    run = check_golden_on(odd.folder, "sanitized", odd.objects)

    assert [golden.difference for golden in run.golden] == [0, 0]
    assert run.arena_bytes == odd.engine.arena_bytes


def test_integers_stay_close_to_float32(odd):
    fresh = _windows(odd.encoder, 40, np.random.default_rng(2))

    fidelity, _, _ = compare(odd.encoder, odd.engine, odd.model, fresh)

    assert fidelity.mean_cosine >= 0.999
    assert fidelity.min_cosine >= 0.997  # lower than for a trained encoder: this one is random, and the levels unseen


@pytest.mark.parametrize("level_samples", [1, 5])
def test_rectified_front_end_is_rectified(level_samples, tmp_path):
    built = _built(tmp_path, _random_encoder(replace(ODD, front_end="rectified", level_samples=level_samples)))
    fresh = _windows(built.encoder, 20, np.random.default_rng(2))

    fidelity, _, _ = compare(built.encoder, built.engine, built.model, fresh)

    assert fidelity.mean_cosine >= 0.999
    np.testing.assert_array_equal(built.engine.embed(fresh[0]), built.engine.embed(-fresh[0]))
    _ring_and_window_agree(built)  # levels start with the window, wherever that is in the ring


def test_heads_may_be_wider_than_a_window_has_tokens(tmp_path):
    built = _built(tmp_path, _random_encoder(replace(ODD, width=72, n_heads=1)))
    fresh = _windows(built.encoder, 20, np.random.default_rng(2))

    fidelity, _, _ = compare(built.encoder, built.engine, built.model, fresh)

    assert fidelity.mean_cosine >= 0.998
    check_golden_on(built.folder, "sanitized", built.objects)


def test_trained_encoder_keeps_its_votes(tiny_checkpoint, tiny_corpus, tmp_path):
    from cpep_export.prototypes import find_prototypes
    from cpep_train.corpus import Corpus
    from cpep_train.evaluate import embed_poses, evaluation_set

    encoder = FusedEncoder(tiny_checkpoint.emg).eval()
    evaluation = evaluation_set(tiny_checkpoint, Corpus.open(tiny_corpus), windows_per_recording=32)
    windows = evaluation.queries.emg()
    poses = embed_poses(tiny_checkpoint.pose, evaluation.references)

    written = export_cortex_m(
        encoder,
        tiny_checkpoint.preprocessing,
        find_prototypes(poses, evaluation.references.gesture_index, poses, k=10, n_most=48, least_per_gesture=8),
        evaluation.gestures,
        tmp_path / "out",
        calibration=windows[::2],
        golden_uv=_signal_uv(encoder, 1, np.random.default_rng(3)),
        evaluation=windows[1::2],
    )

    report = written.report
    assert report.fidelity.mean_cosine >= 0.999
    assert report.fidelity.min_cosine >= 0.98  # a window near the border of the toy's training data
    assert report.fidelity.votes_kept >= 0.97
    assert (tmp_path / "out" / "report.json").is_file()


def test_filter_follows_scipy(odd):
    signal_uv = odd.signal_uv[0]
    counts = to_counts(signal_uv, UV_PER_COUNT)
    expected = Preprocessor(_preprocessing(), ODD.n_channels)((counts * UV_PER_COUNT).astype(np.float32))

    odd.engine.reset()
    odd.engine.push(counts)

    unit = odd.model.input_step
    difference = odd.engine.window().T - expected[-ODD.window_samples :]
    tenth_of_a_count = 0.1 * UV_PER_COUNT / _preprocessing().scale_uv
    assert np.abs(difference).max() <= 0.5 * unit + tenth_of_a_count


def test_filter_starts_from_rest_without_a_step(odd):
    odd.engine.reset()
    odd.engine.push(np.full((ODD.window_samples, ODD.n_channels), 1_000_000, np.int32))

    assert not odd.engine.window().any()


def test_window_anywhere_in_the_ring_is_the_same_window(odd):
    _ring_and_window_agree(odd)


def _ring_and_window_agree(built: Built) -> None:
    built.engine.reset()
    built.engine.push(to_counts(built.signal_uv[1], UV_PER_COUNT))
    from_ring = built.engine.embed_integers()

    direct = built.engine.embed(built.engine.window())

    np.testing.assert_array_equal(from_ring[:20], np.rint(direct * 32767))


def test_votes_are_the_runtimes(odd):
    rng = np.random.default_rng(4)
    queries = rng.normal(size=(200, 20))
    queries = np.rint(queries / np.linalg.norm(queries, axis=1, keepdims=True) * 32767).astype(np.int16)
    prototypes, n_clear = odd.model.prototypes, 0

    for query in queries:
        similarity = (prototypes.embedding @ (query / 32767)).astype(np.float32)
        less = prototypes.penalty - similarity
        nearest = np.argsort(less, kind="stable")[:10]
        if np.diff(np.sort(less)[9:11])[0] < 2e-4:  # too close: integers may swap tenth and eleventh
            continue
        n_clear += 1
        expected = vote(prototypes.gesture_index[nearest], similarity[nearest])
        got = odd.engine.vote(np.pad(query, (0, padded(20) - 20)))
        assert (got.gesture_index, got.share) == (expected.gesture_index, pytest.approx(expected.share))
        assert got.similarity == pytest.approx(expected.similarity, abs=2e-4)
    assert n_clear > 150


def test_votes_are_those_of_comparing_every_prototype_in_full(odd):
    stored = stored_prototypes(odd.model.prototypes)
    whole = (128 * stored.coarse + stored.fine).astype(np.int64)
    rng = np.random.default_rng(5)
    near = odd.model.prototypes.embedding[rng.integers(len(whole), size=100)] + rng.normal(size=(100, 20)) * 0.1
    far = rng.normal(size=(100, 20))

    for query in np.concatenate((near, far)):
        integers = np.rint(query / np.linalg.norm(query) * 32767).astype(np.int16)
        product = whole @ integers.astype(np.int64)
        less = np.array(odd.model.prototypes.gesture_penalty)[stored.gesture_index] * 32767 * stored.unit
        nearest = np.argsort(np.rint(less) - product, kind="stable")[:10]
        cosine = product[nearest] / (32767 * stored.unit)
        expected = vote(stored.gesture_index[nearest], cosine.astype(np.float32))
        got = odd.engine.vote(np.pad(integers, (0, padded(20) - 20)))
        assert (got.gesture_index, got.share) == (expected.gesture_index, pytest.approx(expected.share, abs=2**-23))
        assert got.similarity == pytest.approx(expected.similarity, abs=2**-22)


def test_between_equal_counts_the_nearest_wins(tmp_path):
    encoder = _random_encoder(ODD)
    far, near = np.eye(20, dtype=np.float32)[:2]
    both = Prototypes(np.stack([far] * 5 + [near] * 5), np.repeat([0, 1], 5))
    write_sources(tmp_path, model := _device_model(encoder, _windows(encoder, 4, np.random.default_rng(0)), both))
    engine = build_host(tmp_path, model, tmp_path / "objects")

    query = np.zeros(padded(20), np.int16)
    query[:2] = 10_000, 31_000

    assert engine.vote(query).gesture_index == 1
    assert engine.vote(query[[1, 0, *range(2, 32)]]).gesture_index == 0


def test_flipped_weight_is_noticed(odd, tmp_path):
    folder = _changed(odd.folder, tmp_path / "out", _with_a_flipped_weight)

    with pytest.raises(ArtifactError, match=r"golden stretch [01] is off by \d+ in the last place"):
        check_golden_on(folder, "host", tmp_path / "objects")


def test_similarity_off_by_one_unit_is_noticed(odd, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(odd.folder, folder)
    source = (folder / "golden.c").read_text()
    gesture, share, similarity, *_ = _golden_vote(odd, 1)
    said = f"{{{gesture}, {share}, {similarity}, {{"
    assert source.count(said) == 1
    (folder / "golden.c").write_text(source.replace(said, said.replace(str(similarity), str(similarity + 1))))

    with pytest.raises(ArtifactError, match="votes otherwise"):
        check_golden_on(folder, "host", tmp_path / "objects")


def _golden_vote(built: Built, number: int) -> tuple[int, ...]:
    return golden_stretch(built.engine, built.model, to_counts(built.signal_uv, UV_PER_COUNT)[number]).vote


def _changed(folder: Path, to: Path, change: Callable[[str], str]) -> Path:
    shutil.copytree(folder, to)
    source = to / "model.c"
    source.write_text(change(source.read_text()))
    return to


def _with_a_flipped_weight(source: str) -> str:
    """Flip the sign of the first weight of the second block's value layer."""
    head, tail = source.split("int8_t value1_weight[", 1)
    size, numbers = tail.split("{\n", 1)
    first, rest = numbers.split(",", 1)
    assert int(first) != 0
    return f"{head}int8_t value1_weight[{size}{{\n{-int(first)},{rest}"


@needs_qemu
@pytest.mark.parametrize("kernels", ["own", pytest.param("plain", marks=pytest.mark.slow)])
@pytest.mark.parametrize("processor", ["m55", "m7"])
def test_processor_gives_the_bits_of_this_machine(odd, processor, kernels):
    run = _run_on(odd, processor, kernels)

    assert [golden.difference for golden in run.golden] == [0, 0]
    assert run.n_wrong == 0
    assert run.arena_bytes == odd.engine.arena_bytes
    assert run.window_instructions > 0


@needs_qemu
@pytest.mark.parametrize("processor", ["m55", "m7"])
def test_own_kernels_take_fewer_instructions(odd, processor):
    own, plain = (_run_on(odd, processor, kernels).window_instructions for kernels in ("own", "plain"))

    assert own < plain


def _run_on(odd: Built, processor: Processor, kernels: Kernels) -> CheckRun:
    objects = odd.objects / kernels  # compiled once for all tests
    compile_for(odd.folder, processor, objects, kernels)
    return run_check(odd.folder, processor, objects, kernels)


def test_multiply_adds_are_those_that_torch_counts(odd):
    n, d, blocks, e = ODD.n_tokens + 1, ODD.width, ODD.n_layers, 20
    with FlopCounterMode(display=False) as counter:
        odd.encoder(torch.zeros(1, ODD.n_channels, ODD.window_samples))
    in_norms = (2 * blocks * n - (n - 1) + 1) * d + e
    in_layers_that_xnnpack_spares = 2 * (n - 1) * d * d - 2 * n * d * (ODD.n_heads - 1)  # keys and values of [CLS]

    counted = count_multiply_adds(odd.model.encoder, n_prototypes=0)

    assert counted == counter.get_total_flops() // 2 - in_norms + in_layers_that_xnnpack_spares


def test_missing_compiler_is_named_with_its_package(odd, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="make is missing; install it with: apt-get install make"):
        compile_for(odd.folder, "m7", tmp_path)


@pytest.mark.parametrize(
    ("chip", "lacks"), [(Chip(ram_bytes=10_000), "RAM"), (Chip(ram_bytes=1 << 20, flash_bytes=20_000), "flash")]
)
def test_chip_with_too_little_memory_is_refused_by_how_much(odd, tmp_path, chip, lacks):
    with pytest.raises(ConfigError, match=rf"\d+ bytes of {lacks}, \d+ more than the chip has"):
        _export(odd, tmp_path / "out", chip=chip)
    assert not (tmp_path / "out").exists()


def test_chip_has_the_memory_that_its_maker_says_unless_told_otherwise():
    chip = find_chip("nRF54L15", flash_kib=700)

    assert (chip.ram_bytes, chip.flash_bytes) == (256 * 1024, 700 * 1024)
    with pytest.raises(ConfigError, match=r"bytes of RAM, 1 more than nRF54L15 has"):
        chip.check(256 * 1024 + 1, 0)


def test_unknown_chip_is_answered_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"no chip esp32 is known, only alif-e1c, .*nrf54l15.* --chip-ram"):
        find_chip("esp32")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pooling": "mean"}, r'reads \[CLS\] only; train with pooling = "cls" under \[emg\]'),
        ({"n_heads": 18}, r"a multiple of 4, not 2; change width or n_heads under \[emg\]"),
        ({"width": 132, "n_heads": 1}, "heads of at most 128 numbers, .* not 132"),
        ({"window_samples": 513, "patch_samples": 1}, "at most 512 tokens, not 514; raise patch_samples"),
    ],
)
def test_encoder_that_the_engine_cannot_run_is_refused_with_the_recipe_change(change, says):
    with pytest.raises(ConfigError, match=says):
        check_supported(_random_encoder(replace(ODD, **change)))


def test_windows_of_another_shape_are_refused(odd, tmp_path):
    with pytest.raises(DataError, match="golden stretches have shape"):
        _export(odd, tmp_path / "out", golden_uv=odd.signal_uv[:, :100])


def _export(odd: Built, out: Path, **options: object) -> None:
    arguments = {
        "calibration": _windows(odd.encoder, 4, np.random.default_rng(0)),
        "golden_uv": odd.signal_uv,
        **options,
    }
    export_cortex_m(odd.encoder, _preprocessing(), odd.model.prototypes, odd.model.gestures, out, **arguments)

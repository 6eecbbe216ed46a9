"""Compare the microcontroller engine with front end and head with the numpy reference and its other builds."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from cpep_edge.decisions import Decider  # noqa: E402
from cpep_edge.donning import Donning, placements  # noqa: E402
from cpep_edge.errors import ConfigError  # noqa: E402
from cpep_edge.head import Head, fit_head  # noqa: E402
from cpep_edge.input_stream import InputStream  # noqa: E402
from cpep_edge.manifest import DecisionSpec, HeadSpec  # noqa: E402
from cpep_edge.mpf import MpfSpec, band_edges_hz, design_bands  # noqa: E402
from cpep_edge.names import UNKNOWN  # noqa: E402
from cpep_edge.pose_index import Vote, build_index  # noqa: E402
from cpep_edge.preprocess import Preprocessing, design_filter  # noqa: E402
from cpep_edge.recogniser import answer, head_input  # noqa: E402
from cpep_export.arm_toolchain import compile_for, run_check  # noqa: E402
from cpep_export.chips import find_chip  # noqa: E402
from cpep_export.cortex_m import (  # noqa: E402
    DeviceHead,
    build_host,
    check_golden_on,
    export_cortex_m,
    golden_stretch,
    to_counts,
    write_golden,
    write_sources,
)
from cpep_export.emit_c import DeviceModel, choose_block_tokens  # noqa: E402
from cpep_export.fixed_point import to_fixed_point  # noqa: E402
from cpep_export.fused import FusedEncoder  # noqa: E402
from cpep_export.host_engine import HostDecider, HostEngine  # noqa: E402
from cpep_export.prototypes import Prototypes  # noqa: E402
from cpep_train.model import Embedder, EncoderConfig  # noqa: E402
from tests.export.programs import needs_make, needs_qemu  # noqa: E402

pytestmark = needs_make

RATE_HZ, C, HOP, SPAN, N_TOKENS = 1000.0, 6, 25, 75, 5
WINDOW = SPAN + (N_TOKENS - 1) * HOP
UV_PER_COUNT = 0.1
PREPROCESSING = Preprocessing(RATE_HZ, design_filter(RATE_HZ, 20.0), 20.0, 20.0)
SPEC = MpfSpec(
    n_electrodes=C,
    bands=design_bands(RATE_HZ, band_edges_hz(RATE_HZ, 20.0)),
    hop_samples=HOP,
    span_samples=SPAN,
    shrinkage=0.01,
)
GESTURES = ("Fist", "Flat", "Point", "Spread")
TOLERANCE = 1e-2  # of a token's logarithms: single precision, and rounding to a tenth of a count; .0051 was seen
QUIET_UV = 10.0  # of the strongest live electrode; below it, a tenth of a count is a larger share of the signal
QUIET_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Built:
    """An emitted folder, compiled for this machine."""

    folder: Path
    objects: Path
    model: DeviceModel
    engine: HostEngine

    def expected(self, window: NDArray[np.float32], donning: Donning = Donning()) -> Vote:
        """The runtime's answer to a window, from the engine's embedding of it."""
        model, head = self.model, self.model.head
        assert model.head_spec is not None
        assert head is not None
        if donning.head_means is not None:
            head = replace(head, means=donning.head_means)
        index = build_index(model.prototypes.embedding, model.prototypes.gesture_index, 0)
        return answer(window, self.engine.embed(window), index, 10, model.head_spec, head, len(GESTURES))


def gesture_uv(gesture: int, seed: int, n_samples: int = WINDOW + 137) -> NDArray[np.float32]:
    """EMG with an offset: two muscles of the gesture, which neighbouring electrodes around the ring pick up too."""
    rng = np.random.default_rng((seed, gesture))
    active = np.full(C, 2.0)
    active[[gesture, (2 * gesture + 3) % C]] = (30, 15)
    spread = np.exp(-np.minimum(np.arange(C), C - np.arange(C)) / 0.8)
    mixing = np.stack([np.roll(spread, k) for k in range(C)])
    return ((rng.normal(size=(n_samples, C)) * active) @ mixing + 900 * rng.normal(size=C)).astype(np.float32)


def windows_of(gestures: list[int], n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """n windows of each of k gestures, made by the runtime, (k n, F, N), and their gestures."""
    label = np.repeat(gestures, n)
    stream = InputStream(PREPROCESSING, SPEC, C)
    signals = [gesture_uv(gesture, seed) for gesture in gestures for seed in range(n)]
    return np.stack([stream.last_window(signal, N_TOKENS) for signal in signals]), label.astype(np.int64)


@pytest.fixture(scope="module")
def spec() -> MpfSpec:
    """The front end, with the centre of the training people."""
    windows, _ = windows_of(list(range(4)), 4)
    return SPEC.model_copy(update={"centre": tuple(windows.mean(axis=(0, 2)).tolist())})


@pytest.fixture(scope="module")
def build(spec, tmp_path_factory) -> Callable[..., Built]:
    built: dict[tuple[str | None, int], Built] = {}

    def make(reads: str | None, n_known: int = len(GESTURES)) -> Built:
        """reads: input of the head, None: no head; n_known: number of gestures that it knows"""
        if (reads, n_known) not in built:
            built[reads, n_known] = _built(spec, reads, n_known, tmp_path_factory.mktemp("mpf"))
        return built[reads, n_known]

    return make


def _built(spec: MpfSpec, reads: str | None, n_known: int, folder: Path) -> Built:
    windows, label = windows_of(list(range(len(GESTURES))), 8)
    windows = windows - np.array(spec.centre, np.float32)[:, None]
    encoder = random_encoder()
    with torch.no_grad():
        embedded = np.concatenate([encoder(torch.from_numpy(window[None])).numpy() for window in windows])
    head, head_spec = None, None
    if reads is not None:
        known = label < n_known
        head_spec = HeadSpec(file="head.npz", reads=reads, gestures=tuple(range(n_known)), min_typicality=0.45)
        given = [head_input(head_spec, *pair) for pair in zip(windows[known], embedded[known], strict=True)]
        head = replace(fit_head(np.stack(given), label[known], n_quadratic=4), temperature=2.5)
    alone = reads == "tokens" and n_known == len(GESTURES)
    integer = None if alone else to_fixed_point(encoder, 1.5 * float(np.abs(windows).max()), windows)
    model = DeviceModel(
        encoder=integer,
        preprocessing=PREPROCESSING,
        uv_per_count=UV_PER_COUNT,
        prototypes=Prototypes(embedded, label),
        gestures=GESTURES,
        n_neighbours=10,
        block_tokens=choose_block_tokens(N_TOKENS + 1),
        n_channels=C,
        n_steps=N_TOKENS,
        front_end=spec,
        head=head,
        head_spec=head_spec,
    )
    (folder / "out").mkdir()
    write_sources(folder / "out", model)
    engine = build_host(folder / "out", model, folder / "objects")
    golden = [to_counts(gesture_uv(gesture, 100 + gesture), UV_PER_COUNT) for gesture in range(2)]
    write_golden(folder / "out", [golden_stretch(engine, model, counts) for counts in golden])
    return Built(folder / "out", folder / "objects", model, engine)


def random_encoder() -> FusedEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(SPEC.n_features, N_TOKENS, 1, width=36, n_layers=2, n_heads=3, mlp_ratio=2)
    return FusedEncoder(Embedder(config, 20).eval()).eval()


def runtime_window(
    spec: MpfSpec, counts: NDArray[np.int32], donning: Donning, n_tokens: int = N_TOKENS
) -> NDArray[np.float32]:
    return InputStream(PREPROCESSING, spec, C, donning).last_window(
        (counts * UV_PER_COUNT).astype(np.float32), n_tokens
    )


def engine_window(engine: HostEngine, counts: NDArray[np.int32], donning: Donning) -> NDArray[np.float32]:
    engine.calibrate(donning)
    engine.reset(-len(counts) % HOP)
    engine.push(counts)
    return engine.window()


@st.composite
def worn(draw: st.DrawFn) -> tuple[NDArray[np.int32], Donning]:
    """Signal of a gesture with flat, duplicated, missing and loud electrodes, and a donning with dead ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    signal = gesture_uv(draw(st.integers(0, 3)), int(rng.integers(1 << 30)), WINDOW + draw(st.integers(0, 200)))
    for electrode in range(C):
        kind = draw(st.sampled_from(["as it is", "as it is", "flat", "doubled", "missing", "loud", "quiet"]))
        change = {"flat": 500.0, "doubled": signal[:, electrode - 1], "missing": 0.0}.get(kind, signal[:, electrode])
        signal[:, electrode] = change * {"loud": 30.0, "quiet": 0.02}.get(kind, 1.0)
    dead = draw(st.lists(st.integers(0, C - 1), unique=True, max_size=C - 2))
    donning = Donning(
        order=draw(st.sampled_from(placements(C, 3, True))),
        level_uv=np.exp(rng.normal(3, 0.5, C)).astype(np.float32) if draw(st.booleans()) else None,
        dead=tuple(dead),
        centre=rng.normal(size=SPEC.n_features).astype(np.float32) if draw(st.booleans()) else None,
    )
    return to_counts(signal, UV_PER_COUNT), donning


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=worn())
def test_tokens_are_the_runtime_s_on_any_arm(build, case):
    counts, donning = case
    built = build("tokens")
    assert built.model.front_end is not None
    expected = runtime_window(built.model.front_end, counts, donning)
    found = engine_window(built.engine, counts, donning)
    live = [electrode for place, electrode in enumerate(donning.order) if place not in donning.dead]
    loudest_uv = counts[:, live].std(axis=0).max() * UV_PER_COUNT
    tolerance = TOLERANCE if loudest_uv > QUIET_UV else QUIET_TOLERANCE
    assert np.abs(found - expected).max() < tolerance
    assert np.abs(built.engine.mean_token() - expected.mean(axis=1)).max() < tolerance


@pytest.mark.parametrize(
    ("reads", "n_known"), [("tokens", 4), ("tokens", 3), ("embedding", 4), ("both", 4), ("both", 3)]
)
def test_answers_are_the_runtime_s(build, reads, n_known):
    built = build(reads, n_known)
    windows, label = windows_of(list(range(4)), 12)
    windows = windows - np.array(built.model.front_end.centre, np.float32)[:, None]
    doubtful = (windows + np.roll(windows, 12, axis=0)) / 2  # halfway to another gesture
    windows, label = np.concatenate([windows, doubtful]), np.concatenate([label, np.full(len(doubtful), -1)])
    rng = np.random.default_rng(0)
    moved = built.model.head.means + rng.normal(0, 0.5, built.model.head.means.shape).astype(np.float32)
    for donning in (Donning(), Donning(head_means=moved)):
        built.engine.calibrate(donning)
        answered = []
        for window in windows:
            runtime = built.expected(window, donning)
            built.engine.load(window)
            vote = built.engine.recognise()
            assert vote.gesture_index == runtime.gesture_index
            assert (vote.share, vote.similarity) == pytest.approx((runtime.share, runtime.similarity), abs=1e-3)
            shares = (*runtime.shares, *[0.0] * len(GESTURES))[: len(GESTURES)]  # trailing shares may be left out
            assert vote.shares == pytest.approx(shares, abs=1e-3)
            answered.append(vote.gesture_index)
        assert set(answered) >= set(range(n_known))
        if n_known < 4 and donning.head_means is None:
            assert np.mean(np.array(answered)[label == 3] == 3) > 0.5  # only the index knows gesture 3
    built.engine.calibrate(Donning())


def test_an_encoder_of_tokens_answers_without_a_head(build):
    built, index = build(None), None
    encoder = random_encoder()
    windows, _ = windows_of(list(range(4)), 6)
    windows = windows - np.array(built.model.front_end.centre, np.float32)[:, None]
    index = build_index(built.model.prototypes.embedding, built.model.prototypes.gesture_index, 0)
    for window in windows:
        embedding = built.engine.embed(window)
        with torch.no_grad():
            assert float(encoder(torch.from_numpy(window[None]))[0].numpy() @ embedding) > 0.995
        built.engine.load(window)
        assert built.engine.recognise().gesture_index == index.vote(embedding, 10).gesture_index


@st.composite
def hands(draw: st.DrawFn) -> list[Vote | None]:
    """Votes for a hand that holds gestures, clear or doubtful, rests and changes quickly; None: quiet muscles."""
    rng, votes = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), []
    few, longest = draw(st.integers(2, len(GESTURES))), draw(st.sampled_from([10, 30, 120]))
    for _ in range(draw(st.integers(1, 30))):
        held, clear = int(rng.integers(few)), rng.uniform(0, 8)
        for _ in range(int(rng.integers(1, longest))):
            logits = rng.normal(0, 1, len(GESTURES)) + clear * (np.arange(len(GESTURES)) == held)
            shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            best = int(shares.argmax())
            vote = Vote(best, float(shares[best]), float(rng.uniform(-0.2, 1)), tuple(shares.tolist()))
            votes.append(None if rng.random() < 0.1 else vote)
    return votes


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    votes=hands(),
    hop_ms=st.sampled_from([25.0, 50.0, 100.0]),
    evidence_ms=st.sampled_from([25.0, 100.0, 250.0]),
    least=st.tuples(st.sampled_from([0.0, 0.4, 0.9]), st.sampled_from([-1.0, 0.3])),
    release_ms=st.sampled_from([0.0, 700.0]),
    named=st.sampled_from([("", ""), ("Fist", ""), ("Fist", "Flat"), ("", "Flat"), ("Fist", "Point")]),
)
def test_decisions_are_the_runtime_s_hop_by_hop(build, votes, hop_ms, evidence_ms, least, release_ms, named):
    spec = DecisionSpec(
        hop_ms=hop_ms,
        evidence_ms=evidence_ms,
        min_vote_share=least[0],
        min_similarity=least[1],
        release_ms=release_ms,
        rest_gesture=named[0],
        wake_gesture=named[1],
    )
    ours, theirs = Decider(spec, GESTURES), build("tokens").engine.decider(spec)
    for vote in votes:
        assert (theirs.update(vote), theirs.gesture) == (ours.update(vote), ours.gesture)


def test_other_movements_that_were_taught_are_unknown_to_the_engine_too(build):
    names = (*GESTURES[:-1], UNKNOWN)
    engine, rng = build("tokens").engine, np.random.default_rng(3)
    spec = DecisionSpec(hop_ms=25, evidence_ms=75, rest_gesture=GESTURES[0])
    ours, theirs = Decider(spec, names), HostDecider(engine._c, engine._vote, spec, names)
    for gesture in np.repeat(rng.integers(0, len(names), 60), rng.integers(1, 20, 60)):
        shares = rng.dirichlet(np.where(np.arange(len(names)) == gesture, 5.0, 0.3))
        best = int(shares.argmax())
        vote = Vote(best, float(shares[best]), 0.9, tuple(shares.tolist()))
        assert (theirs.update(vote), theirs.gesture) == (ours.update(vote), ours.gesture)


def test_nothing_that_a_converter_gives_poisons_the_stream(build):
    engine = build("tokens").engine
    rng = np.random.default_rng(0)
    signal = to_counts(gesture_uv(1, 7, 3000), UV_PER_COUNT)
    clean = engine_window(engine, signal, Donning())
    harm = rng.choice(np.array([-(2**31), 2**31 - 1, 0], np.int32), size=(1000, C))
    engine.reset(-len(signal) % HOP)
    engine.push(harm)
    assert np.isfinite(engine.window()).all()
    engine.push(signal)  # starts a whole number of hops after the harmful signal
    assert np.abs(engine.window() - clean).max() < TOLERANCE


def test_silence_after_signal_is_silence(build):
    engine = build("tokens").engine
    silent = np.full((5000, C), 77, np.int32)
    signal = to_counts(gesture_uv(1, 7, 500), UV_PER_COUNT)
    found = engine_window(engine, np.concatenate([signal, silent]), Donning())
    expected = engine_window(engine, silent, Donning())
    assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.parametrize("donning", [Donning(dead=tuple(range(1, C))), Donning(order=(0,) * C)])
def test_what_cannot_be_worn_is_refused_and_changes_nothing(build, donning):
    engine = build("tokens").engine
    counts = to_counts(gesture_uv(2, 3), UV_PER_COUNT)
    before = engine_window(engine, counts, Donning(dead=(1,)))
    with pytest.raises(ValueError, match="two live electrodes at least"):
        engine.calibrate(donning)
    engine.reset(-len(counts) % HOP)
    engine.push(counts)
    assert np.array_equal(engine.window(), before)


@pytest.mark.parametrize(("reads", "n_known"), [("tokens", 4), ("both", 3), (None, 4)])
def test_sanitized_build_gives_the_golden_bits(build, reads, n_known):
    built = build(reads, n_known)
    assert [golden.difference for golden in check_golden_on(built.folder, "sanitized", built.objects).golden] == [0, 0]


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("processor", ["m55", "m7"])
@pytest.mark.parametrize(("reads", "n_known"), [("tokens", 4), ("both", 3)])
def test_processor_gives_the_bits_of_this_machine(build, reads, n_known, processor):
    built = build(reads, n_known)
    compile_for(built.folder, processor, built.objects)
    run = run_check(built.folder, processor, built.objects)
    assert [golden.difference for golden in run.golden] == [0, 0]
    assert run.n_wrong == 0
    assert run.token_instructions > 0


@needs_qemu
def test_a_processor_without_a_floating_point_unit_is_refused_in_one_sentence(build):
    flags = ("-mcpu=cortex-m0plus", "-mthumb", "-mfloat-abi=soft", "-std=c99", "-Iengine", "-I.")
    done = subprocess.run(
        ["arm-none-eabi-gcc", *flags, "-c", "engine/front_end.c", "-o", "/dev/null"],
        cwd=build("tokens").folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "needs a processor with a floating-point unit" in done.stderr


def test_a_chip_without_a_floating_point_unit_is_refused_before_anything_is_written(build, tmp_path):
    with pytest.raises(ConfigError, match='rp2040 has no floating-point unit, which front_end "mpf" needs'):
        _export(build("tokens"), tmp_path / "out", chip=find_chip("rp2040"))
    assert not (tmp_path / "out").exists()


def test_the_report_says_how_far_golden_tokens_are_from_the_runtime_s(build, tmp_path):
    written = _export(build("tokens"), tmp_path / "out")
    assert 0 < written.report.fidelity.token_error < TOLERANCE
    assert written.report.fidelity.votes_kept == 1
    assert written.embedded.shape[1] == 0
    assert not list((tmp_path / "out").glob("prototypes*"))


def _export(built: Built, out: Path, **options):
    model = built.model
    windows, _ = windows_of(list(range(4)), 4)
    return export_cortex_m(
        random_encoder(),
        PREPROCESSING,
        model.prototypes,
        GESTURES,
        out,
        calibration=windows - np.array(model.front_end.centre, np.float32)[:, None],
        golden_uv=np.stack([gesture_uv(gesture, 55) for gesture in range(2)]),
        behind=DeviceHead(model.front_end, model.head_spec, model.head),
        **options,
    )


def test_channels_that_were_masked_in_training_are_not_read_however_the_band_sits(build, tmp_path):
    model = replace(build("tokens").model, masked=(1, 4))
    write_sources(tmp_path, model)
    engine = build_host(tmp_path, model, tmp_path / "objects")
    assert model.front_end is not None
    counts = to_counts(gesture_uv(2, 3), UV_PER_COUNT)
    for donning in (Donning(), Donning(order=(5, 0, 1, 2, 3, 4)), Donning(dead=(2,))):
        expected = runtime_window(model.front_end, counts, donning.lacking(model.masked))
        assert np.abs(engine_window(engine, counts, donning) - expected).max() < TOLERANCE
    with pytest.raises(ValueError, match="two live electrodes at least"):
        engine.calibrate(Donning(dead=(0, 2, 3)))


def test_heads_survive_their_way_into_c(build):
    """The head is exported correctly, because a window at a gesture's mean has typicality 1."""
    built = build("tokens")
    head = built.model.head
    assert isinstance(head, Head)
    back = np.linalg.pinv(head.projection.astype(np.float64))
    for gesture in range(4):
        mean = head.origin + head.means[gesture] @ back
        built.engine.load(np.repeat(mean[:, None], N_TOKENS, axis=1).astype(np.float32))
        vote = built.engine.recognise()
        assert (vote.gesture_index, vote.similarity) == (gesture, pytest.approx(1, abs=1e-3))

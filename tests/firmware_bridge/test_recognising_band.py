"""A band that recognises gestures itself: the firmware with the engine of an exported bundle, on a pty."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bench import report_text
from cpep_bench.band_figures import ask_band
from cpep_bridge.band import Band
from cpep_bridge.devices import open_source
from cpep_bridge.firmware import FirmwareBand, build_recognising_firmware
from cpep_bridge.frames import Prediction
from cpep_edge.bundle import Bundle
from cpep_edge.chip import cortex_m_spec, unpack_sources
from cpep_edge.donning import Donning
from cpep_edge.errors import ConfigError, LinkError, PowerError
from cpep_edge.on_device import decisions_of, gains_of
from cpep_edge.recogniser import Recogniser
from cpep_edge.session import Session
from tests.firmware_bridge.compiler import needs_compiler
from tests.processes import cpep_edge

pytestmark = [pytest.mark.executorch, needs_compiler]


@pytest.fixture(scope="module")
def program(tiny_bundle) -> Path:
    return build_recognising_firmware(Bundle(tiny_bundle), "cpep-band-sanitized")


@pytest.fixture(scope="module")
def session(tiny_corpus) -> Iterator[Session]:
    with Session(sorted(tiny_corpus.glob("user_c_*.hdf5"))[0]) as opened:
        yield opened


def _band(session: Session, program: Path, bundle: Path) -> FirmwareBand:
    rate_hz = session.meta.sample_rate
    return FirmwareBand([session], rate_hz, once=True, lossless=True, speed=8, program=program, model=Bundle(bundle))


def _heard(source: Band) -> tuple[list[Prediction], NDArray[np.float32]]:
    blocks = [block.samples_uv for block in source]
    return source.take_predictions(), np.concatenate(blocks)


def test_the_bands_predictions_are_those_of_the_engine_on_the_same_samples(tiny_bundle, session, program, tmp_path):
    from cpep_export.arm_toolchain import compile_for
    from cpep_export.host_engine import HostEngine

    bundle = Bundle(tiny_bundle)
    with _band(session, program, tiny_bundle) as band, open_source(band.port) as source:
        assert isinstance(source, Band)
        predictions, signal_uv = _heard(source)
    unpack_sources(bundle, tmp_path / "sources")
    compile_for(tmp_path / "sources", "library", tmp_path / "objects")
    sizes = SimpleNamespace(encoder=bundle.manifest.encoder, front_end=None, gestures=bundle.manifest.gestures)
    engine = HostEngine(tmp_path / "objects" / "host" / "libcpep.so", sizes)
    counts = np.rint(signal_uv / cortex_m_spec(bundle).uv_per_count).astype(np.int32)

    expected, done = [], 0
    for prediction in predictions:
        engine.push(counts[done : prediction.sample_index])
        done = prediction.sample_index
        vote = engine.recognise()
        expected.append((vote.gesture_index, pytest.approx(vote.share)))

    assert [(p.gesture_id, p.confidence) for p in predictions] == expected
    assert len(predictions) > 50
    hop_samples = round(bundle.manifest.decision.hop_ms / 1e3 * session.meta.sample_rate)
    assert {prediction.sample_index % hop_samples for prediction in predictions} == {0}


def test_a_calibrated_band_says_what_the_host_says_with_the_same_profile(tiny_bundle, session, program):
    bundle = Bundle(tiny_bundle)
    manifest, recogniser = bundle.manifest, Recogniser(bundle)
    level_uv = manifest.preprocessing.scale_uv * np.array([0.4, 3.0, 1.0, 0.7], np.float32)
    with _band(session, program, tiny_bundle) as band, open_source(band.port) as source:
        assert isinstance(source, Band)
        source.calibrate(gains_of(manifest, level_uv), turn=-1)
        predictions, signal_uv = _heard(source)
    filtered = recogniser.stream(Donning(order=(3, 0, 1, 2), level_uv=level_uv))(signal_uv)
    said, usual = [], recogniser.stream()(signal_uv)
    for signal in (filtered, usual):
        ends = [prediction.sample_index for prediction in predictions]
        windows = [np.ascontiguousarray(signal[end - manifest.encoder.window_samples : end].T) for end in ends]
        said.append([recogniser.recognise(window).vote.gesture_index for window in windows])
    by_band = [prediction.gesture_id for prediction in predictions]

    agreement, without = (float(np.mean(np.equal(by_band, votes))) for votes in said)
    assert agreement >= 0.95  # integers against float32: 148 of 153 if no hop is skipped
    assert without < 0.9


def test_a_calibration_outlives_a_benchmark_whose_golden_inputs_know_no_wearer(tiny_bundle, session, program):
    manifest = Bundle(tiny_bundle).manifest
    gains, heard = gains_of(manifest, None) * np.float32(0.3), []
    for n_runs in (0, 5):
        with _band(session, program, tiny_bundle) as band, open_source(band.port) as source:
            assert isinstance(source, Band)
            source.calibrate(gains, turn=2)
            if n_runs:
                assert source.bench(n_runs).n_runs == n_runs
            predictions, _ = _heard(source)
            heard.append({p.sample_index: (p.gesture_id, p.confidence) for p in predictions})

    both = heard[0].keys() & heard[1].keys()  # on a busy machine a band may skip a hop
    assert len(both) > len(heard[0]) / 2
    assert {index: heard[0][index] for index in both} == {index: heard[1][index] for index in both}


def test_the_band_times_itself_once_its_golden_inputs_come_out_right(tiny_bundle, session, program):
    with _band(session, program, tiny_bundle) as band, open_source(band.port) as source:
        assert isinstance(source, Band)
        result = source.bench(n_runs=25)
        with pytest.raises(LinkError, match="refused BENCH: at least one run is needed"):
            source.bench(n_runs=0)

    assert result.n_runs == 25
    assert 0 < result.p50_us <= result.p95_us <= result.p99_us <= result.max_us
    assert result.arena_bytes == cortex_m_spec(Bundle(tiny_bundle)).arena_bytes
    assert result.energy_uj == 0  # nothing measures energy here


def test_a_report_says_what_the_band_said_of_itself(tiny_bundle, session, program):
    with _band(session, program, tiny_bundle) as band:
        figures = ask_band(band.port, n_runs=25)
    report = SimpleNamespace(band=figures)
    table = report_text.band_table(report)
    assert (figures.n_runs, figures.energy_uj) == (25, None)
    assert dict(table.rows)["inference p50 / p95"] == f"{figures.p50_us / 1e3:.3f} / {figures.p95_us / 1e3:.3f} ms"
    assert "energy of one, as it says itself" not in dict(table.rows)


def test_an_inference_on_the_band_takes_what_its_work_draws_from_its_battery(tiny_bundle, session):
    program = build_recognising_firmware(Bundle(tiny_bundle))
    fast = 25  # a reading every 40 ms
    options = {"program": program, "model": Bundle(tiny_bundle)}
    with FirmwareBand([session], session.meta.sample_rate, speed=fast, **options) as band:
        figures = ask_band(band.port, n_runs=500, window_s=0.6, rate_hz=fast)

    energy = figures.energy
    idle_w = [window.power_w for window in energy.idle]
    assert idle_w == pytest.approx([3.9 * 21e-3] * 6, rel=0.2)  # 21 mA, plus occasional queries
    work_w = 3.9 * 60e-3  # 60 mA more during an inference, and never more
    most_mj = np.mean([work_w * window.seconds / window.n_inferences * 1e3 for window in energy.active])
    assert work_w * figures.p50_us * 1e-3 / 3 < energy.net_mj < 1.2 * most_mj  # a busy machine prolongs both times
    assert energy.net_uncertainty_mj < energy.net_mj


def test_a_gauge_that_falls_silent_is_told(tiny_bundle, session):
    program = build_recognising_firmware(Bundle(tiny_bundle))
    said = "gave . readings in a window, too few for a mean: make windows longer than"
    with FirmwareBand([session], session.meta.sample_rate, program=program, model=Bundle(tiny_bundle)) as band:
        with pytest.raises(PowerError, match=said):
            ask_band(band.port, n_runs=25, window_s=0.3)


def test_a_band_without_an_engine_says_so_when_asked_for_a_benchmark(session):
    with FirmwareBand([session], session.meta.sample_rate, once=True) as band, open_source(band.port) as source:
        assert isinstance(source, Band)
        with pytest.raises(LinkError, match="refused BENCH: this band has no encoder"):
            source.bench(n_runs=1)


def test_a_signal_of_another_rate_is_refused(tiny_bundle):
    noise_uv = np.zeros((100, 4), np.float32)
    with pytest.raises(ConfigError, match="reads 500 Hz, and the session to be played has 2000"):
        FirmwareBand([noise_uv], 2000.0, model=Bundle(tiny_bundle))


def test_a_profile_that_a_band_cannot_be_told_is_refused(tiny_bundle, session, program, tmp_path):
    from cpep_edge.live_run import _calibrated

    manifest = Bundle(tiny_bundle).manifest.model_copy(update={"front_end": object()})
    with _band(session, program, tiny_bundle) as band, open_source(band.port) as source:
        with pytest.raises(ConfigError, match="holds a centre and means, which cannot be sent to a band"):
            _calibrated(source, manifest, tmp_path / "profile.json")


def test_a_gesture_that_the_bundle_does_not_have_tells_of_another_model(tiny_bundle):
    class OtherModel:
        def take_predictions(self) -> list[Prediction]:
            return [Prediction(0, 1, 2, 99, 1.0, 1, 1)]

        def __iter__(self) -> Iterator[None]:
            yield None

    with pytest.raises(LinkError, match="the band reports gesture 99 and tiny has 6"):
        list(decisions_of(OtherModel(), Bundle(tiny_bundle).manifest))


def test_live_on_device_shows_the_bands_own_decisions_and_hands_them_to_sinks(tiny_bundle, session, program, tmp_path):
    sink = tmp_path / "decisions.jsonl"
    with _band(session, program, tiny_bundle) as band:
        options = ("--port", band.port, "--on-device", "--sink", sink, "--json")
        answer = cpep_edge("live", tiny_bundle, *options, timeout=60)

    assert answer.returncode == 0, answer.stderr
    *decisions, summary = (json.loads(line) for line in answer.stdout.splitlines())
    assert summary["n_decisions"] == len(decisions) > 50
    assert decisions[-1]["gesture"] == session.meta.stage
    assert all(decision["delay_ms"] > 0 for decision in decisions)
    handed_on = [json.loads(line) for line in sink.read_text().splitlines()]
    assert [decision["sample_index"] for decision in handed_on] == [d["sample_index"] for d in decisions]

import pytest

from cpep_bench.modelled_energy import modelled_energy
from cpep_edge.chip import CortexMSpec, ProcessorRun


def _spec(multiply_adds: int, runs: tuple[ProcessorRun, ...] = ()) -> CortexMSpec:
    return CortexMSpec(
        file="cortex-m.zip", uv_per_count=0.1, weight_bytes=1, arena_bytes=1, multiply_adds=multiply_adds, n_windows=1,
        min_cosine=1.0, mean_cosine=1.0, votes_kept=1.0, runs=runs,
    )  # fmt: skip


def test_gap9_takes_what_tinymyo_was_measured_to_take():
    """0.785 s at 57.18 mW are 44.9 mJ. In 0.785 s, 6.3 multiply-adds per cycle make 1.83 G."""
    (gap9,) = modelled_energy(_spec(round(0.785 * 6.3 * 370e6)))

    assert gap9.modelled_uj / 1e3 == pytest.approx(44.91, rel=0.01)


def test_a_million_instructions_take_what_a_million_cycles_were_measured_or_said_to_take():
    run = ProcessorRun(
        processor="cortex-m7", instructions_a_window=1_000_000, instructions_a_sample=1, code_bytes=1,
        constant_bytes=1, ram_bytes=1,
    )  # fmt: skip

    _, apollo3, stm32u575 = modelled_energy(_spec(1, (run,)))

    assert apollo3.modelled_uj == pytest.approx(6e-6 * 3.3 * 1e6)  # 6 uA per MHz, for one second at 1 MHz
    uj_an_inference, inferences_a_second = 121.446, 207.228
    assert stm32u575.modelled_uj == pytest.approx(uj_an_inference * inferences_a_second / 160, rel=1e-3)

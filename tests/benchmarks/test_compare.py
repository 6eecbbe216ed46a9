import json
import os
from dataclasses import replace

import numpy as np
import pytest

from cpep_bench.band_figures import BandFigures
from cpep_bench.compare import Change, caveats, compare_reports, read_budget
from cpep_bench.energy import MeasuredEnergy, ModelledEnergy, Window
from cpep_bench.latency import Latency
from cpep_bench.machine import Machine
from cpep_bench.power import Instrument
from cpep_bench.report import Report, read_report
from cpep_bench.startup import Startup
from cpep_edge.chip import CortexMSpec, EthosUSpec, ProcessorRun, VelaEstimate
from cpep_edge.errors import ConfigError, DataError
from tests.processes import cpep_edge

MACHINE = Machine("toy", "toy", 2, None, 0.0, "toy")


def times(median_ms: float, seed: int) -> Latency:
    return Latency(tuple(median_ms * np.exp(np.random.default_rng(seed).normal(0, 0.05, 200))))


def made(*, encoder_ms: float = 3.0, slower: float = 1.0, encoder_bytes: int = 1_000, seed: int = 0) -> Report:
    """A report from a machine that is `slower` times slower."""
    start = Startup(10, 100, 50, 5, 10, 30, 40, 50)
    return Report(
        schema_version=2, bundle="toy", manifest_sha256="0" * 64, target="linux", recipe="toy", data="toy",
        quantisation="int8", n_parameters=10, n_delegates=1, n_operators_outside=0, n_prototypes=5,
        window_ms=500, hop_ms=100, smallest_golden_cosine=1.0, runtime="a toy", n_threads=1,
        latency={"encoder": times(encoder_ms * slower, seed), "end to end": times(4.0 * slower, seed + 1)},
        arithmetic=times(1.0 * slower, seed + 2), threads=(), starts=(start,) * 3, profile=None, chip=None, energy=None,
        modelled=(), peers=(), ladder=(), files={"encoder.pte": encoder_bytes, "index.bin": 500},
        encoder_file="encoder.pte", index_file="index.bin", machine=MACHINE, versions={}, git_commit="",
        created_utc="",
    )  # fmt: skip


def by_name(changes: list[Change]) -> dict[str, Change]:
    return {change.figure: change for change in changes}


def test_the_same_again_is_no_change():
    changes = compare_reports(made(), made(seed=10))

    assert [change.figure for change in changes if change.beyond_noise] == []


def test_a_slower_encoder_is_seen_and_nothing_else():
    changes = compare_reports(made(), made(encoder_ms=3.6, seed=10))

    assert [change.figure for change in changes if change.beyond_noise] == ["latency.encoder", "relative.encoder"]


def test_a_slower_machine_changes_times_and_not_what_is_relative_to_its_arithmetic():
    changes = by_name(compare_reports(made(), made(slower=2.0, seed=10)))

    assert changes["latency.encoder"].ratio == pytest.approx(2.0, rel=0.05)
    assert not changes["relative.encoder"].beyond_noise


def test_a_byte_more_is_a_change_because_bytes_have_no_noise():
    changes = by_name(compare_reports(made(), made(encoder_bytes=1_001, seed=10)))

    assert changes["bytes.encoder"].beyond_noise
    assert not changes["bytes.index"].beyond_noise


def test_a_budget_is_passed_only_beyond_noise():
    budget = {"relative.encoder": 1.2}

    within = by_name(compare_reports(made(), made(encoder_ms=3.6, seed=10), budget))
    beyond = by_name(compare_reports(made(), made(encoder_ms=4.5, seed=10), budget))

    assert not within["relative.encoder"].over_budget  # about 1.2
    assert beyond["relative.encoder"].over_budget
    assert not beyond["latency.encoder"].over_budget


def test_what_makes_two_reports_hard_to_compare_is_said():
    other = replace(made(), machine=replace(MACHINE, cpu="another"), n_threads=2, quantisation="fp32")
    uneven = replace(made(), arithmetic=Latency((1.0,) * 180 + (2.0,) * 20))

    assert caveats(made(), made(seed=10)) == []
    assert [caveat.split(":")[0] for caveat in caveats(made(), other)] == [
        "Two machines",
        "The encoder had 1 threads, then 2.",
        "The encoder was int8, then fp32.",
    ]
    assert caveats(uneven, made()) == ["The machine was noisy in the earlier run (2.00): intervals are too narrow."]


def energetic(net_w: float) -> MeasuredEnergy:
    windows = tuple(Window(2.0 + (net_w + 0.01 * n if n % 2 else 0), 10.0, 100 * (n % 2), 9) for n in range(11))
    return MeasuredEnergy(Instrument("toy", "a toy", 20.0), windows)


def test_only_measured_energy_is_compared():
    modelled = replace(made(), modelled=(ModelledEnergy("chip", 1.0, "constants"),))
    measured = replace(made(), energy=energetic(3.0))

    assert "energy.net" not in by_name(compare_reports(modelled, modelled))
    assert "energy.net" not in by_name(compare_reports(measured, modelled))
    change = by_name(compare_reports(measured, replace(made(), energy=energetic(4.0))))["energy.net"]
    assert change.ratio == pytest.approx(1.33, abs=0.01)
    assert change.beyond_noise


def on_cortex_m(instructions: int) -> CortexMSpec:
    run = ProcessorRun(
        processor="cortex-m55", instructions_a_window=instructions, instructions_a_sample=10, code_bytes=10,
        constant_bytes=10, ram_bytes=1_000,
    )  # fmt: skip
    other = run.model_copy(update={"processor": "cortex-m7", "instructions_a_window": 5 * instructions})
    return CortexMSpec(
        file="mcu.zip", uv_per_count=0.25, weight_bytes=10, arena_bytes=10, multiply_adds=10, n_windows=10,
        min_cosine=1.0, mean_cosine=1.0, votes_kept=1.0, runs=(run, other),
    )  # fmt: skip


def on_ethos_u(cycles: int, accelerator: str = "ethos-u55-128") -> EthosUSpec:
    vela = VelaEstimate(
        accelerator=accelerator, clock_mhz=500.0, cycles=cycles, inference_ms=1.0, sram_bytes=0, flash_bytes=0,
        multiply_adds=10,
    )  # fmt: skip
    return EthosUSpec(
        file="ethos.pte", tosa_file="ethos.tosa", vela=vela, n_windows=10, min_cosine=1.0, mean_cosine=1.0,
        votes_kept=1.0,
    )  # fmt: skip


def test_counted_instructions_have_no_noise_and_are_compared_by_processor():
    before, after = (replace(made(), chip=on_cortex_m(count)) for count in (1_000, 1_001))
    changes = by_name(compare_reports(before, after, {"instructions.cortex-m55": 1.0005}))

    assert changes["instructions.cortex-m55"].over_budget
    assert changes["instructions.cortex-m7"].ratio == pytest.approx(1.001)
    assert not changes["bytes.cortex-m55 RAM"].beyond_noise


def test_cycles_are_compared_on_one_accelerator_only():
    before, after = (replace(made(), chip=chip) for chip in (on_ethos_u(1_000), on_ethos_u(900)))
    elsewhere = replace(made(), chip=on_ethos_u(900, "ethos-u85-256"))

    assert by_name(compare_reports(before, after))["modelled.ethos-u55-128 cycles"].ratio == pytest.approx(0.9)
    for other in (elsewhere, replace(made(), chip=on_cortex_m(1))):
        assert not [name for name in by_name(compare_reports(before, other)) if name.startswith("modelled")]


def banded(p50_us: int, net_w: float | None = None) -> Report:
    energy = None if net_w is None else energetic(net_w)
    return replace(made(), band=BandFigures("toy", 100, p50_us, p50_us + 50, 0, 0, 1_000, None, energy))


def test_a_band_is_slower_where_its_median_left_the_spread_of_the_other():
    within, beyond = (by_name(compare_reports(banded(1_000), banded(p50_us))) for p50_us in (1_040, 1_060))

    assert not within["band.inference"].beyond_noise
    assert beyond["band.inference"].beyond_noise
    assert "band.inference" not in by_name(compare_reports(banded(0), banded(0)))  # less than a microsecond
    assert by_name(compare_reports(made(), banded(1_000))).keys().isdisjoint(("band.inference", "bytes.band arena"))


def test_a_bands_energy_is_compared_where_both_measured_it():
    change = by_name(compare_reports(banded(1_000, 3.0), banded(1_000, 4.0)))["energy.band net"]

    assert change.ratio == pytest.approx(1.33, abs=0.01)
    assert change.beyond_noise
    assert "energy.band net" not in by_name(compare_reports(banded(1_000), banded(1_000, 3.0)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("at_most = 3", "a budget is one table"),
        ("[at_most]\n'relative.encoder' = -1", "at_most.relative.encoder must be a ratio above 0, not -1"),
        ("[at_most]\n'relative.encoder' = true", "must be a ratio above 0, not True"),
        ("[at_most", "cannot be read as a budget"),
    ],
)
def test_a_budget_that_is_none_is_told_by_its_line(text, words, tmp_path):
    (tmp_path / "budget.toml").write_text(text)

    with pytest.raises(ConfigError, match=words):
        read_budget(tmp_path / "budget.toml")


def test_a_file_that_is_no_report_is_told_so(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    os.mkfifo(tmp_path / "pipe")

    for name in ("a.json", "deep.json", "pipe", "/dev/zero", "gone.json"):
        with pytest.raises(DataError, match="is not a report of cpep-edge bench"):
            read_report(tmp_path / name)


def test_a_budget_for_what_nobody_measured_is_refused():
    with pytest.raises(ConfigError, match="the budget names latency.coffee, which the reports do not share"):
        compare_reports(made(), made(), {"latency.coffee": 1.0})


def test_the_command_fails_past_the_budget_and_says_by_what(tmp_path):
    for name, report in (("a", made()), ("b", made(encoder_ms=6.0))):
        (tmp_path / f"{name}.json").write_text(report.json())
    (tmp_path / "budget.toml").write_text('[at_most]\n"relative.encoder" = 1.2\n')

    free = cpep_edge("compare", "--json", "a.json", "b.json", cwd=tmp_path)
    held = cpep_edge("compare", "--json", "a.json", "b.json", "--budget", "budget.toml", cwd=tmp_path)

    assert (free.returncode, held.returncode) == (0, 1)
    assert json.loads(held.stdout)["over_budget"] == ["relative.encoder"]
    assert read_report(tmp_path / "a.json") == made()

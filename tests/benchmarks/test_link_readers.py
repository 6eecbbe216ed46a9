from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from cpep_bench import link_readers
from cpep_bench.link_readers import BAND, LINK_PEERS, Arrivals, LinkFigure, cost_of, measure_readers
from cpep_bench.report_text import links_tables
from cpep_edge.errors import CpepError


def test_delays_are_told_beyond_the_least_and_without_the_drift_of_the_device():
    n = 4_000
    sample_s = 0.01 * np.arange(1, n + 1)
    late_s = np.where(np.arange(n) % 10 == 9, 0.005, 0.001)  # one read in ten is 4 ms later
    arrived_s = 1_000 + sample_s * (1 + 50e-6) + late_s  # a slow clock that started long ago

    cost = cost_of(lambda port, seconds: list(zip(sample_s, arrived_s, strict=True)), "no port", 1.0)

    assert cost["delay_p50_ms"] == pytest.approx(0, abs=0.01)
    assert cost["delay_p99_ms"] == pytest.approx(4, abs=0.01)
    assert cost["read_every_ms"] == pytest.approx(10, abs=0.01)


def test_a_reader_that_computes_costs_more_than_one_that_waits():
    def busy(port: str, seconds: float) -> Arrivals:
        return [(float(n), float(n) + sum(range(2_000)) * 0) for n in range(1_000)]

    assert cost_of(busy, "no port", 1.0)["cpu_percent"] > 10


def test_bare_pyserial_is_measured_beside_our_driver_on_a_simulated_band():
    figures = {figure.reader: figure for figure in measure_readers(LINK_PEERS["pyserial"], seconds=1.0, rounds=1)}

    assert list(figures) == ["cpep-edge", "pyserial", "pyserial's port, select"]
    assert {figure.device for figure in figures.values()} == {BAND}
    assert all(0 < figure.cpu_percent < 100 for figure in figures.values())
    assert figures["cpep-edge"].delay_p99_ms is None  # with fifty reads per second there are too few
    (table,) = links_tables(tuple(figures.values())).values()
    assert (table.head[0], table.rows[0][0], table.rows[0][3]) == (BAND, "cpep-edge", "too few reads")


@contextmanager
def gone(device: str) -> Iterator[str]:
    yield "/no/such/port"


def test_a_reader_that_fails_is_told_in_its_own_last_words(monkeypatch):
    monkeypatch.setattr(link_readers, "_running", gone)

    with pytest.raises(CpepError, match="the reader band-ours failed: .*/no/such/port"):
        measure_readers(["band-ours"], seconds=1.0, rounds=1)


def test_figures_are_the_medians_of_the_rounds(monkeypatch):
    cpu = iter([9.0, 1.0, 2.0])
    monkeypatch.setattr(link_readers, "_running", gone)
    monkeypatch.setattr(link_readers, "_in_a_process", lambda name, port, seconds: {
        "cpu_percent": next(cpu), "delay_p50_ms": 1.0, "delay_p99_ms": 2.0, "read_every_ms": 5.0, "n_reads": 200.0,
    })  # fmt: skip

    (figure,) = measure_readers(["cyton-ours"], rounds=3)

    assert isinstance(figure, LinkFigure)
    assert (figure.cpu_percent, figure.delay_p99_ms) == (2.0, 2.0)

import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cpep_bench.band_figures import BandFigures
from cpep_bench.encoder_race import race_threads
from cpep_bench.energy import MeasuredEnergy, ModelledEnergy, Window
from cpep_bench.latency import Latency
from cpep_bench.markdown import markdown
from cpep_bench.pipeline import ENCODER, END_TO_END
from cpep_bench.power import Instrument
from cpep_bench.report import PeerFigure, Report, Threads, read_report
from cpep_bench.report_html import html_report
from cpep_bench.report_text import peers_tables
from cpep_bench.run import HTML_FILE, JSON_FILE, MARKDOWN_FILE, Options, run_bench
from cpep_bench.startup import run_fresh
from cpep_edge.bundle import Bundle
from cpep_edge.chip import EthosUSpec, VelaEstimate
from cpep_edge.errors import ArtifactError, ConfigError, CpepError, DataError, PowerError
from cpep_edge.manifest import MANIFEST_FILE
from tests.cpep_edge.sealing import reseal

pytestmark = pytest.mark.executorch


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bench") / "report"


@pytest.fixture(scope="module")
def report(tiny_bundle, out) -> Report:
    return run_bench(tiny_bundle, out, Options(power="none", peers=("numpy",), n_starts=1))


WINDOWS = tuple(Window(2.0 + number % 2, 10.0, 1_000 * (number % 2), 200) for number in range(11))
MEASURED = MeasuredEnergy(Instrument("INA219", "the rail VDD", 20.0), WINDOWS)
MODELLED = ModelledEnergy("GAP9", 44.9, "published constants")


def test_the_json_holds_all_that_is_needed_to_judge_a_figure(report, out, tiny_bundle):
    written = json.loads((out / JSON_FILE).read_text())

    assert written["schema_version"] == 2
    assert written["manifest_sha256"] == hashlib.sha256((tiny_bundle / MANIFEST_FILE).read_bytes()).hexdigest()
    assert written["n_threads"] == 1
    assert set(written["machine"]) >= {"cpu", "architecture", "n_cpus", "clock_mhz", "load_1min"}
    assert written["versions"]["executorch"]
    assert all(part["n"] >= 200 for part in written["summary"].values())
    assert all(p["p50_ms"] <= p["p95_ms"] <= p["p99_ms"] <= p["max_ms"] for p in written["summary"].values())


def test_a_report_that_is_read_back_is_the_same_report(report, out, tmp_path):
    full = replace(report, energy=MEASURED, modelled=(MODELLED,))
    (tmp_path / JSON_FILE).write_text(full.json())

    assert read_report(tmp_path / JSON_FILE) == full
    assert read_report(out / JSON_FILE) == report


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 1}, "has schema 1, this cpep-edge reads 2: run the benchmark again"),
        ({"n_threads": "many"}, "n_threads: Input should be a valid integer"),
        ({"energy": {"instrument": {"name": "x", "covers": "y", "rate_hz": 1}, "windows": []}}, "between idle windows"),
    ],
)
def test_a_report_that_is_none_is_told_by_its_field(change, words, report, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**json.loads(report.json()), **change}))

    with pytest.raises(DataError, match=words):
        read_report(tmp_path / "a.json")


def test_the_whole_takes_longer_than_its_encoder(report):
    assert report.latency[END_TO_END].p50_ms > report.latency[ENCODER].p50_ms


def test_the_markdown_shows_every_part_and_the_start(report, out):
    text = (out / MARKDOWN_FILE).read_text()

    assert text == markdown(report)
    assert all(name in text for name in (*report.latency, *report.files, "first inference", "votes kept"))
    assert "Energy was not measured" in text


class Elements(HTMLParser):
    """The elements of a page, and the URLs that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        asked = [value or "" for name, value in attrs if name in ("src", "href")]
        self.fetched += [value for value in asked if not value.startswith("#")]  # except links within the page
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_whole_and_needs_no_other_file(report, out):
    text = (out / HTML_FILE).read_text()
    elements = Elements(text)

    assert elements.open == []
    assert elements.fetched == []
    assert "script" not in text
    assert "url(" not in text
    assert {"Latency", "Where the time goes", "Inside the encoder", "Threads", "Energy"} <= set(elements.words)


def test_names_from_a_bundle_cannot_write_html(report):
    assert "<img" not in html_report(replace(report, bundle="<img src=x>", data="<img>"))


def test_a_modelled_figure_never_stands_in_a_table_of_measured_ones(report):
    text = markdown(replace(report, energy=MEASURED, modelled=(MODELLED,)))
    tables = [block for block in text.split("\n\n") if block.startswith("|")]

    (measured,) = [table for table in tables if "energy, measured" in table]
    (modelled,) = [table for table in tables if "44.9" in table]
    assert "modelled" not in measured
    assert modelled.startswith("| chip | a window, modelled | from |")
    assert "Energy was not measured" in markdown(replace(report, modelled=(MODELLED,)))


def test_figures_of_a_chip_say_that_they_were_modelled_or_counted(report):
    vela = VelaEstimate(
        accelerator="ethos-u55-128", clock_mhz=500, cycles=22_100_000, inference_ms=44.2, sram_bytes=1, flash_bytes=1,
        multiply_adds=1,
    )  # fmt: skip
    chip = EthosUSpec(
        file="a.pte", tosa_file="a.tosa", vela=vela, n_windows=6, min_cosine=0.99, mean_cosine=1.0, votes_kept=1.0
    )
    full = replace(report, chip=chip, target="ethos-u55")

    assert "| ethos-u55-128 at 500 MHz: cycles | 22,100,000 | modelled (Vela) |" in markdown(full)
    assert "This bundle is for ethos-u55; what was timed here is its program for Linux, on" in markdown(full)


def test_net_energy_below_its_uncertainty_is_called_indistinguishable(report):
    scattered = (2.0, 2.3, 2.0, 1.8, 2.0, 2.1, 2.0)
    windows = tuple(Window(power, 10.0, 100 * (number % 2), 9) for number, power in enumerate(scattered))

    assert "not distinguishable from idling" in markdown(replace(report, energy=replace(MEASURED, windows=windows)))


def test_a_noisy_machine_is_warned_of(report):
    even = replace(report, target="linux", arithmetic=Latency((1.0,) * 200))
    uneven = replace(report, arithmetic=Latency((1.0,) * 180 + (2.0,) * 20))

    assert even.warnings == ()
    assert "The machine was noisy: the same arithmetic took 2.0 times its median" in html_report(uneven)


def test_threads_without_a_processor_each_are_said_to_tell_little(report):
    two = tuple(Threads(n, report.latency[ENCODER]) for n in (1, 2))
    idle, busy = (replace(report.machine, n_cpus=2, load_1min=load) for load in (0.2, 1.1))

    assert "say little" not in markdown(replace(report, threads=two, machine=idle))
    assert "on 2 CPUs: rows from 2 on shared processors" in markdown(replace(report, threads=two, machine=busy))


def test_accuracy_stands_beside_time_where_peers_were_judged(report):
    latency = report.latency[ENCODER]
    judged = [PeerFigure("window to class", name, "", latency, None, "9 windows", 0.5) for name in ("ours", "theirs")]
    tables = peers_tables(replace(report, peers=(*report.peers, *judged)))

    assert tables["index"].head == ("index", "p50 ms", "of ours", "bytes", "agreement")
    assert tables["window to class"].head == ("window to class", "p50 ms", "of ours", "balanced accuracy")
    assert tables["window to class"].rows[1][3] == "0.500"
    assert tables["window to class"].note.startswith("Both answer for 9 windows.")


def test_the_page_shows_the_power_of_every_window_here_and_on_the_band(report):
    powers_w = [0.021 + 0.11 * (number % 2) + 0.001 * number for number in range(11)]
    small = replace(MEASURED, windows=tuple(replace(w, power_w=p) for w, p in zip(WINDOWS, powers_w, strict=True)))
    band = BandFigures("a band", 200, 1, 2, 3, 4, 5, None, small)

    shown = " ".join(Elements(html_report(replace(report, energy=MEASURED, band=band))).words)

    assert "21 132 23 134 25 136 27 138 29 140 31 idle inferences mean power of each window, mW" in shown
    assert "2 3 2 3 2 3 2 3 2 3 2 idle inferences mean power of each window, W" in shown


def test_a_start_is_split_and_adds_up(report):
    start = report.typical_start

    assert start.total_ms == pytest.approx(
        start.process_ms + start.import_ms + start.load_ms + start.first_inference_ms
    )
    assert min(start.process_ms, start.import_ms, start.load_ms, start.first_inference_ms) > 0
    assert 5 < start.process_rss_mb <= start.import_rss_mb <= start.load_rss_mb <= start.peak_rss_mb < 2_000


def test_the_profile_names_operators_inside_the_delegate_and_their_time_adds_up(report):
    profile = report.profile

    assert any(re.match("Fully Connected .*QS8", operator.kind) for operator in profile.operators)
    assert sum(operator.mean_us for operator in profile.operators) <= profile.total_us
    assert profile.arena_bytes > 0


def test_peers_are_timed_beside_ours_on_the_same_queries(report):
    ours, exact = report.peers

    assert (ours.name, exact.name) == ("cpep-edge", "numpy, float32, exact")
    assert exact.agreement == "100% of exact votes"
    assert ours.latency.n == exact.latency.n == 200


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (Options(n_runs=100), ConfigError, "--runs 100 is too few for a 99th percentile"),
        (Options(n_threads=0), ConfigError, "--threads 0"),
        (Options(power="none", peers=("tensorflow",)), ConfigError, "--vs tensorflow is not a peer: choose from"),
        (Options(power="band"), ConfigError, "--power band is the gauge of a wristband: say which with --band PORT"),
        (Options(power="hwmon:/nowhere"), PowerError, "/nowhere holds no power sensor"),
    ],
)
def test_what_cannot_be_measured_is_told_at_once_and_leaves_no_report(options, error, words, tiny_bundle, tmp_path):
    with pytest.raises(error, match=words):
        run_bench(tiny_bundle, tmp_path / "report", options)

    assert not (tmp_path / "report").exists()


def test_a_wrong_golden_answer_leaves_no_report(tiny_bundle, tmp_path):
    spoilt, out = tmp_path / "spoilt.cpep", tmp_path / "report"
    shutil.copytree(tiny_bundle, spoilt)
    manifest = json.loads((spoilt / MANIFEST_FILE).read_text())
    manifest["preprocessing"]["scale_uv"] *= 5
    reseal(spoilt, manifest)

    with pytest.raises(ArtifactError, match="golden input"):
        run_bench(spoilt, out, trust=True)

    assert not out.exists()


def test_a_process_that_fails_is_told_in_its_own_last_words(tmp_path):
    with pytest.raises(CpepError, match="no such bundle"):
        run_fresh(tmp_path / "nothing.cpep", "0" * 64)


def test_a_process_of_the_benchmark_runs_no_bundle_but_the_one_that_was_opened(tiny_bundle, tmp_path):
    """A bundle that replaces it after the signature check would run without a check."""
    path = tmp_path / "swapped.cpep"
    shutil.copytree(tiny_bundle, path)
    opened = Bundle(path)
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    reseal(path, {**manifest, "version": 77})
    window = np.zeros((opened.manifest.encoder.n_channels, opened.manifest.encoder.window_samples), np.float32)

    with pytest.raises(CpepError, match="was replaced by another bundle while it was in use"):
        run_fresh(path, opened.manifest_sha256)
    with pytest.raises(CpepError, match="was replaced by another bundle while it was in use"):
        race_threads(opened, window, (1,), 200)

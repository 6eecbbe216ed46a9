import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cpep_bench.machine import this_machine
from cpep_bench.report import JSON_FILE, MARKDOWN_FILE, Report, run_bench
from cpep_bench.startup import measure_startup
from cpep_edge.bundle import DIGEST_FILE, MANIFEST_FILE
from cpep_edge.errors import ArtifactError, CpepError


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "report"


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, out: Path) -> Report:
    return run_bench(tiny_bundle, out)


@pytest.mark.executorch
def test_the_json_holds_all_that_is_needed_to_judge_a_figure(report: Report, out: Path, tiny_bundle: Path) -> None:
    written = json.loads((out / JSON_FILE).read_text())

    assert written["schema_version"] == 1
    assert written["manifest_sha256"] == hashlib.sha256((tiny_bundle / MANIFEST_FILE).read_bytes()).hexdigest()
    assert written["n_threads"] == 1
    assert set(written["machine"]) >= {"cpu", "architecture", "n_cpus", "clock_mhz", "load_1min"}
    assert written["versions"]["executorch"]
    assert all(part["n"] >= 200 for part in written["latency"].values())
    assert all(p["p50_ms"] <= p["p95_ms"] <= p["p99_ms"] <= p["max_ms"] for p in written["latency"].values())


@pytest.mark.executorch
def test_the_whole_takes_longer_than_its_encoder(report: Report) -> None:
    assert report.latency["end to end, last byte to decision"].p50_ms > report.latency["encoder, one window"].p50_ms


@pytest.mark.executorch
def test_the_markdown_shows_every_part_and_the_start(report: Report, out: Path) -> None:
    text = (out / MARKDOWN_FILE).read_text()

    assert text == report.markdown()
    assert all(name in text for name in (*report.latency, *report.size_bytes, "first inference", "peak memory"))


@pytest.mark.executorch
def test_a_start_is_split_and_adds_up(report: Report) -> None:
    start = report.startup

    assert start.total_ms == pytest.approx(
        start.process_ms + start.import_ms + start.load_ms + start.first_inference_ms
    )
    assert min(start.process_ms, start.import_ms, start.load_ms, start.first_inference_ms) > 0
    assert 20 < start.peak_rss_mb < 2_000


@pytest.mark.executorch
def test_a_wrong_golden_answer_leaves_no_report(tiny_bundle: Path, tmp_path: Path) -> None:
    spoilt, out = tmp_path / "spoilt.cpep", tmp_path / "report"
    shutil.copytree(tiny_bundle, spoilt)
    manifest = json.loads((spoilt / MANIFEST_FILE).read_text())
    manifest["preprocessing"]["scale_uv"] *= 5
    (spoilt / MANIFEST_FILE).write_text(json.dumps(manifest))
    digest = hashlib.sha256((spoilt / MANIFEST_FILE).read_bytes()).hexdigest()
    (spoilt / DIGEST_FILE).write_text(f"{digest}  {MANIFEST_FILE}\n")

    with pytest.raises(ArtifactError, match="golden input"):
        run_bench(spoilt, out)

    assert not out.exists()


@pytest.mark.executorch
def test_a_process_that_fails_is_told_in_its_own_last_words(tmp_path: Path) -> None:
    with pytest.raises(CpepError, match="no such bundle"):
        measure_startup(tmp_path / "nothing.cpep")


def test_a_machine_without_a_table_of_processors_has_no_clock(tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "cpuinfo")

    assert machine.clock_mhz is None
    assert machine.cpu


def test_the_clock_is_read_from_the_table_of_processors(tmp_path: Path) -> None:
    table = tmp_path / "cpuinfo"
    table.write_text("processor\t: 0\nmodel name\t: Toy\ncpu MHz\t\t: 1234.5\n\nprocessor\t: 1\n")

    machine = this_machine(table)

    assert (machine.cpu, machine.clock_mhz) == ("Toy", 1234.5)
    assert np.isfinite(machine.load_1min)

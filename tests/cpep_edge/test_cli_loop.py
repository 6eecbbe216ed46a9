"""The command line with a simulated wristband: two processes and a pty, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cpep_bridge.simulator import SimulatedBand
from cpep_edge.errors import LinkError
from cpep_edge.session import Session
from tests.conftest import TOY_RATE_HZ
from tests.firmware_bridge.scripted import scripted
from tests.processes import cpep_edge, invoke, simulated, start

pytestmark = pytest.mark.executorch


@pytest.fixture
def session(tiny_corpus) -> Path:
    return sorted(tiny_corpus.glob("user_c_*.hdf5"))[0]


def lines_of(answer: subprocess.CompletedProcess[str]) -> tuple[list[dict], dict]:
    *decisions, summary = (json.loads(line) for line in answer.stdout.splitlines())
    return decisions, summary


def test_live_says_every_hop_of_a_recording_and_then_a_summary(tiny_bundle, session):
    with simulated(str(session), "--speed", "1", "--once") as (port, _):
        answer = cpep_edge("live", str(tiny_bundle), "--port", port, "--hop-ms", "100", "--json")
    assert answer.returncode == 0, answer.stderr
    decisions, summary = lines_of(answer)
    assert [d["type"] for d in decisions] == ["decision"] * len(decisions)
    hops = range(200, 4001, 50)
    decided = [d["sample_index"] for d in decisions]
    assert decided == sorted(set(decided) & set(hops))
    assert len(decided) + summary["skipped_hops"] == len(hops)  # a busy machine skips some and counts them
    assert summary["type"] == "summary"
    assert summary["n_decisions"] == len(decisions)
    assert summary["link"]["lost_frames"] == 0
    assert summary["link"]["frames"] == 400


def test_lost_and_damaged_frames_are_counted_and_the_rest_is_used(tiny_bundle, session):
    arguments = ("--speed", "4", "--once", "--loss", "0.05", "--corrupt", "0.05", "--seed", "3")
    with simulated(str(session), *arguments) as (port, _):
        _, summary = lines_of(cpep_edge("live", str(tiny_bundle), "--port", port, "--hop-ms", "100", "--json"))
    link = summary["link"]
    assert link["corrupt_frames"] > 0
    assert link["lost_frames"] > link["corrupt_frames"]
    assert link["frames"] + link["lost_frames"] == 400
    assert summary["suppressed_hops"] + summary["n_decisions"] + summary["skipped_hops"] == 77


def test_a_band_of_other_channels_is_refused_in_one_sentence(tiny_bundle):
    with SimulatedBand([np.zeros((500, 3), np.float32)], 500.0) as band:
        said = str(invoke("live", tiny_bundle, "--port", band.port).exception)
    assert "has 3 channels, but tiny was trained on 4" in said
    assert said.splitlines()[1].startswith("channels = [0, 1, 2, -1]")  # a device config that fits


def test_a_port_that_does_not_exist_is_said(tiny_bundle):
    answer = invoke("live", tiny_bundle, "--port", "/dev/ttyNOWHERE")
    assert isinstance(answer.exception, LinkError)
    assert "/dev/ttyNOWHERE" in str(answer.exception)


def test_a_busy_port_is_said(tiny_bundle, session):
    with Session(session) as played, SimulatedBand([played], TOY_RATE_HZ) as band:
        with start("-m", "cpep_edge", "live", tiny_bundle, "--port", band.port, "--json") as first:
            first.stdout.readline()
            answer = invoke("live", tiny_bundle, "--port", band.port)
            first.send_signal(signal.SIGINT)
            rest = first.stdout.read().splitlines()
    assert isinstance(answer.exception, LinkError)
    assert "busy" in str(answer.exception) or "in use" in str(answer.exception)
    assert first.returncode == 0  # Ctrl-C is a normal end
    assert json.loads(rest[-1])["type"] == "summary"


def test_a_device_that_speaks_garbage_is_said(tiny_bundle):
    with scripted(lambda heard, now_s: os.urandom(64)) as port:
        answer = cpep_edge("live", str(tiny_bundle), "--port", port.path, "--timeout-s", "1")
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1


def test_inspect_and_verify_answer_people_and_machines(tiny_bundle):
    manifest = json.loads(invoke("inspect", tiny_bundle, "--json").stdout)
    assert manifest["encoder"]["n_delegates"] == 1
    assert manifest["encoder"]["n_operators_outside"] == 0
    assert "accuracy ladder" in invoke("inspect", tiny_bundle, env={"COLUMNS": "200"}).stdout
    report = json.loads(invoke("verify", tiny_bundle, "--json").stdout)
    assert report["n_golden"] == 6
    assert "is complete" in cpep_edge("verify", str(tiny_bundle)).stdout


@pytest.mark.parametrize("option", ["--max-risk 0", "--hop-ms 50", "--seconds 1", "--record folder", "--web"])
def test_what_a_band_that_decides_itself_cannot_take_is_refused(option, tiny_bundle):
    answer = invoke("live", tiny_bundle, "--port", "/nowhere", "--on-device", *option.split())

    assert answer.exit_code == 2
    assert "the band decides by itself" in answer.stderr


def test_the_replay_of_the_demo_may_be_run_again(tiny_bundle, tiny_corpus, tmp_path, monkeypatch):
    from cpep_edge.cli.replay import calibrate_and_replay
    from cpep_train.corpus import Corpus

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    corpus = Corpus.open(tiny_corpus)
    rows = [row for row in corpus.rows if row.held_out_user][:1]
    for _ in range(2):
        replayed = calibrate_and_replay(corpus, rows, rows, tiny_bundle, speed=8.0)
        assert replayed.summary.link.lost_frames == 0
        assert len(replayed.recordings) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_profile_is_not_replaced_and_that_is_said_before_the_wearer_moves(tiny_bundle, tmp_path):
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    answer = invoke("calibrate", tiny_bundle, "--port", "gone", "--out", tmp_path / "notes.json", "--force")
    said = str(answer.exception)
    assert "notes.json" in said
    assert "gone" not in said.replace("notes.json", "")
    assert (tmp_path / "notes.json").read_text() == '{"mine": 1}'

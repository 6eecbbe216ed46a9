"""Ctrl-C, SIGTERM and SIGHUP end a command within a second or so, whatever it waits for, and finish its files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bridge.recording import journal_of
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.session import Session
from tests.firmware_bridge.scripted import scripted

RATE_HZ = 2_000.0
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def run(*arguments: str) -> "subprocess.Popen[str]":
    # A shell that starts it in the background would let it ignore Ctrl-C.
    return subprocess.Popen(
        [sys.executable, "-m", "cpep_edge", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("when", ["streaming", "unplugged"])
def test_a_recording_that_is_stopped_is_whole_and_the_band_is_told(
    tmp_path: Path, emg_uv: NDArray[np.float32], number: signal.Signals, when: str
) -> None:
    link, out = tmp_path / "band", tmp_path / "one.hdf5"
    with SimulatedBand([emg_uv], RATE_HZ, link=link) as band:
        with run("record", "--port", str(link), "--out", str(out), "--json") as process:
            wait_for(journal_of(out))
            time.sleep(0.8)
            if when == "unplugged":
                band.unplug(8.0)
                time.sleep(0.5)
            process.send_signal(number)
            said, complaint = process.communicate(timeout=15)  # it does not wait for the band's thirty seconds
        state = band._device.info.state
        if when == "unplugged":
            band.stop()

    assert process.returncode == 0, complaint
    assert json.loads(said)["recorded"][0]["n_samples"] > 500
    with Session(out) as session:
        session.check()
    if when == "streaming":
        assert state == 0


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", [["record", "--out", "x.hdf5"], ["doctor"], ["devices"]])
def test_a_command_that_waits_for_an_answer_ends(
    tmp_path: Path, command: list[str], number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    asked = []

    def say(heard: bytes, now_s: float) -> bytes:
        if heard:
            asked.append(heard)
        return b""

    options = ["--timeout-s", "30", *(["--boot-s", "30"] if command == ["devices"] else [])]
    with scripted(say) as port, run(command[0], "--port", port.path, *command[1:], *options) as process:
        deadline_s = time.monotonic() + 20
        while not asked and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=15)  # half the time that it would wait for

    assert asked
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_closes_sends_several_signals_and_the_first_one_counts(
    tmp_path: Path, emg_uv: NDArray[np.float32]
) -> None:
    out = tmp_path / "one.hdf5"
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        with run("record", "--port", band.port, "--out", str(out)) as process:
            wait_for(journal_of(out))
            time.sleep(0.5)
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
                process.send_signal(number)
            process.communicate(timeout=15)

    assert process.returncode == 0
    with Session(out) as session:
        session.check()

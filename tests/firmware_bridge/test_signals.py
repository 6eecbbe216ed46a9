"""Ctrl-C, SIGTERM and SIGHUP end a command in about a second, whatever it waits for, and its files are complete."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from cpep_bridge.recording import journal_of
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.session import Session
from tests.firmware_bridge.scripted import scripted
from tests.processes import start

RATE_HZ = 2_000.0
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


PATIENCE_S = 120  # long for busy machines, but a fifth of what the commands would wait without the signal


@contextmanager
def run(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    # A process that a shell starts in the background ignores Ctrl-C by default.
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with start("-m", "cpep_edge", *arguments, preexec_fn=heed) as process:
        try:
            yield process
        finally:
            process.kill()  # else a test that failed before the signal would wait for ever


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def records(out: Path) -> bool:
    """Whether the journal of a recording has about 700 samples of 16 channels."""
    journal = journal_of(out)
    return journal.exists() and journal.stat().st_size > 50_000


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("when", ["streaming", pytest.param("unplugged", marks=pytest.mark.slow)])
def test_a_recording_that_is_stopped_is_whole_and_the_band_is_told(tmp_path, emg_uv, number, when):
    link, out = tmp_path / "band", tmp_path / "one.hdf5"
    with SimulatedBand([emg_uv], RATE_HZ, link=link) as band:
        with run("record", "--port", str(link), "--out", str(out), "--reconnect-s", "600", "--json") as process:
            wait_until(lambda: records(out), process)
            if when == "unplugged":
                band.unplug(600.0)
                time.sleep(0.5)  # until it waits for the band
            process.send_signal(number)
            said, complaint = process.communicate(timeout=PATIENCE_S)
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
@pytest.mark.parametrize(
    "command",
    [
        ["devices"],
        *(pytest.param(other, marks=pytest.mark.slow) for other in (["record", "--out", "x.hdf5"], ["doctor"])),
    ],
)
def test_a_command_that_waits_for_an_answer_ends(tmp_path, command, number, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def say(heard: bytes, now_s: float) -> bytes:
        if heard:
            asked.append(heard)
        return b""

    options = ["--timeout-s", "600", *(["--boot-s", "600"] if command == ["devices"] else [])]
    with scripted(say) as port, run(command[0], "--port", port.path, *command[1:], *options) as process:
        wait_until(lambda: bool(asked), process)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_closes_sends_several_signals_and_the_first_one_counts(tmp_path, emg_uv):
    out = tmp_path / "one.hdf5"
    with SimulatedBand([emg_uv], RATE_HZ) as band:
        with run("record", "--port", band.port, "--out", str(out)) as process:
            wait_until(lambda: records(out), process)
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
                process.send_signal(number)
            process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0
    with Session(out) as session:
        session.check()


@pytest.mark.executorch
@pytest.mark.parametrize("number", SIGNALS)
def test_a_calibration_that_is_stopped_leaves_no_profile_and_the_band_is_told(
    tiny_bundle, tiny_corpus, tmp_path, number
):
    with Session(tiny_corpus / "user_c_GraspPunchCloseFar_0.hdf5") as session:
        emg_uv, rate_hz = session.emg(), session.meta.sample_rate
    profile = tmp_path / "profile.json"
    with SimulatedBand([emg_uv], rate_hz) as band:
        with run("calibrate", str(tiny_bundle), "--port", band.port, "--out", str(profile), "--trust") as process:
            wait_until(lambda: band._device.info.state != 0, process)  # until it streams
            process.send_signal(number)
            process.communicate(timeout=PATIENCE_S)
        state = band._device.info.state

    assert process.returncode == 130
    assert state == 0
    assert list(tmp_path.iterdir()) == []

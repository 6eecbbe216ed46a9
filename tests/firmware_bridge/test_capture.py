"""A capture of a line, played back, gives the same reads, samples and counts."""

import shutil
import struct
import subprocess
import time
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bridge.board_models import SimulatedCyton
from cpep_bridge.capture import Capture, RecordedStream, is_capture, read_capture
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.simulated import Simulated
from cpep_bridge.simulated_boards import SimulatedBoard
from cpep_bridge.simulator import SimulatedBand
from cpep_bridge.transports import open_stream
from cpep_edge.blocks import Block, LinkCounts
from cpep_edge.errors import CpepError, LinkError
from tests.firmware_bridge.blocks_in_memory import take

RATE_HZ = 2_000.0
STALE = b"noise of an earlier stream\0"


def band(emg_uv: NDArray[np.float32]) -> Simulated:
    return SimulatedBand([emg_uv], RATE_HZ, once=True, lossless=True, loss=0.05, corrupt=0.05, garbage=STALE, seed=3)


def cyton(emg_uv: NDArray[np.float32]) -> Simulated:
    return SimulatedBoard(SimulatedCyton(), [emg_uv[:, :8]], speed=8, loss=0.05, seed=3)


def read(port: str, device: str, n_samples: int, capture: Path | None = None) -> tuple[list[Block], LinkCounts]:
    with open_source(port, device=device, capture=capture) as source:
        return take(source, n_samples), source.counts


def samples(blocks: list[Block]) -> list[tuple[int, bytes]]:
    """The index and the bytes of each sample, independent of the division into blocks."""
    return [(block.sample_index + n, sample.tobytes()) for block in blocks for n, sample in enumerate(block.samples_uv)]


@pytest.mark.parametrize(("device", "simulated"), [("cpep", band), ("cyton", cyton)])
def test_a_capture_played_back_gives_the_same_samples_and_the_same_losses(device, simulated, tmp_path, emg_uv):
    path = tmp_path / "line.pcap"
    with simulated(emg_uv) as one:
        lived, counts = read(one.port, device, 900, capture=path)
    relived, recounts = read(f"file://{path}", device, 900)

    assert counts.lost_frames > 2
    assert samples(relived) == samples(lived)
    assert astuple(recounts) == astuple(counts)


@pytest.mark.parametrize(("device", "simulated"), [("cpep", band), ("cyton", cyton)])
def test_a_recording_that_breaks_off_ends_the_stream_without_complaint(device, simulated, tmp_path, emg_uv):
    path = tmp_path / "line.pcap"
    with simulated(emg_uv) as one:
        lived, _ = read(one.port, device, 900, capture=path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_source(f"file://{path}", device=device, link=LinkOptions(reconnect_s=5.0)) as source:
        relived = list(source)

    assert 200 < len(samples(relived)) < len(samples(lived))
    assert samples(relived) == samples(lived)[: len(samples(relived))]
    assert source.counts.reconnects == 0


def test_a_band_that_was_unplugged_and_came_back_plays_on(tmp_path, emg_uv):
    link, path = tmp_path / "band", tmp_path / "line.pcap"
    lived: list[Block] = []
    with SimulatedBand([emg_uv] * 8, RATE_HZ, link=link, speed=4, once=True) as simulated:
        with open_source(str(link), link=LinkOptions(reconnect_s=5.0), capture=path) as source:
            for block in source:
                lived.append(block)
                if len(lived) == 10:
                    simulated.unplug(0.2)
    with open_source(f"file://{path}") as again:
        relived = list(again)

    assert source.counts.reconnects == 1
    assert samples(relived) == samples(lived)
    assert again.counts.lost_samples == source.counts.lost_samples > 0


def test_every_read_and_write_is_a_record_of_a_pcap_with_its_time(tmp_path, pty_port):
    path, before_s = tmp_path / "line.pcap", time.time()
    with closing(Capture(lambda: open_stream(pty_port.path), path)()) as line:
        line.write(b"asked")
        pty_port.put(b"answered")
        line.read(1.0)
    with path.open("rb") as file:
        assert is_capture(file)
        asked, answered = read_capture(file)

    assert (asked.from_device, asked.data) == (False, b"asked")
    assert (answered.from_device, answered.data) == (True, b"answered")
    assert before_s - 1e-3 < asked.time_s <= answered.time_s <= time.time()
    # The format is tcpdump.org's: magic, version 2.4, link type 250; event 1 is to the device, event 2 from it.
    raw = path.read_bytes()
    assert struct.unpack_from("<IHHiIII", raw)[::6] == (0xA1B2C3D4, 250)
    assert struct.unpack_from("<II", raw, 32) == (17, 17)
    assert struct.unpack_from(">IIBBH", raw, 40) == (*struct.unpack_from("<II", raw, 24), 1, 0, 0)
    assert raw[52:57] == b"asked"


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed: apt-get install tcpdump")
def test_tcpdump_reads_a_capture(tmp_path, pty_port):
    path = tmp_path / "line.pcap"
    with closing(Capture(lambda: open_stream(pty_port.path), path)()) as line:
        line.write(b"asked")
    told = subprocess.run(["tcpdump", "-r", path, "-xx"], capture_output=True, text=True, check=False)

    assert "RTAC_SERIAL" in told.stderr
    assert "0100 0000 6173 6b65" in told.stdout


@pytest.mark.parametrize("n_cut_bytes", [1, 17, 30])
def test_a_capture_that_was_cut_off_is_read_to_its_last_whole_record(tmp_path, pty_port, n_cut_bytes):
    path = tmp_path / "line.pcap"
    with closing(Capture(lambda: open_stream(pty_port.path), path)()) as line:
        line.write(b"first")
        line.write(b"second")
    path.write_bytes(path.read_bytes()[:-n_cut_bytes])
    with path.open("rb") as file:
        assert is_capture(file)
        assert [chunk.data for chunk in read_capture(file)] == [b"first"]


def test_a_playback_keeps_its_times_and_its_answers_wait_for_the_question(tmp_path, pty_port):
    path = tmp_path / "line.pcap"
    with closing(Capture(lambda: open_stream(pty_port.path), path)()) as line:
        line.write(b"?")
        pty_port.put(b"one")
        line.read(1.0)
        line.read(0.15)  # silence
        pty_port.put(b"two")
        line.read(1.0)
    with closing(RecordedStream(f"file://{path}")) as again:
        assert again.read(0.01) == b""
        again.write(b"?")
        assert again.read(1.0) == b"one"
        assert again.read(0.01) == b""
        assert again.read(1.0) == b"two"
        with pytest.raises(LinkError, match=r"the recording file:///.*line.pcap ends here"):
            again.read(0.1)


def test_any_other_file_is_read_as_raw_bytes(tmp_path):
    (tmp_path / "raw.bin").write_bytes(bytes(10_000))
    with closing(open_stream(f"file://{tmp_path / 'raw.bin'}")) as line:
        assert len(line.read(0.1)) + len(line.read(0.1)) + len(line.read(0.1)) == 10_000
        with pytest.raises(LinkError, match=r"the recording file:///.*raw.bin ends here"):
            line.read(0.1)
    with pytest.raises(LinkError, match="cannot read the recording"):
        open_stream(f"file://{tmp_path / 'none.bin'}")


def test_a_capture_that_cannot_be_written_is_said_before_the_port_is_opened(tmp_path):
    with pytest.raises(CpepError, match=r"cannot write the capture .*nowhere/line.pcap: No such file"):
        open_source("/dev/ttyNONE", capture=tmp_path / "nowhere" / "line.pcap")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_under_a_capture_is_one_sentence(pty_port, tmp_path):
    path = tmp_path / "line.pcap"
    capture = Capture(lambda: open_stream(pty_port.path), path)
    path.unlink()
    path.symlink_to("/dev/full")
    with closing(capture()) as line, pytest.raises(CpepError, match=r"the capture .*line.pcap: No space left"):
        line.write(b"asked")

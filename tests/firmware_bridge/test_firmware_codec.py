"""The firmware's codec and the Python one: each reads the other's frames, and both reject the same bytes."""

import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from zlib import crc32

import pytest
from cobs import cobs
from hypothesis import given, settings
from hypothesis import strategies as st

from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.firmware import build_firmware
from cpep_bridge.frames import MAX_WIRE_BYTES, Data, Frame, Info, SampleFormat, encode_frame
from tests.firmware_bridge import firmware_library as firmware
from tests.firmware_bridge.compiler import needs_compiler
from tests.firmware_bridge.test_frames import any_frame
from tests.firmware_bridge.test_protocol_document import EXAMPLES

pytestmark = needs_compiler

FIRMWARE = Path(__file__).parents[2] / "firmware_bridge" / "firmware"


def decoded(wire: bytes) -> list[Frame]:
    return FrameDecoder().feed(b"\0" + wire)


@given(any_frame)
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_we_read_what_the_firmware_writes(frame):
    assert decoded(firmware.c_encode(frame)) == [frame]


@given(any_frame)
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_the_firmware_reads_what_we_write(frame):
    assert firmware.c_decode(encode_frame(frame)[:-1]) == (firmware.INTACT, frame)


@given(any_frame)
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_both_write_the_same_bytes(frame):
    assert firmware.c_encode(frame) == encode_frame(frame)


@pytest.mark.parametrize(("wire", "body", "said"), EXAMPLES)
def test_the_firmware_reads_the_examples_of_the_document(wire, body, said):
    verdict, frame = firmware.c_decode(bytes.fromhex(wire)[:-1])

    assert (verdict, repr(frame)) == (firmware.INTACT, said)


@given(st.binary(max_size=2_000))
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_crc_is_that_of_zlib(data):
    assert firmware.library().cpep_wire_crc32(firmware.exactly(data), len(data)) == crc32(data)


# Runs of non-zero bytes with lengths around 254, where COBS begins a new group.
runs = st.lists(st.tuples(st.integers(0, 520), st.integers(0, 2)), max_size=4).map(
    lambda parts: b"".join(b"\x07" * n_others + bytes(n_zeros) for n_others, n_zeros in parts)
)


@given(st.one_of(st.binary(max_size=1_024), runs))
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_cobs_is_that_of_the_library_both_ways(data):
    n_room = len(data) + len(data) // 254 + 1
    encoded = firmware.exactly(bytes(n_room))
    n_encoded = firmware.library().cpep_wire_cobs_encode(firmware.exactly(data), len(data), encoded)
    wire = cobs.encode(data)
    buffer = firmware.exactly(wire)
    n_decoded = firmware.library().cpep_wire_cobs_decode(buffer, len(wire))

    assert bytes(encoded[:n_encoded]) == wire
    assert bytes(buffer[:n_decoded]) == data


@given(st.binary(min_size=1, max_size=600))
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_what_the_library_calls_no_cobs_the_firmware_does_too(data):
    data = data.replace(b"\0", b"\1")
    try:
        expected = cobs.decode(data)
    except cobs.DecodeError:
        expected = b""
    buffer = firmware.exactly(data)

    assert bytes(buffer[: firmware.library().cpep_wire_cobs_decode(buffer, len(data))]) == expected


@given(any_frame, st.integers(0, 10**6))
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_the_firmware_accepts_no_frame_with_one_bit_flipped(frame, where):
    wire = bytearray(encode_frame(frame))
    bit = where % (8 * len(wire))
    wire[bit // 8] ^= 1 << bit % 8

    assert firmware.CFrameDecoder().feed(b"\0" + bytes(wire) + b"\0") == []


bodies = st.builds(
    lambda version, number, rest: bytes([version, number]) + rest,
    st.sampled_from([1, 1, 1, 1, 2]),
    st.one_of(st.sampled_from(sorted(firmware.KINDS)), st.integers(0, 255)),
    st.binary(min_size=2, max_size=80),
)


@given(bodies)
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_both_pass_the_same_verdict_on_intact_bodies_with_any_content(body):
    wire = cobs.encode(body + crc32(body).to_bytes(4, "little")) + b"\0"
    ours = FrameDecoder()
    received = ours.feed(b"\0" + wire)
    theirs = firmware.CFrameDecoder()
    try:
        assert list(map(repr, theirs.feed(b"\0" + wire))) == list(map(repr, received))  # repr, because NaN != NaN
    except UnicodeDecodeError:
        assert ours.counts.corrupt_frames == 1  # the firmware does not check texts
    else:
        assert theirs.counts == asdict(ours.counts)


pieces = st.one_of(
    any_frame.map(encode_frame),
    st.tuples(any_frame, st.integers(0, 10**6)).map(lambda pair: _without_a_byte(encode_frame(pair[0]), pair[1])),
    st.binary(max_size=40),
    st.just(b"\x05" * 1_100),
    st.just(b"\0\0"),
)


def _without_a_byte(wire: bytes, where: int) -> bytes:
    return wire[: where % len(wire)] + wire[where % len(wire) + 1 :]


@given(st.lists(pieces, max_size=8))
@settings(max_examples=firmware.N_EXAMPLES, deadline=None)
def test_both_make_the_same_of_a_damaged_stream(parts):
    stream = b"\0" + b"".join(parts) + b"\0"
    ours, theirs = FrameDecoder(), firmware.CFrameDecoder()

    assert theirs.feed(stream) == ours.feed(stream)
    assert theirs.counts == asdict(ours.counts)


def test_a_frame_that_is_too_long_for_the_wire_is_not_written():
    assert firmware.c_encode(Data(0, 0, 0, 62, 8, SampleFormat.I16, 0, bytes(992))) != b""
    assert firmware.c_encode(Data(0, 0, 0, 63, 8, SampleFormat.I16, 0, bytes(1008))) == b""
    assert firmware.c_encode(Info(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes(255), *["x" * 255] * 3)) == b""


def test_a_longest_frame_of_any_bytes_fits_its_buffer():
    for filling in (b"\x00", b"\xff"):
        frame = Data(0, 0, 0, 125, 4, SampleFormat.I16, 0, filling * 1_000)
        wire = firmware.c_encode(frame)
        assert len(wire) <= MAX_WIRE_BYTES + 1
        assert decoded(wire) == [frame]


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs apt-get install gcc-arm-none-eabi")
def test_the_firmware_builds_for_cortex_m_and_calls_nothing_but_memcpy(tmp_path):
    made = subprocess.run(
        ["make", "-C", str(FIRMWARE), f"BUILD={tmp_path}", "cortex"], capture_output=True, text=True, check=False
    )

    assert made.returncode == 0, made.stdout + made.stderr
    for core in ("m4", "m55"):
        assert (tmp_path / f"cortex-{core}.o").exists()


@pytest.mark.slow
def test_none_of_this_makes_the_sanitizers_speak(tmp_path):
    if firmware.LIBRARY_VARIABLE in os.environ:
        pytest.skip("these are the sanitizers")
    library = build_firmware("libcpep-band-sanitized.so")
    runtime = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = os.environ | {
        firmware.LIBRARY_VARIABLE: str(library),
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own leaks
        "PYTHONMALLOC": "malloc",  # so that the sanitizer knows the end of each buffer
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path),
    }
    suites = [str(Path(__file__).with_name(f"test_firmware_{name}.py")) for name in ("codec", "stream", "commands")]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not wraps and not cortex", *suites]

    ran = subprocess.run(words, env=environment, cwd=FIRMWARE.parents[1], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout[-4_000:] + ran.stderr[-4_000:]

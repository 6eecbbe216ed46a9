"""The codec: frames survive encoding and decoding, and damaged ones are rejected."""

import random
import tracemalloc
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpep_bridge import frames
from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import (
    Ack,
    BenchCommand,
    BenchResult,
    Calibrate,
    Config,
    Data,
    End,
    Identify,
    Info,
    Log,
    Nak,
    Ping,
    Pong,
    Prediction,
    SampleFormat,
    Start,
    Stop,
    Telemetry,
    encode_frame,
    pack_samples,
    unpack_samples,
)

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
i32 = st.integers(-(2**31), 2**31 - 1)
f32 = st.floats(width=32, allow_nan=False)
text = st.text(max_size=60)


@st.composite
def data_frames(draw: st.DrawFn) -> Data:
    n_samples, n_channels = draw(st.integers(0, 20)), draw(st.integers(1, 16))
    sample_format = draw(st.sampled_from(SampleFormat))
    size_bytes = n_samples * n_channels * (2, 3)[sample_format]
    samples = draw(st.binary(min_size=size_bytes, max_size=size_bytes))
    return Data(draw(u16), draw(u32), draw(u64), n_samples, n_channels, sample_format, draw(u8), samples)


any_frame = st.one_of(
    data_frames(),
    st.builds(Info, u16, u32, f32, f32, u32, u32, u8, u8, u8, u8, st.binary(max_size=64), text, text, text),
    st.builds(End, u16, u64, u32),
    st.builds(Telemetry, u16, u64, u16, i32, u8, f32, u32, u32),
    st.builds(Pong, u16, u64, u64),
    st.builds(Ack, u16, u8),
    st.builds(Nak, u16, u8, u8, text),
    st.builds(Log, u16, u64, u8, text),
    st.builds(Prediction, u16, u64, u32, u16, f32, u32, u32),
    st.builds(BenchResult, u16, u32, u32, u32, u32, u32, u32, f32),
    st.builds(Identify, u16),
    st.builds(Config, u16, f32, u8, u8),
    st.builds(Start, u16),
    st.builds(Stop, u16),
    st.builds(Ping, u16),
    st.builds(BenchCommand, u16, u16),
    st.builds(Calibrate, u16, st.integers(0, 255), st.binary(max_size=255)),
)


def some_data(seq: int) -> Data:
    samples = random.Random(seq).randbytes(10 * 16 * 2)
    return Data(seq, seq * 10, seq * 5_000, 10, 16, SampleFormat.I16, 0, samples)


def reference_wire(body: bytes) -> bytes:
    """CRC and COBS byte by byte, as in their papers."""
    rest = body + crc32(body).to_bytes(4, "little")
    out = b""
    for index, group in enumerate(groups := rest.split(b"\0")):
        while len(group) >= 254:
            out += b"\xff" + group[:254]
            group = group[254:]
            if not group and index == len(groups) - 1:
                return out + b"\0"
        out += bytes([len(group) + 1]) + group
    return out + b"\0"


@given(any_frame)
@settings(max_examples=250, deadline=None)
def test_decoding_an_encoded_frame_returns_it(frame):
    wire = encode_frame(frame)

    assert FrameDecoder().feed(b"\0" + wire) == [frame]
    assert 0 not in wire[:-1]


@given(data_frames())
@settings(max_examples=100, deadline=None)
def test_data_on_the_wire_is_what_an_independent_encoder_writes(frame):
    numbers = (frame.sample_index.to_bytes(4, "little"), frame.t_us.to_bytes(8, "little"))
    head = bytes([1, 0x10]) + frame.seq.to_bytes(2, "little") + b"".join(numbers)
    body = head + bytes([frame.n_samples, frame.n_channels, frame.sample_format, frame.flags]) + frame.samples

    assert encode_frame(frame) == reference_wire(body)


@given(st.lists(any_frame, max_size=8), st.lists(st.integers(1, 400), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_how_the_bytes_were_cut_does_not_matter(sent, cuts):
    wire = b"".join(encode_frame(frame) for frame in sent)
    decoder, received, offset = FrameDecoder(), [], 0

    for step in cuts * (len(wire) // sum(cuts) + 1):
        received += decoder.feed(wire[offset : offset + step])
        offset += step

    assert received == sent


@given(any_frame, st.integers(0, 10**6))
@settings(max_examples=250, deadline=None)
def test_a_frame_with_any_one_bit_flipped_is_never_accepted(frame, where):
    wire = bytearray(encode_frame(frame))
    bit = where % (8 * len(wire))
    wire[bit // 8] ^= 1 << bit % 8

    assert FrameDecoder().feed(b"\0" + bytes(wire)) == []


@given(st.integers(0, 10**6), st.sampled_from(["flip", "lose a byte", "lose a run", "insert garbage"]))
@settings(max_examples=150, deadline=None)
def test_after_damage_the_decoder_resumes_within_one_delimiter(where, how):
    wires = [encode_frame(some_data(seq)) for seq in range(5)]
    victim, at = bytearray(wires[2]), where % (len(wires[2]) - 1)
    if how == "flip":
        victim[at] ^= 0x40
    elif how == "lose a byte":
        del victim[at]
    elif how == "lose a run":
        del victim[at : min(at + 64, len(victim) - 1)]
    else:
        victim[at:at] = random.Random(where).randbytes(50)
    decoder = FrameDecoder()

    received = decoder.feed(b"".join(wires[:2]) + bytes(victim) + b"".join(wires[3:]))

    assert received == [some_data(seq) for seq in (0, 1, 3, 4)]
    assert decoder.counts.corrupt_frames >= 1 or how == "lose a run"  # a whole frame may be lost without a trace


def test_losing_a_delimiter_costs_the_two_frames_it_parted():
    wires = [encode_frame(some_data(seq)) for seq in range(4)]
    decoder = FrameDecoder()

    received = decoder.feed(wires[0] + wires[1][:-1] + wires[2] + wires[3])

    assert received == [some_data(0), some_data(3)]
    assert decoder.counts.corrupt_frames == 1


def test_joining_in_the_middle_of_a_frame_is_no_corruption():
    decoder = FrameDecoder()

    received = decoder.feed(encode_frame(some_data(0))[100:] + encode_frame(some_data(1)))

    assert received == [some_data(1)]
    assert (decoder.counts.corrupt_frames, decoder.counts.skipped_bytes) == (0, 246)


@given(st.binary(max_size=3_000))
@settings(max_examples=200, deadline=None)
def test_noise_before_a_frame_costs_nothing_but_the_noise(noise):
    decoder = FrameDecoder()
    decoder.feed(noise)

    assert decoder.feed(b"\0" + encode_frame(some_data(7)))[-1:] == [some_data(7)]


def test_garbage_without_delimiters_is_counted_and_not_kept():
    garbage = bytes(range(1, 256)) * 40
    decoder = FrameDecoder()
    tracemalloc.start()

    for _ in range(500):
        decoder.feed(garbage)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 200_000
    assert decoder.counts.corrupt_bytes > 500 * len(garbage) - 2_000
    assert decoder.counts.corrupt_frames == 1
    assert decoder.feed(b"\0" + encode_frame(some_data(7))) == [some_data(7)]


@pytest.mark.parametrize("body", [b"\x02\x10\x00\x00", b"\x01\x77\x00\x00rest"])
def test_another_version_or_type_is_counted_and_skipped(body):
    decoder = FrameDecoder()

    received = decoder.feed(reference_wire(body) + encode_frame(some_data(1)))

    assert received == [some_data(1)]
    assert (decoder.counts.unknown_frames, decoder.counts.corrupt_frames) == (1, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"\x01\x10\x00\x00",  # DATA without its header
        b"\x01\x10\x00\x00" + bytes(12) + b"\x02\x02\x00\x00" + bytes(7),  # 2 x 2 i16 in 7 bytes
        b"\x01\x10\x00\x00" + bytes(12) + b"\x01\x01\x09\x00" + bytes(2),  # format 9
        b"\x01\x40\x00\x00",  # ACK without a command
        b"\x01\x40\x00\x00\x83\x00",  # ACK with a byte too many
        b"\x01\x41\x00\x00\x83\x01\x05abc",  # a text longer than its frame
        b"\x01\x41\x00\x00\x83\x01\x02\xff\xff",  # a text that is not UTF-8
    ],
)
def test_an_intact_frame_whose_lengths_lie_is_corrupt(body):
    decoder = FrameDecoder()

    assert decoder.feed(b"\0" + reference_wire(body)) == []
    assert decoder.counts.corrupt_frames == 1


@pytest.mark.parametrize(("sample_format", "limit"), [(SampleFormat.I16, 2**15), (SampleFormat.I24, 2**23)])
def test_samples_survive_packing_to_the_ends_of_their_range(sample_format, limit):
    rng = np.random.default_rng(3)
    counts = rng.integers(-limit, limit, (50, 7)).astype(np.int32)
    counts[0, :4] = (-limit, limit - 1, -1, 0)

    np.testing.assert_array_equal(unpack_samples(pack_samples(counts, sample_format), 7, sample_format), counts)


def test_i24_is_little_endian_twos_complement():
    assert pack_samples(np.array([[1, -2]], np.int32), SampleFormat.I24) == b"\x01\x00\x00\xfe\xff\xff"


def test_a_value_that_does_not_fit_its_field_is_a_callers_slip():
    with pytest.raises(ValueError, match="does not fit its field"):
        encode_frame(Ping(65_536))
    with pytest.raises(ValueError, match="exceeds 255"):
        encode_frame(Log(0, 0, 20, "x" * 256))
    with pytest.raises(ValueError, match="its header says 4"):
        encode_frame(Data(0, 0, 0, 2, 1, SampleFormat.I16, 0, b"abc"))
    with pytest.raises(ValueError, match="exceeds 1024"):
        encode_frame(Data(0, 0, 0, 63, 16, SampleFormat.I16, 0, bytes(63 * 32)))


def test_sixteen_channels_at_ten_samples_take_at_most_347_bytes():
    frame = Data(0xFFFF, 0xFFFF_FFFF, 2**64 - 1, 10, 16, SampleFormat.I16, 0, b"\xff" * 320)

    assert len(encode_frame(frame)) in (346, 347)
    assert frames.frame_bytes(10, 16, SampleFormat.I16) == 344

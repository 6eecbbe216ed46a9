"""Frame profiles: inconsistent ones are refused with a reason, and frames that fit a profile are found in noise."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpep_bridge.board_profile import find_profile, load_profile, shipped_profiles
from cpep_bridge.fixed_frames import (
    SAMPLE_BYTES,
    Checksum,
    FixedFrameDecoder,
    FrameLayout,
    fixed_bytes,
    pack_frame,
    value_limits,
)
from cpep_bridge.text_lines import LineDecoder, LineLayout, pack_line
from cpep_edge.errors import ConfigError

GOOD = """
name = "mine"
source = "made up"
baud = 115200
sample_rate_hz = 250.0
n_channels = 4
[frame]
size_bytes = 12
fixed = [{ offset_bytes = 0, value = 0xAA }, { offset_bytes = 1, value = 0x55 }]
samples_offset_bytes = 3
sample_type = "i16"
byte_order = "little"
counter_offset_bytes = 2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_profile_by_its_path_describes_a_board(tmp_path):
    profile = find_profile(str(write(tmp_path, GOOD)))

    assert isinstance(profile.layout, FrameLayout)
    assert (profile.layout.counter_modulus, profile.layout.samples_bytes) == (256, 8)
    assert profile.bytes_per_s == 3_000


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("size_bytes = 12", "size_bytes = 10", r"1 x 4 samples of 2 bytes from byte 3 end at byte 11, but .* is 10"),
        ("offset_bytes = 1, value", "offset_bytes = 20, value", "fixed byte 20 lies behind the frame's 12 bytes"),
        ("offset_bytes = 1, value", "offset_bytes = 5, value", "fixed byte 5 lies among the samples"),
        ("counter_offset_bytes = 2", "counter_offset_bytes = 12", "the counter at byte 12 lies behind"),
        ("counter_offset_bytes = 2", "counter_offset_bytes = 4", "the counter at byte 4 lies among the samples"),
        ('"i16"', '"i12"', "sample_type: must be one of u8, .*, not i12"),
        ("baud = 115200", "baud = 19200", "3000 B/s of frames are 30000 bits a second .*, but baud is 19200"),
        ("[frame]", "gain = 3\n[frame]", "gain is not a known key"),
        ("[frame]", "[lines]\n[frame]", r"give either \[frame\] or \[lines\]"),
        ("[frame]", 'commands = { greeting = "hi" }\n[frame]', "greeting and answer go together"),
        ("offset_bytes = 1, value", f"offset_bytes = 1, repeat = {2**63 - 1}, value", "fixed.1.repeat: .*4096"),
        ("[frame]", "uv_per_count = 5e-324\n[frame]", "uv_per_count: .*0.000000001"),
    ],
)
def test_what_does_not_add_up_in_a_profile_is_said_in_one_sentence(tmp_path, old, new, said):
    with pytest.raises(ConfigError, match=rf"profile mine.toml: .*{said}") as caught:
        load_profile(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_what_is_apart_from_ascii_separates_no_columns(tmp_path):
    text = GOOD[: GOOD.index("[frame]")] + '[lines]\nseparator = "\\u00b7"\n'
    with pytest.raises(ConfigError, match=r"lines\.separator"):
        load_profile(write(tmp_path, text))


def test_every_shipped_profile_says_where_it_is_from_and_what_was_tried():
    assert {"emager", "freeeeg32", "neuropawn-knight", "umyo"} <= set(shipped_profiles())
    for name in shipped_profiles():
        profile = find_profile(name)
        assert len(profile.source) > 20


@given(
    sample_type=st.sampled_from([name for name in SAMPLE_BYTES if name not in ("f32", "i32", "u32")]),
    big_endian=st.booleans(),
    counter_bytes=st.sampled_from([1, 2]),
    n_samples=st.integers(1, 4),
    n_channels=st.integers(1, 9),
    seed=st.integers(0, 1_000),
)
def test_what_is_packed_by_any_layout_is_decoded_behind_any_noise(
    sample_type, big_endian, counter_bytes, n_samples, n_channels, seed
):
    rng = np.random.default_rng(seed)
    start = 3 + counter_bytes
    layout = FrameLayout(
        size_bytes=start + n_samples * n_channels * SAMPLE_BYTES[sample_type] + 1,
        markers=fixed_bytes(0, (0xC7, 0x7C, 0x3A)),
        samples_offset_bytes=start,
        n_samples=n_samples,
        n_channels=n_channels,
        sample_type=sample_type,
        big_endian=big_endian,
        counter_offset_bytes=3,
        counter_bytes=counter_bytes,
    )
    least, greatest = value_limits(sample_type)
    values = rng.integers(int(least), int(greatest) + 1, (5, n_samples, n_channels)).astype(np.float32)
    stream = rng.bytes(50) + b"".join(pack_frame(layout, 250 + n, values[n]) for n in range(5))
    cut = int(rng.integers(1, len(stream)))
    decoder = FixedFrameDecoder(layout)
    parts = [decoder.feed(stream[:cut]), decoder.feed(stream[cut:])]
    counters = np.concatenate([part.counters for part in parts if part.counters is not None])

    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), values)
    assert counters.tolist() == [(250 + n) % (1 << 8 * counter_bytes) for n in range(5)]


def test_lines_of_text_are_numbers_or_are_counted_as_damaged():
    layout = LineLayout(",", (1, 2), 0, 65_536)
    good = [pack_line(layout, n, np.array([[n, -0.5]], np.float32)) for n in range(4)]
    stream = b"3,4\r\n" + good[0] + good[1] + b"oops\r\n1,2\r\n7,nan,1\r\n\r\n" + good[2] + good[3][:3]
    decoder = LineDecoder(layout)
    packets = decoder.feed(stream)
    rest = decoder.feed(good[3][3:])

    assert packets.counters.tolist() == [0, 1, 2]
    assert packets.values[:, 0].tolist() == [[0, -0.5], [1, -0.5], [2, -0.5]]
    assert decoder.n_corrupt == 3
    assert rest.values[:, 0].tolist() == [[3, -0.5]]


def test_a_line_without_end_uses_no_memory():
    decoder = LineDecoder(LineLayout(",", (0, 1)))
    for _ in range(100):
        decoder.feed(b"1" * 1_000)

    assert len(decoder._tail) <= 5_000
    assert decoder.n_corrupt > 0


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e39", "1e11", "0x1f", ""])
def test_a_number_that_no_converter_gives_makes_its_line_damaged(word):
    decoder = LineDecoder(LineLayout(",", (0, 1)))
    packets = decoder.feed(b"0,0\n1,2\n" + f"{word},3\n".encode() + b"4,5\n")

    assert packets.values[:, 0].tolist() == [[1, 2], [4, 5]]
    assert decoder.n_corrupt == 1


@pytest.mark.parametrize("counter", ["1" * 26, "-1", "65536", "1.5", "nan", "inf", "1e400"])
def test_a_counter_that_cannot_be_makes_its_line_damaged(counter):
    decoder = LineDecoder(LineLayout(",", (1,), counter_column=0, counter_modulus=65_536))
    packets = decoder.feed(b"\n1,2\n" + f"{counter},3\n".encode() + b"65535,5\n")

    assert (packets.counters.tolist(), packets.values[:, 0, 0].tolist()) == ([1, 65_535], [2, 5])
    assert decoder.n_corrupt == 1


@pytest.mark.parametrize(
    ("layout", "line", "expected"),
    [
        (LineLayout(",", (0, 1)), b"1,2,", [1, 2]),
        (LineLayout(" ", (0, 1)), b"  1    2  ", [1, 2]),
        (LineLayout("\t", (0, 1)), b"1\t\t2\t", [1, 2]),
        (LineLayout(",", (0, 1)), b"left:1, right:-2.5", [1, -2.5]),
        (LineLayout(",", (3, 1)), b"x,2,ok,1", [1, 2]),
        (LineLayout(";", (0, 1)), b"1; 2\r", [1, 2]),
    ],
)
def test_lines_are_read_as_sketches_print_them(layout, line, expected):
    packets = LineDecoder(layout).feed(b"\n" + line + b"\n")

    assert packets.values[:, 0].tolist() == [expected]


def test_a_column_of_time_is_the_boards_clock_also_when_it_starts_over():
    layout = LineLayout(",", (1,), time_column=0, time_tick_s=1e-3, time_modulus=2**32)
    ticks = [2**32 - 3, 2**32 - 1, 1, 3]
    packets = LineDecoder(layout).feed(b"\n" + b"".join(b"%d,7\n" % tick for tick in ticks))

    assert np.diff(packets.stamps_s) == pytest.approx([0.002] * 3)


def test_a_float_that_no_converter_gives_makes_its_frame_damaged():
    layout = FrameLayout(10, fixed_bytes(0, (0xA5, 0x5A)), 2, 1, 2, "f32", False)
    values = [1.0, np.nan, 2.0, np.inf, -np.inf, 3e38, 3.0]
    stream = b"".join(pack_frame(layout, 0, np.array([[0.5, value]], np.float32)) for value in values)
    decoder = FixedFrameDecoder(layout)

    assert decoder.feed(stream).values[:, 0, 1].tolist() == [1, 2, 3]
    assert decoder.n_corrupt == 4


# The check values of the CRC catalogue (reveng.sourceforge.io/crc-catalogue), for "123456789".
CHECKS = {"crc8": 0xF4, "crc16-ccitt": 0x29B1, "crc16-modbus": 0x4B37, "crc32": 0xCBF43926, "sum8": 0xDD, "xor8": 0x31}


@pytest.mark.parametrize("kind", CHECKS)
def test_checksums_are_those_of_the_catalogue(kind):
    row = np.frombuffer(b"123456789", np.uint8)[None]

    assert Checksum(kind, 0, 9, 9, True).of(row).tolist() == [CHECKS[kind]]


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("big_endian", [True, False])
def test_a_frame_with_a_wrong_checksum_is_dropped_and_no_other(kind, big_endian):
    checksum = Checksum(kind, 0, 11, 11, big_endian)
    layout = FrameLayout(
        11 + checksum.size_bytes, fixed_bytes(0, (0xA5, 0x5A)), 6, 1, 2, "i16", big_endian, 2, 4, checksum
    )
    frames = [bytearray(pack_frame(layout, 2**31 + n, np.full((1, 2), n, np.float32))) for n in range(50)]
    for damaged in (0, 7, 8, 30):
        frames[damaged][7] ^= 1
    decoder = FixedFrameDecoder(layout)
    packets = decoder.feed(b"".join(frames))

    assert packets.counters.tolist() == [2**31 + n for n in range(50) if n not in (0, 7, 8, 30)]


def test_what_is_wrong_with_a_checksum_or_the_columns_is_said(tmp_path):
    checked = GOOD + '[frame.checksum]\nkind = "crc16-modbus"\noffset_bytes = 11\n'
    with pytest.raises(
        ConfigError, match="the checksum at byte 11 over bytes 0 to 11 does not fit the frame's 12 bytes"
    ):
        load_profile(write(tmp_path, checked))
    head = 'name = "mine"\nsource = "x"\nsample_rate_hz = 1.0\nn_channels = 2\n[lines]\n'
    with pytest.raises(ConfigError, match="lines.columns names 3 columns, but n_channels is 2"):
        load_profile(write(tmp_path, head + "columns = [1, 2, 3]\n"))
    with pytest.raises(ConfigError, match="column 1 cannot be a channel as well as the number or the time"):
        load_profile(write(tmp_path, head + "columns = [1, 2]\ntime_column = 1\n"))
    with pytest.raises(ConfigError, match="uv_per_count"):
        load_profile(write(tmp_path, "uv_per_count = 1e38\n" + head))


@pytest.mark.parametrize("pattern", ["noise", "every second frame", "off by one", "no marker but one"])
def test_frames_are_found_in_time_that_grows_with_the_bytes_and_not_faster(pattern):
    layout = FrameLayout(12, fixed_bytes(0, (0xA5,)), 1, 1, 5, "i16", True)
    frame = pack_frame(layout, 0, np.ones((1, 5), np.float32))

    def bytes_of(n_bytes: int) -> bytes:
        piece = {
            "noise": np.random.default_rng(1).bytes(4_096),
            "every second frame": frame + b"\0" * 12,
            "off by one": 2 * frame + b"\0",
            "no marker but one": b"\xa5" * 13,
        }[pattern]
        return (piece * (n_bytes // len(piece) + 1))[:n_bytes]

    def steps(n_bytes: int) -> int:
        """Number of bytes in the candidate frames that the decoder checks."""
        decoder, looked_at = FixedFrameDecoder(layout), 0
        n_good = decoder._n_good

        def counted(frames: np.ndarray) -> int:
            nonlocal looked_at
            looked_at += frames.size
            return n_good(frames)

        decoder._n_good = counted
        decoder.feed(bytes_of(n_bytes))
        return looked_at

    assert steps(1 << 18) <= 5 * steps(1 << 16)

"""Frame profiles: what does not add up is said, and what a profile describes is found in noise."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpep_bridge.fixed_frames import SAMPLE_BYTES, FixedFrameDecoder, FrameLayout, fixed_bytes, pack_frame, value_limits
from cpep_bridge.profile import find_profile, load_profile, shipped_profiles
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


def test_a_profile_by_its_path_describes_a_board(tmp_path: Path) -> None:
    profile = find_profile(str(write(tmp_path, GOOD)))

    assert profile is not None
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
    ],
)
def test_what_does_not_add_up_in_a_profile_is_said_in_one_sentence(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"profile mine.toml: .*{said}") as caught:
        load_profile(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_every_shipped_profile_says_where_it_is_from_and_what_was_tried() -> None:
    assert {"emager", "freeeeg32", "neuropawn-knight", "umyo"} <= set(shipped_profiles())
    for name in shipped_profiles():
        profile = find_profile(name)
        assert profile is not None
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
    sample_type: str, big_endian: bool, counter_bytes: int, n_samples: int, n_channels: int, seed: int
) -> None:
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


def test_lines_of_text_are_numbers_or_are_counted_as_damaged() -> None:
    layout = LineLayout(",", 2, 1, 0, 65_536)
    good = [pack_line(layout, n, np.array([[n, -0.5]], np.float32)) for n in range(4)]
    stream = b"3,4\r\n" + good[0] + good[1] + b"oops\r\n1,2\r\n7,nan,1\r\n\r\n" + good[2] + good[3][:3]
    decoder = LineDecoder(layout)
    packets = decoder.feed(stream)
    rest = decoder.feed(good[3][3:])

    assert packets.counters is not None
    assert packets.counters.tolist() == [0, 1, 2]
    assert packets.values[:, 0].tolist() == [[0, -0.5], [1, -0.5], [2, -0.5]]
    assert decoder.n_corrupt == 3
    assert rest.values[:, 0].tolist() == [[3, -0.5]]


def test_a_line_without_end_uses_no_memory() -> None:
    decoder = LineDecoder(LineLayout(",", 2, 0))
    for _ in range(100):
        decoder.feed(b"1" * 1_000)

    assert len(decoder._tail) <= 5_000
    assert decoder.n_corrupt > 0

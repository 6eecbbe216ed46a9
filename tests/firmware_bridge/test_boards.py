"""Boards of other makers, simulated: every sample and loss is counted, and faults give clear messages."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cpep_bridge import cyton
from cpep_bridge.board_models import BOARD_MODELS, BoardModel, SimulatedCyton, SimulatedProfile
from cpep_bridge.board_profile import find_profile, shipped_profiles
from cpep_bridge.boards import Board
from cpep_bridge.chords import chords_layout
from cpep_bridge.counter_loss import CounterLedger, Numbered
from cpep_bridge.cyton import DaisyDecoder
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.fixed_frames import FixedFrameDecoder, pack_frame
from cpep_bridge.simulated import Simulated
from cpep_bridge.simulated_boards import SimulatedBoard, simulate_device
from cpep_edge.blocks import Block
from cpep_edge.errors import ConfigError, DataError, LinkError, LinkTimeout
from cpep_edge.session import Session, SessionMeta, write_session
from tests.firmware_bridge.blocks_in_memory import laid_out

SPEED = 20.0


def model_of(device: str) -> BoardModel:
    profile = find_profile(device)
    return BOARD_MODELS[device]() if profile is None else SimulatedProfile(profile)


def signal_for(model: BoardModel, n_samples: int = 640) -> NDArray[np.float32]:
    rng = np.random.default_rng(31)
    return rng.normal(0, 200, (n_samples, model.n_channels)).astype(np.float32)


def everything(board: Simulated, device: str) -> tuple[list[Block], Board]:
    """All blocks of a board that plays its signal once and then disconnects."""
    blocks: list[Block] = []
    with open_source(board.port, device=device, link=LinkOptions(timeout_s=2.0)) as source:
        assert isinstance(source, Board)
        with pytest.raises(LinkError, match="is gone"):
            for block in source:
                blocks.append(block)
    return blocks, source


def expected(model: BoardModel, emg_uv: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    """The signal as a host should receive it: rounded to counts, and scaled again if the scale is known."""
    profile = find_profile(device)
    scale = cyton.UV_PER_COUNT if device.startswith("cyton") else (profile and profile.uv_per_count) or 1.0
    counts = model.counts(emg_uv)
    if device == "emager":  # its lowest bits are not part of the signal
        bits = np.arange(counts.shape[1]) > 0
        counts = (counts.astype(np.int32) & ~1 | bits).astype(np.float32)
    return counts * np.float32(scale)


@pytest.mark.parametrize("device", [*BOARD_MODELS, *shipped_profiles()])
def test_every_sample_of_every_kind_of_board_arrives_exactly(device):
    model = model_of(device)
    emg_uv = signal_for(model)
    with SimulatedBoard(model, [emg_uv], speed=SPEED, once=True, lossless=True) as board:
        blocks, source = everything(board, device)

    received = laid_out(blocks)
    sent = expected(model, emg_uv, device)
    missed = len(sent) - len(received)  # a board that streams unasked has already begun
    assert 0 <= missed < (640 if device in shipped_profiles() else 1)
    np.testing.assert_array_equal(received, sent[missed:])
    assert (source.counts.lost_frames, source.counts.corrupt_frames, source.counts.duplicate_frames) == (0, 0, 0)
    assert source.info.n_channels == emg_uv.shape[1]


@pytest.mark.parametrize("device", ["cyton", "cyton-daisy", "chords"])
def test_frames_that_a_board_lost_or_repeated_are_counted_by_its_8_bit_counter(device):
    model = model_of(device)
    emg_uv = signal_for(model, 1_500)
    with SimulatedBoard(
        model, [emg_uv], speed=SPEED, once=True, lossless=True, loss=0.05, duplicate=0.05, seed=3
    ) as board:
        blocks, source = everything(board, device)
    received, sent = laid_out(blocks), expected(model, emg_uv, device)
    lost = np.isnan(received[:, 0])

    assert board.sent.injected_losses > 40
    assert source.counts.lost_samples == np.count_nonzero(lost) == board.sent.lost_samples
    np.testing.assert_array_equal(received[~lost], sent[: len(received)][~lost])
    if device != "cyton-daisy":  # there, a repeated half frame has no partner
        assert source.counts.duplicate_frames == board.sent.duplicated


def test_a_frame_whose_fixed_bits_are_damaged_is_counted_and_the_next_one_read():
    frames = [pack_frame(cyton.LAYOUT, n, np.full((1, 8), n, np.float32)) for n in range(6)]
    damaged = bytearray(frames[2])
    damaged[32] ^= 0x80
    decoder = FixedFrameDecoder(cyton.LAYOUT)
    packets = decoder.feed(b"".join([*frames[:2], bytes(damaged), *frames[3:]]))

    assert packets.counters.tolist() == [0, 1, 3, 4, 5]
    assert decoder.n_corrupt == 1


def test_a_frame_may_come_byte_by_byte_and_behind_noise():
    rng = np.random.default_rng(4)
    layout = chords_layout(3)
    stream = rng.bytes(500) + b"".join(pack_frame(layout, n, np.full((1, 3), n, np.float32)) for n in range(300))
    decoder, counters = FixedFrameDecoder(layout), list[int]()
    for index in range(len(stream)):
        packets = decoder.feed(stream[index : index + 1])
        counters += [] if packets.counters is None else packets.counters.tolist()

    assert counters == [n % 256 for n in range(300)]
    assert (decoder.n_corrupt, decoder.n_skipped_bytes) == (0, 500)


def test_noise_alone_uses_no_memory_and_hardly_ever_looks_like_a_frame():
    decoder = FixedFrameDecoder(chords_layout(6))
    rng = np.random.default_rng(5)
    n_frames = sum(len(decoder.feed(rng.bytes(4_096)).values) for _ in range(100))

    assert n_frames == 0
    assert len(decoder._tail) < 64


def test_a_daisy_frame_without_its_other_half_makes_no_sample():
    halves = [pack_frame(cyton.LAYOUT, n, np.full((1, 8), n, np.float32)) for n in range(8)]
    decoder = DaisyDecoder()
    first = decoder.feed(b"".join(halves[:3]))
    second = decoder.feed(b"".join(halves[4:]))

    assert first.values[:, 0, [0, 8]].tolist() == [[1, 0]]
    assert second.values[:, 0, [0, 8]].tolist() == [[5, 4], [7, 6]]


def only(parts: list[Numbered]) -> list[int]:
    """The numbers of the frames, after a check that they all continue the same stream."""
    (part,) = parts
    assert (part.start, part.is_new_stream) == (0, False)
    return part.numbers.tolist()


def read_in_time(ledger: CounterLedger, numbers: range, start_s: float = 0.0, each_s: float = 0.004) -> list[int]:
    """Give a ledger one frame at a time, each when it is due; returns the frame numbers that the ledger assigned."""
    return [only(ledger.accept(np.array([n % 256]), 1, start_s + n * each_s))[0] for n in numbers]


@pytest.mark.parametrize("n_lost", [1, 200, 255, 256, 257, 700, 2_560])
def test_a_loss_of_any_length_is_counted_with_the_help_of_the_clock(n_lost):
    ledger = CounterLedger(256, 0.004)
    before = read_in_time(ledger, range(100))
    after = read_in_time(ledger, range(100 + n_lost, 300 + n_lost))

    assert before == list(range(100))
    heard = [number for number in after if number >= 0]
    assert heard[-1] == 299 + n_lost
    assert ledger.lost_frames + len(before) + len(heard) == 300 + n_lost


@pytest.mark.parametrize("modulus", [256, 65_536, None])
@pytest.mark.parametrize("stall_s", [0.3, 1.2, 3.0])
def test_what_waited_during_a_stall_and_comes_in_a_burst_of_pieces_is_late_and_not_lost(modulus, stall_s):
    ledger, numbers = CounterLedger(modulus, 0.004), list[int]()

    def read(first: int, stop: int, host_t_s: float) -> None:
        counters = None if modulus is None else np.arange(first, stop) % modulus
        numbers.extend(only(ledger.accept(counters, stop - first, host_t_s)))

    for n in range(100):
        read(n, n + 1, n * 0.004)
    now_s, n = 0.4 + stall_s, 100
    while n * 0.004 < now_s:  # a line with 1.4 times the stream's rate, like a Cyton's
        read(n, n + 7, now_s)
        n, now_s = n + 7, now_s + 0.02
    for later in range(n, n + 500):
        read(later, later + 1, later * 0.004)

    assert numbers == list(range(n + 500))
    assert ledger.lost_frames == 0


@pytest.mark.parametrize("stalled_s", [1.0, 6.0, 30.0])
@pytest.mark.parametrize("modulus", [1 << 16, 1 << 24])
def test_a_hole_behind_what_waited_while_the_reader_stalled_is_a_loss(stalled_s, modulus):
    """The line keeps 0.3 s and drops the rest, so the reader first gets old frames and then current ones."""
    rate_hz = 500
    ledger = CounterLedger(modulus, 1 / rate_hz)

    def read(start: int, stop: int, host_t_s: float) -> bool:
        """Give the ledger frames with these numbers; returns whether it saw a new stream."""
        parts = ledger.accept(np.arange(start, stop) % modulus, stop - start, host_t_s)
        return any(part.is_new_stream for part in parts)

    begun = [read(10 * n, 10 * n + 10, 100 + (n + 1) * 0.02) for n in range(1_500)]  # 30 s
    now_s, held = 130 + stalled_s, 15_000 + round(0.3 * rate_hz)
    begun.append(read(15_000, held, now_s))
    caught_up = 15_000 + round(stalled_s * rate_hz)
    begun += [read(caught_up + 10 * n, caught_up + 10 * n + 10, now_s + (n + 1) * 0.02) for n in range(100)]

    assert not any(begun)
    assert ledger.lost_frames == caught_up - held


@pytest.mark.parametrize("first", [300, 20_000, 40_000, 65_000])
def test_a_counter_that_begins_anew_is_a_new_stream_and_no_loss(first):
    ledger = CounterLedger(65_536, 0.002)
    for n in range(0, 1_000, 10):
        ledger.accept((first + np.arange(n, n + 10)) % 65_536, 10, n * 0.002)
    last = np.array([(first + 1_000) % 65_536])
    before, after = ledger.accept(np.concatenate([last, np.arange(9)]), 10, 1_300 * 0.002)

    assert (before.numbers.tolist(), before.is_new_stream) == ([1_000], False)
    assert (after.start, after.numbers.tolist(), after.is_new_stream) == (1, list(range(9)), True)
    assert ledger.lost_frames == 0


@pytest.mark.parametrize("stride", [1, 2, 10])
@pytest.mark.parametrize("n_together", [1, 7])
def test_a_long_counter_that_grows_by_more_than_one_a_frame_counts_frames_all_the_same(stride, n_together):
    ledger, numbers = CounterLedger(2**32, 0.002), list[int]()
    heard = [n for n in range(400) if not 200 <= n < 203]
    for start in range(0, len(heard), n_together):
        part = np.array(heard[start : start + n_together])
        counters = (2**32 - 500 + stride * part) % 2**32
        numbers += only(ledger.accept(counters, len(part), part[-1] * 0.002))

    assert numbers == heard
    assert ledger.lost_frames == 3


def test_a_stream_with_its_own_clock_is_judged_by_that_alone():
    ledger = CounterLedger(None, 0.002)
    stamps_ms = np.array([5_000, 5_002, 5_005, 5_006, 5_016, 5_018, 3, 5])  # jitter, a loss of four, a reset
    before, after = ledger.accept(None, 8, 0.0, stamps_ms / 1e3)

    assert before.numbers.tolist() == [0, 1, 2, 3, 8, 9]
    assert (after.start, after.numbers.tolist(), after.is_new_stream) == (6, [0, 1], True)
    assert ledger.lost_frames == 4


def test_a_reader_that_paused_and_finds_everything_waiting_lost_nothing():
    ledger = CounterLedger(256, 0.004)
    read_in_time(ledger, range(100))
    waiting = np.arange(100, 1_100) % 256

    assert only(ledger.accept(waiting, 1_000, 1_100 * 0.004)) == list(range(100, 1_100))
    assert ledger.lost_frames == 0


def test_a_board_that_does_not_number_its_frames_is_judged_by_the_clock():
    ledger = CounterLedger(None, 0.001)
    numbers = [only(ledger.accept(None, 10, 0.01 * n))[-1] for n in (0, 1, 2, *range(100, 200))]

    assert (numbers[2], numbers[-1]) == (29, 1_999)  # the clock's numbers, once no frame can still be on its way
    assert ledger.lost_frames == 970


@pytest.mark.parametrize("drift_ppm", [-100.0, 100.0])
def test_the_drift_of_a_boards_clock_is_never_taken_for_a_loss(drift_ppm):
    ledger, each_s = CounterLedger(256, 0.004), 0.004 * (1 - drift_ppm * 1e-6)
    for first in range(0, 900_000, 250):  # an hour, one second at a time
        ledger.accept(np.arange(first, first + 250) % 256, 250, (first + 250) * each_s)

    assert ledger.next_number == 900_000
    assert ledger.lost_frames == 0


@pytest.mark.parametrize(
    ("device", "answer", "said"),
    [
        ("cyton", b"Failure: Communications timeout$$$", "the dongle on .* works, but the Cyton does not answer it"),
        ("cyton", b"GRBL 1.1$$$", "is not an OpenBCI Cyton: it answered 'GRBL 1.1'"),
        ("cyton", b"$GPGGA,1235", "did not answer 'v' within 2 s as it should: it sent '.GPGGA,1235"),
        ("cyton-daisy", b"OpenBCI V3 On Board ADS1299$$$", "reports no Daisy module: .* use --device cyton"),
        ("chords", b"TOASTER\r\n", "calls itself 'TOASTER', which is not a known Chords board; known are GENUINO"),
    ],
)
def test_what_is_not_the_board_that_was_asked_for_is_quoted(play, device, answer, said):
    port = play(lambda heard, now_s: b"" if heard in (b"", b"s", b"STOP\n") else answer)
    with pytest.raises(LinkError, match=said):
        open_source(port, device=device, link=LinkOptions(timeout_s=2.0)).__enter__()


@pytest.mark.parametrize("device", ["cyton", "chords"])
def test_a_board_that_says_nothing_is_reported(pty_port, device):
    with pytest.raises(
        LinkTimeout, match=r"nothing on /dev/pts/\d+ answered '\w+' within 0.3 s: is the board switched"
    ):
        open_source(pty_port.path, device=device, link=LinkOptions(timeout_s=0.3)).__enter__()


def test_a_cyton_with_a_daisy_can_be_used_without_it():
    with SimulatedBoard(SimulatedCyton(daisy=True), [signal_for(SimulatedCyton(daisy=True))]) as board:
        with open_source(board.port, device="cyton") as source:
            assert (source.info.n_channels, source.info.sample_rate_hz) == (8, 250.0)


def test_a_session_is_played_by_any_board_at_the_boards_own_rate(tmp_path):
    tone_uv = (100 * np.sin(2 * np.pi * 10 * np.arange(4_000) / 2_000)).astype(np.float32)
    meta = SessionMeta("s", "u", "rest", "left", 0.0, 2.0, 8, 2_000.0, "one")
    write_session(tmp_path / "one.hdf5", meta, np.arange(4_000) / 2_000, np.repeat(tone_uv[:, None], 8, axis=1))
    with Session(tmp_path / "one.hdf5") as session:
        with simulate_device("cyton", [session], once=True, speed=4) as board:
            blocks, _ = everything(board, "cyton")
        with pytest.raises(DataError, match="has 8 channels, but the board to simulate has 16"):
            simulate_device("cyton-daisy", [session])
        with pytest.raises(ConfigError, match="no driver for device 'toaster'"):
            simulate_device("toaster", [session])
    received = laid_out(blocks)

    assert len(received) == 500
    assert np.abs(np.fft.rfft(received[:, 3])).argmax() == 20  # 10 Hz in two seconds


def test_an_unknown_device_lists_drivers_and_profiles():
    with pytest.raises(ConfigError, match=r"'toaster': choose one of chords, cpep, cyton.*emager.*umyo.*\.toml"):
        open_source("/dev/null", device="toaster")
    with pytest.raises(ConfigError, match=r"there is no board profile mine.toml; choose one of csv-lines"):
        open_source("/dev/null", device="mine.toml")

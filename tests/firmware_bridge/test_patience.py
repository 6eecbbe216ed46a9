"""Only samples keep a source waiting for a device, whatever else it sends, and a waiting source can be stopped."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from cpep_bridge import simulator
from cpep_bridge.byte_stream import LineLost, Stopped, WrongDevice
from cpep_bridge.chords import chords_layout
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.fixed_frames import pack_frame
from cpep_bridge.frames import Data, Frame, Log, encode_frame
from cpep_bridge.patience import Patience
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.simulator import SimulatedBand
from cpep_edge.blocks import Block
from cpep_edge.errors import LinkError, LinkTimeout
from tests.firmware_bridge.scripted import Say, Stream, line, profile_of_lines, scripted

RATE_HZ = 2_000.0


@pytest.fixture
def lines(tmp_path) -> str:
    return profile_of_lines(tmp_path)


def garbage(heard: bytes, now_s: float) -> bytes:
    return b"E (1) i2c: bus timeout\r\n"


def echo(heard: bytes, now_s: float) -> bytes:
    return heard


def logs_only() -> Say:
    """A band that answers nothing and sends log lines all the time."""
    return lambda heard, now_s: encode_frame(Log(1, 0, 20, "still calibrating"))


def collect(port: str, blocks: list[Block], device: str = "cpep", **options: object) -> None:
    with open_source(port, device=device, link=LinkOptions(**options)) as source:
        blocks.extend(source)


@pytest.mark.parametrize(
    ("device", "say"),
    [
        ("freeeeg32", garbage),
        ("umyo", echo),
        ("csv-lines", lambda heard, now_s: b"a,b,c,d,e\r\n"),
        ("cpep", logs_only()),
    ],
)
def test_bytes_without_a_sample_are_silence(play, device, say):
    blocks = list[Block]()
    with pytest.raises(LinkError) as raised:
        collect(play(say), blocks, device=device, timeout_s=0.5, reconnect_s=30.0)

    assert not blocks
    assert "come back" not in str(raised.value)  # no reconnection before the first sample


@pytest.mark.parametrize("after", ["silence", "garbage", "the same frame"])
def test_a_stream_that_breaks_ends_with_the_time_to_reconnect_however_often_the_line_opens(
    play, virtual_time, lines, after
):
    stream = Stream(500.0, line)

    def say(heard: bytes, now_s: float) -> bytes:
        due = stream.due(min(now_s, 1.0))  # the whole first second, however late the call
        if due or now_s < 1.0:
            return due
        return {"silence": b"", "garbage": garbage(heard, now_s), "the same frame": line(stream.n - 1)}[after]

    blocks, began_s = list[Block](), virtual_time.now_s
    with pytest.raises(LinkError, match=r"did not come back within 1.5 s"):
        collect(play(say), blocks, device=lines, timeout_s=0.4, reconnect_s=1.5)

    assert sum(len(block.samples_uv) for block in blocks) > 300
    assert virtual_time.now_s - began_s > 2.0


def test_limits_run_from_the_last_sample_and_opening_starts_none_anew():
    patience = Patience(2.0, 3.0)
    patience.sampled()
    patience.silent_s = 1.5
    assert patience.left_s == 0.5

    assert 2.9 < patience.broke(LineLost("gone")) <= 3.0
    patience._broken = (time.monotonic() - 2.0, LineLost("gone"))
    patience.opened()
    assert 0.9 < patience.left_s <= 1.0  # not two seconds more
    patience._broken = (time.monotonic() - 3.1, LineLost("gone"))
    with pytest.raises(LinkError, match="^gone; it did not come back within 3 s$"):
        patience.broke(LinkTimeout("still nothing"))


@pytest.mark.parametrize("lost", ["unplugged", "silent"])
def test_a_source_is_stopped_from_outside_while_nothing_arrives(tmp_path, emg_uv, lost):
    link, first = tmp_path / "band", threading.Event()
    with SimulatedBand([emg_uv], RATE_HZ, link=link) as band:
        with open_source(str(link), link=LinkOptions(reconnect_s=600.0, timeout_s=600.0)) as source:

            def read() -> None:
                for _ in source:
                    first.set()

            reader = threading.Thread(target=read)
            reader.start()
            assert first.wait(60.0)
            if lost == "unplugged":
                band.unplug(600.0)
            else:
                band.stall(600.0)
            time.sleep(0.5)  # until it waits for the band
            source.stop()
            reader.join(60.0)
            assert not reader.is_alive()
            band.stop()


def test_a_stop_is_heard_while_waiting_to_look_for_a_device_again(monkeypatch):
    monkeypatch.setattr("cpep_bridge.patience.waits_s", lambda: iter([600.0]))
    patience, waits, ended = Patience(2.0, 600.0), threading.Event(), list[type[BaseException]]()
    patience.sampled()
    broke = patience.broke

    def seen(error: LinkError) -> float:
        waits.set()  # the next step is to wait
        return broke(error)

    def look_for_it() -> None:
        try:
            patience.reopen(LineLost("gone"), lambda left_s: None)
        except BaseException as error:
            ended.append(type(error))

    monkeypatch.setattr(patience, "broke", seen)
    looking = threading.Thread(target=look_for_it, daemon=True)
    looking.start()
    assert waits.wait(60.0)
    patience.stop()
    looking.join(60.0)

    assert ended == [Stopped]


def board_that_boots(boot_s: float, banner: bytes = b"") -> Say:
    """A Chords board that ignores input until it has booted, and then sends its banner."""
    heard_by_now = bytearray()
    stream = Stream(250.0, lambda n: pack_frame(chords_layout(6), n, np.zeros((1, 6), np.float32)))
    state = {"said": not banner, "streams": False}

    def say(heard: bytes, now_s: float) -> bytes:
        if now_s < boot_s:
            return b""
        out = b"" if state["said"] else banner
        state["said"] = True
        heard_by_now.extend(heard)
        while b"\n" in heard_by_now:
            command, _, rest = bytes(heard_by_now).partition(b"\n")
            heard_by_now[:] = rest
            out += b"UNO-R3\r\n" if command == b"WHORU" else b""
            state["streams"] = state["streams"] or command == b"START"
        return out + (stream.due(now_s) if state["streams"] else b"")

    return say


@pytest.mark.parametrize(
    ("boot_s", "banner"), [(0.0, b""), (0.7, b""), (1.6, b"Chords firmware v1.1\r\nready\r\n"), (3.9, b"")]
)
def test_a_board_that_restarts_when_its_port_is_opened_is_asked_until_it_answers(play, boot_s, banner):
    with open_source(play(board_that_boots(boot_s, banner)), device="chords") as source:
        assert source.info.name == "Chords UNO-R3"
        assert len(next(iter(source)).samples_uv) > 0


def test_a_board_that_falls_silent_is_reported(play):
    board = board_that_boots(0.0)
    port = play(lambda heard, now_s: board(heard, now_s) if now_s < 1.0 else b"")
    with open_source(port, device="chords", link=LinkOptions(timeout_s=2.0)) as source:
        with pytest.raises(LinkTimeout, match=r"stopped sending 2 s ago: check its battery and the cable"):
            list(source)


def test_a_board_without_a_greeting_is_told_to_start_until_it_does(play, tmp_path):
    profile = profile_of_lines(tmp_path, '[commands]\nstart = "go\\n"\nboot_s = 3.0\n')
    stream, told = Stream(500.0, line), list[float]()

    def say(heard: bytes, now_s: float) -> bytes:
        if now_s > 1.5 and b"go" in heard:
            told.append(now_s)
        return stream.due(now_s) if told else b""

    with open_source(play(say), device=profile) as source:
        assert len(next(iter(source)).samples_uv) > 0
    assert len(told) == 1


def test_every_speed_of_a_board_is_tried(monkeypatch):
    import termios

    say_at_speed, ports = board_that_boots(0.0), list[PtyPort]()

    def say(heard: bytes, now_s: float) -> bytes:
        if not ports or termios.tcgetattr(ports[0]._far_fd)[4] != termios.B115200:
            heard = b""  # at another speed it is noise
        return say_at_speed(heard, now_s)

    with scripted(say) as port:
        ports.append(port)  # the board already runs before this line
        with open_source(port.path, device="chords") as source:
            assert source.info.name == "Chords UNO-R3"
        ports.clear()
    with scripted(say) as port:
        ports.append(port)
        with pytest.raises(LinkTimeout):
            open_source(port.path, device="chords", link=LinkOptions(baud=230_400, timeout_s=0.8)).__enter__()
        ports.clear()


@pytest.mark.parametrize(("rate_hz", "said"), [(400.0, "400"), (1_000.0, "1000"), (500.0, None)])
def test_a_rate_that_is_not_the_nominal_one_is_said_and_known(play, lines, caplog, rate_hz, said):
    stream = Stream(rate_hz, line)
    with open_source(play(lambda heard, now_s: stream.due(now_s)), device=lines) as source:
        for _ in source:
            if source.counts.heard_hz:
                break
            if said is None and stream.n > 4 * rate_hz:
                break
    warnings = [record.getMessage() for record in caplog.records if "promised" in record.getMessage()]

    if said is None:
        assert warnings == []
    else:
        assert source.counts.heard_hz == pytest.approx(rate_hz, rel=0.02)
        assert len(warnings) == 1
        assert "Hz where 500 Hz are promised" in warnings[0]


def test_a_counter_that_begins_anew_begins_a_new_stream(play, lines):
    before, after = Stream(500.0, line, first=20_000), Stream(500.0, line)

    def say(heard: bytes, now_s: float) -> bytes:
        if now_s < 1.0:
            return before.due(now_s)
        return b"" if now_s < 1.3 else (b"ready\r\n" if after.n == 0 else b"") + after.due(now_s)

    blocks = list[Block]()
    with open_source(play(say), device=lines) as source:
        for block in source:
            blocks.append(block)
            if block.boot_id != blocks[0].boot_id and block.sample_index > 200:
                break
        counts = source.counts

    assert next(block for block in blocks if block.boot_id != blocks[0].boot_id).sample_index == 0
    assert (counts.lost_frames, counts.reconnects) == (0, 0)


@pytest.mark.parametrize(("serial_number", "is_same"), [("SIM-0001", True), ("SIM-0002", False)])
def test_another_band_on_the_same_path_is_not_taken_for_the_first(tmp_path, emg_uv, serial_number, is_same):
    link = tmp_path / "band"
    with SimulatedBand([emg_uv], RATE_HZ, link=link) as band:
        with open_source(str(link), link=LinkOptions(reconnect_s=5.0)) as source:
            stream = iter(source)
            next(stream)
            band.stop()
            with SimulatedBand([emg_uv], RATE_HZ, link=link, serial_number=serial_number):
                if is_same:
                    assert len(next(stream).samples_uv) > 0
                else:
                    with pytest.raises(WrongDevice, match="another band .* SIM-0002 instead of SIM-0001"):
                        list(stream)


def test_a_simulated_band_has_another_boot_id_in_every_run(emg_uv):
    def boot_id() -> int:
        with SimulatedBand([emg_uv], RATE_HZ, seed=1) as band, open_source(band.port) as source:
            return source.identity.boot_id

    assert boot_id() != boot_id()


def test_a_file_number_beyond_1024_is_read_and_written():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2_048:
        pytest.skip("this machine allows no file numbers beyond 1024")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_048), hard))
    files = [open("/dev/null") for _ in range(1_100)]
    try:
        with (
            scripted(board_that_boots(0.0)) as port,
            open_source(port.path, device="chords", link=LinkOptions(timeout_s=2.0)) as source,
        ):
            assert len(next(iter(source)).samples_uv) > 0
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("counts", ["backwards", "by chance"])
def test_a_counter_that_leaps_all_the_time_is_one_sentence_and_one_warning(play, lines, caplog, counts):
    """A profile that names the wrong column does this. It must not cause many new streams with a few samples each."""
    rng = np.random.default_rng(5)
    stream = Stream(500.0, lambda n: line(60_000 - n if counts == "backwards" else int(rng.integers(65_536))))
    with pytest.raises(WrongDevice, match="leaps all the"):
        collect(play(lambda heard, now_s: stream.due(now_s)), [], device=lines, reconnect_s=30.0)
    assert len([record for record in caplog.records if "restarted its counter" in record.getMessage()]) == 1


def test_a_band_whose_clock_contradicts_its_count_all_the_time_is_one_sentence(emg_uv, monkeypatch, caplog):
    """Firmware that stamps its frames in another unit does this."""

    def encode(frame: Frame) -> bytes:
        return encode_frame(replace(frame, t_us=frame.t_us * 1_000) if isinstance(frame, Data) else frame)

    monkeypatch.setattr(simulator, "encode_frame", encode)
    with SimulatedBand([emg_uv], 2_000.0) as band, pytest.raises(WrongDevice, match="contradict themselves all the"):
        collect(band.port, [], reconnect_s=30.0)
    assert len([record for record in caplog.records if "restarted its counter" in record.getMessage()]) == 1

"""Opening, reading and losing a port; each error is one sentence that says what to do."""

import grp
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
import serial
from serial import rfc2217

from cpep_bridge.byte_stream import ByteStream
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.pty_port import PtyPort
from cpep_bridge.transports import PortableSerialStream, open_stream
from cpep_edge.errors import LinkError
from tests.firmware_bridge.scripted import Stream, line, profile_of_lines, scripted
from tests.processes import forbidding


@pytest.fixture
def opened(pty_port) -> Iterator[ByteStream]:
    """The pty, opened by the host."""
    with closing(open_stream(pty_port.path)) as opened:
        yield opened


def test_bytes_pass_both_ways_over_a_pty(pty_port, opened):
    pty_port.put(b"to the host")
    opened.write(b"to the device")

    assert (opened.read(1.0), pty_port.read(1.0)) == (b"to the host", b"to the device")


def test_reading_a_silent_port_ends_after_its_timeout(opened):
    started_s = time.monotonic()

    assert opened.read(0.05) == b""
    assert time.monotonic() - started_s > 0.04


def test_where_select_takes_no_ports_reading_works_all_the_same(pty_port):
    line = PortableSerialStream(pty_port.path)
    pty_port.put(b"to the host")
    received = line.read(1.0)

    assert received + line.read(0.05) == b"to the host"  # late bytes may need a second read
    assert line.read(0.01) == b""
    line.close()


def test_a_port_that_does_not_exist_is_named():
    with pytest.raises(LinkError, match=r"there is no port /dev/ttyNONE; .*connected"):
        open_stream("/dev/ttyNONE")


def test_a_file_is_not_a_serial_port(tmp_path):
    (tmp_path / "notes.txt").write_text("no port")

    with pytest.raises(LinkError, match=r"notes.txt is not a serial port"):
        open_stream(str(tmp_path / "notes.txt"))


def test_a_busy_port_says_which_process_has_it(pty_port):
    line = open_stream(pty_port.path)

    with pytest.raises(
        LinkError, match=rf"{pty_port.path} is in use by \S+ \(process {os.getpid()}\): close that first"
    ):
        open_stream(pty_port.path)
    line.close()
    open_stream(pty_port.path).close()


@pytest.fixture
def forbidden_port(pty_port) -> Iterator[str]:
    """A port that this user may not open; as root, by switching to another user."""
    with forbidding(pty_port.path):
        yield pty_port.path


def belongs_to(group: int, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def stat(path: str, **options: bool) -> os.stat_result:
        status = real(path, **options)
        return os.stat_result((*status[:5], group, *status[6:])) if path == port else status

    monkeypatch.setattr(os, "stat", stat)


def test_a_port_that_one_may_not_use_names_its_group_and_the_line_to_join_it(forbidden_port, monkeypatch):
    group = next(group for group in grp.getgrall() if group.gr_gid)
    belongs_to(group.gr_gid, forbidden_port, monkeypatch)

    said = rf"it belongs to the group {group.gr_name}: run 'sudo usermod -aG {group.gr_name} \S+'"
    with pytest.raises(LinkError, match=said):
        open_stream(forbidden_port)


def test_nobody_is_told_to_join_the_group_of_root(forbidden_port, monkeypatch):
    belongs_to(0, forbidden_port, monkeypatch)
    with pytest.raises(LinkError, match="only root may: have a udev rule give it to the group dialout"):
        open_stream(forbidden_port)


def test_a_group_without_a_name_is_told_by_its_number(forbidden_port, monkeypatch):
    belongs_to(54_321, forbidden_port, monkeypatch)
    with pytest.raises(LinkError, match="the group of number 54321, start this program"):
        open_stream(forbidden_port)


def test_a_device_that_is_unplugged_is_reported():
    port = PtyPort()
    line = open_stream(port.path)
    port.close()

    with pytest.raises(LinkError, match="is gone: it was unplugged"):
        line.read(1.0)
    line.close()


def test_bytes_pass_both_ways_over_tcp_and_its_end_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = open_stream(f"socket://127.0.0.1:{server.getsockname()[1]}")
        peer, _ = server.accept()
        peer.sendall(b"to the host")
        line.write(b"to the device")

        assert (line.read(1.0), peer.recv(100)) == (b"to the host", b"to the device")
        peer.close()
        with pytest.raises(LinkError, match="is gone"):
            line.read(1.0)
        line.close()


def test_an_address_where_nobody_listens_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]

    with pytest.raises(LinkError, match=rf"cannot connect to socket://127.0.0.1:{number}: "):
        open_stream(f"socket://127.0.0.1:{number}")


@pytest.mark.parametrize(
    "port", ["socket://", "socket://host", "socket://host:", "socket://:5000", "socket://host:99999"]
)
def test_what_is_no_address_is_reported_with_an_example(port):
    with pytest.raises(LinkError, match=r"write socket://host:port, for example"):
        open_stream(port)


def test_a_device_that_takes_no_bytes_is_reported(opened):
    with pytest.raises(LinkError, match=r"took no bytes for 1 s"):
        opened.write(bytes(1_000_000))


def test_reading_starts_as_soon_as_a_byte_is_there(pty_port, opened):
    threading.Timer(0.05, pty_port.put, (b"x",)).start()
    started_s = time.monotonic()

    assert opened.read(60.0) == b"x"
    assert time.monotonic() - started_s < 30


@pytest.fixture
def lines_profile(tmp_path) -> str:
    return profile_of_lines(tmp_path, '[commands]\nstart = "go\\n"\n')


@pytest.mark.parametrize("host", ["127.0.0.1", "", "[::1]"])
def test_a_board_that_sends_datagrams_is_read_by_its_profile(lines_profile, host):
    family, address = (socket.AF_INET6, "::1") if host == "[::1]" else (socket.AF_INET, "127.0.0.1")
    with socket.socket(family, socket.SOCK_DGRAM) as free:
        try:
            free.bind((address, 0))
        except OSError:
            pytest.skip("this machine has no such addresses")
        port = free.getsockname()[1]
    with socket.socket(family, socket.SOCK_DGRAM) as board:
        board.bind((address, 0))
        with open_source(f"udp://{host}:{port}", device=lines_profile) as source:
            stream = iter(source)
            for first in range(0, 200, 20):
                lines = b"".join(b"%d,%d,7\n" % (number, number) for number in range(first, first + 20))
                board.sendto(lines, (address, port))
            block = next(stream)

    received = block.samples_uv[:, 0].tolist()
    assert len(received) > 0
    assert received == list(range(1, 1 + len(received)))  # the first line may be incomplete


def test_a_board_on_the_network_is_read_by_its_profile(lines_profile, relay):
    stream = Stream(500.0, line)
    began = threading.Event()

    def say(heard: bytes, now_s: float) -> bytes:
        if b"go" in heard:
            began.set()
        return stream.due(now_s) if began.is_set() else b""

    with (
        scripted(say) as port,
        open_source(relay(port.path), device=lines_profile, link=LinkOptions(timeout_s=60.0)) as source,
    ):
        assert next(iter(source)).samples_uv[0, 1] == 7


@pytest.mark.filterwarnings("ignore:set(Daemon|Name)")  # deprecation warnings of pyserial
def test_a_port_behind_a_serial_server_is_opened_by_rfc2217(lines_profile):
    stream = Stream(500.0, line)
    stopping = threading.Event()

    def serve(server: socket.socket) -> None:
        with server, serial.serial_for_url("loop://", timeout=0) as line, server.accept()[0] as client:
            with client.makefile("wb", buffering=0) as out:
                answering = rfc2217.PortManager(line, out)
                client.settimeout(0.01)
                while not stopping.is_set():
                    with suppress(OSError):  # a timeout, or the other end closed
                        for _ in answering.filter(client.recv(1024)):
                            pass
                    line.write(stream.due(time.monotonic()))
                    with suppress(OSError):
                        client.sendall(b"".join(answering.escape(line.read(1024))))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            address = f"rfc2217://127.0.0.1:{server.getsockname()[1]}"
            with open_source(address, device=lines_profile, link=LinkOptions(timeout_s=60.0)) as source:
                assert next(iter(source)).samples_uv[0, 1] == 7
        finally:
            stopping.set()
            thread.join()


def test_an_address_that_cannot_be_is_one_sentence():
    for address in ("udp://127.0.0.1", "udp://127.0.0.1:0", "udp://x:99999", "rfc2217://", "rfc2217://x"):
        with pytest.raises(LinkError, match="is not an address: write"):
            open_stream(address)
    with pytest.raises(LinkError, match=r"^socket://127.0.0.1:1 is not an address"):
        open_stream("socket://me:secret@127.0.0.1:1")
    with pytest.raises(LinkError, match="cannot listen at"):
        open_stream("udp://192.0.2.1:9000")
    with pytest.raises(LinkError, match=r"cannot open rfc2217://127.0.0.1:1: Connection refused$"):
        open_stream("rfc2217://127.0.0.1:1")


def test_a_speed_that_no_port_has_is_one_sentence(pty_port):
    with pytest.raises(LinkError, match="cannot open .* at 10{40} baud: "):
        open_stream(pty_port.path, baud=10**40)

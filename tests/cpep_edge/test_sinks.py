"""Sinks with real peers on this machine; a slow or dead one must not affect the loop."""

import json
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType

import numpy as np
import pytest
from pydantic import TypeAdapter

from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.decisions import Decision
from cpep_edge.errors import ConfigError
from cpep_edge.sinks import Sink, SinkTap, UdpSink, close_sinks, decision_json, parse_sink
from tests.processes import python
from tests.waiting import wait
from tests.websocket_server import websocket_server

INFO = StreamInfo("test band", n_channels=3, sample_rate_hz=500.0, serial_number="7")
TIMEOUT_S = 60.0


def decision(number: int, changed: bool = False) -> Decision:
    return Decision(number, number / 500, "Fist", changed, "Fist", 0.8, 0.4, False, False, 1.5)


def block(number: int) -> Block:
    return Block(np.full((5, 3), number, np.float32), 5 * number, number / 100, 0.0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A UDP socket on this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(TIMEOUT_S)
        yield listener


class Gate(Sink):
    """A sink that blocks until `open` is set, and fails when told to."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.got: list[int] = []
        self.failure: OSError | None = None
        self.n_closed = 0

    def decision(self, decision: Decision) -> None:
        self.entered.set()
        self.open.wait(TIMEOUT_S)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.got.append(decision.sample_index)

    def close(self) -> None:
        self.n_closed += 1


def test_a_slow_sink_loses_the_oldest_and_counts_them():
    gate = Gate()
    tap = SinkTap("gate", lambda info: gate, INFO, queue_length=4)
    tap.decision(decision(0))
    gate.entered.wait(TIMEOUT_S)
    for number in range(1, 11):
        tap.decision(decision(number))  # returns at once, else this test would not end
    assert tap.counts.dropped == 6
    gate.open.set()
    tap.close()
    assert gate.got == [0, 7, 8, 9, 10]
    assert (tap.counts.sent, gate.n_closed) == (5, 1)


def test_samples_that_a_sink_may_not_even_want_are_not_counted_as_dropped():
    """A file, which takes decisions only, could not be opened; 219 drops were counted for 36 decisions."""

    def refuse(info: StreamInfo) -> Sink:
        raise FileNotFoundError("no such folder")

    tap = SinkTap("/no/such/folder/x.jsonl", refuse, INFO, queue_length=8)
    for number in range(20):
        tap.decision(decision(number))
        for part in range(5):
            tap.block(block(5 * number + part))
    tap.close()
    assert (tap.counts.sent, tap.counts.dropped) == (0, 20)


def test_a_sink_that_fails_is_opened_anew_and_the_failure_is_told():
    gate = Gate()
    gate.open.set()
    gate.failure = ConnectionResetError("the peer left")
    tap = SinkTap("gate", lambda info: gate, INFO)
    tap.decision(decision(1))
    gate.entered.wait(TIMEOUT_S)
    tap.decision(decision(2))
    wait(lambda: gate.got == [2])
    tap.close()
    counts = tap.counts
    assert (counts.sent, counts.dropped, counts.failures) == (1, 1, 1)  # a failed one is not sent again
    assert (counts.last_error, gate.n_closed) == ("the peer left", 2)


def test_an_address_that_does_not_answer_costs_nothing_but_its_count():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tap = SinkTap("dead", parse_sink(f"ws://127.0.0.1:{port}"), INFO, queue_length=2)
    for number in range(100):
        tap.decision(decision(number))
    wait(lambda: tap.counts.failures > 0)
    assert (tap.counts.sent, tap.counts.dropped) == (0, 98)
    tap.close()


def test_samples_go_only_to_sinks_that_want_them():
    gate = Gate()
    gate.open.set()
    tap = SinkTap("gate", lambda info: gate, INFO)
    for number in range(3):
        tap.block(block(number))
        tap.decision(decision(number))
    tap.close()
    assert (gate.got, tap.counts.sent) == ([0, 1, 2], 3)


def test_json_lines_hold_one_whole_decision_each(tmp_path):
    sink = parse_sink(str(tmp_path / "out.jsonl"))(INFO)
    for number in range(3):
        sink.decision(decision(number))
    sink.close()
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    read = [json.loads(line) for line in lines]
    assert {line.pop("type") for line in read} == {"decision"}
    assert [TypeAdapter(Decision).validate_python(line) for line in read] == [decision(n) for n in range(3)]


def test_a_datagram_holds_one_decision(listener):
    sink = UdpSink(*listener.getsockname())
    sink.decision(decision(4))
    assert listener.recv(2000).decode() == decision_json(decision(4))
    sink.close()


def test_osc_messages_are_read_by_an_osc_library(listener):
    osc_message = pytest.importorskip("pythonosc.osc_message")
    sink = parse_sink(f"osc://127.0.0.1:{listener.getsockname()[1]}/hand")(INFO)
    sink.decision(decision(500, changed=True))
    messages = [osc_message.OscMessage(listener.recv(2000)) for _ in range(2)]
    sink.close()
    assert [message.address for message in messages] == ["/hand/gesture", "/hand/window"]
    assert messages[0].params == ["Fist", pytest.approx(0.8), 1.0]


def test_a_websocket_server_gets_every_decision():
    got: list[str] = []
    enough = threading.Event()

    def serve(connection) -> None:
        for message in connection:
            got.append(message)
            if len(got) == 3:
                enough.set()

    with websocket_server(serve) as address:
        tap = SinkTap("ws", parse_sink(f"{address}/x"), INFO)
        for number in range(3):
            tap.decision(decision(number))
        assert enough.wait(TIMEOUT_S)
        tap.close()
    assert got == [decision_json(decision(number)) for number in range(3)]


@pytest.fixture
def pylsl(monkeypatch, tmp_path) -> ModuleType:
    config = tmp_path / "lsl_api.cfg"
    config.write_text("[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\nSessionID = cpep-test\n")
    monkeypatch.setenv("LSLAPICFG", str(config))  # the library reads it when it is loaded
    try:
        import pylsl
    except (ImportError, RuntimeError):
        pytest.skip("pylsl or its library is not installed: pip install 'cpep-edge[lsl]'")
    return pylsl


def test_an_lsl_inlet_gets_the_samples_and_the_markers(pylsl):
    sink = parse_sink("lsl://cpep-test")(INFO)
    inlets = []
    for name in ("cpep-test EMG", "cpep-test gestures"):
        (found,) = pylsl.resolve_byprop("name", name, timeout=TIMEOUT_S)
        inlets.append(pylsl.StreamInlet(found))
        inlets[-1].open_stream(timeout=TIMEOUT_S)
    emg, markers = inlets
    info = emg.info()
    assert (info.channel_count(), info.nominal_srate(), info.type()) == (3, 500.0, "EMG")
    sink.block(block(7))
    sink.decision(decision(1, changed=True))
    sample, _ = emg.pull_sample(timeout=TIMEOUT_S)
    marker, _ = markers.pull_sample(timeout=TIMEOUT_S)
    assert (sample, marker) == ([7.0, 7.0, 7.0], ["Fist"])
    assert info.source_id() == "cpep-test-7-emg"
    described = info.desc()
    assert described.child("acquisition").child_value("serial_number") == "7"
    assert described.child("channels").child("channel").child_value("unit") == "microvolts"
    for inlet in inlets:
        inlet.close_stream()
    sink.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("carrier://pigeon", "is not a sink"),
        ("", "is not a sink"),
        ("udp://nowhere", "names no host and port"),
        ("udp://host:99999999", "names no host and port"),
        ("udp://127.0.0.1:0", "names no host and port"),
        ("udp://:9000", "names no host and port"),
        ("udp://127.0.0.1:9000/x", "says more than a host and a port"),
        ("osc://me:secret@127.0.0.1:9000", "says more than a host and a port"),
        ("osc://no-such-host.invalid:9000", "there is no host no-such-host.invalid"),
        ("osc://127.0.0.1:9000/a*b", "an OSC address is made of ASCII letters"),
        ("osc://127.0.0.1:9000/\N{LATIN SMALL LETTER U WITH DIAERESIS}", "an OSC address is made of ASCII letters"),
        ("ws:///x", "names no host and port"),
        ("http://127.0.0.1/", "is not a sink"),
        ("/", "is a folder"),
    ],
)
def test_a_bad_address_is_refused_at_once_in_one_sentence(address, said):
    with pytest.raises(ConfigError, match=said):
        parse_sink(address)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("kind", ["udp", "osc"])
def test_localhost_is_whichever_address_somebody_listens_at(family, kind):
    with socket.socket(family, socket.SOCK_DGRAM) as listener:
        try:
            listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        except OSError:
            pytest.skip("this machine has no such addresses")
        listener.settimeout(TIMEOUT_S)
        sink = parse_sink(f"{kind}://localhost:{listener.getsockname()[1]}")(INFO)
        sink.decision(decision(4))
        assert b"Fist" in listener.recv(2000)
        sink.close()


def test_datagrams_that_nobody_listens_to_are_sent_all_the_same():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    tap = SinkTap("udp", parse_sink(f"udp://localhost:{port}"), INFO)
    for number in range(20):
        tap.decision(decision(number))
    tap.close()
    assert (tap.counts.sent, tap.counts.dropped, tap.counts.failures) == (20, 0, 0)


@pytest.mark.parametrize("address", ["/no/such/folder/x.jsonl", "/dev/full", "ws://127.0.0.1:{port}/x"])
def test_what_was_given_to_a_sink_out_of_reach_is_dropped_to_the_last_and_its_end_is_no_storm(address):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    opens = parse_sink(address.format(port=port))
    attempts = list[int]()

    def counted(info: StreamInfo) -> Sink:
        attempts.append(1)
        return opens(info)

    tap = SinkTap("dead", counted, INFO)
    for number in range(20):
        tap.decision(decision(number))
    wait(lambda: tap.counts.failures > 0)
    n_before = len(attempts)
    tap.close()
    tap.decision(decision(21))  # the closed sink drops it

    assert (tap.counts.sent, tap.counts.dropped) == (0, 21)
    assert len(attempts) - n_before <= 2


def test_a_sink_that_hangs_is_left_with_what_it_holds_and_holds_up_no_other():
    gates = [Gate() for _ in range(40)]
    taps = [SinkTap("gate", lambda info, gate=gate: gate, INFO) for gate in gates]
    for tap in taps:
        for number in range(5):
            tap.decision(decision(number))
    for gate in gates:
        gate.entered.wait(TIMEOUT_S)
    closing = threading.Thread(target=close_sinks, args=(taps,))
    closing.start()
    closing.join(15)  # one after the other would take 20 s
    assert not closing.is_alive()
    assert [(tap.counts.sent, tap.counts.dropped) for tap in taps] == [(0, 5)] * 40
    for gate in gates:
        gate.open.set()
    wait(lambda: all(gate.n_closed for gate in gates))
    assert [(tap.counts.sent, tap.counts.dropped) for tap in taps] == [(0, 5)] * 40  # later results do not count


FULL = """
import resource, sys
from cpep_edge.decisions import Decision
from cpep_edge.sinks import decision_json, parse_sink
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
sink = parse_sink(sys.argv[1])(None)
for number in range(10):
    try:
        sink.decision(Decision(number, 0.0, "Fist", False, "Fist", 0.8, 0.4, False, False, 1.5))
    except OSError:
        print("full")
        break
"""


def test_a_sink_that_has_hung_for_longer_than_an_end_waits_is_not_waited_for():
    gate = Gate()
    tap = SinkTap("gate", lambda info: gate, INFO)
    tap.decision(decision(1))
    assert gate.entered.wait(TIMEOUT_S)
    tap._taken_s -= 1.0  # as if it had blocked for 1 s
    tap.finish()
    assert tap._late()
    assert not tap.close()
    assert (tap.counts.sent, tap.counts.dropped) == (0, 1)
    gate.open.set()


def test_a_disk_that_fills_leaves_whole_lines(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text('{"cut by a ki')
    done = python("-c", FULL, path)

    assert done.stdout == "full\n", done.stderr
    cut, *lines = path.read_text().splitlines()
    assert cut == '{"cut by a ki'
    assert [json.loads(line)["sample_index"] for line in lines] == list(range(len(lines)))
    assert path.read_text().endswith("}\n")


def test_a_websocket_server_that_sends_without_end_fills_no_memory():
    n_sent = 0
    stopping = threading.Event()

    def serve(connection) -> None:
        nonlocal n_sent
        with suppress(Exception):
            while not stopping.is_set() and n_sent < 2_000:
                connection.send("x" * 65_536)
                n_sent += 1

    with websocket_server(serve) as address:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tap = SinkTap("ws", parse_sink(f"{address}/x"), INFO)
        wait(lambda: n_sent >= 2_000)  # 131 MB; unread messages would block the server
        tap.close()
        stopping.set()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB


def test_a_proxy_is_never_asked_for_this_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    got = threading.Event()

    def serve(connection) -> None:
        for _ in connection:
            got.set()

    with websocket_server(serve) as address:
        tap = SinkTap("ws", parse_sink(address.replace("127.0.0.1", "localhost")), INFO)
        tap.decision(decision(1))
        assert got.wait(TIMEOUT_S)
        tap.close()


def test_passwords_of_addresses_are_not_shown():
    tap = SinkTap("ws://me:secret@127.0.0.1:1/x", lambda info: Gate(), INFO)
    tap.close()
    assert tap.counts.address == "ws://127.0.0.1:1/..."


def test_lsl_stamps_follow_the_devices_clock_through_jitter_and_never_go_back(pylsl, monkeypatch):
    pushed: list[float] = []

    class Outlet:
        def __init__(self, about: object) -> None: ...

        def push_chunk(self, samples: np.ndarray, stamps: list[float]) -> None:
            pushed.extend(stamps)

    monkeypatch.setattr(pylsl, "StreamOutlet", Outlet)
    sink = parse_sink("lsl")(StreamInfo("test band", 3, 500.0, unit="count"))
    rng = np.random.default_rng(3)
    for number in range(1_000):  # ten seconds; each block is up to 30 ms late
        end_s = (5 * number + 4) / 500
        arrival_s = 50.0 + end_s + rng.uniform(0, 0.03)
        sink.block(Block(np.zeros((5, 3), np.float32), 5 * number, 5 * number / 500, arrival_s))
    steps_s = np.diff(pushed)

    assert steps_s.min() > 0
    settled = steps_s[1_000:]
    assert np.abs(settled - 1 / 500).max() < 0.002
    assert np.std(np.array(pushed)[1_000:] - np.arange(1_000, 5_000) / 500) < 0.002

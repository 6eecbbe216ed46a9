"""Sinks against real peers on this machine, and what a slow or dead one does to the loop: nothing."""

import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.decisions import Decision
from cpep_edge.errors import ConfigError
from cpep_edge.sinks import Sink, SinkTap, UdpSink, decision_json, parse_sink

INFO = StreamInfo("test band", n_channels=3, sample_rate_hz=500.0, serial_number="7")
TIMEOUT_S = 10.0


def decision(number: int, changed: bool = False) -> Decision:
    return Decision(number, number / 500, "Fist", changed, "Fist", 0.8, 0.4, False, False, 1.5)


def block(number: int) -> Block:
    return Block(np.full((5, 3), number, np.float32), 5 * number, number / 100, 0.0)


class Gate(Sink):
    """A sink that hangs until it is let go, and fails when told to."""

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


def test_a_slow_sink_loses_the_oldest_and_counts_them() -> None:
    gate = Gate()
    tap = SinkTap("gate", lambda info: gate, INFO, queue_length=4)
    tap.decision(decision(0))
    gate.entered.wait(TIMEOUT_S)
    for number in range(1, 11):
        tap.decision(decision(number))  # returns at once, or this test would never end
    assert tap.counts.dropped == 6
    gate.open.set()
    tap.close()
    assert gate.got == [0, 7, 8, 9, 10]
    assert (tap.counts.sent, gate.n_closed) == (5, 1)


def test_a_sink_that_fails_is_opened_anew_and_the_failure_is_told() -> None:
    gate = Gate()
    gate.open.set()
    gate.failure = ConnectionResetError("the peer left")
    tap = SinkTap("gate", lambda info: gate, INFO)
    tap.decision(decision(1))
    gate.entered.wait(TIMEOUT_S)
    tap.decision(decision(2))
    wait_until(lambda: gate.got == [2])
    tap.close()
    counts = tap.counts
    assert (counts.sent, counts.failures, counts.last_error, gate.n_closed) == (1, 1, "the peer left", 2)


def test_an_address_that_does_not_answer_costs_nothing_but_its_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tap = SinkTap("dead", parse_sink(f"ws://127.0.0.1:{port}"), INFO, queue_length=2)
    for number in range(100):
        tap.decision(decision(number))
    wait_until(lambda: tap.counts.failures > 0)
    assert (tap.counts.sent, tap.counts.dropped) == (0, 98)
    tap.close()


def test_samples_go_only_to_sinks_that_want_them() -> None:
    gate = Gate()
    gate.open.set()
    tap = SinkTap("gate", lambda info: gate, INFO)
    for number in range(3):
        tap.block(block(number))
        tap.decision(decision(number))
    tap.close()
    assert (gate.got, tap.counts.sent) == ([0, 1, 2], 3)


def test_json_lines_hold_one_whole_decision_each(tmp_path: Path) -> None:
    sink = parse_sink(str(tmp_path / "out.jsonl"))(INFO)
    for number in range(3):
        sink.decision(decision(number))
    sink.close()
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    read = [json.loads(line) for line in lines]
    assert {line.pop("type") for line in read} == {"decision"}
    assert [TypeAdapter(Decision).validate_python(line) for line in read] == [decision(n) for n in range(3)]


def test_a_datagram_holds_one_decision() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(TIMEOUT_S)
        sink = UdpSink(*listener.getsockname())
        sink.decision(decision(4))
        assert listener.recv(2000).decode() == decision_json(decision(4))
        sink.close()


def test_osc_messages_are_read_by_an_osc_library() -> None:
    osc_message = pytest.importorskip("pythonosc.osc_message")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(TIMEOUT_S)
        sink = parse_sink(f"osc://127.0.0.1:{listener.getsockname()[1]}/hand")(INFO)
        sink.decision(decision(500, changed=True))
        messages = [osc_message.OscMessage(listener.recv(2000)) for _ in range(2)]
        sink.close()
    assert [message.address for message in messages] == ["/hand/gesture", "/hand/window"]
    assert messages[0].params == ["Fist", pytest.approx(0.8), 1.0]


def test_a_websocket_server_gets_every_decision() -> None:
    server_module = pytest.importorskip("websockets.sync.server")
    got: list[str] = []
    enough = threading.Event()

    def serve(connection) -> None:  # type: ignore[no-untyped-def]
        for message in connection:
            got.append(message)
            if len(got) == 3:
                enough.set()

    with server_module.serve(serve, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        tap = SinkTap("ws", parse_sink(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/x"), INFO)
        for number in range(3):
            tap.decision(decision(number))
        assert enough.wait(TIMEOUT_S)
        tap.close()
        server.shutdown()
        thread.join()
    assert got == [decision_json(decision(number)) for number in range(3)]


def test_an_lsl_inlet_gets_the_samples_and_the_markers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "lsl_api.cfg"
    config.write_text("[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\nSessionID = cpep-test\n")
    monkeypatch.setenv("LSLAPICFG", str(config))
    try:
        import pylsl
    except (ImportError, RuntimeError):
        pytest.skip("pylsl or its library is not installed")
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
    for inlet in inlets:
        inlet.close_stream()
    sink.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("carrier://pigeon", "is no sink"),
        ("", "is no sink"),
        ("udp://nowhere", "names no host and port"),
        ("udp://host:99999999", "names no host and port"),
    ],
)
def test_a_bad_address_is_refused_at_once_in_one_sentence(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_sink(address)(INFO)


def wait_until(holds) -> None:  # type: ignore[no-untyped-def]
    """Ask again and again, until it holds or the test has failed."""
    changed = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.01)):
        if holds():
            return
        changed.wait(0.01)
    pytest.fail("it never came to hold")

"""Devices that other software reads, tested with LSL outlets on this machine and BrainFlow's synthetic board."""

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.fed import Fed, FedSource
from cpep_bridge.patience import Patience
from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.errors import ConfigError, LinkError
from tests.firmware_bridge.blocks_in_memory import take

INFO = StreamInfo("in memory", 2, 100.0)


class FeedInMemory:
    """A feed that returns given items, then fails or stays silent."""

    def __init__(self, fed: list[Fed | None], info: StreamInfo = INFO, failure: LinkError | None = None) -> None:
        self.info, self._fed, self._failure = info, fed, failure
        self.n_closed = 0

    def pull(self, timeout_s: float) -> Fed | None:
        if self._fed:
            return self._fed.pop(0)
        if self._failure is not None:
            raise self._failure
        time.sleep(timeout_s)
        return None

    def close(self) -> None:
        self.n_closed += 1


def fed(first: int, n_samples: int, host_t_s: float) -> Fed:
    values = np.arange(first, first + n_samples, dtype=np.float32)
    return Fed(np.repeat(values[:, None], 2, axis=1), host_t_s)


def source_of(*feeds: FeedInMemory, reconnect_s: float = 0.0) -> FedSource:
    waiting = list(feeds)

    def open_feed(patience: Patience, timeout_s: float) -> FeedInMemory:
        if not waiting:
            raise LinkError("nobody is there")
        return waiting.pop(0)

    return FedSource("feed", open_feed, timeout_s=0.3, reconnect_s=reconnect_s)


def test_a_feed_that_gives_nothing_is_reported():
    with source_of(FeedInMemory([None, None])) as source, pytest.raises(LinkError, match="sent no sample for 0.3 s"):
        list(source)


def test_a_number_that_none_can_be_costs_its_sample_alone():
    spoilt = fed(0, 5, 1.0)
    spoilt.values[2, 1] = np.nan
    blocks: list[Block] = []
    with source_of(FeedInMemory([spoilt, fed(5, 5, 1.05)])) as source, pytest.raises(LinkError):
        blocks.extend(source)

    assert [(block.sample_index, block.samples_uv[:, 0].tolist()) for block in blocks[:2]] == [(0, [0, 1]), (3, [3, 4])]
    assert source.counts.corrupt_frames == 1


def test_a_feed_that_broke_goes_on_as_a_new_stream_if_it_is_the_same_device():
    lost = LinkError("gone")
    first = FeedInMemory([fed(n, 10, n / 100) for n in range(0, 100, 10)], failure=lost)
    again = FeedInMemory([fed(n, 10, 9 + n / 100) for n in range(0, 50, 10)])
    blocks: list[Block] = []
    with source_of(first, again, reconnect_s=1.0) as source, pytest.raises(LinkError, match="did not come back"):
        blocks.extend(source)

    assert first.n_closed > 0
    assert [block.boot_id for block in blocks] == [0] * 10 + [1] * 5
    assert source.counts.reconnects == 1

    was, other = (FeedInMemory([fed(0, 10, 0.0)], StreamInfo("x", 2, 100.0, serial_number=s), lost) for s in "ab")
    with source_of(was, other, reconnect_s=1.0) as source, pytest.raises(LinkError, match="another device is on feed"):
        list(source)


@pytest.fixture(scope="module")
def lsl(tmp_path_factory) -> Iterator[object]:
    """pylsl, configured not to use the network."""
    config = tmp_path_factory.mktemp("lsl") / "lsl_api.cfg"
    config.write_text("[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\nSessionID = cpep-feeds\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSLAPICFG", str(config))
        try:
            import pylsl
        except (ImportError, RuntimeError):
            pytest.skip("pylsl or its library is not installed: pip install 'cpep-edge[lsl]'")
        yield pylsl


def outlet(lsl: object, name: str, unit: str = "microvolts", rate_hz: float = 500.0, kind: str = "EMG") -> object:
    about = lsl.StreamInfo(name, kind, 4, rate_hz, lsl.cf_float32, f"{name}-source")
    channel = about.desc().append_child("channels").append_child("channel")
    channel.append_child_value("unit", unit)
    return lsl.StreamOutlet(about)


@pytest.mark.parametrize(
    ("unit", "scale", "told"), [("microvolts", 1.0, "uV"), ("mV", 1e3, "uV"), ("furlongs", 1.0, "count")]
)
def test_an_lsl_stream_is_read_sample_for_sample_at_its_own_times(lsl, unit, scale, told):
    name, n = f"band in {unit}", 1_000
    values = np.random.default_rng(1).normal(0, 10, (n, 4)).astype(np.float32)
    sending = outlet(lsl, name, unit)
    began_s = lsl.local_clock()

    def send() -> None:
        sending.wait_for_consumers(10)
        for start in range(0, n, 50):
            stamps = began_s + np.arange(start, start + 50) / 500
            sending.push_chunk(values[start : start + 50].tolist(), stamps.tolist())

    thread = threading.Thread(target=send)
    with open_source(f"lsl:{name}", link=LinkOptions(timeout_s=60.0)) as source:
        thread.start()
        assert (source.info.n_channels, source.info.sample_rate_hz, source.info.unit) == (4, 500.0, told)
        assert source.info.serial_number == f"{name}-source"
        blocks = take(source, n)
    thread.join()

    np.testing.assert_allclose(np.concatenate([block.samples_uv for block in blocks]), values * scale, rtol=1e-6)
    times_s = np.array([block.device_t_s - block.sample_index / 500 for block in blocks])
    assert np.ptp(times_s) < 0.005
    assert source.counts.lost_samples == 0


def test_a_gap_in_the_stamps_of_an_lsl_stream_is_a_loss(lsl):
    sending = outlet(lsl, "gap")
    began_s = lsl.local_clock() - 100
    with open_source("lsl:gap", link=LinkOptions(timeout_s=60.0)) as source:
        stream = iter(source)
        for index in [*range(0, 500, 50), *range(1_000, 2_000, 50)]:  # one second is missing
            stamps = began_s + np.arange(index, index + 50) / 500
            sending.push_chunk(np.zeros((50, 4)).tolist(), stamps.tolist())
        received = 0
        while received < 1_500:
            received += len(next(stream).samples_uv)

    assert source.counts.lost_samples == pytest.approx(500, abs=3)


def test_what_is_wrong_with_an_lsl_address_is_said(lsl):
    events = outlet(lsl, "events", rate_hz=0.0, kind="Markers")
    with pytest.raises(LinkError, match="there is no LSL stream 'nobody'"):
        open_source("lsl:nobody", link=LinkOptions(timeout_s=0.3)).__enter__()
    with pytest.raises(LinkError, match="'events' has no sample rate"):
        open_source("lsl:events", link=LinkOptions(timeout_s=5.0)).__enter__()
    del events
    with pytest.raises(ConfigError, match="already names the device"):
        open_source("lsl:events", device="cyton")
    with pytest.raises(ConfigError, match="has no bytes to keep"):
        open_source("lsl:events", capture=Path("x.pcap"))


@pytest.fixture
def brainflow() -> Iterator[None]:
    pytest.importorskip("brainflow", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated")
        yield


@pytest.mark.usefixtures("brainflow")
def test_brainflows_synthetic_board_streams_at_its_rate():
    with open_source("brainflow:synthetic") as source:
        *_, block = take(source, 500)
    assert (source.info.name, source.info.n_channels, source.info.sample_rate_hz) == ("Synthetic", 16, 250.0)
    assert source.info.unit == "uV"
    assert source.counts.lost_samples == 0
    assert np.ptp(block.samples_uv) > 0


@pytest.mark.usefixtures("brainflow")
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("brainflow:toaster", "BrainFlow has no board 'toaster': choose one of .*cyton"),
        ("brainflow:synthetic?volume=11", "BrainFlow takes no 'volume'"),
        ("brainflow:synthetic?ip_port=x", "ip_port is a whole number, not 'x'"),
    ],
)
def test_what_is_wrong_with_a_brainflow_address_is_said(address, said):
    with pytest.raises(ConfigError, match=said):
        open_source(address).__enter__()


@pytest.mark.usefixtures("brainflow")
def test_a_board_that_brainflow_cannot_reach_is_said():
    with pytest.raises(LinkError, match="BrainFlow cannot open the board"):
        open_source("brainflow:cyton?serial_port=/dev/null").__enter__()

import pytest

from cpep_edge.addresses import without_secrets
from cpep_edge.errors import ConfigError
from cpep_edge.sinks import SinkTap, parse_sink
from tests.cpep_edge.fake_stream import INFO

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("decisions.jsonl", "decisions.jsonl"),
        ("-", "-"),
        ("lsl", "lsl"),
        ("udp://127.0.0.1:9000", "udp://127.0.0.1:9000"),
        ("udp://[::1]:9000", "udp://[::1]:9000"),
        ("osc://127.0.0.1:9000/cpep", "osc://127.0.0.1:9000/cpep"),
        ("ws://127.0.0.1:9000/", "ws://127.0.0.1:9000"),
        (f"ws://me:{SECRET}@127.0.0.1:9000/", "ws://127.0.0.1:9000"),
        (f"wss://hooks.example/{SECRET}", "wss://hooks.example/..."),
        (f"wss://hooks.example/?token={SECRET}", "wss://hooks.example/..."),
        (f"wss://hooks.example/#{SECRET}", "wss://hooks.example/..."),
        (f"osc://{SECRET}@127.0.0.1:9", "osc://127.0.0.1:9"),
        (f"ws://me:{SECRET}@[::1", "ws://..."),
        (f"ws://me:{SECRET}@host:port/", "ws://..."),
    ],
)
def test_what_is_shown_of_an_address_gives_nobody_a_right(address, shown):
    assert without_secrets(address) == shown
    assert SECRET not in shown


@pytest.mark.parametrize("address", [f"http://me:{SECRET}@host/", f"osc://{SECRET}@host/cpep", f"ftp://host/{SECRET}"])
def test_the_refusal_of_an_address_does_not_repeat_its_secret(address):
    with pytest.raises(ConfigError) as refused:
        parse_sink(address)

    assert SECRET not in str(refused.value)


def test_neither_counts_nor_errors_of_a_sink_hold_its_secret():
    address = f"ws://me:{SECRET}@127.0.0.1:9/{SECRET}"

    def fail(info: object) -> object:
        raise OSError(f"cannot reach {address}")

    tap = SinkTap(address, fail, INFO)
    while not tap.counts.failures:
        pass
    tap.close()

    assert SECRET not in str(tap.counts)
    assert tap.counts.last_error == "cannot reach ws://127.0.0.1:9/..."
    assert SECRET not in tap._thread.name

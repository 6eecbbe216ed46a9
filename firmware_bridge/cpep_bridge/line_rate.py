"""Check whether a band's stream is possible and whether a serial line is fast enough for it."""

from cpep_bridge.frames import Info, SampleFormat, frame_bytes
from cpep_edge.blocks import MAX_RATE_HZ, MAX_UV_PER_COUNT, MIN_UV_PER_COUNT
from cpep_edge.errors import LinkError

BITS_PER_BYTE = 10  # eight, a start bit and a stop bit
USUAL_BAUDS = (115_200, 230_400, 460_800, 921_600, 1_000_000, 1_500_000, 2_000_000, 3_000_000)

_COBS_BLOCK_BYTES = 254  # COBS adds a byte to each block of so many


def check_info(info: Info, port: str) -> None:
    """Raises LinkError when a band's INFO describes an impossible stream."""
    possible = info.n_channels and info.n_samples and info.sample_format in tuple(SampleFormat)
    if (
        not possible
        or not 0 < info.sample_rate_hz <= MAX_RATE_HZ
        or not MIN_UV_PER_COUNT <= info.uv_per_count <= MAX_UV_PER_COUNT
    ):
        raise LinkError(
            f"the band on {port} describes an impossible stream: {info.n_channels} channels at "
            f"{info.sample_rate_hz:g} Hz, {info.n_samples} samples a frame in format {info.sample_format}, "
            f"{info.uv_per_count:g} uV a count: update its firmware"
        )


def stream_bytes_per_s(info: Info) -> float:
    """Bytes per second of a band's stream, framing included."""
    body = frame_bytes(info.n_samples, info.n_channels, SampleFormat(info.sample_format))
    wire = body + body // _COBS_BLOCK_BYTES + 2
    return info.sample_rate_hz / info.n_samples * wire


def check_baud(bytes_per_s: float, baud: int, port: str) -> None:
    """Raises LinkError, with the arithmetic, when a line is too slow for the stream. baud: 0 for a line without one."""
    needed = bytes_per_s * BITS_PER_BYTE
    if not baud or needed <= baud:
        return
    enough = next((usual for usual in USUAL_BAUDS if usual >= needed), None)
    advice = f"set the device to {enough} baud" if enough else "send fewer channels or a lower rate"
    raise LinkError(
        f"the line on {port} runs at {baud} baud, which carries {baud / BITS_PER_BYTE / 1e3:.1f} kB/s, but the stream "
        f"is {bytes_per_s / 1e3:.1f} kB/s ({needed:.0f} bits/s at {BITS_PER_BYTE} bits a byte): {advice}"
    )

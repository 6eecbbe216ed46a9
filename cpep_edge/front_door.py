"""What a program opens first, besides `cpep_edge.live`: a bundle, and a band."""

from os import PathLike
from pathlib import Path

from cpep_bridge.devices import LinkOptions, open_source
from cpep_edge.blocks import BlockSource
from cpep_edge.bundle import Bundle
from cpep_edge.calibration import fit_to_wearer
from cpep_edge.window_recogniser import WindowRecogniser

StrPath = str | PathLike[str]


def load(
    bundle: StrPath,
    *,
    profile: StrPath | None = None,
    max_risk: float | None = None,
    key: StrPath | None = None,
    trust: bool = False,
) -> WindowRecogniser:
    """Open a bundle to recognise gestures in windows of signal: `load("my.cpep").recognise(window)`.

    bundle: folder NAME.cpep
    profile: calibration of the wearing that the signal comes from, from `cpep-edge calibrate`
    max_risk: reject uncertain windows until the error rate, estimated at export, is at most this
    key: public key that must have signed the bundle
    trust: allow the bundle's code to run although it is not signed by a trusted key
    Raises ArtifactError or ConfigError when the bundle or the profile cannot be used.
    """
    opened = Bundle.open(Path(bundle), None if key is None else Path(key), trust=trust)
    donning, spec = fit_to_wearer(opened.manifest, None if profile is None else Path(profile), max_risk)
    recogniser = WindowRecogniser(opened, donning, spec)
    opened.keep_older_out()
    return recogniser


def open_band(
    port: str,
    *,
    device: str = "cpep",
    device_config: StrPath | None = None,
    reconnect_s: float = 0.0,
    timeout_s: float | None = None,
    baud: int | None = None,
    boot_s: float | None = None,
    capture: StrPath | None = None,
) -> BlockSource:
    """Read the samples of a band: `with` opens it, and iterating gives Blocks until its stream ends.

        with cpep_edge.open_band("/dev/ttyACM0") as band:
            print(band.info.n_channels, "channels at", band.info.sample_rate_hz, "Hz")
            for block in band:
                print(block.sample_index, block.samples_uv.shape)

    port: serial port or pty; VID:PID[:SERIAL] of a USB device; socket://, rfc2217://, udp:// or
        ws://HOST:PORT; file:///RECORDING; ble:NAME, lsl:NAME or brainflow:BOARD
    device: name of a driver or of a board profile, or path of a profile; `cpep-edge devices` lists them
    device_config: TOML file that maps the device's channels, rate and scale
    reconnect_s: seconds to try to reconnect after the stream breaks; 0 gives up at once
    timeout_s: seconds without a sample before giving up; None: 2 s, or longer for a device that boots slowly
    baud: baud rate of the serial port; None: the device's
    boot_s: seconds that the device takes to start after its port is opened; None: the device's
    capture: file that stores every byte of the line, for file:// and Wireshark
    Raises ConfigError for an unknown device or an invalid config. Entering raises LinkError when the band does not
    answer.
    """
    return open_source(
        port,
        device=device,
        link=LinkOptions(timeout_s, baud, boot_s, reconnect_s),
        config=None if device_config is None else Path(device_config),
        capture=None if capture is None else Path(capture),
    )

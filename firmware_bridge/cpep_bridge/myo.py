"""Thalmic Labs' Myo: 8 channels of EMG at 200 Hz over Bluetooth Low Energy.

Written from the makers' published specification (thalmiclabs/myo-bluetooth, myohw.h): four characteristics take turns,
and each notification holds two samples of eight i8. The characteristic's number thus numbers the notifications modulo
four. By default, a Myo falls asleep while it streams. How many microvolts a count is was never published.
"""

import numpy as np

from cpep_bridge.ble import HEADER_BYTES, SYNC, GattDevice
from cpep_bridge.boards import BoardStream
from cpep_bridge.conversation import Conversation
from cpep_bridge.fixed_frames import FixedFrameDecoder, FrameLayout, fixed_bytes
from cpep_edge.blocks import StreamInfo
from cpep_edge.errors import LinkError

RATE_HZ = 200.0
N_CHANNELS = 8

_UUID = "d506{:04x}-a904-deb9-4748-2c7f4a124842"
COMMAND, INFO, FIRMWARE = _UUID.format(0x0401), _UUID.format(0x0101), _UUID.format(0x0201)
EMG = tuple(_UUID.format(short) for short in (0x0105, 0x0205, 0x0305, 0x0405))
GATT = GattDevice("Myo", EMG, COMMAND, record_bytes=2 * N_CHANNELS, facts=(INFO, FIRMWARE))

NEVER_SLEEP, SLEEP_AS_USUAL = bytes((0x09, 1, 1)), bytes((0x09, 1, 0))
# Set mode: EMG as the Myo's classifier gets it (2; 3 is without the mains filter), no motion data, no classifier.
SEND_EMG, SEND_NOTHING = bytes((0x01, 3, 2, 0, 0)), bytes((0x01, 3, 0, 0, 0))

LAYOUT = FrameLayout(
    size_bytes=HEADER_BYTES + 2 * N_CHANNELS,
    markers=fixed_bytes(0, (SYNC,)),
    samples_offset_bytes=HEADER_BYTES,
    n_samples=2,
    n_channels=N_CHANNELS,
    sample_type="i8",
    big_endian=True,
    counter_offset_bytes=1,
)


class Myo:
    """The dialect of a Myo."""

    boot_s = 0.0

    def meet(self, talk: Conversation) -> BoardStream:
        """Take its serial number and firmware version from the line of facts (see `ble`), and keep it awake."""
        _, *facts = talk.ask(b"", b"\n").decode("ascii", "replace").split(" ")
        if len(facts) != len(GATT.facts) or len(facts[0]) < 12 or len(facts[1]) < 12:
            raise LinkError(f"the device on {talk.line.name} is not a Myo: it gives no information about itself")
        firmware = np.frombuffer(bytes.fromhex(facts[1])[:6], "<u2")
        talk.send(NEVER_SLEEP)
        info = StreamInfo(
            "Myo",
            N_CHANNELS,
            RATE_HZ,
            unit="count",
            serial_number=facts[0][:12],
            firmware=".".join(str(part) for part in firmware),
        )
        return BoardStream(info, FixedFrameDecoder(LAYOUT), len(EMG), LAYOUT.n_samples, None)

    def start(self, talk: Conversation) -> None:
        """Begin to stream."""
        talk.send(SEND_EMG)

    def stop(self, talk: Conversation) -> None:
        """Stop streaming, and let it sleep again."""
        talk.send(SEND_NOTHING)
        talk.send(SLEEP_AS_USUAL)

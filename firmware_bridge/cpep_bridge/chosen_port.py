"""A source of blocks whose device is chosen by the user, who can choose another one while its blocks are read.

The new device must answer before the old one is closed, so a failed choice changes nothing. A run that began without a
device waits for one, and waits again when the device disappears.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from cpep_bridge.heard_rate import AtPromisedRate
from cpep_edge.blocks import Block, BlockSource, LinkCounts, StreamInfo
from cpep_edge.errors import ConfigError, CpepError

_LOOK_S = 0.2  # how often the wait for a choice checks whether it should end
_NEW_DEVICE = 1 << 40  # added to the boot_id for each new device, because two devices may have the same one

_log = logging.getLogger(__name__)


class ChosenPort:
    """A source whose device is set with `choose`, possibly from another thread than the one that reads it."""

    def __init__(
        self,
        info: StreamInfo,
        open_port: Callable[[str, str], BlockSource],
        check: Callable[[StreamInfo], None],
        *,
        waits: bool,
    ) -> None:
        """info: the stream to report until there is a device
        open_port: makes the source for a port and a device's name for `--device`
        check: raises CpepError for a stream that does not fit
        waits: when a device disappears, wait for another one instead of ending
        """
        self._wanted, self._open_port, self._check, self._waits = info, open_port, check, waits
        self.port = ""  # of the device; "" without one
        self.problem = ""  # why there is no device any more
        self.device: BlockSource | None = None
        self._changed = threading.Condition()
        self._stopping = False

    def __enter__(self) -> "ChosenPort":
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            device, self.device = self.device, None
        if device is not None:
            device.__exit__(None, None, None)

    @property
    def info(self) -> StreamInfo:
        """The stream of the device; without a device, the one that is waited for."""
        device = self.device
        return self._wanted if device is None else device.info

    @property
    def counts(self) -> LinkCounts:
        """The counts of the present device's link so far."""
        device = self.device
        return LinkCounts() if device is None else device.counts

    def choose(self, port: str, device: str) -> StreamInfo:
        """Replace the present device by the one on a port. Raises CpepError, and keeps the present one, on failure."""
        if port == self.port:
            raise ConfigError(f"the device on {port} is connected already")
        source = self._open_port(port, device)
        source.__enter__()
        try:
            self._check(source.info)
        except CpepError:
            source.__exit__(None, None, None)
            raise
        with self._changed:
            old, self.device = self.device, source if source.info.has_clock else AtPromisedRate(source)
            self.port, self.problem = port, ""
            self._changed.notify()
        if old is not None:
            old.stop()  # the thread that reads it closes it
        return source.info

    def stop(self) -> None:
        """End the iteration soon; may be called from any thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            device = self.device
        if device is not None:
            device.stop()

    def __iter__(self) -> Iterator[Block]:
        """The blocks of each chosen device, one device after the other."""
        for number in itertools.count():
            device = self._next_device()
            if device is None:
                return
            try:
                for block in device:
                    yield replace(block, boot_id=block.boot_id + number * _NEW_DEVICE) if number else block
                    if self.device is not device:
                        break
                why = "the device ended its stream"
            except CpepError as error:
                if not self._waits and self.device is device:
                    raise
                why = str(error)
            if self.device is not device:
                device.__exit__(None, None, None)
            elif not self._waits:
                return
            else:
                self._let_go(device, why)

    def _next_device(self) -> BlockSource | None:
        with self._changed:
            while self.device is None and not self._stopping:
                self._changed.wait(_LOOK_S)
            return None if self._stopping else self.device

    def _let_go(self, device: BlockSource, why: str) -> None:
        with self._changed:
            if self.device is device:
                self.device, self.port, self.problem = None, "", why
        device.__exit__(None, None, None)
        if not self._stopping:
            _log.warning("%s; choose a device on the page", why)

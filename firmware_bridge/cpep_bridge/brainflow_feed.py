"""The boards of BrainFlow: `--port brainflow:BOARD`, with its parameters as `?serial_port=...&ip_port=...`.

BOARD is a name of BrainFlow's `BoardIds` without `_BOARD`, in upper or lower case (`ganglion`, `cyton_daisy_wifi`,
`synthetic`), or its number; the keys are the fields of `BrainFlowInputParams`. BrainFlow delivers microvolts. Needs the
extra `[brainflow]`.
"""

import threading
import time
import warnings
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from cpep_bridge.fed import Fed
from cpep_bridge.pace import READ_EVERY_S
from cpep_bridge.patience import HEARD_S, Patience
from cpep_edge.blocks import StreamInfo
from cpep_edge.errors import ConfigError, LinkError
from cpep_edge.outside import printable

BRAINFLOW_PREFIX = "brainflow:"

_OPENING_S = 15.0  # how long BrainFlow searches for a radio


class BrainFlowFeed:
    """A BrainFlow session with a board, as a Feed."""

    def __init__(self, address: str, patience: Patience, timeout_s: float) -> None:
        """address: BOARD[?key=value&...]. Raises ConfigError for an unknown board or key, LinkError when it fails."""
        shim = _brainflow()
        board_id, params = _parse(shim, address)
        shim.BoardShim.disable_board_logger()
        self._board = shim.BoardShim(board_id, params)
        self._error: type[Exception] = shim.BrainFlowError
        self._opened = False
        self._run(self._open, patience, max(timeout_s, _OPENING_S))
        about = shim.BoardShim.get_board_descr(self._board.get_board_id())
        self._rows = about.get("emg_channels") or about.get("eeg_channels") or []
        if not self._rows:
            self.close()
            raise ConfigError(f"BrainFlow's {printable(about['name'])} has no channels of EMG or EEG")
        self.info = StreamInfo(printable(about["name"]), len(self._rows), float(about["sampling_rate"]))

    def pull(self, timeout_s: float) -> Fed | None:
        """See Feed."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                data = self._board.get_board_data()
            except self._error as error:
                raise LinkError(f"BrainFlow's session with {self.info.name} failed: {error}") from error
            if data.shape[1]:
                return Fed(np.ascontiguousarray(data[self._rows].T, np.float32), time.monotonic())
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            time.sleep(min(READ_EVERY_S, left_s))

    def close(self) -> None:
        """See Feed."""
        if self._opened:
            self._opened = False
            for end in (self._board.stop_stream, self._board.release_session):
                try:
                    end()
                except self._error:
                    continue  # the session has already ended

    def _open(self) -> None:
        self._board.prepare_session()
        self._opened = True
        self._board.start_stream()

    def _run(self, call: Any, patience: Patience, timeout_s: float) -> None:
        """Run a blocking call of BrainFlow in a thread, so that stop() still works. Raises LinkError when it fails."""
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                call()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=guarded, name="brainflow", daemon=True)
        thread.start()
        deadline_s = time.monotonic() + timeout_s
        while thread.is_alive() and time.monotonic() < deadline_s:
            patience.check()
            thread.join(HEARD_S)
        if thread.is_alive():
            raise LinkError(f"BrainFlow did not reach the board within {timeout_s:g} s: is it on, and near?")
        if failures:
            raise LinkError(f"BrainFlow cannot open the board: {printable(str(failures[0]))}") from failures[0]


def _parse(shim: Any, address: str) -> tuple[int, Any]:
    name, _, query = address.partition("?")
    names = {board.name.removesuffix("_BOARD").lower(): int(board) for board in shim.BoardIds}
    key = name.removesuffix("_BOARD").removesuffix("_board").lower()
    number = int(name) if name.lstrip("-").isdecimal() else names.get(key)
    if number is None or number not in names.values():
        known = ", ".join(sorted(name for name in names if name != "no"))
        raise ConfigError(f"BrainFlow has no board {printable(name)!r}: choose one of {known}")
    params = shim.BrainFlowInputParams()
    for field, value in parse_qsl(query, keep_blank_values=True):
        if not hasattr(params, field):
            raise ConfigError(f"BrainFlow takes no {printable(field)!r}: choose of {', '.join(sorted(vars(params)))}")
        try:
            setattr(params, field, type(getattr(params, field))(value))
        except ValueError as error:
            raise ConfigError(f"BrainFlow's {field} is a whole number, not {printable(value)!r}") from error
    return number, params


def _brainflow() -> Any:
    """The module, as Any because it has no type annotations."""
    try:
        from brainflow import board_shim
    except ImportError as error:
        raise ConfigError(
            f"BrainFlow needs another package: run pip install 'cpep-edge[brainflow]' ({error})"
        ) from error
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # it is issued while the library loads
    return board_shim

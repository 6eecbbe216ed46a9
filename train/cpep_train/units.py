"""The unit of EMG: by its name or, if there is none, by the size of the values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpep_edge.errors import DataError

_UNITS_UV = {
    "v": 1e6, "volt": 1e6, "volts": 1e6, "mv": 1e3, "millivolt": 1e3, "millivolts": 1e3,
    "uv": 1.0, "microvolt": 1.0, "microvolts": 1.0, "nv": 1e-3, "nanovolt": 1e-3, "nanovolts": 1e-3,
}  # fmt: skip
_LARGEST_VOLTS, _TYPICAL_VOLTS = 0.05, 1e-3  # surface EMG is microvolts to millivolts
_SMALL_UV = 0.5  # below this, amplifiers record only their own noise


def microvolts_of(unit: str) -> float | None:
    """Microvolts per unit, by the unit's name in file headers; None when it is not a voltage."""
    plain = unit.strip().strip("()[].").replace("\u00b5", "u").replace("\u03bc", "u")
    return _UNITS_UV.get(plain.lower())


@dataclass
class UnitBySize:
    """Decides for an import's files without a unit whether they are in volts, which must hold for all or none."""

    in_volts: str = ""  # the first file that must be in volts
    kept: str = ""  # the first file that need not be

    def microvolts(self, file: str, emg: NDArray[np.floating[Any]]) -> tuple[float, str]:
        """Microvolts per unit of a file's EMG, (n, n_channels), and a note for the user.

        Raises DataError when the files differ, because some would become a million times larger than the others.
        """
        centred = np.abs(emg - np.median(emg, axis=0))
        if not centred.any():
            return 1.0, ""
        typical, largest = float(np.median(centred[:, centred.any(axis=0)])), float(centred.max())
        is_volts = typical < _TYPICAL_VOLTS and largest < _LARGEST_VOLTS
        if is_volts:
            self.in_volts = self.in_volts or file
        else:
            self.kept = self.kept or file
        if self.in_volts and self.kept:
            raise DataError(
                f"{self.in_volts} must be in volts by the size of its values and {self.kept} need not be, and neither "
                "names its unit: import them apart, or as CSV with the unit in the map"
            )
        if is_volts:
            return 1e6, "EMG must be in volts by the size of its values"
        if typical < _SMALL_UV:
            return 1.0, f"EMG is taken for microvolts, but values around {typical:.2g} may be millivolts"
        return 1.0, ""

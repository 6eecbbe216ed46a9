"""Some of many, evenly spread: they stand for a recording, or for all windows, where all would take too long."""

import numpy as np
from numpy.typing import NDArray


def evenly_spread(n: int, n_most: int) -> NDArray[np.intp]:
    """Places of at most `n_most` of n things, from the first to the last, (min(n, n_most),)."""
    places: NDArray[np.intp] = np.linspace(0, n - 1, min(n, n_most)).astype(np.intp)
    return places

"""An evenly spread sample of many things, for example windows, for use where all of them would take too long."""

import numpy as np
from numpy.typing import NDArray


def evenly_spread(n: int, n_most: int) -> NDArray[np.intp]:
    """Indices of at most `n_most` of n things, evenly spread from the first to the last, (min(n, n_most),)."""
    places: NDArray[np.intp] = np.linspace(0, n - 1, min(n, n_most)).astype(np.intp)
    return places

"""Compare the front end's matrix logarithm in single precision, as on a chip, with numpy in double precision."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cpep_edge.mpf import FLOOR, log_covariances

ENGINE = Path(__file__).parents[2] / "export" / "mcu" / "engine"
TOLERANCE = 1e-3  # of a logarithm; recordings differ by tenths, and the largest error seen was 4e-4
Token = Callable[[NDArray[np.float32], float], NDArray[np.float32]]


@pytest.fixture(
    scope="module", params=[(), ("-fsanitize=undefined", "-fno-sanitize-recover=all")], ids=["fast", "ubsan"]
)
def token_of(request, tmp_path_factory) -> Token:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed: apt-get install gcc")
    library = tmp_path_factory.mktemp("mpf") / "mpf.so"
    flags = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", *request.param)
    subprocess.run([compiler, *flags, str(ENGINE / "mpf.c"), "-o", str(library), "-lm"], check=True)
    function = ctypes.CDLL(str(library)).cpep_log_covariance
    pointer, real = ctypes.c_void_p, ctypes.c_float
    function.argtypes = (pointer, ctypes.c_int32, pointer, real, real, pointer, pointer)
    function.restype = None

    def token(covariance: NDArray[np.float32], shrinkage: float) -> NDArray[np.float32]:
        n = len(covariance)
        found, work = np.empty(n * (n + 1) // 2, np.float32), np.empty(2 * n * n + 2 * n, np.float32)
        function(covariance.ctypes.data, n, None, shrinkage, FLOOR, found.ctypes.data, work.ctypes.data)
        return found

    return token


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(2, 16),
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(0, 20),
    spread=st.floats(0, 2),
    shrinkage=st.sampled_from([1e-3, 1e-2, 0.1]),
)
def test_single_precision_stays_within_a_thousandth(token_of, n, seed, rank, spread, shrinkage):
    """Covariances of any rank, with electrodes of any amplitude."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, max(rank, 1))) @ rng.normal(size=(max(rank, 1), n)) * 10 ** rng.uniform(-spread, spread, n)
    covariance = np.ascontiguousarray(x.T @ x / 60 * (rank > 0), np.float32)
    expected = log_covariances(covariance.astype(np.float64)[None, None], shrinkage)[0]
    assert np.abs(token_of(covariance, shrinkage) - expected).max() < TOLERANCE * max(1, 1e-2 / shrinkage)

"""The tools that tests of the firmware need on this machine."""

import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("make") is None,
    reason="needs make and a C compiler: apt-get install build-essential",
)

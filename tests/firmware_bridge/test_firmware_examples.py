"""The example sketch, built for a PC with a stub of the Arduino functions that it uses, works like any band."""

import os
import pty
import re
import shutil
import subprocess
import tty
from pathlib import Path

import numpy as np
import pytest

from cpep_bridge.band import Band
from cpep_bridge.devices import LinkOptions, open_source
from cpep_bridge.firmware import build_firmware, firmware_sources
from tests.firmware_bridge.blocks_in_memory import take

FIRMWARE = firmware_sources()
CORE = [FIRMWARE / f"cpep_{part}.c" for part in ("wire", "frames", "decoder", "band")]


@pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("cc") is None,
    reason="needs a C and a C++ compiler: apt-get install build-essential",
)
def test_the_arduino_sketch_streams_to_the_driver(tmp_path):
    for source in CORE:
        subprocess.run(
            ["cc", "-std=c99", "-O1", "-c", str(source), "-o", str(tmp_path / f"{source.stem}.o")], check=True
        )
    sketch = FIRMWARE / "examples" / "arduino" / "cpep_band" / "cpep_band.ino"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{FIRMWARE}", "-include"]
    stub = Path(__file__).parent / "arduino" / "Arduino.h"
    objects = [str(tmp_path / f"{source.stem}.o") for source in CORE]
    program = tmp_path / "sketch"
    command = ["g++", *flags, str(stub), "-x", "c++", str(sketch), "-x", "none", *objects, "-o", str(program)]
    subprocess.run(command, check=True)

    line, far = pty.openpty()
    tty.setraw(far)
    process = subprocess.Popen([str(program), str(line)], pass_fds=[line])
    try:
        with open_source(os.ttyname(far), link=LinkOptions(timeout_s=60.0)) as source:
            assert isinstance(source, Band)
            assert (source.info.name, source.info.n_channels, source.info.sample_rate_hz) == ("Arduino band", 4, 500.0)
            boot_id = source.identity.boot_id
            blocks = take(source, 500)
            counts = source.counts
    finally:
        process.kill()
        process.wait()
        os.close(line)
        os.close(far)

    received = np.concatenate([block.samples_uv for block in blocks])
    np.testing.assert_array_equal((received[:, 1] - received[:, 0]) % 1024, 100)
    np.testing.assert_array_equal(np.diff(received[:, 0]) % 1024, 1)  # every conversion arrived
    assert counts.corrupt_frames == 0
    assert boot_id


@pytest.mark.skipif(
    shutil.which("nm") is None or shutil.which("make") is None,
    reason="needs make and nm: apt-get install build-essential",
)
def test_every_name_of_the_firmware_begins_with_cpep(tmp_path):
    library = build_firmware("libcpep-band.so", tmp_path)
    listed = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines()} - {"_init", "_fini"}
    headers = "".join((FIRMWARE / f"cpep_{part}.h").read_text() for part in ("wire", "frames", "decoder", "band"))

    assert len(names) > 10
    assert all(name.startswith("cpep_") for name in names)
    macros = re.findall(r"#define (\w+)", headers)
    assert macros
    assert all(name.startswith("CPEP_") for name in macros)
    assert all(name.startswith("cpep_") for name in re.findall(r"^\} (\w+);", headers, re.MULTILINE))

"""The C library and the runner, built from source: for this machine, and for Arm under emulation."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.encoder import open_encoder
from cpep_edge.errors import CpepError
from cpep_edge.folders import NOTE_FILE
from cpep_edge.manifest import EncoderSpec
from cpep_export.native import (
    EXECUTORCH_VERSION,
    LIBRARY,
    RUNNER,
    NativeBuild,
    build_native,
    host_architecture,
    native_sources,
)

pytestmark = pytest.mark.executorch

ROOT = Path(__file__).parents[2]
ARM_GCC, QEMU, ARM_ROOT = "aarch64-linux-gnu-g++", "qemu-aarch64-static", "/usr/aarch64-linux-gnu"


def run(build: NativeBuild, *arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    emulator = () if build.architecture == host_architecture() else (QEMU, "-cpu", "cortex-a72", "-L", ARM_ROOT)
    command = [*emulator, str(build.runner), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=300)


def embeddings(answer: subprocess.CompletedProcess[bytes], d_embed: int) -> np.ndarray:
    assert answer.returncode == 0, answer.stderr
    return np.frombuffer(answer.stdout, np.float32).reshape(-1, d_embed)


def symbols(file: Path) -> str:
    return subprocess.run(["nm", "-D", file], capture_output=True, text=True, check=True).stdout


def dynamic_section(file: Path) -> str:
    return subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def program(native_program, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("program") / "encoder.pte"
    file.write_bytes(native_program[0])
    return file


@pytest.fixture(scope="module")
def spec(native_program) -> EncoderSpec:
    return native_program[1]


@pytest.fixture(scope="module")
def windows(spec) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, spec.n_channels, spec.window_samples)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(native_program, windows) -> np.ndarray:
    """The embeddings of ExecuTorch's own Python bindings."""
    encoder = open_encoder(*native_program)
    return np.stack([encoder.embed(window) for window in windows])


@pytest.fixture(scope="module")
def arm_build(tmp_path_factory) -> NativeBuild:
    for tool in (ARM_GCC, QEMU):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (apt-get install g++-aarch64-linux-gnu qemu-user-static)")
    try:
        return build_native(tmp_path_factory.mktemp("arm") / "native", "aarch64")
    except CpepError as error:
        if "fetching" in str(error):
            pytest.skip(f"the aarch64 wheel of executorch is out of reach: {error}")
        raise


def test_the_runner_gives_what_the_python_bindings_give(native_build, program, windows, expected):
    from_pipe = run(native_build, program, "-", "--raw", stdin=windows.tobytes())

    np.testing.assert_array_equal(embeddings(from_pipe, expected.shape[1]), expected)


def test_the_runner_prints_numbers_that_read_back_exactly(native_build, program, windows, expected, tmp_path):
    file = tmp_path / "windows.f32"
    windows.tofile(file)

    lines = run(native_build, program, file, "--threads", 2).stdout.decode().splitlines()

    printed = np.array([[float(number) for number in line.split()] for line in lines], np.float32)
    np.testing.assert_allclose(printed, expected, atol=1e-6)


def test_a_benchmark_is_one_json_object_of_ordered_times(native_build, program, windows):
    answer = json.loads(run(native_build, program, "-", "--bench", 20, stdin=windows.tobytes()).stdout)

    assert answer["n"] == 20
    assert 0 < answer["p50_ms"] <= answer["p95_ms"] <= answer["p99_ms"] <= answer["max_ms"]
    assert answer["peak_rss_bytes"] < 20e6


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "usage: "),
        (("{program}", "-", "--threads", "0"), 2, "--threads takes a number from 1"),
        (("{program}", "-", "--bench"), 2, "--bench takes a number from 1"),
        (("{program}", "-", "--fast"), 2, "there is no option --fast"),
        (("nowhere.pte", "-"), 1, "nowhere.pte: No such file"),
        (("{here}", "-"), 1, "is no file"),
        (("{program}", "nowhere.f32"), 1, "nowhere.f32: No such file"),
        (("{program}", "-"), 1, "-: holds no window"),
        (("{program}", "{program}"), 1, "ends inside a window"),
        ((sys.executable, "-"), 1, "the program is damaged or of another version"),
    ],
)
def test_what_goes_wrong_is_one_line(native_build, program, arguments, status, says):
    answer = run(native_build, *(word.format(program=program, here=program.parent) for word in arguments))

    assert (answer.returncode, answer.stdout[:0]) == (status, b"")
    assert answer.stderr.startswith(b"error: ")
    assert says in answer.stderr.decode()
    assert answer.stderr.count(b"\n") == 1


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_a_program_that_was_cut_is_refused(native_build, program, windows, tmp_path, share):
    cut = tmp_path / "cut.pte"
    whole = program.read_bytes()
    cut.write_bytes(whole[: int(share * len(whole))])

    answer = run(native_build, cut, "-", stdin=windows.tobytes())

    assert answer.returncode == 1
    assert answer.stderr.startswith(b"error: ")


def test_the_library_shows_its_c_functions_and_nothing_else(native_build):
    shown = re.findall(r" [A-TV-Z] (\S+)", symbols(native_build.libraries[-1]))

    declared = re.findall(r"CPEP_API [^;(]*?\b(cpep_\w+)\(", (native_sources() / "encoder.h").read_text())
    assert sorted(shown) == sorted(declared)


def test_products_hold_no_path_of_the_machine_that_built_them(native_build):
    for file in (native_build.libraries[-1], native_build.runner):
        content = file.read_bytes()
        assert re.search(r"(RUNPATH|RPATH).*\[\$ORIGIN\]", dynamic_section(file)), file
        for path in (str(native_sources()), str(Path.home()), "/tmp/", "site-packages"):
            assert path.encode() not in content, (file, path)


def test_the_library_runs_wherever_the_wheel_runs(native_build):
    versions = re.findall(r"GLIBC_([\d.]+)", symbols(native_build.libraries[-1]))

    assert max(tuple(map(int, version.split("."))) for version in versions) <= (2, 28)  # manylinux_2_28


def test_a_failed_build_leaves_nothing_and_says_why(native_build, tmp_path, monkeypatch):
    broken = tmp_path / "native"
    shutil.copytree(native_sources(), broken)
    shutil.copytree(native_sources().parent / "mcu", tmp_path / "mcu")
    source = broken / "encoder.cpp"
    source.write_text(source.read_text() + "\nint unfinished() { return nothing; }\n")
    monkeypatch.setattr("cpep_export.native.native_sources", lambda: broken)

    with pytest.raises(CpepError, match="building the native encoder failed: .*nothing"):
        build_native(tmp_path / "out", native_build.architecture)

    assert not (tmp_path / "out").exists()


def test_a_missing_compiler_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    other, package = ("aarch64", "g++-aarch64-linux-gnu") if host_architecture() == "x86_64" else ("x86_64", "g++")

    with pytest.raises(CpepError, match=f"sudo apt-get install {re.escape(package)}"):
        build_native(tmp_path / "out", other)


def test_the_sdk_is_of_the_version_that_compiles_the_programs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert f"executorch=={EXECUTORCH_VERSION}" in extras["export"]


def test_arm_gives_the_same_embedding_under_emulation(arm_build, program, windows, expected):
    answer = run(arm_build, program, "-", "--raw", stdin=windows.tobytes())

    cosine = np.sum(embeddings(answer, expected.shape[1]) * expected, axis=1)
    assert cosine.min() > 0.999  # kernels for another processor add in another order
    assert "AArch64" in subprocess.run(["readelf", "-h", arm_build.runner], capture_output=True, text=True).stdout


def test_the_files_keep_together_and_stay_small(native_build):
    folder = native_build.runner.parent

    assert {file.name for file in folder.iterdir()} == {NOTE_FILE, *(file.name for file in native_build.files)}
    assert native_build.libraries[-1].name == LIBRARY
    assert native_build.runner.name == RUNNER
    assert native_build.size_bytes < 4e6

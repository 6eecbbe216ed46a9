"""`cpep-edge export --target linux-aarch64`: the whole command, and its bundle on an emulated Cortex-A72.

The bundle is run by the runner alone, and by Python with the packages that `pip install cpep-edge` installs there.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.bundle import Bundle
from cpep_edge.golden import COSINE_TOLERANCE, Golden
from cpep_edge.native_encoder import carried_library
from cpep_edge.preprocess import Preprocessor
from tests.export.aarch64_device import QEMU, Aarch64Device
from tests.export.programs import saved_run
from tests.processes import invoke, simulated

pytestmark = [pytest.mark.executorch, pytest.mark.slow]


@pytest.fixture(scope="module")
def arm_bundle(tiny_checkpoint, tiny_corpus, tmp_path_factory) -> Path:
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("aarch64-linux-gnu-g++ is not installed (apt-get install g++-aarch64-linux-gnu)")
    folder = tmp_path_factory.mktemp("arm")
    run, path = saved_run(folder / "run", tiny_checkpoint, tiny_corpus), folder / "arm.cpep"
    what = ("export", run, "--data", tiny_corpus, "--out", path)
    answer = invoke(*what, "--target", "linux-aarch64", "--quant", "fp32", "--no-pose-encoder")
    if answer.exception is not None and "fetching executorch" in str(answer.exception):
        pytest.skip(f"the aarch64 wheel of executorch is out of reach: {answer.exception}")
    assert answer.exit_code == 0, answer.exception
    return path


@pytest.fixture(scope="module")
def device(tmp_path_factory) -> Aarch64Device:
    return Aarch64Device(tmp_path_factory.mktemp("device"))


def test_the_runner_gives_the_golden_outputs(arm_bundle):
    if shutil.which(QEMU[0]) is None:
        pytest.skip(f"{QEMU[0]} is not installed (apt-get install qemu-user-static)")
    bundle = Bundle(arm_bundle)
    manifest, golden = bundle.manifest, Golden.from_bytes(bundle.read(bundle.manifest.golden_file))
    assert manifest.target == "linux-aarch64"
    assert carried_library(bundle) is None or manifest.native.architecture == "aarch64"
    filtered = [Preprocessor(manifest.preprocessing, 4)(stretch) for stretch in golden.signal_uv]
    windows = np.stack([samples[-manifest.encoder.window_samples :].T for samples in filtered])
    program = (arm_bundle / manifest.native.runner, arm_bundle / manifest.encoder.file)
    command = (*QEMU, "-L", "/usr/aarch64-linux-gnu", *program, "-", "--raw")
    ran = subprocess.run(command, input=windows.tobytes(), capture_output=True, check=True, timeout=300)
    embedding = np.frombuffer(ran.stdout, np.float32).reshape(golden.embedding.shape)
    assert np.sum(embedding * golden.embedding, axis=1).min() > 1 - COSINE_TOLERANCE


def test_the_board_is_one_and_holds_no_torch(device):
    answer = device.run("-c", "import platform; print(platform.machine()); import torch")

    assert answer.stdout.strip() == "aarch64"
    assert "No module named 'torch'" in answer.stderr


def test_python_verifies_the_bundle(device, arm_bundle):
    answer = device.run("-m", "cpep_edge", "verify", arm_bundle, "--json")

    assert (answer.returncode, answer.stderr) == (0, "")
    report = json.loads(answer.stdout)
    assert report["n_golden"] == 6
    assert report["smallest_cosine"] > 1 - COSINE_TOLERANCE


def test_python_benchmarks_the_bundle(device, arm_bundle, tmp_path):
    program = "import sys; from pathlib import Path as P; from cpep_bench.run import Options, run_bench; "
    program += "run_bench(P(sys.argv[1]), P(sys.argv[2]), Options(power='none', n_starts=1))"  # a start takes 10 s here
    answer = device.run("-c", program, arm_bundle, tmp_path)

    assert answer.returncode == 0, answer.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["machine"]["architecture"] == "aarch64"
    assert report["versions"].get("torch") is None
    assert (tmp_path / "report.md").is_file()  # no HTML page, because devices do not have Jinja2


def test_python_reads_gestures_live(device, arm_bundle, tiny_corpus):
    session = sorted(tiny_corpus.glob("user_c_*.hdf5"))[0]
    with simulated(session, "--once") as (port, _):
        answer = device.run("-m", "cpep_edge", "live", arm_bundle, "--port", port, "--json")

    assert answer.returncode == 0, answer.stderr
    *decisions, summary = map(json.loads, answer.stdout.splitlines())
    assert len(decisions) == summary["n_decisions"] > 50


def test_a_missing_cross_compiler_is_named_before_anything_is_written(
    tiny_checkpoint, tiny_corpus, tmp_path, monkeypatch
):
    run, path = saved_run(tmp_path / "run", tiny_checkpoint, tiny_corpus), tmp_path / "arm.cpep"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("cpep_export.native.host_architecture", lambda: "x86_64")

    answer = invoke("export", run, "--data", tiny_corpus, "--out", path, "--target", "linux-aarch64")

    assert answer.exit_code == 1
    assert "sudo apt-get install g++-aarch64-linux-gnu" in str(answer.exception)
    assert not path.exists()

"""A device: an environment with only what `pip install cpep-edge` installs, and a bundle."""

import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cpep_edge.bundle import Bundle, write_bundle

pytestmark = [pytest.mark.executorch, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def declared_by(package: str) -> list[Distribution]:
    """The packages that are installed with `package` without extras."""
    found: dict[str, Distribution] = {}
    waiting = [package]
    while waiting:
        for text in distribution(waiting.pop()).requires or []:
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and requirement.name not in found:
                found[requirement.name] = distribution(requirement.name)
                waiting.append(requirement.name)
    return list(found.values())


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a fresh environment. Its packages are links to those of this one, which takes a second."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for package in declared_by("cpep-edge"):
        for name in {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / name).exists():
                (site / name).symlink_to(str(package.locate_file(name)))
    for source in (ROOT / "cpep_edge", ROOT / "firmware_bridge" / "cpep_bridge", ROOT / "benchmarks" / "cpep_bench"):
        (site / source.name).symlink_to(source)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def bare_bundle(tiny_bundle, tmp_path_factory) -> Path:
    """The same bundle without a library, as if exported on a machine without a compiler."""
    carried = Bundle(tiny_bundle).manifest
    left = (carried.encoder.file, carried.index.file, carried.golden_file)
    path = tmp_path_factory.mktemp("bare") / "tiny.cpep"

    def fill(folder: Path) -> None:
        for name in left:
            shutil.copy(tiny_bundle / name, folder)

    gone = {"native": None, "pose": None, "hand_file": None, "chip": None}
    write_bundle(path, fill, lambda files: carried.model_copy(update={"files": files, **gone}))
    return path


def run(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, env=environment
    )


@pytest.mark.parametrize("module", ["torch", "executorch", "torchao"])
def test_the_environment_holds_no_torch(python, module):
    assert f"No module named '{module}'" in run(python, "-c", f"import {module}").stderr


def test_a_bundle_is_verified_with_its_golden_inputs(python, tiny_bundle):
    answer = run(python, "-m", "cpep_edge", "verify", tiny_bundle, "--json")

    assert (answer.returncode, answer.stderr) == (0, "")
    report = json.loads(answer.stdout)
    assert report["n_golden"] == 6
    assert report["smallest_cosine"] > 1 - 1e-6  # its golden inputs were made on this machine, with the bindings


def test_a_bundle_is_inspected(python, tiny_bundle):
    answer = run(python, "-m", "cpep_edge", "inspect", tiny_bundle, "--json")

    assert json.loads(answer.stdout)["native"]["libraries"][-1] == "libcpep_encoder.so"


def test_gestures_are_listed_and_forgotten(python, tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "tiny.cpep")
    gone = Bundle(tiny_bundle).manifest.gestures[0].name
    answer = run(python, "-m", "cpep_edge", "gestures", "remove", tmp_path / "tiny.cpep", gone)
    listed = run(python, "-m", "cpep_edge", "gestures", "list", tmp_path / "tiny.cpep", "--json")

    assert answer.returncode == 0, answer.stderr
    assert gone not in [gesture["name"] for gesture in json.loads(listed.stdout)["gestures"]]


def test_a_key_without_cryptography_says_what_to_install(python, tiny_bundle, tmp_path):
    (tmp_path / "key.pub").write_bytes(b"")
    answer = run(python, "-m", "cpep_edge", "verify", tiny_bundle, "--key", tmp_path / "key.pub")

    assert answer.returncode == 1
    assert "pip install 'cpep-edge[trust]'" in answer.stderr


def test_gestures_are_read_live_from_a_wristband(python, tiny_bundle, tiny_corpus):
    session = sorted(tiny_corpus.glob("user_c_*.hdf5"))[0]
    simulator = [python, "-m", "cpep_edge", "simulate", session, "--speed", "4", "--once"]
    with subprocess.Popen(simulator, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as band:
        answer = run(python, "-m", "cpep_edge", "live", tiny_bundle, "--port", band.stdout.readline().strip(), "--json")
        band.send_signal(signal.SIGINT)

    assert answer.returncode == 0, answer.stderr
    *decisions, summary = map(json.loads, answer.stdout.splitlines())
    assert len(decisions) == summary["n_decisions"] > 50


@pytest.mark.parametrize("heavy", ["scipy", "h5py", "hnswlib"])
def test_recognition_imports_nothing_heavy(python, tiny_bundle, heavy):
    script = f"""
import sys
from pathlib import Path
import numpy as np
from cpep_edge.bundle import Bundle
from cpep_edge.recogniser import Recogniser
sys.modules[{heavy!r}] = None
recogniser = Recogniser(Bundle(Path({str(tiny_bundle)!r})))
signal_uv = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
print(recogniser.recognise(recogniser.last_window(signal_uv)).vote.share)
"""
    answer = run(python, "-c", script)

    assert (answer.returncode, answer.stderr) == (0, "")
    assert 0 < float(answer.stdout) <= 1


def test_a_bundle_is_benchmarked(python, tiny_bundle, tmp_path):
    answer = run(python, "-m", "cpep_edge", "bench", tiny_bundle, "--out", tmp_path, "--json")

    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["versions"].get("torch") is None


def test_a_bundle_without_a_library_says_what_to_do(python, bare_bundle):
    answer = run(python, "-m", "cpep_edge", "verify", bare_bundle)

    assert answer.returncode == 1
    assert answer.stderr.startswith("error: this bundle contains no encoder library for this machine; export it with")
    assert answer.stderr.count("\n") == 1


def test_a_library_that_was_changed_is_never_loaded(python, tiny_bundle, tmp_path):
    spoilt = tmp_path / "spoilt.cpep"
    shutil.copytree(tiny_bundle, spoilt)
    library = spoilt / "libcpep_encoder.so"
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)

    answer = run(
        python,
        "-c",
        f"""
from pathlib import Path
from cpep_edge.bundle import Bundle, write_bundle
from cpep_edge.recogniser import Recogniser
try:
    Recogniser(Bundle(Path({str(spoilt)!r})))
except Exception as error:
    print(error)
print("libcpep_encoder" in Path("/proc/self/maps").read_text())
""",
    )

    said, loaded = answer.stdout.splitlines()
    assert "libcpep_encoder.so was changed after export" in said
    assert loaded == "False"


def test_the_runner_in_the_bundle_starts_where_it_lies(tiny_bundle):
    native = Bundle(tiny_bundle).manifest.native

    answer = subprocess.run([tiny_bundle / native.runner], capture_output=True, text=True, check=False)

    assert (answer.returncode, answer.stderr[:13]) == (2, "error: usage:")


def test_the_interpreter_is_not_the_one_that_runs_the_tests(python):
    prefix = run(python, "-c", "import sys; print(sys.prefix)").stdout.strip()

    assert Path(prefix) == python.parents[1] != Path(sys.prefix)

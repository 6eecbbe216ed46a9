"""`cpep-edge export --target linux-aarch64`: the whole command, and its bundle run on an emulated Cortex-A72."""

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from cpep_edge.bundle import Bundle
from cpep_edge.cli import app
from cpep_edge.golden import COSINE_TOLERANCE, Golden
from cpep_edge.native_encoder import carried_library
from cpep_edge.preprocess import Preprocessor
from cpep_train.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from cpep_train.checkpoint import Checkpoint

pytestmark = pytest.mark.executorch

QEMU = ("qemu-aarch64-static", "-cpu", "cortex-a72", "-L", "/usr/aarch64-linux-gnu")


def test_an_exported_bundle_gives_its_golden_outputs_on_arm(
    tiny_checkpoint: "Checkpoint", tiny_corpus: Path, tmp_path: Path
) -> None:
    for tool in ("aarch64-linux-gnu-g++", QEMU[0]):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (apt-get install g++-aarch64-linux-gnu qemu-user-static)")
    run, path = tmp_path / "run", tmp_path / "arm.cpep"
    run.mkdir()
    save_checkpoint(run, tiny_checkpoint)
    what = ("export", str(run), "--data", str(tiny_corpus), "--out", str(path))
    answer = CliRunner().invoke(app, [*what, "--target", "linux-aarch64", "--quant", "fp32", "--no-pose-encoder"])
    if answer.exception is not None and "fetching executorch" in str(answer.exception):
        pytest.skip(f"the aarch64 wheel of executorch is out of reach: {answer.exception}")
    assert answer.exit_code == 0, answer.exception

    bundle = Bundle(path)
    manifest, golden = bundle.manifest, Golden.from_bytes(bundle.read(bundle.manifest.golden_file))
    assert manifest.target == "linux-aarch64"
    assert manifest.native is not None
    assert carried_library(bundle) is None or manifest.native.architecture == "aarch64"
    filtered = [Preprocessor(manifest.preprocessing, 4)(stretch) for stretch in golden.signal_uv]
    windows = np.stack([samples[-manifest.encoder.window_samples :].T for samples in filtered])
    command = (*QEMU, path / manifest.native.runner, path / manifest.encoder.file, "-", "--raw")
    ran = subprocess.run(command, input=windows.tobytes(), capture_output=True, check=True, timeout=60)
    embedding = np.frombuffer(ran.stdout, np.float32).reshape(golden.embedding.shape)
    assert np.sum(embedding * golden.embedding, axis=1).min() > 1 - COSINE_TOLERANCE


def test_a_missing_cross_compiler_is_named_before_anything_is_written(
    tiny_checkpoint: "Checkpoint", tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = tmp_path / "run", tmp_path / "arm.cpep"
    run.mkdir()
    save_checkpoint(run, tiny_checkpoint)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("cpep_export.native.host_architecture", lambda: "x86_64")

    answer = CliRunner().invoke(
        app, ["export", str(run), "--data", str(tiny_corpus), "--out", str(path), "--target", "linux-aarch64"]
    )

    assert answer.exit_code == 1
    assert "sudo apt-get install g++-aarch64-linux-gnu" in str(answer.exception)
    assert not path.exists()

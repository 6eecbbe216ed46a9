from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpep_bench.peers import measure_peers
from cpep_edge.bundle import Bundle
from cpep_edge.errors import ConfigError
from cpep_edge.golden import Golden
from cpep_edge.recogniser import Recogniser
from cpep_train.checkpoint import Checkpoint, build_encoders, save_checkpoint

pytestmark = pytest.mark.executorch


def signal_of(bundle: Bundle) -> np.ndarray:
    return Golden.from_bytes(bundle.read(bundle.manifest.golden_file)).signal_uv.reshape(-1, 4)


def test_peers_of_the_encoder_run_the_same_weights_and_ours_comes_first(
    tiny_bundle: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    bundle = Bundle(tiny_bundle)
    save_checkpoint(tmp_path, tiny_checkpoint)

    figures = measure_peers(
        ("torch", "onnxruntime"), bundle, Recogniser(bundle), signal_of(bundle), n_runs=200, run=tmp_path
    )

    assert [figure.name for figure in figures] == [
        "cpep-edge", "ONNX Runtime fp32", "ONNX Runtime int8-static", "ONNX Runtime int8-dynamic", "torch eager"
    ]  # fmt: skip
    cosine = {figure.name: float(figure.agreement.removeprefix("cosine ")) for figure in figures}
    assert cosine["torch eager"] == cosine["ONNX Runtime fp32"] == 1
    assert min(cosine.values()) > 0.7  # a toy in int8, calibrated on noise; with other weights it would be near 0
    assert figures[0].size_bytes == bundle.manifest.files[bundle.manifest.encoder.file].size_bytes


def test_the_training_of_another_bundle_is_refused(
    tiny_bundle: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    bundle = Bundle(tiny_bundle)
    wider = tiny_checkpoint.recipe.model_copy(
        update={"emg": tiny_checkpoint.recipe.emg.model_copy(update={"width": 64})}
    )
    emg, pose = build_encoders(wider)
    save_checkpoint(tmp_path, replace(tiny_checkpoint, recipe=wider, emg=emg, pose=pose))

    with pytest.raises(ConfigError, match="its encoder has .* parameters, the bundle's has"):
        measure_peers(("torch",), bundle, Recogniser(bundle), signal_of(bundle), n_runs=200, run=tmp_path)

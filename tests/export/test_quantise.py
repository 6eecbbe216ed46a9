import numpy as np
import pytest
import torch
from torch import nn

from cpep_edge.bundle import Bundle
from cpep_edge.encoder import open_encoder
from cpep_edge.errors import DataError
from cpep_export.fused import FusedEncoder
from cpep_export.quantise import MIN_CALIBRATION_WINDOWS, quantise
from cpep_export.training_windows import calibration_windows
from cpep_train.corpus import Corpus
from cpep_train.evaluate import EvaluationSet, evaluation_set
from tests.processes import python

pytestmark = pytest.mark.executorch


@pytest.fixture(scope="module")
def evaluation(tiny_checkpoint, tiny_corpus) -> EvaluationSet:
    return evaluation_set(tiny_checkpoint, Corpus.open(tiny_corpus))


@pytest.fixture(scope="module")
def windows(evaluation) -> np.ndarray:
    return evaluation.queries.emg()


@pytest.fixture(scope="module")
def fused(tiny_checkpoint) -> FusedEncoder:
    return FusedEncoder(tiny_checkpoint.emg).eval()


@pytest.fixture(scope="module")
def int8(fused, evaluation, tiny_checkpoint) -> nn.Module:
    """The quantised graph, as the export of the tiny bundle lowers it."""
    return quantise(fused, "int8", calibration_windows(evaluation, tiny_checkpoint.recipe.seed))


def nodes(graph: nn.Module) -> list[torch.fx.Node]:
    return list(graph.graph.nodes)


def embed(module: nn.Module, windows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([module(torch.from_numpy(window[None])) for window in windows]).numpy()


def test_int8_embeddings_stay_near_float_and_of_unit_length(fused, int8, windows):
    got, expected = embed(int8, windows), embed(fused, windows)

    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert np.quantile(np.sum(got * expected, axis=1), 0.05) > 0.99
    assert np.abs(got - expected).max() > 1e-4  # it was really quantised


def test_every_linear_layer_is_int8(fused, int8):
    with_weights = (torch.ops.aten.linear.default, torch.ops.aten.conv1d.default)
    layers = [n for n in nodes(int8) if n.target in with_weights]
    quantised = [n for n in layers if all("dequantize" in str(argument) for argument in n.args[:2])]

    assert len(quantised) == sum(isinstance(module, nn.Linear) for module in fused.modules())


def test_only_the_patches_range_is_measured_as_they_come(fused, int8):
    (measured,) = [n for n in nodes(int8) if "choose_qparams" in n.name]

    n_values = fused.n_channels * fused.patch.patch_samples
    assert measured.args[0].meta["val"].shape == (1, fused.window_samples // fused.patch.patch_samples, n_values)


def test_the_residual_stream_and_the_normalisation_stay_in_float(int8):
    """The XNNPACK quantizer converts every concatenation, whatever its configuration, so the graph may have none."""
    made_int8 = [str(n.args[0]) for n in nodes(int8) if n.name.startswith("quantize_per_tensor")]

    assert made_int8
    assert [name for name in made_int8 if name.startswith(("add", "cat", "pad", "softmax", "bmm", "rsqrt"))] == []


def test_the_program_computes_what_the_quantised_graph_computes(tiny_bundle, int8, windows):
    bundle = Bundle(tiny_bundle)
    encoder = open_encoder(bundle.read(bundle.manifest.encoder.file), bundle.manifest.encoder)

    program = np.stack([encoder.embed(window) for window in windows])

    # XNNPACK and torch round the measured range of a patch differently
    assert np.quantile(np.sum(program * embed(int8, windows), axis=1), 0.05) > 0.995


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        (np.ones((MIN_CALIBRATION_WINDOWS - 1, 4, 200), np.float32), "too few"),
        (np.zeros((MIN_CALIBRATION_WINDOWS, 4, 200), np.float32), "silent"),
        (np.ones((MIN_CALIBRATION_WINDOWS, 5, 200), np.float32), "shape"),
        (np.full((MIN_CALIBRATION_WINDOWS, 4, 200), np.nan, np.float32), "NaN"),
    ],
)
def test_calibration_that_says_nothing_is_refused(fused, calibration, reason):
    with pytest.raises(DataError, match=reason):
        quantise(fused, "int8", calibration)


@pytest.mark.slow
def test_the_tool_chain_imports_without_a_word_and_leaves_logging_alone():
    code = """
import logging
from cpep_export.toolchain import quiet_toolchain
with quiet_toolchain():
    import torchao.quantization.pt2e.quantize_pt2e
    import executorch.backends.xnnpack.quantizer.xnnpack_quantizer
    import executorch.backends.xnnpack.partition.xnnpack_partitioner
assert not logging.root.handlers and logging.root.manager.disable == 0
"""
    done = python("-c", code)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

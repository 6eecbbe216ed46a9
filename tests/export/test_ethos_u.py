"""The encoder for an Ethos-U: really lowered, and run in integers by Arm's reference model; Vela estimates its cost."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from cpep_edge.errors import ArtifactError, ConfigError  # noqa: E402
from cpep_export import ethos_u  # noqa: E402
from cpep_export.chips import Chip  # noqa: E402
from cpep_export.ethos_u import (  # noqa: E402
    EthosUProgram,
    NpuEncoder,
    levels,
    lower_for_ethos_u,
    missing_package,
    require_delegated,
)
from cpep_export.fused import FusedEncoder  # noqa: E402
from cpep_train.model import Embedder, EncoderConfig  # noqa: E402

pytestmark = pytest.mark.executorch
needs_vela = pytest.mark.skipif(missing_package() is not None, reason="needs pip install 'cpep-edge[ethos-u]'")

CONFIG = EncoderConfig(n_channels=4, window_samples=100, patch_samples=20, width=32, n_layers=1, n_heads=2, mlp_ratio=2)


def _windows(n: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(-0.3, 0.8, (n, 4, 1)))
    return (level * rng.normal(size=(n, 4, 100))).astype(np.float32)


@pytest.fixture(scope="module")
def encoder() -> FusedEncoder:
    return _encoder(CONFIG)


def _encoder(config: EncoderConfig) -> FusedEncoder:
    torch.manual_seed(0)
    embedder = Embedder(config, 24).eval()
    for parameter in embedder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return FusedEncoder(embedder).eval()


@pytest.fixture(scope="module")
def program(encoder) -> EthosUProgram:
    return lower_for_ethos_u(encoder, "ethos-u55", _windows(24, seed=0))


@pytest.mark.parametrize("front_end", [{}, {"front_end": "rectified"}, {"front_end": "rectified", "level_samples": 5}])
def test_the_shape_for_the_npu_computes_the_same_directions(front_end):
    encoder = _encoder(replace(CONFIG, **front_end))
    windows = torch.from_numpy(_windows(6, seed=3) * np.geomspace(0.01, 10, 6, dtype=np.float32)[:, None, None])
    with torch.no_grad():
        npu = NpuEncoder(encoder, windows).eval()
        given = torch.from_numpy(levels(windows.numpy(), encoder.patch.level_samples))
        features = torch.cat([npu(window[None])[0] for window in given])
        expected = torch.cat([encoder(window[None]) for window in windows])

    torch.testing.assert_close(torch.nn.functional.normalize(features, dim=1), expected, atol=1e-5, rtol=0)


@needs_vela
@pytest.mark.slow
def test_the_integers_stay_close_to_float32_in_the_reference_model(encoder, program, capfd):
    windows = _windows(8, seed=1)
    with torch.no_grad():
        expected = [encoder(torch.from_numpy(window[None]))[0].numpy() for window in windows]

    cosines = [float(reference @ program.embed(window)) for reference, window in zip(expected, windows, strict=True)]

    assert np.mean(cosines) > 0.99
    assert capfd.readouterr().out == ""  # stdout is reserved for a command's answer
    assert min(cosines) > 0.97  # louder or quieter windows than in calibration


@needs_vela
@pytest.mark.slow
def test_velas_figures_agree_with_themselves_and_are_called_modelled(program):
    vela = program.vela

    assert vela.how == "modelled (Vela)"
    assert (vela.accelerator, vela.clock_mhz) == ("ethos-u55-128", 500)
    assert vela.cycles / (vela.clock_mhz * 1e3) == pytest.approx(vela.inference_ms, rel=1e-3)
    assert vela.multiply_adds / 128 < vela.cycles  # the NPU has 128 multipliers
    assert 24 * 32 < vela.flash_bytes < len(program.content)
    with pytest.raises(ConfigError, match=r"bytes of RAM, 1 more than the chip has"):
        Chip(ram_bytes=vela.sram_bytes - 1).check(vela.sram_bytes, vela.flash_bytes)


def test_what_the_npu_does_not_run_is_named():
    operators = [SimpleNamespace(name=name) for name in ("quantized_decomposed::quantize_per_tensor", "aten::erf.out")]

    with pytest.raises(ArtifactError, match=r"these operators stay outside: aten::erf\.out; .* recipe micro"):
        require_delegated("ethos-u55", SimpleNamespace(operators=operators, delegates=[None]))
    with pytest.raises(ArtifactError, match="cuts into 2 parts"):
        require_delegated("ethos-u85", SimpleNamespace(operators=[], delegates=[None, None]))


def test_a_missing_package_is_named_with_the_line_that_installs_it(encoder, monkeypatch):
    monkeypatch.setattr(ethos_u, "PACKAGES", ("vela_of_nowhere.vela",))

    with pytest.raises(ConfigError, match=r"vela_of_nowhere.vela is missing; .* 'cpep-edge\[ethos-u\]'"):
        lower_for_ethos_u(encoder, "ethos-u55", _windows(24, seed=0))

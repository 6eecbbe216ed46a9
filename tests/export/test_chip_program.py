"""The files of a bundle for a microcontroller, and their entries in the manifest."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.bundle import Bundle
from cpep_edge.chip import CortexMSpec, cortex_m_spec, unpack_sources
from cpep_edge.errors import ArtifactError
from cpep_edge.golden import Golden
from cpep_export.chip_program import golden_reasons
from cpep_export.cortex_m import check_golden_on
from tests.export.programs import needs_make, needs_qemu

pytestmark = [pytest.mark.executorch, needs_make]


@pytest.fixture(scope="module")
def sources(tiny_bundle, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    unpack_sources(Bundle(tiny_bundle), folder)
    return folder


def _spec(bundle: Path) -> CortexMSpec:
    return cortex_m_spec(Bundle(bundle))


def test_the_sources_of_a_bundle_compile_and_give_its_golden_gestures(tiny_bundle, sources, tmp_path):
    run = check_golden_on(sources, "host", tmp_path)
    golden = Golden.from_bytes(Bundle(tiny_bundle).read("golden.npz"))

    assert [stretch.difference for stretch in run.golden] == [0] * len(golden.gesture_index)
    np.testing.assert_array_equal([stretch.gesture_index for stretch in run.golden], golden.gesture_index)
    assert run.arena_bytes == _spec(tiny_bundle).arena_bytes


def test_the_ladder_ends_with_the_integers_of_the_chip(tiny_bundle):
    manifest = Bundle(tiny_bundle).manifest

    assert manifest.target == "cortex-m"
    assert manifest.ladder[-1].step == "integers of the microcontroller"
    assert manifest.ladder[-1].vote_agreement >= 0.97
    assert _spec(tiny_bundle).mean_cosine >= 0.999


@needs_qemu
def test_the_manifest_says_what_both_processors_took(tiny_bundle):
    m55, m7 = _spec(tiny_bundle).runs

    assert (m55.processor, m7.processor) == ("cortex-m55", "cortex-m7")
    assert 0 < m55.instructions_a_window < m7.instructions_a_window
    assert _spec(tiny_bundle).weight_bytes < m55.constant_bytes
    assert _spec(tiny_bundle).arena_bytes < m55.ram_bytes


def test_golden_inputs_that_end_far_from_float32_are_a_reason_to_refuse_and_the_farthest_is_named():
    (reason,) = golden_reasons([0.999, 0.16, 0.95])

    assert "number 1 with 0.160" in reason
    assert golden_reasons([0.999, 0.985]) == ()


def test_a_bundle_without_a_chip_has_no_sources(tiny_bundle, tmp_path):
    bundle = Bundle(tiny_bundle)
    bundle.manifest = bundle.manifest.model_copy(update={"chip": None})

    with pytest.raises(ArtifactError, match="export it with --target cortex-m"):
        unpack_sources(bundle, tmp_path)


@pytest.mark.parametrize("harm", [lambda content: content[:-40], lambda content: b"no archive", "bomb"])
def test_sources_that_cannot_be_unpacked_are_said(harm, tiny_bundle, tmp_path, monkeypatch):
    bundle = Bundle(tiny_bundle)
    content = bundle.read(_spec(tiny_bundle).file)
    if harm == "bomb":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.c", bytes(1 << 28) + b" ")
        content = packed.getvalue()
    else:
        content = harm(content)
    monkeypatch.setattr(bundle, "read", lambda name: content)

    with pytest.raises(ArtifactError, match="its C sources (cannot be unpacked|would unpack to more)"):
        unpack_sources(bundle, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sources_never_leave_their_folder(sources, tiny_bundle):
    with zipfile.ZipFile(tiny_bundle / _spec(tiny_bundle).file) as archive:
        names = archive.namelist()

    assert {Path(name).parts[0] for name in names} >= {"engine", "board", "Makefile", "model.c", "golden.c"}
    assert sorted(names) == sorted(str(f.relative_to(sources)) for f in sources.rglob("*") if f.is_file())

"""The C library through ctypes: it gives the numbers of ExecuTorch's own bindings, and clear error messages."""

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import signal

from cpep_edge.encoder import open_encoder
from cpep_edge.errors import ArtifactError, CpepError
from cpep_edge.manifest import EncoderSpec
from cpep_edge.mpf import MpfSpec, MpfStream, design_bands
from cpep_edge.native_encoder import NativeEncoder, native_kernels
from cpep_edge.preprocess import design_filter
from tests.processes import python

if TYPE_CHECKING:
    from cpep_export.native import NativeBuild

pytestmark = pytest.mark.executorch

Program = tuple[bytes, EncoderSpec]


@pytest.fixture(scope="module")
def program(native_program) -> bytes:
    return native_program[0]


@pytest.fixture(scope="module")
def spec(native_program) -> EncoderSpec:
    return native_program[1]


@pytest.fixture(scope="module")
def encoder(library, program, spec) -> NativeEncoder:
    return NativeEncoder(library, program, spec)


@pytest.fixture(scope="module")
def windows(spec) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, spec.n_channels, spec.window_samples)).astype(np.float32)


def in_another_process(script: str, native_build: "NativeBuild", native_program: Program, folder: Path) -> dict:
    """Run a script with `library`, `program`, `spec` and `window` defined; returns the JSON object that it prints."""
    program, spec = native_program
    (folder / "encoder.pte").write_bytes(program)
    (folder / "spec.json").write_text(spec.model_dump_json())
    prologue = f"""
import json, sys
from pathlib import Path
import numpy as np
from cpep_edge.manifest import EncoderSpec
from cpep_edge.encoder import open_encoder
from cpep_edge.native_encoder import NativeEncoder, NativeLibrary, native_kernels
from cpep_edge.preprocess import design_filter
files = {[str(file) for file in native_build.libraries]!r}
library = NativeLibrary({native_build.architecture!r}, tuple((Path(f).name, Path(f).read_bytes()) for f in files))
program = Path({str(folder / "encoder.pte")!r}).read_bytes()
spec = EncoderSpec.model_validate_json(Path({str(folder / "spec.json")!r}).read_text())
window = np.random.default_rng(0).normal(size=(spec.n_channels, spec.window_samples)).astype(np.float32)
"""
    done = python("-c", prologue + script, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_it_gives_the_very_bytes_that_the_bindings_give(encoder, program, spec, windows):
    bindings = open_encoder(program, spec)

    for window in windows:
        np.testing.assert_array_equal(encoder.embed(window), bindings.embed(window))


@pytest.mark.parametrize("order", ["native, bindings", pytest.param("bindings, native", marks=pytest.mark.slow)])
def test_it_lives_beside_the_bindings_whichever_comes_first(native_build, native_program, tmp_path, order):
    script = f"""
native = lambda: NativeEncoder(library, program, spec)
bindings = lambda: open_encoder(program, spec)
opened = [make() for make in ({order})]
print(json.dumps([encoder.embed(window).tolist() for encoder in opened]))
"""
    one, other = in_another_process(script, native_build, native_program, tmp_path)

    assert one == other


def test_an_embedding_is_not_overwritten_by_the_next(encoder, windows):
    first = encoder.embed(windows[0])
    kept = first.copy()
    encoder.embed(windows[1])

    np.testing.assert_array_equal(first, kept)


def test_a_window_may_lie_in_memory_as_it_likes(encoder, windows):
    transposed = np.asfortranarray(windows[0])
    every_other = np.repeat(windows[0], 2, axis=1)[:, ::2]

    np.testing.assert_array_equal(encoder.embed(transposed), encoder.embed(windows[0]))
    np.testing.assert_array_equal(encoder.embed(every_other), encoder.embed(windows[0]))


def test_two_threads_agree_with_one(native_build, native_program, tmp_path):
    script = """
one, two = (NativeEncoder(library, program, spec, n_threads=n) for n in (1, 2))
refused = ""
try:
    NativeEncoder(library, program, spec, n_threads=3)
except Exception as error:
    refused = str(error)
print(json.dumps([one.embed(window).tolist(), two.embed(window).tolist(), refused]))
"""
    one, two, refused = in_another_process(script, native_build, native_program, tmp_path)

    np.testing.assert_allclose(one, two, atol=1e-6)
    assert "already runs encoders on 2 threads" in refused


@pytest.mark.parametrize(
    "damage",
    [
        lambda program: b"",
        lambda program: b"\xff" * 1000,
        lambda program: program[:100],
        lambda program: program[: len(program) // 2],
        lambda program: bytes(64) + program[64:],
    ],
)
def test_a_damaged_program_is_refused_in_one_sentence(library, program, spec, damage, capfd):
    with pytest.raises(ArtifactError, match="^the encoder program cannot be loaded: [ -~]+$"):
        NativeEncoder(library, damage(program), spec)

    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("field", "side"), [("n_channels", "input"), ("window_samples", "input"), ("d_embed", "output")]
)
def test_a_program_of_another_shape_is_refused(library, program, spec, field, side):
    other = spec.model_copy(update={field: getattr(spec, field) + 1})

    with pytest.raises(ArtifactError, match=f"{side} is .* the manifest says"):
        NativeEncoder(library, program, other)


def test_a_window_of_another_shape_is_a_callers_slip(encoder, windows):
    with pytest.raises(ValueError, match="this encoder takes"):
        encoder.embed(windows[0].T)
    with pytest.raises(ValueError, match="this encoder takes"):
        encoder.embed(windows[0][:, 1:])


def test_no_threads_is_a_callers_slip(library, program, spec):
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
        NativeEncoder(library, program, spec, n_threads=0)


def test_a_library_for_another_processor_is_refused(library, program, spec):
    with pytest.raises(CpepError, match="is for riscv64 Linux, this is"):
        NativeEncoder(replace(library, architecture="riscv64"), program, spec)


def test_bytes_that_are_no_library_are_refused(library, program, spec):
    (name, _), *rest = reversed(library.files)
    spoilt = replace(library, files=(*reversed(rest), (name, b"no ELF")))

    with pytest.raises(CpepError, match=f"{name} cannot be loaded"):
        NativeEncoder(spoilt, program, spec)


@pytest.mark.parametrize(("n_channels", "notch_hz"), [(1, None), (16, 50.0)])
def test_the_filter_gives_the_bits_that_scipy_gives(library, n_channels, notch_hz):
    rng, sos = np.random.default_rng(0), np.array(design_filter(2000.0, 40.0, notch_hz))
    samples = rng.normal(0, 100, (700, n_channels)).astype(np.float32)
    state = rng.normal(size=(len(sos), 2, n_channels))
    sosfilt = native_kernels(library).sosfilt

    first, between = sosfilt(sos, samples[:1], state)
    second, last = sosfilt(sos, np.asfortranarray(samples[1:]), between)

    expected, expected_last = signal.sosfilt(sos, samples, axis=0, zi=state)
    np.testing.assert_array_equal(np.concatenate([first, second]), expected)
    np.testing.assert_array_equal(last, expected_last)


def _arm(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Signal of n electrodes, with a fault that real bands have."""
    x = rng.normal(size=(700, n)) @ rng.normal(size=(n, n)) * 10 ** rng.uniform(-2, 1, n)
    if kind == "one source":
        x = x[:, :1] * rng.normal(size=n)
    elif kind == "doubled":
        x[:, -1] = x[:, 0]
    elif kind == "flat":
        x[:, 0] = 3
    elif kind == "silent":
        x[:] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", ["as it is", "one source", "doubled", "flat", "silent"])
@pytest.mark.parametrize("n", [2, 5, 11, 16])
def test_the_front_end_s_tokens_are_numpy_s_whatever_the_electrodes_do(library, n, kind):
    """In pieces of any size, from any sample on, without one electrode, and again after a reset."""
    rng = np.random.default_rng(n)
    bands = list(design_bands(1000.0, (20.0, 60.0, 120.0, 450.0)))
    bands[1] = bands[1].model_copy(update={"sos": bands[1].sos[:1]})  # with fewer sections than the others
    spec = MpfSpec(n_electrodes=n, bands=tuple(bands), hop_samples=25, span_samples=75, shrinkage=0.01)
    centre = rng.normal(size=spec.n_features).astype(np.float32)
    dead = (1,) if n > 2 else ()
    ours = native_kernels(library).front_end(spec, centre=centre, dead=dead)
    for first in (0, 13):
        signal_uv, reference = _arm(kind, n, rng), MpfStream(spec, centre=centre, dead=dead)
        ours.reset(first)
        reference.reset(first)
        parts = np.split(np.asfortranarray(signal_uv), np.sort(rng.integers(0, 700, 9)))
        found = np.concatenate([ours(part) for part in parts])
        np.testing.assert_allclose(found, reference(signal_uv), atol=5e-6, rtol=2e-6)
    with pytest.raises(ValueError, match=f"this front end takes \\(n, {n}\\)"):
        ours(signal_uv[:, 1:])


def test_encoders_are_freed(library, program, spec):
    def resident_pages() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    def open_and_drop() -> None:
        for _ in range(50):
            NativeEncoder(library, program, spec)

    open_and_drop()
    before = resident_pages()
    open_and_drop()

    assert (resident_pages() - before) * 4096 < 25 * len(program)  # half of what a leak would take


@pytest.mark.parametrize("same", [True, False])
def test_libraries_of_the_bindings_are_shared_and_those_of_another_build_refused(
    native_build, native_program, tmp_path, same
):
    script = f"""
import ctypes
ctypes.CDLL(files[0])  # as the bindings would, from a file
name, content = library.files[0]
library = NativeLibrary(library.architecture, ((name, content + bytes({0 if same else 1})), *library.files[1:]))
try:
    said = NativeEncoder(library, program, spec).embed(window).shape
except Exception as error:
    said = str(error)
print(json.dumps([said, "memfd:" + name in Path("/proc/self/maps").read_text()]))
"""
    said, twice = in_another_process(script, native_build, native_program, tmp_path)

    assert said == [native_program[1].d_embed] if same else "another build of ExecuTorch" in said
    assert not twice

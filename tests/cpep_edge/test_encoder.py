from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import numpy as np
import pytest

from cpep_edge.bundle import Bundle
from cpep_edge.encoder import EmgEncoder, _OneAtATime, open_encoder
from cpep_edge.errors import ArtifactError, CpepError
from cpep_edge.manifest import EncoderSpec
from tests.processes import python, without_package

pytestmark = pytest.mark.executorch


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle(tiny_bundle)


@pytest.fixture(scope="module")
def program(bundle) -> bytes:
    return bundle.read(bundle.manifest.encoder.file)


@pytest.fixture(scope="module")
def spec(bundle) -> EncoderSpec:
    return bundle.manifest.encoder


@pytest.fixture(scope="module")
def encoder(program, spec) -> EmgEncoder:
    return open_encoder(program, spec)


@pytest.fixture
def window(spec) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(spec.n_channels, spec.window_samples)).astype(np.float32)


def test_embedding_has_unit_length(encoder, window, spec):
    embedding = encoder.embed(window)

    assert embedding.shape == (spec.d_embed,)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_an_embedding_survives_the_next_one(encoder, window):
    first = encoder.embed(window)
    kept = first.copy()

    second = encoder.embed(-3 * window)

    assert not np.allclose(first, second)
    assert np.array_equal(first, kept)


def test_threads_that_share_an_encoder_get_each_their_own(encoder, window):
    windows = [window * scale for scale in np.linspace(-2, 2, 16)]
    alone = [encoder.embed(one) for one in windows]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(encoder.embed, windows * 40))
    for number, embedding in enumerate(together):
        np.testing.assert_array_equal(embedding, alone[number % len(windows)])


def test_a_thread_waits_while_another_is_inside():
    class Inside:
        """An encoder that starts another thread, which also tries to embed, while it embeds."""

        def __init__(self) -> None:
            self.other: Thread | None = None
            self.was_kept_out = False

        def embed(self, window: np.ndarray) -> np.ndarray:
            if self.other is None:
                self.other = Thread(target=shared.embed, args=(window,))
                self.other.start()
                self.other.join(timeout=0.5)
                self.was_kept_out = self.other.is_alive()
            return window

    inside = Inside()
    shared = _OneAtATime(inside)
    shared.embed(np.zeros((1, 1), np.float32))
    inside.other.join()
    assert inside.was_kept_out


def test_a_window_may_be_read_only_or_a_view(encoder, window):
    expected = encoder.embed(window)
    view = np.asfortranarray(window)
    view.setflags(write=False)

    assert np.array_equal(encoder.embed(view), expected)


def test_the_program_outlives_the_caller_s_reference(program, spec, window):
    expected = open_encoder(program, spec).embed(window)
    encoder = open_encoder(bytes(bytearray(program)), spec)
    _ = [bytes(bytearray(len(program))) for _ in range(20)]  # would overwrite the program if it were freed

    assert np.array_equal(encoder.embed(window), expected)


def test_a_window_of_another_shape_is_the_caller_s_slip(encoder, window):
    with pytest.raises(ValueError, match="window has shape"):
        encoder.embed(window[:, :-1])


@pytest.mark.parametrize(
    ("field", "side"), [("n_channels", "input"), ("window_samples", "input"), ("d_embed", "output")]
)
def test_a_program_of_another_shape_is_refused(program, spec, field, side):
    other = spec.model_copy(update={field: getattr(spec, field) + 1})

    with pytest.raises(ArtifactError, match=side):
        open_encoder(program, other)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_program_cut_short_is_refused(program, spec, share):
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        open_encoder(program[: int(share * len(program))], spec)


def test_another_number_of_threads_is_refused_rather_than_risked(encoder, program, spec):
    with pytest.raises(CpepError, match="already runs encoders on 1 threads"):
        open_encoder(program, spec, n_threads=2)
    with pytest.raises(ValueError, match="n_threads"):
        open_encoder(program, spec, n_threads=0)


@pytest.mark.parametrize("module", ["torch", "executorch"])
def test_a_missing_runtime_names_the_line_that_installs_it(module):
    code = "from cpep_edge.encoder import import_runtime\nimport_runtime()"
    done = python("-c", without_package(module) + code)

    assert "pip install 'cpep-edge[export]'" in done.stderr.splitlines()[-1]


def test_opening_an_encoder_says_nothing(tiny_bundle):
    code = f"""
from pathlib import Path
from cpep_edge.bundle import Bundle
from cpep_edge.encoder import open_encoder
bundle = Bundle(Path({str(tiny_bundle)!r}))
open_encoder(bundle.read(bundle.manifest.encoder.file), bundle.manifest.encoder)
"""
    done = python("-c", code)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

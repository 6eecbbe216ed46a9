"""Windows for a streaming program: embeddings do not depend on the hop, and no block is computed twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpep_edge.manifest import EncoderSpec, StreamSpec
from cpep_edge.streaming import StreamingRunner

N_BLOCKS, BLOCK, WINDOW = 4, 10, 50
SPEC = EncoderSpec(
    file="encoder.pte",
    runtime="executorch-xnnpack",
    quantisation="fp32",
    n_channels=2,
    window_samples=WINDOW,
    d_embed=1,
    n_parameters=1,
    n_delegates=1,
    n_operators_outside=0,
    stream=StreamSpec(block_samples=BLOCK, n_blocks=N_BLOCKS),
)


class Blocks:
    """A streaming program whose embedding is the sums of its last four blocks, in order."""

    def __init__(self) -> None:
        self.sums = [0.0] * N_BLOCKS
        self.n_runs = 0
        self.fails = False

    def embed(self, window: np.ndarray) -> np.ndarray:
        assert window.shape == (2, BLOCK)
        self.sums = [*self.sums[1:], float(window.sum())]
        self.n_runs += 1
        if self.fails:
            raise RuntimeError("the program failed")
        return np.array(self.sums)


def window(signal: np.ndarray, end: int) -> np.ndarray:
    return signal[:, end - WINDOW : end]


def expected(signal: np.ndarray, end: int) -> np.ndarray:
    return window(signal, end)[:, -N_BLOCKS * BLOCK :].reshape(2, N_BLOCKS, BLOCK).astype(float).sum(axis=(0, 2))


@given(st.lists(st.integers(0, 70), min_size=1, max_size=20), st.sampled_from(["noise", "silence", "repeating"]))
def test_any_sequence_of_windows_gives_what_each_gives_alone(steps, kind):
    noise = np.random.default_rng(0).integers(-9, 9, (2, 1500)).astype(np.float32)
    signal = {"noise": noise, "silence": 0 * noise, "repeating": np.tile(noise[:, :20], 75)}[kind]
    encoder = StreamingRunner(Blocks(), SPEC)

    for end in WINDOW + np.cumsum(steps):
        np.testing.assert_allclose(encoder.embed(window(signal, end)), expected(signal, end), atol=1e-4)


def test_a_window_costs_the_blocks_that_are_new_in_it():
    signal = np.random.default_rng(0).normal(size=(2, 400)).astype(np.float32)
    program = Blocks()
    encoder = StreamingRunner(program, SPEC)

    costs = []
    for end in (50, 60, 80, 110, 150, 155, 200, 60):
        before = program.n_runs
        encoder.embed(window(signal, end))
        costs.append(program.n_runs - before)

    assert costs == [4, 1, 2, 3, 4, 4, 4, 4]


def test_after_a_failure_everything_is_computed_anew():
    signal = np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)
    program = Blocks()
    encoder = StreamingRunner(program, SPEC)
    encoder.embed(window(signal, 50))
    program.fails = True
    with pytest.raises(RuntimeError):
        encoder.embed(window(signal, 60))
    program.fails = False

    np.testing.assert_allclose(encoder.embed(window(signal, 60)), expected(signal, 60), atol=1e-5)


def test_blocks_longer_than_the_window_are_refused():
    with pytest.raises(ValueError, match="longer than the window"):
        EncoderSpec.model_validate({**SPEC.model_dump(), "window_samples": 39})

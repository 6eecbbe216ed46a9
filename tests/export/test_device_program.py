"""When an export is refused, and which quantisation is chosen."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cpep_edge.errors import ArtifactError
from cpep_edge.manifest import LadderStep
from cpep_export import device_program as chosen
from cpep_export.device_program import DeviceProgram, device_program
from cpep_export.ladder import MODULE, PROGRAM, Ladder, refusals
from cpep_export.lower import Program
from cpep_train.corpus import Corpus
from cpep_train.evaluate import EvaluationSet, embed_poses, evaluation_set, torch_embedding
from tests.export.programs import encoder_spec

if TYPE_CHECKING:
    from cpep_train.checkpoint import Checkpoint

pytestmark = pytest.mark.executorch
Choose = Callable[..., DeviceProgram]


def steps(seen: float | None, unseen: float | None, votes: float) -> tuple[LadderStep, ...]:
    return (
        LadderStep(step=MODULE, seen=0.8, unseen=None if unseen is None else 0.6, vote_agreement=1.0),
        LadderStep(step=PROGRAM, seen=seen, unseen=unseen, vote_agreement=votes),
    )


@pytest.mark.parametrize(
    ("seen", "unseen", "votes"), [(0.8, 0.6, 1.0), (0.791, 0.591, 0.98), (0.9, 0.7, 0.99), (0.8, None, 0.98)]
)
def test_what_loses_a_point_and_two_votes_of_a_hundred_passes(seen, unseen, votes):
    assert refusals(steps(seen, unseen, votes)) == ()


@pytest.mark.parametrize(
    ("seen", "unseen", "votes", "said"),
    [
        (0.78, 0.6, 1.0, "loses 2.0% of accuracy on seen gestures"),
        (0.8, 0.58, 1.0, "loses 2.0% of accuracy on unseen gestures"),
        (0.8, 0.6, 0.979, "keeps 97.9% of the votes"),
    ],
)
def test_what_loses_more_is_refused(seen, unseen, votes, said):
    (reason,) = refusals(steps(seen, unseen, votes))

    assert said in reason


class Noisy:
    """The trained module with noise on its embeddings, in place of a program that loses votes."""

    def __init__(self, checkpoint: "Checkpoint", noise: float) -> None:
        self._embed, self._noise, self._rng = torch_embedding(checkpoint.emg), noise, np.random.default_rng(0)

    def embed(self, window: np.ndarray) -> np.ndarray:
        embedding = self._embed(window[None])[0]
        noisy = embedding + self._noise * self._rng.normal(size=embedding.shape).astype(np.float32)
        return noisy / np.linalg.norm(noisy)


@pytest.fixture(scope="module")
def evaluation(tiny_checkpoint, tiny_corpus) -> EvaluationSet:
    return evaluation_set(tiny_checkpoint, Corpus.open(tiny_corpus), windows_per_recording=20)


@pytest.fixture
def ladder(tiny_checkpoint, evaluation) -> Ladder:
    return Ladder(evaluation, embed_poses(tiny_checkpoint.pose, evaluation.references))


@pytest.fixture
def choose(tiny_checkpoint, evaluation, ladder, monkeypatch) -> Choose:
    """Choose a quantisation with lowering replaced: static int8 is bad, the others are good."""

    def lowered(checkpoint, fused, evaluation, quantisation):
        spec = encoder_spec(4, 200, 32, quantisation=quantisation)
        return Program(b"", 1, (), 0), spec, Noisy(checkpoint, 1.0 if quantisation == "int8" else 0.0)

    monkeypatch.setattr(chosen, "_lowered", lowered)
    return partial(device_program, tiny_checkpoint, evaluation, ladder)


def test_a_program_that_loses_votes_is_refused(choose):
    with pytest.raises(ArtifactError, match="export refuses int8: .* or accept it with --force"):
        choose("int8", force=False)


@pytest.mark.slow
def test_what_was_forced_is_written_down(choose, ladder):
    device = choose("int8", force=True)

    assert device.forced == refusals(ladder.steps) != ()


def test_auto_takes_the_smallest_that_keeps_the_votes(choose, ladder):
    device = choose("auto", force=False)

    assert device.spec.quantisation == "int8-dynamic"
    assert device.forced == ()
    assert [reason.split(":")[0] for reason in device.passed_over] == ["int8"]
    assert [step.step for step in ladder.steps].count(PROGRAM) == 1
    assert ladder.steps[-1].vote_agreement == 1

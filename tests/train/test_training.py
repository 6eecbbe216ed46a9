import logging
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from cpep_edge.errors import ArtifactError, ConfigError, CpepError, DataError
from cpep_train import training
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.epochs import EpochLog
from cpep_train.recipe import Recipe
from cpep_train.training import STAGES, train
from tests.train.toy_corpus import HELD_OUT_STAGE, write_toy_corpus


@pytest.fixture(scope="module")
def whole(toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    checkpoint = train(tiny_recipe, toy_corpus.folder, out, progress=False)
    assert checkpoint is not None
    return out, checkpoint


def _weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    emg = {f"emg.{name}": value for name, value in checkpoint.emg.state_dict().items()}
    return emg | {f"pose.{name}": value for name, value in checkpoint.pose.state_dict().items()}


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    pairs = zip(_weights(one).values(), _weights(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_run_leaves_recipe_weights_losses_and_nothing_temporary(whole: tuple[Path, Checkpoint]) -> None:
    out, checkpoint = whole
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    per_stage = [f"{stage}/{name}" for stage in STAGES for name in ("epochs.csv", "weights.safetensors")]
    ends = ["checkpoint.json", "emg_encoder.safetensors", "pose_encoder.safetensors", "provenance.json", "recipe.json"]
    assert files == sorted([*per_stage, *ends])
    assert HELD_OUT_STAGE not in checkpoint.seen_stages
    assert checkpoint.unseen_stages == (HELD_OUT_STAGE,)
    assert checkpoint.provenance.versions["torch"] == torch.__version__


def test_what_is_loaded_is_what_was_trained(whole: tuple[Path, Checkpoint]) -> None:
    out, checkpoint = whole
    loaded = load_checkpoint(out)
    assert _same(loaded, checkpoint)
    assert loaded.recipe == checkpoint.recipe
    assert loaded.preprocessing == checkpoint.preprocessing
    assert loaded.metrics == checkpoint.metrics
    assert not loaded.emg.training


def test_the_same_seed_gives_the_same_weights(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    again = train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert again is not None
    assert _same(again, whole[1])


def test_one_stage_at_a_time_gives_what_all_at_once_gives(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    for stage in STAGES[:2]:
        assert train(tiny_recipe, toy_corpus.folder, tmp_path, stage=stage, progress=False) is None
    last = train(tiny_recipe, toy_corpus.folder, tmp_path, stage="align", progress=False)
    assert last is not None
    assert _same(last, whole[1])


def test_alignment_without_the_stages_before_it_is_refused(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="align needs stage emg-mae"):
        train(tiny_recipe, toy_corpus.folder, tmp_path, stage="align", progress=False)


class _Interrupting(EpochLog):
    """Presses Ctrl-C in the middle of the second epoch of one stage."""

    stage = ""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        if trainer.current_epoch == 1 and args[1] == 2 and self._file.parent.name == self.stage:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_resumed_after_ctrl_c_ends_with_the_same_weights(
    stage: str,
    whole: tuple[Path, Checkpoint],
    toy_corpus: Corpus,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(_Interrupting, "stage", stage)
        patch.setattr(training, "EpochLog", _Interrupting)
        with pytest.raises(CpepError, match="--resume"):
            train(tiny_recipe, toy_corpus.folder, tmp_path / "run", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "run" / stage / "resume.ckpt").is_file()
    assert not (tmp_path / "run" / "checkpoint.json").exists()
    resumed = train(tiny_recipe, toy_corpus.folder, tmp_path / "run", resume=True, progress=False)
    assert resumed is not None
    assert _same(resumed, whole[1])
    assert resumed.metrics == whole[1].metrics


def test_a_folder_with_a_run_is_never_trained_over(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe
) -> None:
    with pytest.raises(ConfigError, match="add --resume"):
        train(tiny_recipe, toy_corpus.folder, whole[0], progress=False)


def test_a_run_is_not_resumed_with_another_recipe_or_other_data(
    whole: tuple[Path, Checkpoint], toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    other = tiny_recipe.model_copy(update={"seed": 99})
    with pytest.raises(ConfigError, match="another recipe"):
        train(other, toy_corpus.folder, whole[0], resume=True, progress=False)
    elsewhere = write_toy_corpus(tmp_path / "toy", n_samples=1200)
    with pytest.raises(ConfigError, match="other data"):
        train(tiny_recipe, elsewhere.folder, whole[0], resume=True, progress=False)


def test_a_folder_with_other_things_is_left_alone(toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="holds other things"):
        train(tiny_recipe, toy_corpus.folder, tmp_path, progress=False)


def test_a_corpus_too_short_for_one_window_says_so(tiny_recipe: Recipe, tmp_path: Path) -> None:
    corpus = write_toy_corpus(tmp_path / "toy", n_samples=90)
    with pytest.raises(DataError, match="split train has 0 usable windows"):
        train(tiny_recipe, corpus.folder, tmp_path / "run", progress=False)


def test_training_says_nothing_where_no_terminal_listens(
    toy_corpus: Corpus,
    tiny_recipe: Recipe,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        train(tiny_recipe, toy_corpus.folder, tmp_path / "run", stage="pose-mae")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert [record.message for record in caplog.records if "lightning" in record.name] == []


def test_the_bar_goes_to_stderr(
    toy_corpus: Corpus, tiny_recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_recipe, toy_corpus.folder, tmp_path / "run", stage="pose-mae", progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "pose-mae" in captured.err
    assert "2/2" in captured.err

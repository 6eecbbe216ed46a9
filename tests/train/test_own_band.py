"""From one's own band to a model: prompted recordings are trained on and evaluated, and their limits are reported."""

from pathlib import Path

import numpy as np
import pytest

from cpep_bridge.prompts import load_prompts, record_prompts
from cpep_bridge.recording import Wearer
from cpep_edge.blocks import Block, StreamInfo
from cpep_edge.errors import DataError
from cpep_train.corpus import Corpus, corpus_info
from cpep_train.evaluate import evaluation_set
from cpep_train.leakage import audit
from cpep_train.pose_templates import TEMPLATES, gesture_poses, template_poses
from cpep_train.recipe import load_recipe
from tests.firmware_bridge.blocks_in_memory import BlocksInMemory
from tests.processes import python
from tests.train.toy_corpus import train_on

N_CHANNELS = 5
STRENGTH = {"Fist": (40, 30, 5, 5, 20), "Open hand": (5, 5, 40, 20, 5), "Horns": (5, 30, 5, 40, 20)}


def record_own(folder: Path, rate_hz: float, repeat: int, session: str = "monday") -> Path:
    """The output of `record --prompt` for a wearer who follows the prompts."""
    listed = "".join(
        f'[[prompt]]\nstage = "{stage.replace(" ", "-")}"\nseconds = 1.5\nrepeat = {repeat}\n' for stage in STRENGTH
    )
    (folder / "list.toml").write_text(f"rest_s = 0.2\n{listed}")
    prompts, rng, parts = load_prompts(folder / "list.toml"), np.random.default_rng(len(session)), []
    for prompt, _ in prompts.steps():
        for seconds, strength in ((0.2, 3.0), (1.5, STRENGTH[prompt.stage.replace("-", " ")])):
            parts.append(rng.normal(0, 1, (round(seconds * rate_hz), N_CHANNELS)) * strength)
    signal = np.concatenate([*parts, parts[0]]).astype(np.float32)
    blocks = [Block(signal[n : n + 32], n, n / rate_hz, n / rate_hz) for n in range(0, len(signal), 32)]
    source = BlocksInMemory(blocks, info=StreamInfo("mine", N_CHANNELS, rate_hz))
    record_prompts(source, folder / "corpus", Wearer("me", session, "right"), prompts, lambda *_: None)
    return folder / "corpus"


@pytest.mark.parametrize("rate_hz", [100.0, 128.0, 200.0, 500.0, 1000.0, 2000.0, 4000.0])
def test_the_recipe_for_any_band_takes_its_rate_and_channels_and_keeps_its_times(tmp_path, rate_hz):
    corpus = record_own(tmp_path, rate_hz, repeat=1)
    recipe, written = load_recipe("own-band", ["align.epochs=3"], corpus), load_recipe("own-band")

    assert (recipe.signal.sample_rate_hz, recipe.signal.n_channels) == (rate_hz, N_CHANNELS)
    assert recipe.pose.source == "gestures"
    assert recipe.align.epochs == 3
    for lasts in ("window_samples", "stride_samples"):
        of_mine, of_written = getattr(recipe.windows, lasts) / rate_hz, getattr(written.windows, lasts) / 1000
        assert of_mine == pytest.approx(of_written, rel=0.25)
    spec = recipe.mpf_spec()
    assert spec.n_tokens(recipe.windows.window_samples) == 2


def test_what_was_recorded_by_prompts_trains_as_it_stands(tmp_path):
    folder = record_own(tmp_path, 500.0, repeat=3)
    corpus = Corpus.open(folder)
    fast = [f"{stage}.epochs=1" for stage in ("emg_mae", "pose_mae", "align")]
    checkpoint = train_on(load_recipe("own-band", fast, folder), corpus, tmp_path / "run")

    assert checkpoint.seen_stages == ("Fist", "Horns", "Open-hand")
    assert len(audit(corpus).asked) == 6
    assert len(evaluation_set(checkpoint, corpus).queries) > 0


def test_data_info_says_what_is_missing_and_how_to_get_it(tmp_path):
    folder = record_own(tmp_path, 500.0, repeat=1)
    missing = {use.name: use.missing for use in corpus_info(folder).uses}
    assert missing["training (recipe own-band)"] == ""
    assert "repeat = 3" in missing["rejection of uncertain windows"]
    assert "repeat = 3" in missing["judging known people"]
    assert "--session" in missing["judging the next donning"]
    assert "no pose" in missing["gestures by pose, unseen ones too"]

    record_own(tmp_path, 500.0, repeat=3, session="tuesday")
    missing = {use.name: use.missing for use in corpus_info(folder).uses}
    assert [name for name in missing if missing[name]] == ["judging new people", "gestures by pose, unseen ones too"]

    record_own(tmp_path, 1000.0, repeat=1, session="another band")
    missing = {use.name: use.missing for use in corpus_info(folder).uses}
    assert "several bands: 5 channels at 500 Hz, 5 channels at 1000 Hz" in missing["training (recipe own-band)"]


def test_a_refused_training_says_so_before_torch_is_loaded_and_leaves_nothing(tmp_path):
    folder = record_own(tmp_path, 500.0, repeat=1)
    command = "import sys; from cpep_edge.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = python("-c", command, "train", "demo", "--data", folder, "--out", tmp_path / "a/run")

    assert done.returncode == 1
    assert "field emg has 5 channels, but recipe demo is for 16; recipe own-band is for any band" in done.stderr
    assert done.stdout.split() == ["False"]
    assert not (tmp_path / "a").exists()


def test_gestures_of_any_name_have_targets_that_are_told_apart():
    names = ["Fist", "open-hand", "Horns", "Point", "Thumbs up", "Rest", "Wave", "Pinch"]
    drawn = {name: [gesture_poses(name, 1000, 500.0, str(n)).mean(axis=0) for n in range(10)] for name in names}
    means = {name: np.mean(poses, axis=0) for name, poses in drawn.items()}
    within = max(np.linalg.norm(pose - means[name]) for name, poses in drawn.items() for pose in poses)
    apart = min(np.linalg.norm(means[one] - means[other]) for one in names for other in names if one < other)

    assert apart > 1.5 * within
    for name, template in (("Fist", "PowerGrip"), ("open-hand", "OpenHand"), ("Rest", "NoMotion")):
        assert np.abs(means[name] - TEMPLATES[template]).max() < 0.2
    with pytest.raises(DataError, match="pose.source=gestures takes any name"):
        template_poses("Horns", 100, 500.0, "x")


def test_recorded_poses_stay_the_targets(toy_corpus):
    assert load_recipe("own-band", data=toy_corpus.folder).pose.source == "recorded"

"""The scenarios that `crash_steps.py` interrupts: files before, a write, and what a reader must find afterwards."""

import contextlib
import io
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpep_bridge import recording
from cpep_bridge.recording import Recorder, Wearer, journal_of, recover, session_meta
from cpep_edge.blocks import StreamInfo
from cpep_edge.bundle import Bundle, next_version, write_bundle
from cpep_edge.calibration import Profile, load_profile, save_profile
from cpep_edge.enrolment import OpenBundle, remove_gesture
from cpep_edge.errors import DataError
from cpep_edge.files import write_file
from cpep_edge.folders import output_folder, restore
from cpep_edge.session import Session, SessionMeta, write_session
from cpep_edge.trust import PublicKey, remember_version
from cpep_edge.vouched import read_memory, remember

if TYPE_CHECKING:
    from cpep_train.checkpoint import Checkpoint

INFO = StreamInfo("in memory", 4, 500.0)
_N_BLOCKS, _BLOCK = 6, 50
_KEY = PublicKey(bytes(32), Path("key"))


@dataclass(frozen=True)
class Scenario:
    """A write, and what a reader must find wherever it was interrupted."""

    name: str
    prepare: Callable[[Path], None]  # makes the folder's earlier content
    act: Callable[[Path, Callable[[str], None]], None]  # writes; its messages say what must be kept from then on
    check: Callable[[Path, list[str]], None]  # gets those messages; raises when something was lost
    with_exchange: bool = True  # whether the system can exchange two names
    must_lose: bool = False  # a control, which writes in a wrong way and must lose data
    every: int = 1  # only every so many-th step, or allocation, is made to fail


class LostError(Exception):
    """A reader did not find what it must find."""


def require(holds: bool, otherwise: str) -> None:
    """Raise LostError with the message `otherwise` unless `holds`; an `assert` would be skipped by `python -O`."""
    if not holds:
        raise LostError(otherwise)


def _truth(n_blocks: int) -> np.ndarray:
    return np.arange(n_blocks * _BLOCK * INFO.n_channels, dtype=np.float32).reshape(-1, INFO.n_channels)


def _record(folder: Path, say: Callable[[str], None]) -> None:
    recording.WRITE_EVERY_S = recording.SYNC_EVERY_S = 0.0  # each block is written and synced before the next
    path = folder / "one.hdf5"
    recorder = Recorder(path, session_meta(INFO, path, Wearer("u", "s", "left"), "Fist"))
    for number in range(_N_BLOCKS):
        recorder.add(number * _BLOCK / 500, _truth(_N_BLOCKS)[number * _BLOCK : (number + 1) * _BLOCK])
        say(f"written {recorder.n_samples}")
        if recorder._syncing is not None:
            recorder._syncing.join()
            say(f"synced {recorder.n_samples}")
    recorder.finish()


def _check_recording(folder: Path, said: list[str]) -> None:
    path = folder / "one.hdf5"
    if not path.exists() and journal_of(path).exists():
        with contextlib.suppress(DataError):
            recover(journal_of(path))
    least = max((int(line.split()[1]) for line in said if line.startswith(_relied_on(said))), default=0)
    if not path.exists():
        require(least == 0, f"{least} samples are gone")
        return
    with Session(path) as session:
        session.check()
        found = session.emg()
    require(len(found) >= least, f"{len(found)} samples of {least}")
    require(np.array_equal(found, _truth(_N_BLOCKS)[: len(found)]), "samples are others")


def _relied_on(said: list[str]) -> str:
    return "synced" if "power" in said else "written"


class Bundles:
    """The scenarios that edit or export a bundle."""

    def __init__(self, source: Path) -> None:
        self.source = source
        opened = Bundle(source)
        self.content = {name: opened.read(name) for name in opened.manifest.files}
        self.manifest = opened.manifest

    def prepare(self, folder: Path) -> None:
        """Make a bundle that this machine has already checked."""
        shutil.copytree(self.source, folder / "b.cpep")
        for fact in ("may run", "ran its golden inputs"):
            remember(fact, Bundle(self.source).manifest_sha256)  # type: ignore[arg-type]

    def edit(self, folder: Path, say: Callable[[str], None]) -> None:
        """Remove a gesture."""
        with OpenBundle.to_edit(folder / "b.cpep") as opened:
            remove_gesture(opened, opened.bundle.manifest.gestures[-1].name)

    def export(self, folder: Path, say: Callable[[str], None]) -> None:
        """Do the last part of an export: write the bundle, in place of an earlier one if there is one."""
        path = folder / "b.cpep"

        def fill(into: Path) -> None:
            for name, content in self.content.items():
                (into / name).write_bytes(content)

        version = next_version(path)
        update = {"version": version + 1}
        write_bundle(path, fill, lambda files: self.manifest.model_copy(update={**update, "files": files}))

    def check(self, folder: Path, said: list[str]) -> None:
        """Require that the bundle is the old or the new one, byte for byte, and the memory of checks is readable."""
        read_memory("cpep-edge/bundles.json")
        path = folder / "b.cpep"
        restore(path)
        if not path.exists():
            require("there was none" in said and "finished" not in said, "the bundle is gone")
            return
        opened = Bundle(path)
        opened.check_files()
        if "finished" in said and "there was none" not in said:
            require(opened.manifest.version > self.manifest.version, "the bundle is the old one")


def _earlier_corpus(folder: Path) -> None:
    with output_folder(folder / "corpus", "data import csv") as inside:
        for name in "abc":
            (inside / name).write_text("old" * 100)


def _later_corpus(folder: Path, say: Callable[[str], None]) -> None:
    with output_folder(folder / "corpus", "data import csv") as inside:
        for name in "abcd":
            (inside / name).write_text("new" * 100)


def _check_corpus(folder: Path, said: list[str]) -> None:
    path = folder / "corpus"
    restore(path)
    found = {file.name: file.read_text()[:3] for file in path.iterdir() if not file.name.startswith(".")}
    old, new = dict.fromkeys("abc", "old"), dict.fromkeys("abcd", "new")
    require(found in ([new] if "finished" in said else [old, new]), f"the corpus holds {found}")


def _check_seen(folder: Path, said: list[str]) -> None:
    names = {name.split()[-1] for name in read_memory("cpep-edge/seen-versions.json")}
    require("one" in names, "what was remembered is forgotten")
    require("two" in names or "finished" not in said, "what was to be remembered is not")


def _profile(level_uv: float) -> Profile:
    return Profile(signal="0" * 16, level_uv=(level_uv,) * 4, order=(0, 1, 2, 3), seconds=5.0, created_utc="")


def _save_profile(folder: Path, level_uv: float) -> None:
    save_profile(_profile(level_uv), folder / "profile.json")


def _check_profile(folder: Path, said: list[str]) -> None:
    level_uv = load_profile(folder / "profile.json").level_uv[0]
    require(level_uv in ((2.0,) if "finished" in said else (1.0, 2.0)), f"the profile holds {level_uv}")


def _save_resume_point(folder: Path, value: float) -> None:
    """Save as Lightning does: packed in memory, then written at once."""
    import torch

    packed = io.BytesIO()
    torch.save({"epoch": int(value), "weights": torch.full((100, 100), value)}, packed)
    write_file(folder / "resume.ckpt", packed.getvalue())


def _check_resume_point(folder: Path, said: list[str]) -> None:
    import torch

    found = torch.load(folder / "resume.ckpt", weights_only=True)
    require(found["epoch"] in ((2,) if "finished" in said else (1, 2)), f"it is of epoch {found['epoch']}")
    require(bool((found["weights"] == found["epoch"]).all()), "the weights are of another epoch")


class Runs:
    """The scenario that saves a finished run over an earlier one: recipe, two encoders, `checkpoint.json`."""

    @cached_property
    def _checkpoint(self) -> "Checkpoint":
        from cpep_train.checkpoint import Checkpoint, build_encoders
        from cpep_train.provenance import Provenance
        from cpep_train.recipe import load_recipe

        recipe = load_recipe("micro")
        emg, pose = build_encoders(recipe)
        return Checkpoint(
            recipe=recipe,
            preprocessing=recipe.preprocessing(7.5),
            pose_mean_rad=np.zeros(recipe.n_joints, np.float32),
            pose_std_rad=np.ones(recipe.n_joints, np.float32),
            emg=emg,
            pose=pose,
            seen_stages=("A",),
            unseen_stages=(),
            provenance=Provenance(data="none", data_sha256="0", git_commit="", versions={}, created_utc="now"),
            metrics={},
        )

    def _save(self, folder: Path, value: float) -> None:
        """Save a checkpoint whose weights all have one value."""
        import torch

        from cpep_train.checkpoint import save_checkpoint

        with torch.no_grad():
            for module in (self._checkpoint.emg, self._checkpoint.pose):
                for weights in module.parameters():
                    weights.fill_(value)
        save_checkpoint(folder / "run", replace(self._checkpoint, metrics={"value": value}))

    def prepare(self, folder: Path) -> None:
        """Save the earlier run."""
        self._save(folder, 1.0)

    def save(self, folder: Path, say: Callable[[str], None]) -> None:
        """Save the later run over it."""
        self._save(folder, 2.0)

    def check(self, folder: Path, said: list[str]) -> None:
        """Require that the run is the earlier or the later one, with all its parts."""
        from cpep_train.checkpoint import load_checkpoint

        found = load_checkpoint(folder / "run")
        value = found.metrics["value"]
        require(value in ((2.0,) if "finished" in said else (1.0, 2.0)), f"the weights are {value}")
        for module in (found.emg, found.pose):
            same = all(bool((weights == value).all()) for weights in module.parameters())
            require(same, "the weights are of two checkpoints")


class Trainings:
    """The scenario of a complete training: three stages, resume points, checkpoint. Resumed, it must end the same."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._right: list[bytes] = []  # weights of a training that was not interrupted

    def prepare(self, folder: Path) -> None:
        """Leave the folder empty; the first call also makes the data and the expected weights."""
        if self._right:
            return
        from cpep_train.corpus import Row, write_metadata
        from cpep_train.recipe import Recipe

        encoder = {"width": 8, "n_layers": 1, "n_heads": 2, "mlp_ratio": 2, "patch_samples": 20}
        stage = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "weight_decay": 0.01, "warm_up_share": 0.1}
        mae = {**stage, "mask_ratio": 0.5, "decoder_width": 8, "decoder_layers": 1}
        self._recipe = Recipe.model_validate(
            {
                "name": "crash",
                "seed": 3,
                "signal": {"sample_rate_hz": 500, "n_channels": 4, "high_pass_hz": 20.0, "clip": 10.0},
                "windows": {"window_samples": 100, "stride_samples": 100, "jitter_samples": 20},
                "emg": {**encoder, "front_end": "rectified"},
                "pose": {**encoder, "decimation": 10},
                "emg_mae": mae,
                "pose_mae": mae,
                "align": {**stage, "temperature": 0.05},
            }
        )
        self._data, rows, rng = self._scratch / "corpus", [], np.random.default_rng(0)
        self._data.mkdir()
        for person, gesture in ((0, "A"), (0, "B"), (1, "A"), (1, "B")):
            name, strength = f"u{person}-{gesture}", 5 + 20 * np.arange(4) * (gesture == "B")
            pose = np.sin(np.arange(20) * (1 + (gesture == "B"))) + 0.3 * rng.standard_normal((1000, 20))
            emg_uv, time_s = strength * rng.standard_normal((1000, 4)), np.arange(1000) / 500
            meta = SessionMeta("s0", f"u{person}", gesture, "right", 0.0, float(time_s[-1]), 4, 500.0, name)
            write_session(self._data / f"{name}.hdf5", meta, time_s, emg_uv.astype(np.float32), pose.astype(np.float32))
            rows.append(Row(f"u{person}", "s0", gesture, "right", "right", False, False, "train", "", name))
        write_metadata(self._data, rows)
        self.train(self._scratch, lambda words: None)
        self._right = self._weights(self._scratch)

    def train(self, folder: Path, say: Callable[[str], None]) -> None:
        """Train to the end, resuming if the folder has a run."""
        from cpep_train.training import train

        logging.disable()
        train(self._recipe, self._data, folder / "run", resume=(folder / "run" / "recipe.json").exists(), n_workers=0)

    def check(self, folder: Path, said: list[str]) -> None:
        """Require that the same command with --resume ends with the same weights, bit for bit."""
        if "finished" not in said:
            self.train(folder, lambda words: None)
        require(self._weights(folder) == self._right, "it came to other weights")

    def _weights(self, folder: Path) -> list[bytes]:
        from cpep_train.checkpoint import load_checkpoint

        found = load_checkpoint(folder / "run")
        return [
            weights.numpy().tobytes() for module in (found.emg, found.pose) for weights in module.state_dict().values()
        ]


def _in_place(folder: Path, say: Callable[[str], None]) -> None:
    (folder / "profile.json").write_text(_profile(2.0).model_dump_json())


def _not_synced(folder: Path, say: Callable[[str], None]) -> None:
    (folder / "new").write_text(_profile(2.0).model_dump_json())
    (folder / "new").rename(folder / "profile.json")


def _removed_first(folder: Path, say: Callable[[str], None]) -> None:
    shutil.rmtree(folder / "corpus")
    _later_corpus(folder, say)


def scenarios(bundle: Path, scratch: Path) -> list[Scenario]:
    """All scenarios."""
    bundles, runs, trainings = Bundles(bundle), Runs(), Trainings(scratch)

    def check_new(folder: Path, said: list[str]) -> None:
        bundles.check(folder, [*said, "there was none"])

    def nothing(folder: Path) -> None: ...

    return [
        Scenario("journal and session of a recording", nothing, _record, _check_recording),
        Scenario("edit of a bundle", bundles.prepare, bundles.edit, bundles.check),
        Scenario("edit of a bundle, no exchange of names", bundles.prepare, bundles.edit, bundles.check, False),
        Scenario("export over an earlier bundle", bundles.prepare, bundles.export, bundles.check),
        Scenario("export of a new bundle", nothing, bundles.export, check_new),
        Scenario(
            "checkpoint after an epoch",
            lambda f: _save_resume_point(f, 1.0),
            lambda f, say: _save_resume_point(f, 2.0),
            _check_resume_point,
        ),
        Scenario("checkpoint of a run over an earlier one", runs.prepare, runs.save, runs.check),
        Scenario("training, every fifth step", trainings.prepare, trainings.train, trainings.check, every=5),
        Scenario("import over an earlier import", _earlier_corpus, _later_corpus, _check_corpus),
        Scenario("import, no exchange of names", _earlier_corpus, _later_corpus, _check_corpus, False),
        Scenario(
            "memory of versions",
            lambda f: remember_version(_KEY, "one", 3, "a" * 64),
            lambda f, say: remember_version(_KEY, "two", 4, "b" * 64),
            _check_seen,
        ),
        Scenario(
            "profile of a session",
            lambda f: _save_profile(f, 1.0),
            lambda f, say: _save_profile(f, 2.0),
            _check_profile,
        ),
        Scenario(
            "control: written in place", lambda f: _save_profile(f, 1.0), _in_place, _check_profile, must_lose=True
        ),
        Scenario(
            "control: renamed, not synced", lambda f: _save_profile(f, 1.0), _not_synced, _check_profile, must_lose=True
        ),
        Scenario("control: removed first", _earlier_corpus, _removed_first, _check_corpus, must_lose=True),
    ]

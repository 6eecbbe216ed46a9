"""A toy world small enough for any test: four electrodes, six gestures, encoders of 20 000 weights.

A latent posture determines both the muscles and the hand, so a gesture left out of training can still be recognised
from its pose. The signal does not resemble real EMG; it only has to be learnable in seconds.
"""

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from cpep_edge.manifest import EncoderSpec
    from cpep_edge.native_encoder import NativeLibrary
    from cpep_export.native import NativeBuild
    from cpep_train.checkpoint import Checkpoint

settings.register_profile("same", derandomize=True)  # unchanged code gives unchanged results
settings.load_profile("same")

TOY_RATE_HZ = 500.0
TOY_CHANNELS = 4
TOY_UNSEEN = ("HookEmHornsOKScissors", "PokePinchCloseFar")
TOY_STAGES = ("FingerAbductionSeries", "GraspPunchCloseFar", "ShakaVulcanPeace", "WristFlexionAbduction", *TOY_UNSEEN)
TOY_USERS = ("user_a", "user_b", "user_c")
TOY_HELD_OUT_USER = "user_c"
TOY_SECONDS = 8.0


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory) -> Iterator[None]:
    """Keep the user's own record of bundles and signing keys out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.delenv("CPEP_EDGE_KEY", raising=False)
        yield


def shared_folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """A read-only folder, filled by the first process of the test run that needs it, while the others wait."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # the folder of all workers
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by a process that failed half-way
            folder.mkdir()
            fill(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory) -> Path:
    """A corpus in the emg2pose format: two users to train on and one held out; four seen and two unseen gestures."""
    from cpep_train.corpus import write_metadata

    folder = tmp_path_factory.mktemp("tiny_corpus")
    rng = np.random.default_rng(7)
    posture = _toy_postures()
    rows = []
    for user in TOY_USERS:
        gain = np.exp(rng.normal(0, 0.1, TOY_CHANNELS))
        for stage in TOY_STAGES:
            rows.extend(_toy_recordings(folder, user, stage, posture[stage], gain, rng))
    write_metadata(folder, rows)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_corpus, tmp_path_factory) -> "Checkpoint":
    """Both encoders after a few hundred steps of alignment; the same in every run, except for rounding."""
    from cpep_train.checkpoint import load_checkpoint

    return load_checkpoint(shared_folder(tmp_path_factory, "tiny_run", lambda run: _train_tiny(tiny_corpus, run)))


def _train_tiny(tiny_corpus: Path, run: Path) -> None:
    import torch

    from cpep_train.checkpoint import Checkpoint, Provenance, build_encoders, save_checkpoint
    from cpep_train.corpus import Corpus
    from cpep_train.windows import SessionStore, WindowDataset, fit_statistics

    torch.manual_seed(0)  # by default torch's seed is random
    recipe, corpus = _toy_recipe(), Corpus.open(tiny_corpus)
    statistics = fit_statistics(corpus, recipe)
    store = SessionStore(corpus, recipe, statistics)
    emg, pose = _toy_training(WindowDataset(store, corpus.numbers("train"), with_pose=True), *build_encoders(recipe))
    save_checkpoint(
        run,
        Checkpoint(
            recipe=recipe,
            preprocessing=store.preprocessing,
            pose_mean_rad=statistics.pose_mean_rad,
            pose_std_rad=statistics.pose_std_rad,
            emg=emg.eval(),
            pose=pose.eval(),
            seen_stages=corpus.seen_stages,
            unseen_stages=corpus.unseen_stages,
            provenance=Provenance(data="toy", data_sha256="", git_commit="", versions={}, created_utc=""),
            metrics={},
        ),
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint, tiny_corpus, native_build, tmp_path_factory) -> Path:
    """An int8 bundle of the toy encoders, for this machine without torch and for Cortex-M. Shared: copy it first."""
    from cpep_edge.bundle import Bundle
    from cpep_export.arm_toolchain import missing_tool
    from cpep_export.package import export_bundle

    def fill(folder: Path) -> None:
        # Forced, because the toy has so few windows that a single one is half a percentage point. Refusals are tested
        # in test_device_program.py.
        export_bundle(
            tiny_checkpoint,
            tiny_corpus,
            folder / "tiny.cpep",
            quant="int8",
            native=native_build,
            chip_target="cortex-m" if missing_tool(None) is None else None,
            force=True,
        )

    path = shared_folder(tmp_path_factory, "tiny_bundle", fill) / "tiny.cpep"
    Bundle(path, trust=True)  # each worker has its own list of trusted bundles
    return path


@pytest.fixture(scope="session")
def native_build(tmp_path_factory) -> "NativeBuild":
    """The C library and its runner, built for this machine. Needs a compiler."""
    from cpep_export.native import build_native, host_architecture

    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: apt-get install g++")

    def fill(folder: Path) -> None:
        build = build_native(folder / "native", host_architecture())
        (folder / "build.pickle").write_bytes(pickle.dumps(build))

    build: NativeBuild = pickle.loads((shared_folder(tmp_path_factory, "native", fill) / "build.pickle").read_bytes())
    return build


@pytest.fixture(scope="session")
def library(native_build) -> "NativeLibrary":
    """The library of `native_build`, as it is stored in a bundle."""
    from cpep_edge.native_encoder import NativeLibrary

    files = tuple((file.name, file.read_bytes()) for file in native_build.libraries)
    return NativeLibrary(native_build.architecture, files)


@pytest.fixture(scope="session")
def native_program() -> tuple[bytes, "EncoderSpec"]:
    """A small untrained encoder as a fully delegated program."""
    import torch

    from cpep_export.fused import FusedEncoder
    from cpep_export.lower import lower
    from cpep_train.model import Embedder, EncoderConfig
    from tests.export.programs import encoder_spec

    torch.manual_seed(0)
    config = EncoderConfig(4, 100, 10, width=32, n_layers=1, n_heads=2, mlp_ratio=2)
    program = lower(FusedEncoder(Embedder(config, 24).eval()).eval(), 4, 100)
    assert (program.n_delegates, program.operators_outside) == (1, ())
    return program.content, encoder_spec(4, 100, 24)


_CORNERS = 1.5 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # each corner activates one electrode


def _toy_postures() -> dict[str, np.ndarray]:
    """The latent posture of each gesture, (3,); those of unseen gestures are between those of seen ones."""
    between = np.array([_CORNERS[:2].mean(axis=0), _CORNERS[2:].mean(axis=0)])
    return dict(zip(TOY_STAGES, np.concatenate([_CORNERS, between]), strict=True))


def _toy_recordings(folder, user, stage, posture, gain, rng):
    from cpep_edge.session import N_JOINTS, SessionMeta, write_session
    from cpep_train.corpus import Row

    to_joints = np.random.default_rng(1).normal(0, 0.3, (3, N_JOINTS))  # the same hand for everyone
    n_samples = round(TOY_SECONDS * TOY_RATE_HZ)
    held_out_user, held_out_stage = user == TOY_HELD_OUT_USER, stage in TOY_UNSEEN
    test = held_out_user or held_out_stage
    kind = {(True, True): "user_stage", (True, False): "user", (False, True): "stage", (False, False): ""}
    for number, split in enumerate(("test",) if test else ("train", "val")):
        name = f"{user}_{stage}_{number}"
        time_s = np.arange(n_samples) / TOY_RATE_HZ
        sway = np.cumsum(rng.normal(0, 0.01, (n_samples, 3)), axis=0) * 0.4
        latent = posture + sway
        emg_uv = 20 * gain * np.exp(0.3 * latent @ _CORNERS.T) * rng.normal(0, 1, (n_samples, TOY_CHANNELS))
        meta = SessionMeta(
            f"{user}_s{number}", user, stage, "right", 0.0, float(time_s[-1]), TOY_CHANNELS, TOY_RATE_HZ, name
        )
        write_session(
            folder / f"{name}.hdf5",
            meta,
            time_s,
            (emg_uv + 300).astype(np.float32),  # an offset, like that of real electrodes
            (latent @ to_joints).astype(np.float32),
        )
        generalization = kind[held_out_user, held_out_stage]
        yield Row(
            user, meta.session, stage, "right", "right", held_out_user, held_out_stage, split, generalization, name
        )


def _toy_recipe():
    from cpep_train.recipe import Recipe

    encoder = {"width": 32, "n_heads": 2, "mlp_ratio": 2}
    stage = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "weight_decay": 0.0, "warm_up_share": 0.1}
    mae = {**stage, "mask_ratio": 0.5, "decoder_width": 16, "decoder_layers": 1}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "seed": 0,
            "precision": "32-true",
            "signal": {"sample_rate_hz": TOY_RATE_HZ, "n_channels": TOY_CHANNELS, "high_pass_hz": 20.0, "clip": 20.0},
            "windows": {"window_samples": 200, "stride_samples": 50},
            "emg": {"patch_samples": 10, "n_layers": 1, **encoder},  # lowering takes seconds per layer
            "pose": {"patch_samples": 50, "decimation": 10, "n_layers": 2, **encoder},
            "emg_mae": mae,
            "pose_mae": mae,
            "align": {**stage, "temperature": 0.1},
        }
    )


def _toy_training(windows, emg, pose):
    """Contrastive training of EMG and pose; the pose encoder is trained too, because it was not pre-trained."""
    import torch
    from torch.nn import functional as F

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for number, module in enumerate((emg, pose)):
        for parameter in module.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(number))
    optimiser = torch.optim.Adam([*emg.parameters(), *pose.parameters()], lr=2e-3)
    for _ in range(200):
        batch = windows.fetch(windows.index[torch.randperm(len(windows), generator=generator)[:64].numpy()])
        logits = emg(batch.emg) @ pose(batch.pose).T / 0.1
        target = torch.arange(len(logits))
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.set_num_threads(n_threads)
    return emg, pose

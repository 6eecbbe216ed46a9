"""Fail each step of each write in turn, and see what can be read afterwards: the old, or the new, whole.

    python benchmarks/crash_steps.py BUNDLE --out benchmarks/results/crash-steps.md

As SQLite's tests do (sqlite.org/testing.html, 3.1 to 3.3). A step is a system call that changes what the disk holds. At
each one in turn the process is killed; or the call fails once, with EIO; or it and all later ones fail, with ENOSPC.
Then the power is cut after each step: what was not synced is gone, and names that were not synced are there (as ext4
often has it) or are not. Then single allocations of Python fail, from the first on, at growing distances. After each of
these a fresh reader opens what is there; what it must find is said with each scenario.

It needs Linux and a C compiler, and no root. It runs itself again with `crash/steps.c` preloaded.
"""

import argparse
import contextlib
import ctypes
import errno
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from cpep_bench.machine import this_machine
from cpep_bridge import recording
from cpep_bridge.recording import Recorder, Wearer, journal_of, recover, session_meta
from cpep_edge.blocks import StreamInfo
from cpep_edge.bundle import Bundle, next_version, write_bundle
from cpep_edge.calibration import Profile, load_profile, save_profile
from cpep_edge.enrolment import OpenBundle, remove_gesture
from cpep_edge.errors import CpepError, DataError
from cpep_edge.files import replacing
from cpep_edge.folders import output_folder, restore
from cpep_edge.session import Session, SessionMeta, write_session
from cpep_edge.trust import PublicKey, remember_version
from cpep_edge.versions import git_commit
from cpep_edge.vouched import read_memory, remember

if TYPE_CHECKING:
    from cpep_train.checkpoint import Checkpoint

_SOURCE = Path(__file__).parent / "crash" / "steps.c"
_HANG_S = 60
_GROWTH = 1.07  # from one failing allocation to the next
_MOST_ALLOCATIONS = 2_000_000
_INFO = StreamInfo("in memory", 4, 500.0)
_N_BLOCKS, _BLOCK = 6, 50
_KEY = PublicKey(bytes(32), Path("key"))


@dataclass(frozen=True)
class Scenario:
    """Something that is written, and what a reader must find however it went."""

    name: str
    prepare: Callable[[Path], None]  # what lies in the folder before
    act: Callable[[Path, Callable[[str], None]], None]  # says what it may rely on
    check: Callable[[Path, list[str]], None]  # raises when something was lost; gets what was said
    with_exchange: bool = True
    must_lose: bool = False  # a control: written as it must not be
    every: int = 1  # steps from one that fails to the next, and allocations


@dataclass
class Tally:
    """What was tried in one scenario."""

    counts: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)

    def note(self, how: str, scenario: Scenario, folder: Path, said: list[str], where: int) -> None:
        """Let a fresh reader look."""
        self.counts[how] += 1
        try:
            scenario.check(folder, said)
        except Exception as error:
            self.losses.append(f"{scenario.name}, {how}, step {where}: {type(error).__name__}: {error}")


# --- what is written -------------------------------------------------------------------------------------------------


def _truth(n_blocks: int) -> np.ndarray:
    return np.arange(n_blocks * _BLOCK * _INFO.n_channels, dtype=np.float32).reshape(-1, _INFO.n_channels)


def _record(folder: Path, say: Callable[[str], None]) -> None:
    recording.WRITE_EVERY_S = recording.SYNC_EVERY_S = 0.0  # each block is written and synced before the next
    path = folder / "one.hdf5"
    recorder = Recorder(path, session_meta(_INFO, path, Wearer("u", "s", "left"), "Fist"))
    for number in range(_N_BLOCKS):
        recorder.add(number * _BLOCK / 500, _truth(_N_BLOCKS)[number * _BLOCK : (number + 1) * _BLOCK])
        say(f"written {recorder.n_samples}")
        if recorder._syncing is not None:
            recorder._syncing.join()
            say(f"synced {recorder.n_samples}")
    recorder.finish()
    say("finished")


def _check_recording(folder: Path, said: list[str]) -> None:
    path = folder / "one.hdf5"
    if not path.exists() and journal_of(path).exists():
        with contextlib.suppress(DataError):
            recover(journal_of(path))
    least = max((int(line.split()[1]) for line in said if line.startswith(_relied_on(said))), default=0)
    if not path.exists():
        assert least == 0, f"{least} samples are gone"
        return
    with Session(path) as session:
        session.check()
        found = session.emg()
    assert len(found) >= least, f"{len(found)} samples of {least}"
    assert np.array_equal(found, _truth(_N_BLOCKS)[: len(found)]), "samples are others"


def _relied_on(said: list[str]) -> str:
    return "synced" if "power" in said else "written"


class Bundles:
    """Scenarios around one bundle."""

    def __init__(self, source: Path) -> None:
        self.source = source
        opened = Bundle(source)
        self.content = {name: opened.read(name) for name in opened.manifest.files}
        self.manifest = opened.manifest

    def prepare(self, folder: Path) -> None:
        """A bundle that this machine has tried."""
        shutil.copytree(self.source, folder / "b.cpep")
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        for fact in ("may run", "ran its golden inputs"):
            remember(fact, Bundle(self.source).manifest_sha256)  # type: ignore[arg-type]

    def edit(self, folder: Path, say: Callable[[str], None]) -> None:
        """A gesture is forgotten."""
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        with OpenBundle.to_edit(folder / "b.cpep") as opened:
            remove_gesture(opened, opened.bundle.manifest.gestures[-1].name)
        say("finished")

    def export(self, folder: Path, say: Callable[[str], None]) -> None:
        """The last part of an export: the bundle is written, in the place of an earlier one if there is one."""
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        path = folder / "b.cpep"

        def fill(into: Path) -> None:
            for name, content in self.content.items():
                (into / name).write_bytes(content)

        version = next_version(path)
        update = {"version": version + 1}
        write_bundle(path, fill, lambda files: self.manifest.model_copy(update={**update, "files": files}))
        say("finished")

    def check(self, folder: Path, said: list[str]) -> None:
        """The bundle is the old one or the new one, to the last byte, and so is what is remembered of it."""
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        read_memory("cpep-edge/bundles.json")
        path = folder / "b.cpep"
        restore(path)
        if not path.exists():
            assert "there was none" in said
            assert "finished" not in said
            return
        opened = Bundle(path)
        opened.check_files()
        if "finished" in said and "there was none" not in said:
            assert opened.manifest.version > self.manifest.version


def _earlier_corpus(folder: Path) -> None:
    with output_folder(folder / "corpus", "data import csv") as inside:
        for name in "abc":
            (inside / name).write_text("old" * 100)


def _later_corpus(folder: Path, say: Callable[[str], None]) -> None:
    with output_folder(folder / "corpus", "data import csv") as inside:
        for name in "abcd":
            (inside / name).write_text("new" * 100)
    say("finished")


def _check_corpus(folder: Path, said: list[str]) -> None:
    path = folder / "corpus"
    restore(path)
    found = {file.name: file.read_text()[:3] for file in path.iterdir() if not file.name.startswith(".")}
    old, new = dict.fromkeys("abc", "old"), dict.fromkeys("abcd", "new")
    assert found in ([new] if "finished" in said else [old, new]), found


def _seen_before(folder: Path) -> None:
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    remember_version(_KEY, "one", 3, "a" * 64)


def _see_more(folder: Path, say: Callable[[str], None]) -> None:
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    remember_version(_KEY, "two", 4, "b" * 64)
    say("finished")


def _check_seen(folder: Path, said: list[str]) -> None:
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    names = {name.split()[-1] for name in read_memory("cpep-edge/seen-versions.json")}
    assert "one" in names, "what was remembered is forgotten"
    assert "two" in names or "finished" not in said


def _profile(level_uv: float) -> Profile:
    return Profile(signal="0" * 16, level_uv=(level_uv,) * 4, order=(0, 1, 2, 3), seconds=5.0, created_utc="")


def _check_profile(folder: Path, said: list[str]) -> None:
    level_uv = load_profile(folder / "profile.json").level_uv[0]
    assert level_uv in ((2.0,) if "finished" in said else (1.0, 2.0))


def _calibrated_anew(folder: Path, say: Callable[[str], None]) -> None:
    save_profile(_profile(2.0), folder / "profile.json")
    say("finished")


def _save_resume_point(folder: Path, value: float) -> None:
    """As Lightning does: packed in memory, written at once."""
    import torch

    packed = io.BytesIO()
    torch.save({"epoch": int(value), "weights": torch.full((100, 100), value)}, packed)
    with replacing(folder / "resume.ckpt") as temporary:
        temporary.write_bytes(packed.getvalue())


def _next_epoch(folder: Path, say: Callable[[str], None]) -> None:
    _save_resume_point(folder, 2.0)
    say("finished")


def _check_resume_point(folder: Path, said: list[str]) -> None:
    import torch

    found = torch.load(folder / "resume.ckpt", weights_only=True)
    assert found["epoch"] in ((2,) if "finished" in said else (1, 2))
    assert bool((found["weights"] == found["epoch"]).all())


class Runs:
    """A run that is finished, and finished anew: recipe, two encoders, `checkpoint.json`."""

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
        """A checkpoint all of whose weights are one number."""
        import torch

        from cpep_train.checkpoint import save_checkpoint

        with torch.no_grad():
            for module in (self._checkpoint.emg, self._checkpoint.pose):
                for weights in module.parameters():
                    weights.fill_(value)
        save_checkpoint(folder / "run", replace(self._checkpoint, metrics={"value": value}))

    def prepare(self, folder: Path) -> None:
        """The run as it was finished first."""
        self._save(folder, 1.0)

    def save(self, folder: Path, say: Callable[[str], None]) -> None:
        """The run, finished anew."""
        self._save(folder, 2.0)
        say("finished")

    def check(self, folder: Path, said: list[str]) -> None:
        """The run is the one or the other, with all its parts."""
        from cpep_train.checkpoint import load_checkpoint

        found = load_checkpoint(folder / "run")
        value = found.metrics["value"]
        assert value in ((2.0,) if "finished" in said else (1.0, 2.0))
        for module in (found.emg, found.pose):
            assert all(bool((weights == value).all()) for weights in module.parameters())


class Trainings:
    """A whole training: three stages, resume points, checkpoint. However it falls, it comes to the same."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._right: list[bytes] = []  # weights of the training that nothing befell

    def prepare(self, folder: Path) -> None:
        """Nothing before; the first time, the data and the weights that are right."""
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
        """The run, from wherever it is to its end."""
        from cpep_train.training import train

        logging.disable()
        train(self._recipe, self._data, folder / "run", resume=(folder / "run" / "recipe.json").exists(), n_workers=0)
        say("finished")

    def check(self, folder: Path, said: list[str]) -> None:
        """The same command with --resume comes to the very same weights."""
        if "finished" not in said:
            self.train(folder, lambda words: None)
        assert self._weights(folder) == self._right, "it came to other weights"

    def _weights(self, folder: Path) -> list[bytes]:
        from cpep_train.checkpoint import load_checkpoint

        found = load_checkpoint(folder / "run")
        return [
            weights.numpy().tobytes() for module in (found.emg, found.pose) for weights in module.state_dict().values()
        ]


def _in_place(folder: Path, say: Callable[[str], None]) -> None:
    (folder / "profile.json").write_text(_profile(2.0).model_dump_json())
    say("finished")


def _not_synced(folder: Path, say: Callable[[str], None]) -> None:
    (folder / "new").write_text(_profile(2.0).model_dump_json())
    (folder / "new").rename(folder / "profile.json")
    say("finished")


def _removed_first(folder: Path, say: Callable[[str], None]) -> None:
    shutil.rmtree(folder / "corpus")
    with output_folder(folder / "corpus", "data import csv") as inside:
        for name in "abcd":
            (inside / name).write_text("new" * 100)
    say("finished")


def _profile_before(folder: Path) -> None:
    save_profile(_profile(1.0), folder / "profile.json")


def _nothing(folder: Path) -> None:
    pass


def scenarios(bundle: Path, scratch: Path) -> list[Scenario]:
    """Everything that is tried."""
    bundles, runs, trainings = Bundles(bundle), Runs(), Trainings(scratch)

    def none_before(folder: Path) -> None:
        os.environ["XDG_STATE_HOME"] = str(folder / "state")

    def check_new(folder: Path, said: list[str]) -> None:
        bundles.check(folder, [*said, "there was none"])

    return [
        Scenario("journal and session of a recording", _nothing, _record, _check_recording),
        Scenario("edit of a bundle", bundles.prepare, bundles.edit, bundles.check),
        Scenario("edit of a bundle, no exchange of names", bundles.prepare, bundles.edit, bundles.check, False),
        Scenario("export over an earlier bundle", bundles.prepare, bundles.export, bundles.check),
        Scenario("export of a new bundle", none_before, bundles.export, check_new),
        Scenario("checkpoint after an epoch", lambda f: _save_resume_point(f, 1.0), _next_epoch, _check_resume_point),
        Scenario("checkpoint of a run over an earlier one", runs.prepare, runs.save, runs.check),
        Scenario("training, every fifth step", trainings.prepare, trainings.train, trainings.check, every=5),
        Scenario("import over an earlier import", _earlier_corpus, _later_corpus, _check_corpus),
        Scenario("import, no exchange of names", _earlier_corpus, _later_corpus, _check_corpus, False),
        Scenario("memory of versions", _seen_before, _see_more, _check_seen),
        Scenario("profile of a session", _profile_before, _calibrated_anew, _check_profile),
        Scenario("control: written in place", _profile_before, _in_place, _check_profile, must_lose=True),
        Scenario("control: renamed, not synced", _profile_before, _not_synced, _check_profile, must_lose=True),
        Scenario("control: removed first", _earlier_corpus, _removed_first, _check_corpus, must_lose=True),
    ]


# --- how it is made to fall ------------------------------------------------------------------------------------------


class Arm:
    """The preloaded library, and processes that are forked to fall."""

    def __init__(self, scratch: Path) -> None:
        self._library, self._scratch = ctypes.CDLL(None), scratch
        self._library.crash_arm.argtypes = (
            ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_char_p,
        )  # fmt: skip
        self._library.crash_steps.restype = ctypes.c_long

    def fall(
        self,
        scenario: Scenario,
        folder: Path,
        step: int = 0,
        error: int = 0,
        *,
        goes_on: bool = False,
        log: Path | None = None,
        allocation: int = 0,
    ) -> tuple[list[str], int, bool]:
        """Act in a process that falls at a step; returns what it said, its steps, and whether it came to its end."""
        heard, told = os.pipe()
        child = os.fork()
        if not child:
            self._be_child(scenario, folder, told, step, error, goes_on, log, allocation)
        os.close(told)
        with open(heard) as lines:
            said = lines.read().splitlines()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        n_steps = next((int(line.split()[1]) for line in said if line.startswith("steps ")), 0)
        return [line for line in said if not line.startswith("steps ")], n_steps, status == 0

    def _be_child(
        self,
        scenario: Scenario,
        folder: Path,
        told: int,
        step: int,
        error: int,
        goes_on: bool,
        log: Path | None,
        allocation: int,
    ) -> None:
        status = 1
        try:
            signal.alarm(_HANG_S)  # without memory, or without a disk, a thread may wait for another for ever
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 2)
            where = None if log is None else bytes(log)
            self._library.crash_arm(bytes(folder), step, error, goes_on, scenario.with_exchange, where)
            if allocation:
                import _testcapi

                _testcapi.set_nomemory(allocation, allocation + 1)
            scenario.act(folder, lambda words: (os.write(told, f"{words}\n".encode()), None)[1])
            status = 0
        except (CpepError, OSError, MemoryError):
            status = 2
        except BaseException:
            status = 3  # a raw exception is a fault of its own kind, but loses nothing
        finally:
            os.write(told, f"steps {self._library.crash_steps()}\n".encode())
            os._exit(status)


def _fresh(scenario: Scenario, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scenario.prepare(folder)
    return folder


def try_scenario(scenario: Scenario, arm: Arm, scratch: Path, n_allocations: int) -> Tally:
    """Every step, in every way."""
    tally, folder = Tally(), scratch / "disk"
    log = scratch / "log"
    log.unlink(missing_ok=True)
    _fresh(scenario, folder)
    before = Disk.read(folder)
    said, n_steps, ended = arm.fall(scenario, folder, log=log)
    assert ended, f"{scenario.name} does not even work when nothing falls"
    tally.note("nothing", scenario, folder, said, 0)
    finished = said
    ways = {"killed": (0, False), "fails once": (errno.EIO, False), "full disk": (errno.ENOSPC, True)}
    for how, (error, goes_on) in ways.items():
        for step in range(1, n_steps + 1, scenario.every):
            _fresh(scenario, folder)
            said, _, _ = arm.fall(scenario, folder, step, error, goes_on=goes_on)
            tally.note(how, scenario, folder, said, step)
    for step, disk, relied_on in cuts(log, before, folder, scenario):
        for kept in (True, False) if step % scenario.every == 0 else ():
            shutil.rmtree(folder, ignore_errors=True)
            disk.write(folder, kept)
            tally.note("power cut", scenario, folder, [*relied_on, "power"], step)
    shutil.rmtree(folder, ignore_errors=True)
    disk.write(folder, False)  # of what was finished, all is on the disk
    tally.note("power cut", scenario, folder, [*finished, "power"], step)
    number = 1.0
    for _ in range(n_allocations // scenario.every):
        _fresh(scenario, folder)
        said, _, ended = arm.fall(scenario, folder, allocation=int(number))
        tally.note("no memory", scenario, folder, said, int(number))
        number = max(number + 1, number * _GROWTH)
        if number > _MOST_ALLOCATIONS:
            break
    return tally


# --- what a cut of the power leaves ----------------------------------------------------------------------------------


class Node:
    """A file or a folder: as it is, and as the disk has it."""

    def __init__(self, is_folder: bool) -> None:
        self.names: dict[str, Node] | None = {} if is_folder else None
        self.synced_names: dict[str, Node] = {}
        self.content, self.synced = bytearray(), b""

    def sync(self) -> None:
        """Have on the disk what is now."""
        if self.names is None:
            self.synced = bytes(self.content)
        else:
            self.synced_names = dict(self.names)


class Disk:
    """A folder and what lies in it, played forward from a log of steps."""

    def __init__(self, root: Node) -> None:
        self.root = root

    @classmethod
    def read(cls, folder: Path) -> "Disk":
        """What lies there now is all on the disk."""

        def node_of(path: Path) -> Node:
            node = Node(path.is_dir())
            if node.names is None:
                node.content = bytearray(path.read_bytes())
            else:
                node.names.update({inside.name: node_of(inside) for inside in path.iterdir()})
            node.sync()
            return node

        return cls(node_of(folder))

    def write(self, folder: Path, names_kept: bool) -> None:
        """What a reader finds after the power was cut now.

        names_kept: names that were not synced are there, with as much content as was
        """

        def put(node: Node, path: Path) -> None:
            if node.names is None:
                path.write_bytes(node.synced)
                return
            path.mkdir(parents=True)
            for name, inside in (node.names if names_kept else node.synced_names).items():
                put(inside, path / name)

        put(self.root, folder)

    def find(self, way: list[str]) -> Node:
        """What lies at a place."""
        node = self.root
        for name in way:
            assert node.names is not None
            node = node.names[name]
        return node


def cuts(log: Path, before: Disk, folder: Path, scenario: Scenario) -> Iterator[tuple[int, Disk, list[str]]]:
    """The disk after each step of a log, and what of a recording may be relied on then."""
    open_files: dict[str, Node] = {}
    n_synced, said = 0, list[str]()
    for number, (what, one, other, offset, data) in enumerate(_steps(log), start=1):
        *above, name = _way(one, folder) or [""]
        holder = before.find(above).names if name else {}
        assert holder is not None
        match what:
            case "folder" | "create":
                holder[name] = open_files[one] = Node(what == "folder")
            case "write" | "cut" | "length":
                node = holder.get(name) or open_files[one]
                if what == "write":
                    node.content.extend(bytes(max(0, offset - len(node.content))))
                    node.content[offset : offset + len(data)] = data
                else:
                    size = 0 if what == "cut" else offset
                    node.content = node.content[:size] + bytes(max(0, size - len(node.content)))
            case "sync":
                node = before.root if not name else holder.get(name) or open_files[one]
                node.sync()
                if one.endswith(".part"):
                    n_synced = _rows_in(node.synced)
                    said = [f"synced {n_synced}"]
            case "remove":
                holder.pop(name)
            case "rename" | "exchange":
                *other_above, other_name = _way(other, folder)
                others = before.find(other_above).names
                assert others is not None
                moved = holder.pop(name)
                if what == "exchange":
                    holder[name] = others[other_name]
                others[other_name] = moved
        yield number, before, said


def _rows_in(journal: bytes) -> int:
    rows = journal.partition(b"\n")[2]
    return len(rows) // (8 + 4 * _INFO.n_channels)


def _way(path: str, folder: Path) -> list[str]:
    return list(Path(path).relative_to(folder).parts)


def _steps(log: Path) -> Iterator[tuple[str, str, str, int, bytes]]:
    content, at = log.read_bytes(), 0
    while at < len(content):
        end = content.index(b"\n", at)
        what, one, other, offset, length = content[at:end].decode().split("\t")
        data = content[end + 1 : end + 1 + int(length)]
        at = end + 1 + int(length)
        yield what, one, other, int(offset), data


# --- the run ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Try everything and write the table; status 1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", help="Scenarios whose name holds this.")
    parser.add_argument("--allocations", type=int, default=150, help="Failing allocations a scenario.")
    parser.add_argument("--out", type=Path, help="Markdown file to write.")
    options = parser.parse_args()
    if "CRASH_PRELOADED" not in os.environ:
        sys.exit(again_preloaded([__file__, *sys.argv[1:]]))
    start_s, rows, losses = time.monotonic(), [], []
    with TemporaryDirectory() as scratch:
        chosen = [
            one
            for one in scenarios(options.bundle, Path(scratch).resolve())
            if not options.only or options.only in one.name
        ]
        arm = Arm(Path(scratch))
        for scenario in chosen:
            tally = try_scenario(scenario, arm, Path(scratch).resolve() / "s", options.allocations)
            if not scenario.must_lose:
                losses += tally.losses
            elif not tally.losses:
                losses.append(f"{scenario.name}: nothing was lost, so this run proves nothing")
            ways = ("killed", "fails once", "full disk", "power cut", "no memory")
            counts = " | ".join(f"{tally.counts[way]:,}" for way in ways)
            rows.append(f"| {scenario.name} | {counts} | {len(tally.losses)} |")
            print(rows[-1], *tally.losses[:5], sep="\n", file=sys.stderr)
    machine = this_machine()
    text = "\n".join(
        [
            "# What is left when each step fails in turn\n",
            "| what was written | killed | fails once (EIO) | full disk (ENOSPC) | power cut | no memory | lost |",
            "| --- | --: | --: | --: | --: | --: | --: |",
            *rows,
            "\nA reader must find the old or the new, whole; of a recording every sample that was written, and after a "
            "cut of the power every one that was synced. Power is cut after each step, once with the names that were "
            "not synced and once without. The controls are written as nothing should be, and must lose something.",
            *(f"- {loss}" for loss in losses),
            f"\n`python benchmarks/crash_steps.py`, commit `{git_commit()[:12] or 'unknown'}`, "
            f"{(time.monotonic() - start_s) / 60:.0f} minutes on {machine.n_cpus} shared cores, {machine.cpu}.\n",
        ]
    )
    if options.out is not None:
        with replacing(options.out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(text)
    sys.exit(1 if losses else 0)


def again_preloaded(command: list[str]) -> int:
    """Run Python with the library of steps preloaded; returns its status."""
    with TemporaryDirectory() as scratch:
        library = Path(scratch) / "steps.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, _SOURCE, "-ldl", "-lpthread"], check=True)
        environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "CRASH_PRELOADED": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        return subprocess.run([sys.executable, *command], env=environment, check=False).returncode


if __name__ == "__main__":
    main()

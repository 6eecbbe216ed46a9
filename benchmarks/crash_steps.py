"""Fail each step of each write in turn, and see what can be read afterwards: the old, or the new, whole.

    python benchmarks/crash_steps.py BUNDLE --out benchmarks/results/crash-steps.md

As SQLite's tests do (sqlite.org/testing.html, 3.1 to 3.3). A step is a system call that changes the disk. At each step
in turn the process is killed; or the call fails once, with EIO; or it and all later ones fail, with ENOSPC. Then the
power is cut after each step: content that was not synced is lost, and names that were not synced are kept (as often on
ext4) or lost. Then single allocations of Python fail, at growing distances. After each of these a new reader opens the
files; each scenario defines what it must find.

It needs Linux and a C compiler, but not root. It runs itself again with `crash/steps.c` preloaded.
"""

import argparse
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from cpep_bench.machine import this_machine
from cpep_edge.errors import CpepError
from cpep_edge.files import write_file
from cpep_edge.versions import git_commit
from crash_scenarios import INFO, Scenario, require, scenarios

_SOURCE = Path(__file__).parent / "crash" / "steps.c"
_HANG_S = 60
_GROWTH = 1.07  # from one failing allocation to the next
_MOST_ALLOCATIONS = 2_000_000


@dataclass
class Tally:
    """Counts and losses of one scenario."""

    counts: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)

    def note(self, how: str, scenario: Scenario, folder: Path, said: list[str], where: int) -> None:
        """Check what a new reader finds."""
        self.counts[how] += 1
        try:
            scenario.check(folder, said)
        except Exception as error:
            self.losses.append(f"{scenario.name}, {how}, step {where}: {type(error).__name__}: {error}")


class Arm:
    """The preloaded library, and the forked processes in which it causes failures."""

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
        """Run in a process that fails at a step; returns its messages, its number of steps, and whether it finished."""
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
            signal.alarm(_HANG_S)  # after a failure, a thread may wait for another one forever
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 2)
            where = None if log is None else bytes(log)
            self._library.crash_arm(bytes(folder), step, error, goes_on, scenario.with_exchange, where)
            if allocation:
                import _testcapi

                _testcapi.set_nomemory(allocation, allocation + 1)
            scenario.act(folder, lambda words: (os.write(told, f"{words}\n".encode()), None)[1])
            os.write(told, b"finished\n")
            status = 0
        except (CpepError, OSError, MemoryError):
            status = 2
        except BaseException:
            status = 3  # an exception is counted separately; it is not a loss by itself
        finally:
            os.write(told, f"steps {self._library.crash_steps()}\n".encode())
            os._exit(status)


def _fresh(scenario: Scenario, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scenario.prepare(folder)
    return folder


def try_scenario(scenario: Scenario, arm: Arm, scratch: Path, n_allocations: int) -> Tally:
    """Interrupt a scenario at every step, in every way."""
    tally, folder = Tally(), scratch / "disk"
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    log = scratch / "log"
    log.unlink(missing_ok=True)
    _fresh(scenario, folder)
    before = Disk.read(folder)
    said, n_steps, ended = arm.fall(scenario, folder, log=log)
    require(ended, f"{scenario.name} does not even work when nothing falls")
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
    disk.write(folder, False)  # a finished write must be on the disk completely
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


# --- the disk after a power cut --------------------------------------------------------------------------------------


class Node:
    """A file or a folder, with its content in memory and on the disk."""

    def __init__(self, is_folder: bool) -> None:
        self.names: dict[str, Node] | None = {} if is_folder else None
        self.synced_names: dict[str, Node] = {}
        self.content, self.synced = bytearray(), b""

    def sync(self) -> None:
        """Write the present state to the disk."""
        if self.names is None:
            self.synced = bytes(self.content)
        else:
            self.synced_names = dict(self.names)


class Disk:
    """A folder and its content, to which the steps of a log are applied."""

    def __init__(self, root: Node) -> None:
        self.root = root

    @classmethod
    def read(cls, folder: Path) -> "Disk":
        """Read a folder; all of its content counts as synced."""

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
        """Write the files that a reader would find after a power cut now.

        names_kept: whether names that were not synced are kept, with their synced content
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
        """The file or folder at a path."""
        node = self.root
        for name in way:
            assert node.names is not None
            node = node.names[name]
        return node


def cuts(log: Path, before: Disk, folder: Path, scenario: Scenario) -> Iterator[tuple[int, Disk, list[str]]]:
    """The disk after each step of a log, with messages of what a recording must keep by then."""
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
                    rows = node.synced.partition(b"\n")[2]
                    n_synced = len(rows) // (8 + 4 * INFO.n_channels)
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
    """Run all scenarios and write the table; status 1 when something was lost."""
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
        write_file(options.out, text)
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

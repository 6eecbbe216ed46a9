"""Spoil a bundle in thousands of ways and see that each is refused in one sentence: no crash, no hang, no acceptance.

    python benchmarks/fuzz_bundle.py BUNDLE --runs 10000 --out benchmarks/results/bundle-fuzz.md

BUNDLE may also be one that a wearer taught, which has a head, and neither encoder nor index. Parts that the bundle does
not have are not mutated.

There are four kinds of mutation. `damage` only changes files. `reseal` edits manifest, golden inputs, index, program or
head and then updates every hash, which anyone can do without a key. Checked without a key and trusted, such a bundle
may be valid, so it only must not crash; checked with the key, it must be refused. `index` gives mutated index files,
with and without a graph, directly to the loader, as if their hash were right, and searches those that it accepts.
`session` changes recordings, which are read in a separate process.

Refusing everything would pass, so there are controls in the same run. The unchanged bundle, copied like the mutants,
must be accepted, and after resealing it must be refused with the key. Each mutator must be seen to have an effect: for
`damage`, that the manifest alone still looks valid; for the others, that a check behind the hashes refused the mutant.
A run with a failed control or a finding ends with status 1.

Cases run one after the other in a separate process with a memory limit; the parent notices when it dies or hangs.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bundle_spoiling import RESEAL, Mutate, damaged, mutated_copy, mutators, sealed_anew, spoilt_header, unchanged
from cpep_bench.machine import this_machine
from cpep_edge import index_file
from cpep_edge.bundle import sign_bundle
from cpep_edge.errors import CpepError
from cpep_edge.files import write_file
from cpep_edge.manifest import MANIFEST_FILE, GraphSpec, IndexSpec, Manifest
from cpep_edge.pose_index import build_graph, load_index
from cpep_edge.session import N_JOINTS, SessionMeta, write_session
from cpep_edge.session_trial import SessionTrial
from cpep_edge.trust import PublicKey, generate_keys, load_signing_key
from cpep_edge.verify import verify_bundle
from cpep_edge.versions import git_commit

HANG_S = 200.0  # longer than the time limits of the separate processes
_DIED_APART = ("programs crash", "programs fail", "programs did not end", "crashes HDF5", "does not end")
MEMORY_BYTES = 8 << 30  # limit of address space: far more than a bundle needs, far less than an invented size asks for
_D, _N = 16, 300  # dimensions and prototypes of the indexes that are mutated
_SESSION = "session, read apart"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one case."""

    outcome: str  # refused, accepted, or the kind of failure
    said: str = ""
    bites: bool = False  # whether the mutation was seen to have an effect

    @property
    def bad(self) -> bool:
        """Whether the case was neither refused with an error message nor accepted."""
        return self.outcome not in ("refused", "accepted")


def indexes() -> dict[str, tuple[bytes, IndexSpec]]:
    """One index file of each format, with its entry of a manifest."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(_N, _D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored, labels, graph = index_file.coded(vectors), (np.arange(_N) % 6).astype(np.uint16), build_graph(vectors, 0)
    spec = IndexSpec(file="index.bin", n_prototypes=_N, graph=GraphSpec(m=graph.m, ef_construction=1, ef=50))
    return {
        "index, compact": (
            index_file.to_bytes(index_file.StoredIndex(stored, labels, None)), spec.model_copy(update={"graph": None})
        ),
        "index, compact with graph": (index_file.to_bytes(index_file.StoredIndex(stored, labels, graph)), spec),
    }  # fmt: skip


def try_index(content: bytes, spec: IndexSpec) -> Verdict:
    """Load an index and search it."""
    try:
        index = load_index(content, spec, n_gestures=6, d_embed=_D)
    except CpepError as error:
        return Verdict("refused", str(error))
    for query in np.random.default_rng(1).normal(size=(8, _D)).astype(np.float32):
        index.vote(query / np.linalg.norm(query), 10)
    return Verdict("accepted")


def try_bundle(folder: Path, key: PublicKey | None) -> Verdict:
    """Verify a bundle as `cpep-edge verify` does; without a key, as a bundle that the user trusts."""
    try:
        verify_bundle(folder, key, trust=key is None)
    except CpepError as error:
        return Verdict("refused", str(error))
    return Verdict("accepted")


def try_session(trial: SessionTrial, file: Path) -> Verdict:
    """Read a session as `cpep-edge data info` does."""
    try:
        trial.survey(file)
    except CpepError as error:
        return Verdict("refused", str(error))
    return Verdict("accepted")


def looks_whole(folder: Path) -> bool:
    """Whether the manifest alone looks valid."""
    file = folder / MANIFEST_FILE
    try:
        Manifest.model_validate_json(file.read_bytes() if file.is_file() else b"")
    except (OSError, ValueError):
        return False
    return True


def failed_controls(whole: Path, scratch: Path, key: PublicKey) -> list[str]:
    """Failures of the fuzzer itself, one message each."""
    wanted = {
        (unchanged, True): "accepted",
        (unchanged, False): "accepted",
        (sealed_anew, True): "refused",
        (sealed_anew, False): "accepted",
    }
    failed = []
    for (mutate, with_key), outcome in wanted.items():
        mutated_copy(whole, scratch / "control", mutate, np.random.default_rng(0))
        verdict = try_bundle(scratch / "control", key if with_key else None)
        if verdict.outcome != outcome:
            asked = "with the key" if with_key else "without a key"
            failed.append(f"{mutate.__name__}, {asked}: {verdict.outcome}, not {outcome} {verdict.said}".strip())
    return failed


@dataclass(frozen=True, slots=True)
class Arena:
    """The inputs of all cases."""

    whole: Path  # the signed bundle
    scratch: Path
    key: PublicKey
    session: bytes  # a recording

    def case(self, number: int, seed: int, trial: SessionTrial) -> Iterator[tuple[str, Verdict]]:
        """Run one case; yields its kind, with how it was checked, and the result."""
        rng = np.random.default_rng((seed, number))
        kinds: tuple[Mutate | str, ...] = (*mutators(self.whole), *indexes(), _SESSION)
        kind = kinds[number % len(kinds)]
        if isinstance(kind, str):
            if kind == _SESSION:
                file = self.scratch / "case.hdf5"
                file.write_bytes(spoilt_header(self.session, rng))
                verdict = try_session(trial, file)
            else:
                content, spec = indexes()[kind]
                verdict = try_index(damaged(content, rng), spec)
            yield kind, replace(verdict, bites=verdict.outcome == "refused")
            return
        mutated_copy(self.whole, self.scratch / "case", kind, rng)
        verdict = try_bundle(self.scratch / "case", self.key)
        yield f"{kind.__name__}, key", replace(verdict, bites=kind in RESEAL or looks_whole(self.scratch / "case"))
        if kind in RESEAL:
            verdict = try_bundle(self.scratch / "case", None)
            yield f"{kind.__name__}, no key", replace(verdict, bites=verdict.outcome == "refused")


def main() -> None:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    options = parser.parse_args()
    start_s = time.monotonic()
    with TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.cpep"
        os.environ["XDG_STATE_HOME"] = scratch
        os.environ["XDG_CONFIG_HOME"] = scratch
        shutil.copytree(options.bundle, whole)
        public = generate_keys(Path(scratch) / "key.pem")
        sign_bundle(whole, load_signing_key(Path(scratch) / "key.pem"))
        arena = Arena(whole, Path(scratch), public, _a_session(Path(scratch)))
        holds = sorted(file.name for file in options.bundle.iterdir())
        failed = failed_controls(whole, Path(scratch), public)
        counts, findings = _run(arena, options.runs, options.seed)
    kinds = {kind for kind, _ in counts} - {"escaped", "case"}
    failed += [f"{kind}: not one mutation was seen to bite" for kind in sorted(kinds) if not counts[kind, "bites"]]
    text = _report(holds, counts, findings, failed, options.runs, options.seed, time.monotonic() - start_s)
    write_file(options.out, text)
    print(text)
    sys.exit(1 if findings or failed else 0)


def _a_session(scratch: Path) -> bytes:
    file = scratch / "session.hdf5"
    emg_uv = np.random.default_rng(0).normal(size=(4000, 4)).astype(np.float32)
    meta = SessionMeta("s", "u", "Fist", "left", 0.0, 8.0, 4, 500.0, "session")
    write_session(file, meta, np.arange(4000) / 500, emg_uv, np.full((4000, N_JOINTS), 0.5, np.float32))
    return file.read_bytes()


def _run(arena: Arena, n_runs: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """All cases, in worker processes that are replaced when one dies or hangs."""
    counts: Counter[tuple[str, str]] = Counter()
    findings: list[str] = []
    number = 0
    while number < n_runs:
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("fork").Process(target=_work, args=(theirs, arena, number, n_runs, seed))
        worker.start()
        theirs.close()
        number = _listen(ours, number, n_runs, counts, findings)
        worker.kill()
        worker.join()
    return counts, findings


def _listen(pipe: Connection, number: int, n_runs: int, counts: Counter[tuple[str, str]], findings: list[str]) -> int:
    """Collect verdicts until the worker is done, dead or silent; returns the next case to run."""
    while number < n_runs:
        try:
            answered = pipe.poll(HANG_S)
            verdicts = pipe.recv() if answered else [("case", Verdict("hang"))]
        except EOFError:
            answered, verdicts = False, [("case", Verdict("crash"))]
        for kind, verdict in verdicts:
            counts[kind, verdict.outcome] += 1
            counts[kind, "bites"] += verdict.bites
            counts[kind, "died apart"] += any(words in verdict.said for words in _DIED_APART)
            if verdict.bad or (verdict.outcome == "accepted" and kind.endswith(", key")):
                findings.append(f"case {number}, {kind}: {verdict.outcome} {verdict.said}")
        number += 1
        if not answered:
            break
    return number


def _work(pipe: Connection, arena: Arena, first: int, n_runs: int, seed: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with SessionTrial() as trial:
        for number in range(first, n_runs):
            verdicts: list[tuple[str, Verdict]] = []
            try:
                verdicts.extend(arena.case(number, seed, trial))
            except BaseException as error:  # any exception but a CpepError is a finding
                verdicts.append(("escaped", Verdict(type(error).__name__, str(error)[:200])))
            pipe.send(verdicts)


def _report(
    whole: Sequence[str],
    counts: Counter[tuple[str, str]],
    findings: list[str],
    failed: list[str],
    n_runs: int,
    seed: int,
    wall_s: float,
) -> str:
    kinds = sorted({kind for kind, _ in counts})
    columns = ("refused", "accepted", "bites", "died apart")
    rows = [
        f"| {kind} | {' | '.join(f'{counts[kind, column]:,}' for column in columns)} | "
        f"{sum(n for (k, outcome), n in counts.items() if k == kind and outcome not in columns):,} |"
        for kind in kinds
    ]
    machine = this_machine()
    return "\n".join(
        [
            "# Damaged bundles\n",
            f"{n_runs:,} mutated bundles, index files and recordings, seed {seed}: {len(findings)} findings (crashes, "
            f"hangs, exceptions other than an error sentence, acceptances in spite of a key), {len(failed)} failed "
            f"controls. The bundle: {', '.join(whole)}.\n",
            f"| damage, how it was checked | {' | '.join(columns)} | anything else |",
            "| --- | --: | --: | --: | --: | --: |",
            *rows,
            "",
            "*bites*: the damage had an effect: the manifest alone still looks valid, or a check behind the hashes "
            "refused it. *died apart*: a program or a reader crashed or hung in its own process, and the user gets an "
            "error sentence. *reseal*: the hashes were written again after the damage.\n",
            "Without a key, a trusted and resealed bundle is accepted if it is consistent and gives its golden "
            "answers: hashes detect damage, only signatures detect people. Every accepted index file was searched "
            "without harm. Controls: the unchanged bundle is accepted with and without the key; the unchanged but "
            "resealed bundle is refused with the key and accepted without.\n",
            *(f"- failed control: {control}" for control in failed),
            *(f"- {finding}" for finding in findings),
            f"\n`python benchmarks/fuzz_bundle.py`, commit `{git_commit()[:12] or 'unknown'}`, {wall_s / 60:.0f} "
            f"minutes on {machine.n_cpus} shared cores, {machine.cpu}.\n",
        ]
    )


if __name__ == "__main__":
    main()

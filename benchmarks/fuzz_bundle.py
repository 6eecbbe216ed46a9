"""Spoil a bundle in thousands of ways and see that each is refused in one sentence: no crash, no hang, no acceptance.

    python benchmarks/fuzz_bundle.py BUNDLE --runs 10000 --out benchmarks/results/bundle-fuzz.md

A bundle that a wearer taught is a target too: it has a head, and neither encoder nor index. What a bundle does not
have is not spoilt.

Four adversaries. `damage` changes files and nothing else. `reseal` edits manifest, golden inputs, index, program or
head and makes every hash fit again, as anyone can who has no key; without a key, and trusted, such a bundle may be good
in its own right, so what counts is that nothing crashes, and that with the key it is refused. `index` hands mutated
index files, as if their hash had been right, straight to the loader and searches what it accepts: with a graph and
without. `session` changes recordings, which are read apart.

Refusing everything would pass, so there are controls in the same run. The bundle itself, copied and sealed as the
mutants are, must be accepted, and refused with the key once it was sealed anew. Each mutator must be seen to bite:
`damage` where a reader who looks at the manifest alone would have taken the mutant for the bundle, the others where
something behind the hashes refused it. A run in which a control fails, like one with a finding, ends with status 1.

Cases run in a process of their own, one after the other, under a limit of memory; the parent sees it die or hang.
"""

import argparse
import hashlib
import io
import json
import math
import multiprocessing
import os
import resource
import shutil
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cpep_bench.machine import this_machine
from cpep_edge import index_file
from cpep_edge.bundle import DIGEST_FILE, sign_bundle
from cpep_edge.errors import CpepError
from cpep_edge.files import replacing
from cpep_edge.manifest import MANIFEST_FILE, GraphSpec, IndexSpec, Manifest
from cpep_edge.pose_index import build_graph, load_index
from cpep_edge.session import N_JOINTS, SessionMeta, write_session
from cpep_edge.session_trial import SessionTrial
from cpep_edge.trust import PublicKey, generate_keys, load_signing_key
from cpep_edge.verify import verify_bundle
from cpep_edge.versions import git_commit

HANG_S = 200.0  # longer than what runs apart is given
_DIED_APART = ("programs crash", "programs fail", "programs did not end", "crashes HDF5", "does not end")
MEMORY_BYTES = 8 << 30  # of addresses; far above what a bundle needs, far below what a made-up size asks for
_HASHED_BYTES = 1 << 28  # the largest file that a manifest may name
_PACKED_BYTES = 1 << 27  # of nothing, which an archive packs small; more than any head may unpack to
_D, _N = 16, 300  # of the indexes that are mutated
_SESSION, _HEADER_BYTES = "session, read apart", 4096

Rng = np.random.Generator
Mutate = Callable[[Path, Rng], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one case."""

    outcome: str  # refused, accepted, or what went wrong
    said: str = ""
    bites: bool = False  # whether the mutation was seen to matter

    @property
    def bad(self) -> bool:
        """Whether it is neither a sentence nor an acceptance."""
        return self.outcome not in ("refused", "accepted")


def flip_bits(folder: Path, rng: Rng) -> None:
    """One to sixteen bytes of a file take another value."""
    _rewrite(_any_file(folder, rng), lambda content: flipped(content, rng))


def cut(folder: Path, rng: Rng) -> None:
    """A file ends early."""
    _rewrite(_any_file(folder, rng), lambda content: content[: int(rng.integers(len(content)))])


def extend(folder: Path, rng: Rng) -> None:
    """A file goes on behind its end."""
    _rewrite(_any_file(folder, rng), lambda content: content + rng.bytes(int(rng.integers(1, 4096))))


def swap(folder: Path, rng: Rng) -> None:
    """Two files change places."""
    one, other = rng.choice(sorted(folder.iterdir()), 2, replace=False)
    contents = other.read_bytes(), one.read_bytes()
    for file, content in zip((one, other), contents, strict=True):
        _rewrite(file, lambda _, content=content: content)  # type: ignore[misc]


def remove(folder: Path, rng: Rng) -> None:
    """A file is not there."""
    _any_file(folder, rng).unlink()


def link(folder: Path, rng: Rng) -> None:
    """A file is a link: to its own content elsewhere, to an endless device, to a folder, to nothing."""
    file = _any_file(folder, rng)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.unlink(missing_ok=True)
    elsewhere.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to([elsewhere, Path("/dev/zero"), folder.parent, Path("nowhere")][rng.integers(4)])


def odd_kind(folder: Path, rng: Rng) -> None:
    """A file is a pipe that nobody writes to, or a folder."""
    file = _any_file(folder, rng)
    file.unlink()
    os.mkfifo(file) if rng.integers(2) else file.mkdir()


def stranger(folder: Path, rng: Rng) -> None:
    """A file that nobody listed."""
    (folder / f"extra-{rng.integers(1000)}.so").write_bytes(rng.bytes(64))


def edit_manifest(folder: Path, rng: Rng) -> None:
    """A value of the manifest is another; its digest is left as it was."""
    file = folder / MANIFEST_FILE
    _rewrite(file, lambda content: _edited(json.loads(content), rng))


def reseal_manifest(folder: Path, rng: Rng) -> None:
    """Values of the manifest are others, hostile ones among them, and its digest fits."""
    for _ in range(int(rng.integers(1, 4))):
        edit_manifest(folder, rng)
    _seal(folder)


def reseal_names(folder: Path, rng: Rng) -> None:
    """A file's name leads out of the bundle."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    names = ["../golden.npz", "/etc/passwd", "..", "a/../../b", "golden.npz\x00", "\u202egolden", "a" * 4096, ""]
    role = rng.choice([role for role in ("encoder", "index", "head") if manifest.get(role)])
    name = names[rng.integers(len(names))]
    manifest["files"][name] = manifest["files"].pop(manifest[role]["file"])
    manifest[role]["file"] = name
    _rewrite(folder / MANIFEST_FILE, lambda _: json.dumps(manifest).encode())
    _seal(folder)


def reseal_sizes(folder: Path, rng: Rng) -> None:
    """A file is said to be larger than it is, or huge, and is, of nothing but holes; its hash fits while it may."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    name = str(rng.choice(sorted(manifest["files"])))
    size = int(2 ** rng.uniform(16, 42))
    manifest["files"][name]["size_bytes"] = size
    _rewrite(folder / name, lambda content: content)
    os.truncate(folder / name, size)
    if size <= _HASHED_BYTES:
        manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    _rewrite(folder / MANIFEST_FILE, lambda _: json.dumps(manifest).encode())
    _seal(folder)


def reseal_golden(folder: Path, rng: Rng) -> None:
    """The golden inputs are others, packed anew so that their checksums fit, and so does their hash."""
    _reseal_file(folder, "golden_file", lambda content: _other_arrays(content, rng))


def reseal_archive(folder: Path, rng: Rng) -> None:
    """The archive of the golden inputs is damaged and its hash fits."""
    _reseal_file(folder, "golden_file", lambda content: _damaged(content, rng))


def reseal_index(folder: Path, rng: Rng) -> None:
    """The index is damaged and its hash fits."""
    _reseal_file(folder, "index", lambda content: _damaged(content, rng))


def reseal_program(folder: Path, rng: Rng) -> None:
    """One to sixteen bytes of the encoder program are others, and its hash fits."""
    _reseal_file(folder, "encoder", lambda content: flipped(content, rng))


def reseal_head(folder: Path, rng: Rng) -> None:
    """The archive of the head is damaged and its hash fits."""
    _reseal_file(folder, "head", lambda content: _damaged(content, rng))


def reseal_head_numbers(folder: Path, rng: Rng) -> None:
    """Numbers of the head, or one of its arrays, are others, packed anew so that their checksums fit."""
    _reseal_file(folder, "head", lambda content: _other_arrays(content, rng))


def reseal_head_shapes(folder: Path, rng: Rng) -> None:
    """The head is for more or fewer inputs, dimensions or gestures, or an array of it names a shape that it has not."""
    _reseal_file(folder, "head", lambda content: _other_shapes(content, rng))


DAMAGE: tuple[Mutate, ...] = (flip_bits, cut, extend, swap, remove, link, odd_kind, stranger, edit_manifest)
RESEAL: tuple[Mutate, ...] = (
    reseal_manifest, reseal_names, reseal_sizes, reseal_golden, reseal_archive, reseal_index, reseal_program,
    reseal_head, reseal_head_numbers, reseal_head_shapes,
)  # fmt: skip
_SPOILS = {
    reseal_index: "index",
    reseal_program: "encoder",
    reseal_head: "head",
    reseal_head_numbers: "head",
    reseal_head_shapes: "head",
}


def mutators(bundle: Path) -> tuple[Mutate, ...]:
    """Those of `RESEAL` that find in this bundle what they spoil, behind all of `DAMAGE`."""
    manifest = json.loads((bundle / MANIFEST_FILE).read_bytes())
    return (*DAMAGE, *(mutate for mutate in RESEAL if mutate not in _SPOILS or manifest.get(_SPOILS[mutate])))


def indexes() -> dict[str, tuple[bytes, IndexSpec]]:
    """One index file of each format, with what a manifest says of it."""
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
    """Verify a bundle as `cpep-edge verify` does; where no key is asked for, by a user who trusts it."""
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
    """Whether a reader who looks at the manifest alone would take this for a bundle."""
    file = folder / MANIFEST_FILE
    try:
        Manifest.model_validate_json(file.read_bytes() if file.is_file() else b"")
    except (OSError, ValueError):
        return False
    return True


def unchanged(folder: Path, rng: Rng) -> None:
    """Nothing."""


def sealed_anew(folder: Path, rng: Rng) -> None:
    """Nothing but what everybody can do who changed something: hashes that fit, over other bytes of the manifest."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    _rewrite(folder / MANIFEST_FILE, lambda _: json.dumps(manifest).encode())
    _seal(folder)


def failed_controls(whole: Path, scratch: Path, key: PublicKey) -> list[str]:
    """What is wrong with the fuzzer itself, a sentence each."""
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


def mutated_copy(whole: Path, folder: Path, mutate: Mutate, rng: Rng) -> None:
    """A copy of a bundle, spoilt; files that stay as they are share their bytes with the original."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in whole.iterdir():
        os.link(file, folder / file.name)
    mutate(folder, rng)


def flipped(content: bytes, rng: Rng) -> bytes:
    """One to sixteen bytes changed."""
    spoilt = bytearray(content)
    for at in rng.integers(len(spoilt), size=int(rng.integers(1, 17))):
        spoilt[at] ^= int(rng.integers(1, 256))
    return bytes(spoilt)


def _damaged(content: bytes, rng: Rng) -> bytes:
    """Bytes flipped, cut off, or turned to the edges of what a number can be."""
    kind = rng.integers(4)
    if kind == 0:
        return content[: int(rng.integers(len(content)))]
    if kind == 1:
        at = int(rng.integers(min(len(content) - 8, 4096)))
        return content[:at] + [b"\xff" * 8, b"\x00" * 8, b"\xff" * 7 + b"\x7f"][rng.integers(3)] + content[at + 8 :]
    return flipped(content, rng)


def _spoilt_header(content: bytes, rng: Rng) -> bytes:
    """A few bytes changed, mostly where HDF5 keeps what it believes, often to the edges of what a byte can be."""
    spoilt = bytearray(content)
    end = _HEADER_BYTES if rng.integers(4) else len(spoilt)
    for at in rng.integers(0, end, int(rng.integers(1, 9))):
        spoilt[at] = int(rng.choice([0, 255, 127, 128, int(rng.integers(256))]))
    return bytes(spoilt if rng.integers(10) else spoilt[: int(rng.integers(len(spoilt)))])


_HOSTILE: tuple[object, ...] = (
    None, -1, 0, 1, 2**31, 2**63, 2**64, 10**40, -0.5, 1e308, float("nan"), float("inf"), "", "x", "../x", "\x1b[2J",
    "\u202e", "a" * 100_000, [], {}, [[]] * 1000, True, [1e300] * 6,
)  # fmt: skip


def _edited(manifest: dict[str, object], rng: Rng) -> bytes:
    """The manifest with a value somewhere in it replaced, removed, or added."""
    value = _HOSTILE[rng.integers(len(_HOSTILE))]
    holder = _holders(manifest)[rng.integers(len(_holders(manifest)))]
    if isinstance(holder, list):
        at = int(rng.integers(len(holder)))
        holder[at] = _nudged(holder[at], rng) if rng.integers(2) else value
        return json.dumps(manifest).encode()
    key, choice = sorted(holder)[rng.integers(len(holder))], rng.integers(16)
    if choice >= 8:
        holder[key] = _nudged(holder[key], rng)
    elif choice == 0:
        del holder[key]
    else:
        holder[f"unknown-{rng.integers(99)}" if choice == 1 else key] = value
    return json.dumps(manifest).encode()


def _nudged(value: object, rng: Rng) -> object:
    """Something of the same kind that an export might have written."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + int(rng.integers(-2, 3))
    if isinstance(value, float):
        return value * float(rng.choice([-1, 0.5, 0.999, 1.001, 2]))
    if isinstance(value, str):
        return value[::-1]
    if isinstance(value, list):
        return value[::-1] if rng.integers(2) else value[:-1]
    return value


def _holders(value: object) -> list[dict[str, object] | list[object]]:
    """Every dict and list, however deep, that holds something."""
    if not isinstance(value, dict | list) or not value:
        return []
    inside = value.values() if isinstance(value, dict) else value
    return [value, *(holder for inner in inside for holder in _holders(inner))]


def _any_file(folder: Path, rng: Rng) -> Path:
    files = sorted(folder.iterdir())
    return files[rng.integers(len(files))]


def _rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    """A new file in the place of a shared one."""
    content = change(file.read_bytes())
    file.unlink()
    file.write_bytes(content)


def _other_arrays(content: bytes, rng: Rng) -> bytes:
    """Golden inputs whose numbers, or one of whose arrays, are others."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = {name: np.array(archive[name]) for name in archive}
    name = str(rng.choice(sorted(arrays)))
    array = arrays[name]
    if rng.integers(3):
        at = tuple(rng.integers(size) for size in array.shape)
        array[at] = array.dtype.type(rng.choice([-1, 0, 1, 100, 30_000]))
    else:
        others = [
            np.float32(1.0), np.zeros(0), np.zeros((0, *array.shape[1:]), array.dtype), array[..., None], array[:1],
            array.astype(np.float64) * 1e300, array.astype(str), array * np.nan, np.asfortranarray(array), array[::-1],
            np.full_like(array, (np.finfo if array.dtype.kind == "f" else np.iinfo)(array.dtype).max), array // 2,
        ]  # fmt: skip
        arrays[name] = np.asarray(others[rng.integers(len(others))])
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _other_shapes(content: bytes, rng: Rng) -> bytes:
    """A head one of whose sizes is another in all arrays, or an array of which names a shape that it does not have."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = {name: np.array(archive[name]) for name in archive}
    (k, r), d = arrays["means"].shape, arrays["origin"].size
    packed = io.BytesIO()
    if rng.integers(2):
        sizes = {"k": k, "r": r, "d": d}
        which = str(rng.choice(sorted(sizes)))
        sizes[which] = max(1, sizes[which] + int(rng.choice([-1, 1, 2, -sizes[which], 255])))
        k, r, d = sizes.values()
        shapes = {"origin": (d,), "projection": (d, r), "means": (k, r)}
        resized = {name: np.resize(arrays[name], shape) for name, shape in shapes.items()}
        resized["factors"] = np.tile(np.eye(r, dtype=np.float32), (k, 1, 1))
        np.savez_compressed(packed, **arrays | resized)
        return packed.getvalue()
    spoilt = str(rng.choice(sorted(arrays)))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive_:
        for name, array in arrays.items():
            shape, data = list(array.shape), array.tobytes()
            if name == spoilt:
                axis = int(rng.integers(len(shape)))
                n = int(rng.integers(1, _PACKED_BYTES // 4)) * shape[axis] // math.prod(shape)
                shape[axis] = int(rng.choice([0, -1, 2**31, 2**62, max(1, n)]))
                n_bytes = 4 * math.prod(shape)
                data = bytes(n_bytes) if 0 < n_bytes <= _PACKED_BYTES else data
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
                header, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
            )
            archive_.writestr(f"{name}.npy", header.getvalue() + data)
    return packed.getvalue()


def _reseal_file(folder: Path, role: str, change: Callable[[bytes], bytes]) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    name = manifest[role] if isinstance(manifest[role], str) else manifest[role]["file"]
    _rewrite(folder / name, change)
    content = (folder / name).read_bytes()
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    _rewrite(folder / MANIFEST_FILE, lambda _: json.dumps(manifest).encode())
    _seal(folder)


def _seal(folder: Path) -> None:
    digest = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    _rewrite(folder / DIGEST_FILE, lambda _: f"{digest}  {MANIFEST_FILE}\n".encode())


@dataclass(frozen=True, slots=True)
class Arena:
    """What the cases are made of."""

    whole: Path  # the signed bundle
    scratch: Path
    key: PublicKey
    session: bytes  # a recording

    def case(self, number: int, seed: int, trial: SessionTrial) -> Iterator[tuple[str, Verdict]]:
        """Run one case; yields its kind, with how it was looked at, and what came of it."""
        rng = np.random.default_rng((seed, number))
        kinds: tuple[Mutate | str, ...] = (*mutators(self.whole), *indexes(), _SESSION)
        kind = kinds[number % len(kinds)]
        if isinstance(kind, str):
            if kind == _SESSION:
                file = self.scratch / "case.hdf5"
                file.write_bytes(_spoilt_header(self.session, rng))
                verdict = try_session(trial, file)
            else:
                content, spec = indexes()[kind]
                verdict = try_index(_damaged(content, rng), spec)
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
    with replacing(options.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
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
    """Take in verdicts until the worker is done, dead or silent; returns the case to go on with."""
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
            except BaseException as error:  # whatever is no sentence for the user is a finding
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
            "# Spoilt bundles\n",
            f"{n_runs:,} mutated bundles, index files and recordings, seed {seed}: {len(findings)} findings (crashes, "
            f"hangs, exceptions that are no sentence, acceptances although a key was asked for), {len(failed)} failed "
            f"controls. The bundle: {', '.join(whole)}.\n",
            f"| what was done, how it was looked at | {' | '.join(columns)} | anything else |",
            "| --- | --: | --: | --: | --: | --: |",
            *rows,
            "",
            "Controls: the bundle itself is accepted with the key and without; sealed anew with nothing changed it is "
            "refused with the key and accepted without. A mutation bites where the mutant looks like a bundle to who "
            "reads the manifest alone, or something behind the hashes refused it. What died apart is a program or a "
            "reader that crashed or hung in its own process, which the user is told in a sentence. Without a key, a "
            "trusted bundle that was sealed anew is accepted where it is consistent and gives its golden answers: "
            "hashes find damage, signatures find people. An accepted index file was searched without harm.\n",
            *(f"- failed control: {control}" for control in failed),
            *(f"- {finding}" for finding in findings),
            f"\n`python benchmarks/fuzz_bundle.py`, commit `{git_commit()[:12] or 'unknown'}`, {wall_s / 60:.0f} "
            f"minutes on {machine.n_cpus} shared cores, {machine.cpu}.\n",
        ]
    )


if __name__ == "__main__":
    main()

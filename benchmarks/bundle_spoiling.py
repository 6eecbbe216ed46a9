"""The mutations of a bundle by `fuzz_bundle.py`: `DAMAGE` changes files, `RESEAL` also updates every hash."""

import hashlib
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cpep_edge.bundle import DIGEST_FILE
from cpep_edge.manifest import MANIFEST_FILE

_HASHED_BYTES = 1 << 28  # the largest file that a manifest may name
_PACKED_BYTES = 1 << 27  # zeros, which an archive packs small; more than a head may unpack to
_HEADER_BYTES = 4096  # of a session's file

Rng = np.random.Generator
Mutate = Callable[[Path, Rng], None]


def flip_bits(folder: Path, rng: Rng) -> None:
    """Change one to sixteen bytes of a file."""
    _rewrite(_any_file(folder, rng), lambda content: flipped(content, rng))


def cut(folder: Path, rng: Rng) -> None:
    """Truncate a file."""
    _rewrite(_any_file(folder, rng), lambda content: content[: int(rng.integers(len(content)))])


def extend(folder: Path, rng: Rng) -> None:
    """Append random bytes to a file."""
    _rewrite(_any_file(folder, rng), lambda content: content + rng.bytes(int(rng.integers(1, 4096))))


def swap(folder: Path, rng: Rng) -> None:
    """Swap two files."""
    one, other = rng.choice(sorted(folder.iterdir()), 2, replace=False)
    contents = other.read_bytes(), one.read_bytes()
    for file, content in zip((one, other), contents, strict=True):
        _rewrite(file, lambda _, content=content: content)  # type: ignore[misc]


def remove(folder: Path, rng: Rng) -> None:
    """Remove a file."""
    _any_file(folder, rng).unlink()


def link(folder: Path, rng: Rng) -> None:
    """Replace a file by a link: to its own content elsewhere, to an endless device, to a folder, or to nothing."""
    file = _any_file(folder, rng)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.unlink(missing_ok=True)
    elsewhere.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to([elsewhere, Path("/dev/zero"), folder.parent, Path("nowhere")][rng.integers(4)])


def odd_kind(folder: Path, rng: Rng) -> None:
    """Replace a file by a pipe without a writer, or by a folder."""
    file = _any_file(folder, rng)
    file.unlink()
    os.mkfifo(file) if rng.integers(2) else file.mkdir()


def stranger(folder: Path, rng: Rng) -> None:
    """Add a file that the manifest does not list."""
    (folder / f"extra-{rng.integers(1000)}.so").write_bytes(rng.bytes(64))


def edit_manifest(folder: Path, rng: Rng) -> None:
    """Change a value of the manifest without updating its digest."""
    file = folder / MANIFEST_FILE
    _rewrite(file, lambda content: _edited(json.loads(content), rng))


def reseal_manifest(folder: Path, rng: Rng) -> None:
    """Change one to three values of the manifest, also to hostile ones, and update its digest."""
    for _ in range(int(rng.integers(1, 4))):
        edit_manifest(folder, rng)
    _seal(folder)


def reseal_names(folder: Path, rng: Rng) -> None:
    """Let a file's name in the manifest point outside the bundle."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    names = ["../golden.npz", "/etc/passwd", "..", "a/../../b", "golden.npz\x00", "\u202egolden", "a" * 4096, ""]
    role = rng.choice([role for role in ("encoder", "index", "head") if manifest.get(role)])
    name = names[rng.integers(len(names))]
    manifest["files"][name] = manifest["files"].pop(manifest[role]["file"])
    manifest[role]["file"] = name
    _rewrite(folder / MANIFEST_FILE, lambda _: json.dumps(manifest).encode())
    _seal(folder)


def reseal_sizes(folder: Path, rng: Rng) -> None:
    """Give a file another, often huge, size, on disk (sparse) and in the manifest; update its hash if not too large."""
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
    """Change the golden inputs, with matching checksums in the archive and a matching hash."""
    _reseal_file(folder, "golden_file", lambda content: _other_arrays(content, rng))


def reseal_archive(folder: Path, rng: Rng) -> None:
    """Damage the archive of the golden inputs and update its hash."""
    _reseal_file(folder, "golden_file", lambda content: damaged(content, rng))


def reseal_index(folder: Path, rng: Rng) -> None:
    """Damage the index and update its hash."""
    _reseal_file(folder, "index", lambda content: damaged(content, rng))


def reseal_program(folder: Path, rng: Rng) -> None:
    """Change one to sixteen bytes of the encoder program and update its hash."""
    _reseal_file(folder, "encoder", lambda content: flipped(content, rng))


def reseal_head(folder: Path, rng: Rng) -> None:
    """Damage the archive of the head and update its hash."""
    _reseal_file(folder, "head", lambda content: damaged(content, rng))


def reseal_head_numbers(folder: Path, rng: Rng) -> None:
    """Change the head's numbers or one of its arrays, with matching checksums in the archive and a matching hash."""
    _reseal_file(folder, "head", lambda content: _other_arrays(content, rng))


def reseal_head_shapes(folder: Path, rng: Rng) -> None:
    """Change the head's number of inputs, dimensions or gestures, or give an array a false shape; update its hash."""
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
    """All of `DAMAGE`, and those of `RESEAL` whose part the bundle has."""
    manifest = json.loads((bundle / MANIFEST_FILE).read_bytes())
    return (*DAMAGE, *(mutate for mutate in RESEAL if mutate not in _SPOILS or manifest.get(_SPOILS[mutate])))


def unchanged(folder: Path, rng: Rng) -> None:
    """Change nothing."""


def sealed_anew(folder: Path, rng: Rng) -> None:
    """Only write the manifest in other bytes and update the hashes, as anyone could after a change."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    _rewrite(folder / MANIFEST_FILE, lambda _: json.dumps(manifest).encode())
    _seal(folder)


def mutated_copy(whole: Path, folder: Path, mutate: Mutate, rng: Rng) -> None:
    """Make a mutated copy of a bundle; unchanged files are hard links to the original."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in whole.iterdir():
        os.link(file, folder / file.name)
    mutate(folder, rng)


def flipped(content: bytes, rng: Rng) -> bytes:
    """The content with one to sixteen bytes changed."""
    spoilt = bytearray(content)
    for at in rng.integers(len(spoilt), size=int(rng.integers(1, 17))):
        spoilt[at] ^= int(rng.integers(1, 256))
    return bytes(spoilt)


def damaged(content: bytes, rng: Rng) -> bytes:
    """The content with bytes changed, cut off, or set to extreme values of a number."""
    kind = rng.integers(4)
    if kind == 0:
        return content[: int(rng.integers(len(content)))]
    if kind == 1:
        at = int(rng.integers(min(len(content) - 8, 4096)))
        return content[:at] + [b"\xff" * 8, b"\x00" * 8, b"\xff" * 7 + b"\x7f"][rng.integers(3)] + content[at + 8 :]
    return flipped(content, rng)


def spoilt_header(content: bytes, rng: Rng) -> bytes:
    """A session's content with a few bytes changed, mostly in HDF5's metadata, often to extreme values."""
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
    """A slightly different value of the same type, which an export might have written."""
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
    """All dicts and lists that are not empty, at any depth."""
    if not isinstance(value, dict | list) or not value:
        return []
    inside = value.values() if isinstance(value, dict) else value
    return [value, *(holder for inner in inside for holder in _holders(inner))]


def _any_file(folder: Path, rng: Rng) -> Path:
    files = sorted(folder.iterdir())
    return files[rng.integers(len(files))]


def _rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace a file by a new one, because the old one is a hard link to the original."""
    content = change(file.read_bytes())
    file.unlink()
    file.write_bytes(content)


def _other_arrays(content: bytes, rng: Rng) -> bytes:
    """An archive of arrays with the numbers of one array changed, or the whole array replaced."""
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
    """A head with one of its sizes changed in all arrays, or with one array whose header has a false shape."""
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

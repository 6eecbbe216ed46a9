"""The bundle `NAME.cpep/`: everything a device needs to recognise gestures, and what it takes to trust it.

A bundle is a folder: `manifest.json`, the encoder program, the pose index, and golden inputs with the outputs they must
give. The manifest carries the SHA-256 of every other file, and `manifest.sha256` that of the manifest, as `sha256sum`
writes it. Nothing is handed to a parser before its hash was checked, and what was checked is what is parsed:
`Bundle.read` returns the very bytes that matched. Hashes find damage; they do not keep out who can write both files.
"""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cpep_edge.errors import ArtifactError
from cpep_edge.files import replacing_folder
from cpep_edge.preprocess import Preprocessing

SCHEMA_VERSION: Literal[1] = 1
MANIFEST_FILE = "manifest.json"
DIGEST_FILE = "manifest.sha256"
_MAX_MANIFEST_BYTES = 1 << 20

Target = Literal["linux", "linux-aarch64"]  # the first is x86-64
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]  # a plain name: no path leads out


class _Part(BaseModel):
    """Part of a manifest: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """What a file of the bundle must be, to the last bit."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class EncoderSpec(_Part):
    """The EMG encoder: one window in, one embedding out."""

    file: FileName
    runtime: Literal["executorch-xnnpack"]
    quantisation: Literal["int8", "int8-dynamic", "fp32"]
    n_channels: int = Field(gt=0)
    window_samples: int = Field(gt=0)
    d_embed: int = Field(gt=0)
    n_parameters: int = Field(gt=0)
    n_delegates: int = Field(ge=0)  # sub-graphs that the backend runs
    n_operators_outside: int = Field(ge=0)  # operators left to the portable kernels


class IndexSpec(_Part):
    """The pose index: hnswlib over unit vectors with inner product."""

    file: FileName
    n_prototypes: int = Field(gt=0)
    m: int = Field(gt=0)
    ef_construction: int = Field(gt=0)
    ef: int = Field(gt=0)


class Gesture(_Part):
    """One gesture of the index; its place in the list is the gesture's number."""

    name: str = Field(min_length=1, max_length=100)
    n_prototypes: int = Field(gt=0)
    trained: bool  # False: its EMG was never seen in training, only its poses are in the index


class DecisionSpec(_Part):
    """How neighbours become decisions."""

    k: int = Field(default=10, gt=0)  # neighbours that vote
    min_vote_share: float = Field(default=0.5, ge=0, le=1)  # below: rejected
    min_similarity: float = Field(default=-1.0, ge=-1, le=1)  # cosine of the nearest winner; below: rejected
    debounce_hops: int = Field(default=3, gt=0)  # equal results in a row before a decision changes


class NativeSpec(_Part):
    """What runs the encoder without torch. It is code: a bundle that carries it deserves the trust of a program."""

    architecture: Literal["x86_64", "aarch64"]
    libraries: tuple[FileName, ...] = Field(min_length=1)  # in the order in which they are loaded
    runner: FileName  # a program that needs no Python either


class LadderStep(_Part):
    """Zero-shot balanced accuracy at one step from the trained module to the deployed bundle, same windows at each."""

    step: str
    seen: float | None  # None: the data had no such windows
    unseen: float | None
    vote_agreement: float  # share of windows with the vote of the first step


class Provenance(_Part):
    """Where the bundle comes from."""

    recipe: str
    seed: int
    data: str  # name of the corpus, and whether it is simulated
    git_commit: str
    versions: dict[str, str]
    created_utc: str


class Manifest(_Part):
    """All that is said about a bundle, in `manifest.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    target: Target
    files: dict[FileName, FileEntry]
    golden_file: FileName
    preprocessing: Preprocessing
    calibration: tuple[str, ...] = ()  # what the wearer does while a session is calibrated; empty: made to do without
    encoder: EncoderSpec
    native: NativeSpec | None = None  # None: the device needs torch and executorch
    index: IndexSpec
    gestures: tuple[Gesture, ...] = Field(min_length=1)
    decision: DecisionSpec
    ladder: tuple[LadderStep, ...]
    provenance: Provenance

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Manifest":
        carried = () if self.native is None else (*self.native.libraries, self.native.runner)
        for name in (self.encoder.file, self.index.file, self.golden_file, *carried):
            if name not in self.files:
                raise ValueError(f"{name} is used but not listed under files")
        if len({gesture.name for gesture in self.gestures}) != len(self.gestures):
            raise ValueError("two gestures have the same name")
        if sum(gesture.n_prototypes for gesture in self.gestures) != self.index.n_prototypes:
            raise ValueError("the prototypes of the gestures do not add up to those of the index")
        _check_filter(self.preprocessing)
        return self


class Bundle:
    """A bundle on disk whose manifest was read; other files are read, and checked, on demand."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError when the manifest is missing, malformed, or of another schema."""
        self.path = path
        self.manifest = _read_manifest(path)

    def read(self, name: str) -> bytes:
        """The bytes of one file, after its size and hash matched the manifest.

        Raises ArtifactError when the file is not listed, missing, a link, or not what the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtifactError(f"{self.path}: the manifest does not list {name}")
        file = self.path / name
        if file.is_symlink() or not file.is_file():
            raise ArtifactError(f"{self.path}: {name} is missing or not a plain file")
        if file.stat().st_size != entry.size_bytes:
            raise ArtifactError(f"{self.path}: {name} has {file.stat().st_size} bytes, not {entry.size_bytes}")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise ArtifactError(f"{self.path}: {name} was changed after export (its SHA-256 differs)")
        return content

    def check_files(self) -> None:
        """Check every listed file, and that nothing else lies in the folder."""
        for name in self.manifest.files:
            self.read(name)
        known = {*self.manifest.files, MANIFEST_FILE, DIGEST_FILE}
        extra = sorted(file.name for file in self.path.iterdir() if file.name not in known)
        if extra:
            raise ArtifactError(f"{self.path}: {extra[0]} is not listed in the manifest")


def write_bundle(
    path: Path, fill: Callable[[Path], None], manifest: Callable[[dict[str, FileEntry]], Manifest]
) -> Manifest:
    """Write a bundle whole or not at all, and return its manifest; an older one at `path` survives every failure.

    fill: writes all files but the manifest into the folder it is given
    manifest: makes the manifest from the sizes and hashes of those files
    """
    if path.exists() and not (path / MANIFEST_FILE).is_file():
        raise ArtifactError(f"{path} exists and is not a bundle; choose another name")
    with replacing_folder(path) as folder:
        fill(folder)
        entries = {file.name: _entry(file) for file in sorted(folder.iterdir())}
        written = manifest(entries)
        text = written.model_dump_json(indent=2) + "\n"
        (folder / MANIFEST_FILE).write_bytes(text.encode())
        (folder / DIGEST_FILE).write_bytes(_digest_line(text.encode()))
    return written


def _entry(file: Path) -> FileEntry:
    content = file.read_bytes()
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no such bundle")
    content = _read_plain(path, MANIFEST_FILE)
    if _read_plain(path, DIGEST_FILE) != _digest_line(content):
        raise ArtifactError(f"{path}: {MANIFEST_FILE} was changed after export ({DIGEST_FILE} holds another SHA-256)")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ArtifactError(f"{path}: {MANIFEST_FILE} is not valid at {where}: {first['msg']}") from error


def _read_plain(path: Path, name: str) -> bytes:
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise ArtifactError(f"{path}: {name} is missing or not a plain file, so this is no bundle")
    if file.stat().st_size > _MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path}: {name} is larger than {_MAX_MANIFEST_BYTES} bytes")
    return file.read_bytes()


def _digest_line(manifest: bytes) -> bytes:
    """What `sha256sum manifest.json` prints."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST_FILE}\n".encode()


def _check_filter(spec: Preprocessing) -> None:
    numbers = [spec.sample_rate_hz, spec.scale_uv, spec.clip, *(value for section in spec.sos for value in section)]
    if not spec.sos or any(len(section) != 6 for section in spec.sos):
        raise ValueError("preprocessing.sos is no list of second-order sections of six numbers")
    if not all(math.isfinite(number) for number in numbers) or min(numbers[:3]) <= 0:
        raise ValueError("preprocessing holds a number that is infinite, no number, or not above zero where it must be")

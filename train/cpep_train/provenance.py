"""Where a run comes from: the data, the code and the libraries it was made with."""

import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cpep_edge.errors import ArtifactError
from cpep_edge.files import replacing
from cpep_train.corpus import Corpus

PROVENANCE_FILE = "provenance.json"
_PACKAGES = ("cpep-edge", "torch", "lightning", "numpy", "scipy", "mujoco", "myo-sim")


class Provenance(BaseModel):
    """Where a run comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str  # name of the corpus
    data_sha256: str  # of its metadata and the sizes of its files
    git_commit: str  # empty outside a checkout
    versions: dict[str, str]
    created_utc: str


def provenance_of(corpus: Corpus) -> Provenance:
    """What a run over this corpus, started now, comes from."""
    return Provenance(
        data=corpus.folder.resolve().name,
        data_sha256=corpus.fingerprint(),
        git_commit=_git_commit(),
        versions={"python": sys.version.split()[0], **_versions()},
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def save_provenance(run: Path, provenance: Provenance) -> None:
    """Write it beside the recipe."""
    with replacing(run / PROVENANCE_FILE) as temporary:
        temporary.write_text(provenance.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_provenance(run: Path) -> Provenance:
    """Read what a run was started with; raises ArtifactError where that is missing or malformed."""
    file = run / PROVENANCE_FILE
    try:
        return Provenance.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{file} is missing or malformed; train into another folder") from error


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> str:
    command = ("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

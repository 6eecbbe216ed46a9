"""The provenance of a run: the data, the code and the libraries it was made with."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cpep_edge.errors import ArtifactError
from cpep_edge.files import require_plain, write_file
from cpep_edge.versions import git_commit, installed_versions
from cpep_train.corpus import Corpus

PROVENANCE_FILE = "provenance.json"
_PACKAGES = ("cpep-edge", "torch", "lightning", "numpy", "scipy", "mujoco", "myo-sim")


class Provenance(BaseModel):
    """The provenance of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str  # name of the corpus
    data_sha256: str  # of its metadata and of every sample
    skipped: dict[str, str] = {}  # recordings left out because they could not be used, and why
    git_commit: str  # empty outside a checkout
    versions: dict[str, str]
    created_utc: str


def provenance_of(corpus: Corpus, data_sha256: str, skipped: dict[str, str] | None = None) -> Provenance:
    """The provenance of a run on this corpus that starts now."""
    return Provenance(
        data=corpus.folder.resolve().name,
        data_sha256=data_sha256,
        skipped=skipped or {},
        git_commit=git_commit(),
        versions=installed_versions(_PACKAGES),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def save_provenance(run: Path, provenance: Provenance) -> None:
    """Write the provenance beside the recipe."""
    write_file(run / PROVENANCE_FILE, provenance.model_dump_json(indent=2) + "\n")


def load_provenance(run: Path) -> Provenance:
    """Read the provenance of a run; raises ArtifactError when it is missing or malformed."""
    file = run / PROVENANCE_FILE
    try:
        require_plain(file)
        return Provenance.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{file} is missing or malformed; train into another folder") from error

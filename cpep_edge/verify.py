"""Prove a bundle: every hash, every file opened, every golden input run, with the code that runs live."""

from dataclasses import dataclass
from pathlib import Path

from cpep_edge.bundle import Bundle
from cpep_edge.golden import Golden, check_golden
from cpep_edge.recogniser import Recogniser
from cpep_edge.trust import PublicKey


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found good."""

    name: str
    version: int
    signed_by: str | None  # fingerprint of the key that was checked; None: none was asked for
    n_files: int  # listed in the manifest
    size_bytes: int  # of those
    n_golden: int  # golden inputs that gave their embedding and gesture
    smallest_cosine: float  # among their embeddings, to the stored ones


def verify_bundle(path: Path, key: PublicKey | None = None) -> VerifyReport:
    """Check a whole bundle; raises ArtifactError, in one sentence, at the first thing that is off.

    key: what must have signed it; checked before anything of the bundle is parsed or run
    """
    bundle = Bundle(path, key)
    bundle.check_files()
    smallest_cosine = check_golden(bundle, Recogniser(bundle))
    manifest = bundle.manifest
    return VerifyReport(
        name=manifest.name,
        version=manifest.version,
        signed_by=None if key is None else key.fingerprint,
        n_files=len(manifest.files),
        size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        n_golden=len(Golden.from_bytes(bundle.read(manifest.golden_file)).gesture_index),
        smallest_cosine=smallest_cosine,
    )

"""Prove a bundle: every hash, every file opened, every golden input run, with the code that runs live, in a child."""

from dataclasses import dataclass
from pathlib import Path

from cpep_edge.bundle import Bundle
from cpep_edge.golden import Golden, try_golden
from cpep_edge.native_encoder import carried_library
from cpep_edge.trust import Key


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The facts of a bundle that was verified."""

    name: str
    version: int
    signed_by: str | None  # fingerprint of the key that was checked; None: none was asked for
    n_files: int  # listed in the manifest
    size_bytes: int  # of those
    n_golden: int  # golden inputs that gave their embedding and gesture
    smallest_cosine: float | None  # among their embeddings, to the stored ones; None: nothing was run


def verify_bundle(path: Path, key: Key | None = None, *, trust: bool = False, run: bool = True) -> VerifyReport:
    """Check a whole bundle; raises ArtifactError, in one sentence, at the first thing that is off.

    key: what must have signed it; checked before anything of the bundle is parsed or run
    trust: the user says that its code may run here
    run: its golden inputs, in a process of their own; without it only hashes and the signature are checked
    """
    bundle = Bundle(path, key, trust=trust)
    bundle.check_files()
    smallest_cosine = None
    if run:
        carried_library(bundle)  # may its code run here?
        smallest_cosine = try_golden(bundle)
    manifest = bundle.manifest
    return VerifyReport(
        name=manifest.name,
        version=manifest.version,
        signed_by=None if key is None else key.fingerprint,
        n_files=len(manifest.files),
        size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        n_golden=len(Golden.from_bytes(bundle.read(manifest.golden_file)).gesture_index) if run else 0,
        smallest_cosine=smallest_cosine,
    )

"""Verify a bundle: check every hash, open every file, and run every golden input with the live code in a child."""

from dataclasses import dataclass
from pathlib import Path

from cpep_edge.bundle import Bundle
from cpep_edge.golden import Golden, try_golden
from cpep_edge.native_encoder import carried_library
from cpep_edge.trust import Key


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The facts about a verified bundle."""

    name: str
    version: int
    signed_by: str | None  # fingerprint of the key that was checked; None: no key was required
    n_files: int  # listed in the manifest
    size_bytes: int  # of those files
    n_golden: int  # golden inputs that gave their stored embedding and gesture
    smallest_cosine: float | None  # between their embeddings and the stored ones; None: nothing was run


def verify_bundle(path: Path, key: Key | None = None, *, trust: bool = False, run: bool = True) -> VerifyReport:
    """Check a whole bundle; raises ArtifactError, with a message of one sentence, at the first fault.

    key: the key that must have signed it; checked before anything of the bundle is parsed or run
    trust: the user says that the bundle's code may run here
    run: run the golden inputs in a child process; otherwise only the hashes and the signature are checked
    """
    bundle = Bundle(path, key, trust=trust)
    bundle.check_files()
    smallest_cosine = None
    if run:
        carried_library(bundle)  # raises ArtifactError if the bundle's code may not run here
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

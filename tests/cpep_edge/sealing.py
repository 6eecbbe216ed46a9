"""Change the manifest of a bundle with matching hashes, as anyone can, and sign bundles."""

import hashlib
import json
import shutil
from pathlib import Path

from cpep_edge.bundle import DIGEST_FILE, SIGNATURE_FILE, sign_bundle
from cpep_edge.manifest import MANIFEST_FILE
from cpep_edge.trust import SigningKey
from cpep_edge.vouched import remember


def reseal(bundle: Path, manifest: dict[str, object] | bytes, *, trusted: bool = False) -> None:
    """Write a manifest and its digest; with `trusted`, also record that the user trusts this bundle."""
    content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    digest = hashlib.sha256(content).hexdigest()
    (bundle / MANIFEST_FILE).write_bytes(content)
    (bundle / DIGEST_FILE).write_text(f"{digest}  {MANIFEST_FILE}\n")
    if trusted:
        remember("may run", digest)


def as_version(bundle: Path, version: int, key: SigningKey) -> Path:
    """A signed copy of a bundle with another version number."""
    path = bundle.with_name(f"version-{version}.cpep")
    shutil.copytree(bundle, path)
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    (path / SIGNATURE_FILE).unlink(missing_ok=True)
    reseal(path, {**manifest, "version": version, "signer": None})
    sign_bundle(path, key)
    return path

"""The bundle `NAME.cpep/`: all that a device needs to recognise gestures, with the hashes and signature to check it.

A bundle is a folder: `manifest.json`, the encoder program, the pose index, a head, and golden inputs with the outputs
they must give. A bundle that a wearer taught (`cpep_edge.taught`) may have neither encoder nor index: then a head reads
the front end's tokens, which needs only numpy. The manifest holds the SHA-256 of every other file, and
`manifest.sha256` that of the manifest, in the format of `sha256sum`. No file is parsed before its hash was checked, and
`Bundle.read` returns the very bytes that were checked. Hashes only detect damage: an attacker can replace a file and
its hash. `manifest.sig` protects against that, once a key is given (`cpep_edge.trust`).

Only the current schema is read: exporting a bundle again takes minutes, and one that is misread decides wrongly.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cpep_edge.errors import ArtifactError, CpepError
from cpep_edge.files import read_plain
from cpep_edge.folders import locked, replacing_folder, restore
from cpep_edge.manifest import MANIFEST_FILE, FileEntry, Manifest, parse_manifest
from cpep_edge.trust import MAX_VERSION, SIGNATURE_BYTES, Key, SigningKey, check_version, remember_version
from cpep_edge.trusted_keys import configured_key
from cpep_edge.vouched import remember, remembers

DIGEST_FILE = "manifest.sha256"
SIGNATURE_FILE = "manifest.sig"
_log = logging.getLogger(__name__)
_MAX_MANIFEST_BYTES = 1 << 20


class Bundle:
    """A bundle on disk. Its manifest is read at once; other files are read and checked on demand."""

    def __init__(
        self, path: Path, key: Key | None = None, *, trust: bool = False, manifest_sha256: str | None = None
    ) -> None:
        """Check the signature, then read the manifest.

        key: key that must have signed the manifest, which must not be an older version than one that ran here; None:
            check only hashes
        trust: the user allows the bundle's code to run here, now and later
        manifest_sha256: hash of the bundle that another process opened and checked; any other is refused
        Raises ArtifactError when the manifest is missing, malformed, of a later schema, or not to be trusted.
        """
        self.path = path
        content = _read_checked_manifest(path, key)
        self.manifest_sha256 = hashlib.sha256(content).hexdigest()  # identifies every file of the bundle
        if manifest_sha256 not in (None, self.manifest_sha256):
            raise ArtifactError(f"{path} was replaced by another bundle while it was in use: start again")
        self.manifest = parse_manifest(path, content)
        self._key, self._trust, self._checked_before = key, trust, manifest_sha256 is not None
        if key is not None:
            check_version(key, *self._identity(), new_name=trust)
        elif trust:
            _remember_it_may_run(self.manifest_sha256)

    @classmethod
    def open(cls, path: Path, key_file: Path | None = None, *, trust: bool = False) -> "Bundle":
        """Open a bundle with the given key, or the one that is configured on this machine, see `configured_key`."""
        return cls(path, configured_key(key_file), trust=trust)

    @property
    def is_signed(self) -> bool:
        """Whether its signature was checked."""
        return self._key is not None or self._checked_before

    def require_trust(self) -> None:
        """Raise ArtifactError unless the code in the bundle may run on this machine.

        It may when its signature was checked, the bundle was made here, or the user allowed it.
        """
        if not (self.is_signed or self._trust or remembers("may run", self.manifest_sha256)):
            raise ArtifactError(
                f"{self.path} contains code that was not made on this machine: check who made it with --key, or add "
                "--trust once if you trust its source"
            )

    def keep_older_out(self) -> None:
        """With a key: remember that this version runs here, so that no older version will from now on."""
        if self._key is not None:
            remember_version(self._key, *self._identity(), new_name=self._trust)

    def _identity(self) -> tuple[str, int, str]:
        return self.manifest.name, self.manifest.version, self.manifest_sha256

    def read(self, name: str) -> bytes:
        """Read one file after checking its size and hash against the manifest.

        Raises ArtifactError when the file is not listed, missing, a link, or not what the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtifactError(f"{self.path}: the manifest does not list {name}")
        try:
            content = _read_plain(self.path, name, entry.size_bytes)
            if len(content) != entry.size_bytes:
                raise ArtifactError(f"{self.path}: {name} has {len(content)} bytes, not {entry.size_bytes}")
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise ArtifactError(f"{self.path}: {name} was changed after export (its SHA-256 differs)")
        except ArtifactError:
            self._require_same()
            raise
        return content

    def _require_same(self) -> None:
        """Raise ArtifactError when another bundle has replaced this one, as an edit of its gestures does."""
        now = _read_plain(self.path, MANIFEST_FILE, _MAX_MANIFEST_BYTES)
        if hashlib.sha256(now).hexdigest() != self.manifest_sha256:
            raise ArtifactError(f"{self.path} was replaced by another bundle while it was in use: start again")

    def check_files(self) -> None:
        """Check every listed file, and that the folder holds no other file."""
        for name in self.manifest.files:
            self.read(name)
        known = {*self.manifest.files, MANIFEST_FILE, DIGEST_FILE}
        if self.manifest.signer is not None:
            _read_plain(self.path, SIGNATURE_FILE, SIGNATURE_BYTES)
            known.add(SIGNATURE_FILE)
        extra = sorted(file.name for file in self.path.iterdir() if file.name not in known)
        if extra:
            raise ArtifactError(f"{self.path}: {extra[0]} is not listed in the manifest")

    def copy_files(self, folder: Path, changed: Mapping[str, bytes]) -> None:
        """Write all files but the manifest into a folder; unchanged ones are read from this bundle and checked.

        changed: new content, by file name
        """
        for name in self.manifest.files:
            (folder / name).write_bytes(changed[name] if name in changed else self.read(name))
        if self.manifest.native is not None:
            (folder / self.manifest.native.runner).chmod(0o755)


def write_bundle(
    path: Path,
    fill: Callable[[Path], None],
    manifest: Callable[[dict[str, FileEntry]], Manifest],
    key: SigningKey | None = None,
) -> Manifest:
    """Write a bundle completely or not at all, and return its manifest; an older one at `path` survives every failure.

    The new bundle's code may run on this machine from then on.

    fill: writes all files but the manifest into the folder it is given
    manifest: makes the manifest from the sizes and hashes of those files
    key: signs the bundle
    """
    require_bundle_or_nothing(path)
    with replacing_folder(path, ready=lambda: require_bundle_or_nothing(path)) as folder:
        fill(folder)
        entries = {file.name: _entry(file) for file in sorted(folder.iterdir())}
        signer = None if key is None else key.public.fingerprint
        written = manifest(entries).model_copy(update={"signer": signer})
        content = (written.model_dump_json(indent=2) + "\n").encode()
        (folder / MANIFEST_FILE).write_bytes(content)
        (folder / DIGEST_FILE).write_bytes(_digest_line(content))
        if key is not None:
            (folder / SIGNATURE_FILE).write_bytes(key.sign(content))
    _remember_it_may_run(hashlib.sha256(content).hexdigest())
    return written


def _remember_it_may_run(manifest_sha256: str) -> None:
    try:
        remember("may run", manifest_sha256)
    except CpepError as error:
        _log.warning("the bundle will ask for --trust again: %s", error)


def sign_bundle(path: Path, key: SigningKey) -> Manifest:
    """Check the files of the bundle at `path`, and replace it by the same bundle with a signature."""
    with locked_bundle(path):
        bundle = Bundle(path)
        bundle.check_files()
        return write_bundle(
            path,
            lambda folder: bundle.copy_files(folder, {}),
            lambda files: bundle.manifest.model_copy(update={"files": files}),
            key,
        )


@contextmanager
def locked_bundle(path: Path) -> Iterator[None]:
    """Lock a bundle while it is read and rewritten, so that no concurrent change is lost; others wait.

    Raises ArtifactError when there is none.
    """
    try:
        with locked(path):
            yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{path}: there is no such bundle") from error


def next_version(path: Path) -> int:
    """The version of the next bundle at this path: one above the present one, 1 for the first.

    Raises ArtifactError when the present version is the highest possible.
    """
    version = Bundle(path).manifest.version + 1 if (path / MANIFEST_FILE).is_file() else 1
    if version >= MAX_VERSION:
        raise ArtifactError(
            f"{path} has the highest version that there is, {version - 1}: export it under another name"
        )
    return version


def require_bundle_or_nothing(path: Path) -> None:
    """Raise ArtifactError when a new bundle at `path` would delete anything but a bundle."""
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / MANIFEST_FILE).is_file():
        raise ArtifactError(f"{path} exists and is not a bundle; choose another name")
    known = {*Bundle(path).manifest.files, MANIFEST_FILE, DIGEST_FILE, SIGNATURE_FILE}
    stranger = next((file.name for file in sorted(path.iterdir()) if file.name not in known), None)
    if stranger is not None:
        raise ArtifactError(
            f"{path} holds {stranger}, which does not belong to the bundle; move it away, or choose another name"
        )


def _entry(file: Path) -> FileEntry:
    content = file.read_bytes()
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _read_checked_manifest(path: Path, key: Key | None) -> bytes:
    """The bytes of the manifest, not yet parsed, after its signature and digest were checked."""
    restore(path)
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no such bundle")
    content = _read_plain(path, MANIFEST_FILE, _MAX_MANIFEST_BYTES)
    if key is not None:
        _check_signature(path, content, key)
    if _read_plain(path, DIGEST_FILE, len(_digest_line(b""))) != _digest_line(content):
        raise ArtifactError(f"{path}: {MANIFEST_FILE} was changed after export ({DIGEST_FILE} holds another SHA-256)")
    return content


def _check_signature(path: Path, manifest: bytes, key: Key) -> None:
    if not (path / SIGNATURE_FILE).exists():
        raise ArtifactError(
            f"{path} is not signed, and {key.file} must have signed it; its maker signs it with: cpep-edge sign"
        )
    signature = _read_plain(path, SIGNATURE_FILE, SIGNATURE_BYTES)
    if len(signature) != SIGNATURE_BYTES or not key.signed(manifest, signature):
        raise ArtifactError(
            f"{path}: the signature is not that of {key.file} (key {key.fingerprint}): another key made it, "
            f"or {MANIFEST_FILE} was changed since"
        )


def _read_plain(path: Path, name: str, max_bytes: int) -> bytes:
    suffix = ", so this is not a bundle" if name in (MANIFEST_FILE, DIGEST_FILE) else ""
    try:
        return read_plain(path / name, max_bytes)
    except OSError as error:
        raise ArtifactError(f"{path}: {name} is missing or not a plain file that can be read{suffix}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _digest_line(manifest: bytes) -> bytes:
    """The line that `sha256sum manifest.json` prints."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST_FILE}\n".encode()

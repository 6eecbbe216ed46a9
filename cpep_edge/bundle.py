"""The bundle `NAME.cpep/`: everything a device needs to recognise gestures, and what it takes to trust it.

A bundle is a folder: `manifest.json`, the encoder program, the pose index, a head, and golden inputs with the outputs
they must give. One that a wearer taught (`cpep_edge.taught`) may have neither encoder nor index: a head reads the front
end's tokens, and numpy is all that it needs. The manifest carries the SHA-256 of every other file, and
`manifest.sha256` that of the manifest, as `sha256sum` writes it. Nothing is handed to a parser before its hash was
checked, and what was checked is what is parsed: `Bundle.read` returns the very bytes that matched. Hashes find damage;
who can write both files is kept out by `manifest.sig`, once a key is given (`cpep_edge.trust`).

Only the present schema is read: a bundle is made again in minutes, and one that is read wrongly decides wrongly.
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
    """A bundle on disk. The manifest was read; other files are read and checked on demand."""

    def __init__(
        self, path: Path, key: Key | None = None, *, trust: bool = False, manifest_sha256: str | None = None
    ) -> None:
        """Check the signature, then read the manifest.

        key: key that must have signed the manifest, in no older version than ran here; None: check only hashes
        trust: the user allows the bundle's code to run here, now and later
        manifest_sha256: hash of the bundle that another process opened and checked; any other is refused
        Raises ArtifactError when the manifest is missing, malformed, of a later schema, or not to be trusted.
        """
        self.path = path
        content = _read_checked_manifest(path, key)
        self.manifest_sha256 = hashlib.sha256(content).hexdigest()  # stands for every file of the bundle
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
        """Open a bundle with the key that is given or configured on this machine, see `configured_key`."""
        return cls(path, configured_key(key_file), trust=trust)

    @property
    def is_signed(self) -> bool:
        """Whether its signature was checked."""
        return self._key is not None or self._checked_before

    def require_trust(self) -> None:
        """Raise ArtifactError when nothing says that the code it carries may run on this machine."""
        if not (self.is_signed or self._trust or remembers("may run", self.manifest_sha256)):
            raise ArtifactError(
                f"{self.path} contains code that was not made on this machine: check who made it with --key, or add "
                "--trust once if you trust its source"
            )

    def keep_older_out(self) -> None:
        """Remember, where a key is asked for, that this version runs here: from now on no older one will."""
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
        """Raise ArtifactError where another bundle has taken this one's place, as an edit of its gestures does."""
        now = _read_plain(self.path, MANIFEST_FILE, _MAX_MANIFEST_BYTES)
        if hashlib.sha256(now).hexdigest() != self.manifest_sha256:
            raise ArtifactError(f"{self.path} was replaced by another bundle while it was in use: start again")

    def check_files(self) -> None:
        """Check every listed file, and that nothing else lies in the folder."""
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
        """Write all files but the manifest into a folder: their new content where they changed, checked where not."""
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
    """Write a bundle whole or not at all, and return its manifest; an older one at `path` survives every failure.

    What it carries may run on this machine from then on.

    fill: writes all files but the manifest into the folder it is given
    manifest: makes the manifest from the sizes and hashes of those files
    key: signs it
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
    """Sign a bundle that lies at `path`, after its files were found whole; it replaces itself."""
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
    """Hold a bundle from reading it to writing it anew, so that no other change is lost; others wait.

    Raises ArtifactError when there is none.
    """
    try:
        with locked(path):
            yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{path}: there is no such bundle") from error


def next_version(path: Path) -> int:
    """The version of the next bundle at this path: one above what lies there. Raises ArtifactError above the last."""
    version = Bundle(path).manifest.version + 1 if (path / MANIFEST_FILE).is_file() else 1
    if version >= MAX_VERSION:
        raise ArtifactError(
            f"{path} has the highest version that there is, {version - 1}: export it under another name"
        )
    return version


def require_bundle_or_nothing(path: Path) -> None:
    """Raise ArtifactError when something lies at `path` that a new bundle there would delete."""
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
    """The bytes of the manifest, after the signature and the digest were found right; nothing was parsed yet."""
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

"""Who made a bundle: Ed25519 signatures over manifests, and a memory of versions that keeps older ones out.

The manifest holds the hash of every other file, so a signature over its bytes vouches for all of them. It is checked
before the manifest is parsed and long before a bundle's code is loaded. Keys are PEM files as OpenSSL writes them, and
`manifest.sig` holds the 64 bytes of the signature (RFC 8032), so that
`openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in manifest.json -sigfile manifest.sig` agrees.

A signature stays valid for ever, so a device also remembers the highest version it has run of each bundle and refuses
those below. The memory is a JSON file under the user's state folder.
"""

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpep_edge.errors import ArtifactError, ConfigError, CpepError
from cpep_edge.files import replacing
from cpep_edge.outside import user_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE_BYTES = 64
_FINGERPRINT_CHARS = 16
_KEY_FILE = "cpep-edge/key.pem"
_SEEN_FILE = "cpep-edge/seen-versions.json"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The key that a bundle must be signed with."""

    raw: bytes  # 32
    file: Path  # where it came from

    @property
    def fingerprint(self) -> str:
        """The first half of the SHA-256 of the key, in hex: what people compare."""
        return hashlib.sha256(self.raw).hexdigest()[:_FINGERPRINT_CHARS]

    def signed(self, content: bytes, signature: bytes) -> bool:
        """Whether the signature is of this key and this content."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, content)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The secret that makes signatures."""

    seed: bytes  # 32
    file: Path

    @property
    def public(self) -> PublicKey:
        """The key that its signatures are checked with."""
        return PublicKey(self._key().public_key().public_bytes_raw(), self.file)

    def sign(self, content: bytes) -> bytes:
        """The signature of some bytes, 64 bytes."""
        return self._key().sign(content)

    def _key(self) -> "Ed25519PrivateKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)


def generate_keys(file: Path) -> PublicKey:
    """Write a new secret key, readable by its owner alone, and beside it `FILE.pub`, for the devices.

    Raises ConfigError when either file exists: a lost key cannot be made again.
    """
    _require_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    public_file = file.with_name(file.name + ".pub")
    for path in (file, public_file):
        if path.exists():
            raise ConfigError(f"{path} exists; choose another name, a key that is overwritten is lost")
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    with replacing(public_file) as temporary:
        temporary.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with replacing(file) as temporary:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return PublicKey(public.public_bytes_raw(), public_file)


def load_public_key(file: Path) -> PublicKey:
    """Read a public key; raises ConfigError when the file is no Ed25519 public key."""
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_pem(file))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is no public key in PEM; keygen writes one as KEY.pub") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{file} is a key of another kind; make an Ed25519 key with: cpep-edge keygen KEY")
    return PublicKey(key.public_bytes_raw(), file)


def load_signing_key(file: Path) -> SigningKey:
    """Read a secret key; raises ConfigError when the file is no Ed25519 secret key, or asks for a password."""
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_pem(file), password=None)
    except TypeError as error:
        raise ConfigError(f"{file} is protected by a password; give a copy without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is no secret key in PEM; make one with: cpep-edge keygen KEY") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{file} is a key of another kind; make an Ed25519 key with: cpep-edge keygen KEY")
    return SigningKey(key.private_bytes_raw(), file)


def configured_key(given: Path | None) -> PublicKey | None:
    """The key that bundles must be signed with on this machine; None where none is configured.

    given: from --key or CPEP_EDGE_KEY; without it, `cpep-edge/key.pem` of the user's or the system's configuration
    """
    folders = (user_folder("XDG_CONFIG_HOME", ".config"), Path("/etc"))
    for file in (given,) if given is not None else (folder / _KEY_FILE for folder in folders if folder is not None):
        if file == given or file.exists():
            return load_public_key(file)
    return None


def check_version(key: PublicKey, name: str, version: int, manifest_sha256: str) -> None:
    """Raise ArtifactError when this machine has run a later version of the bundle, or another of the same version."""
    seen_version, seen_sha256 = _seen().get(_memory_of(key, name), (0, ""))
    if version < seen_version:
        raise ArtifactError(
            f"version {version} of {name} is older than version {seen_version}, which ran here; "
            f"export it with --bundle-version {seen_version + 1} or later"
        )
    if version == seen_version and manifest_sha256 != seen_sha256:
        raise ArtifactError(
            f"another bundle ran here as version {version} of {name}; "
            f"export it with --bundle-version {version + 1} or later"
        )


def remember_version(key: PublicKey, name: str, version: int, manifest_sha256: str) -> None:
    """Keep older versions of a bundle out from now on."""
    check_version(key, name, version, manifest_sha256)
    seen = {**_seen(), _memory_of(key, name): (version, manifest_sha256)}
    with replacing(_seen_file()) as temporary:
        temporary.write_text(json.dumps(seen, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _memory_of(key: PublicKey, name: str) -> str:
    return f"{key.fingerprint} {name}"


def _seen_file() -> Path:
    folder = user_folder("XDG_STATE_HOME", ".local", "state")
    if folder is None:
        raise CpepError("there is no home folder to remember versions of signed bundles in: set HOME or XDG_STATE_HOME")
    return folder / _SEEN_FILE


def _seen() -> dict[str, tuple[int, str]]:
    """The highest version of each bundle that ran here, with the SHA-256 of its manifest."""
    file = _seen_file()
    if not file.exists():
        return {}
    try:
        return {
            str(name): (int(version), str(digest)) for name, (version, digest) in json.loads(file.read_bytes()).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise CpepError(f"{file}, the memory of versions that ran here, is damaged; remove it to start anew") from error


def _pem(file: Path) -> bytes:
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such key file")
    return file.read_bytes()


def _require_library() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise CpepError("signatures need the package cryptography: run pip install 'cpep-edge[trust]'")

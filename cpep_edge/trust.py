"""Check who made a bundle, by Ed25519 signatures over manifests, and refuse versions older than one that ran before.

The manifest holds the hash of every other file, so a signature over its bytes covers all of them. It is checked before
the manifest is parsed and long before a bundle's code is loaded. Keys are PEM files as OpenSSL writes them, and
`manifest.sig` holds the 64 bytes of the signature (RFC 8032), so it can also be checked with
`openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in manifest.json -sigfile manifest.sig`.

A signature stays valid for ever, so a device also remembers the highest version that it has run of each bundle, and
refuses lower ones. They are stored in a JSON file in the user's state folder.
"""

import hashlib
import importlib.util
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cpep_edge.errors import ArtifactError, ConfigError, CpepError
from cpep_edge.files import replacing
from cpep_edge.vouched import memory, read_memory

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE_BYTES = 64
MAX_VERSION = 1 << 53  # versions of a bundle stay below this, so that a JSON number holds them exactly
_FINGERPRINT_CHARS = 16
_PRIME = 2**255 - 19  # of Curve25519
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826  # y of a point of order eight
_SMALL_ORDER = (0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8)  # y of every point of order 1, 2, 4 and 8
_SEEN_FILE = "cpep-edge/seen-versions.json"


class Key(Protocol):
    """What a bundle's signature is checked with: a public key, or a root file that names several."""

    @property
    def file(self) -> Path:
        """The file that the key was read from."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short name for the key, under which versions are remembered."""
        ...

    def signed(self, content: bytes, signature: bytes) -> bool:
        """Whether a key that may sign bundles made this signature of this content."""
        ...


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The key that a bundle must be signed with."""

    raw: bytes  # 32
    file: Path  # that it was read from

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the key's SHA-256, short enough for people to compare."""
        return hashlib.sha256(self.raw).hexdigest()[:_FINGERPRINT_CHARS]

    def signed(self, content: bytes, signature: bytes) -> bool:
        """Whether this key made this signature of this content."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        if _signs_all(self.raw):
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, content)
        except InvalidSignature:
            return False
        return True


def _signs_all(raw: bytes) -> bool:
    """Whether a public key is a point of small order, for which one forged signature is valid for any content.

    No secret key has such a public key (RFC 8032, 5.1.5), and not every library refuses one.
    """
    return (int.from_bytes(raw, "little") & (1 << 255) - 1) % _PRIME in _SMALL_ORDER


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The secret key, which makes signatures."""

    seed: bytes  # 32
    file: Path

    @property
    def public(self) -> PublicKey:
        """The public key that its signatures are checked with."""
        return PublicKey(self._key().public_key().public_bytes_raw(), self.file)

    def sign(self, content: bytes) -> bytes:
        """Sign some bytes; returns the signature of 64 bytes."""
        return self._key().sign(content)

    def _key(self) -> "Ed25519PrivateKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)


def generate_keys(file: Path) -> PublicKey:
    """Write a new secret key, which only its owner can read, and beside it the public key `FILE.pub`, for the devices.

    Raises ConfigError when either file exists, because a key that is overwritten is lost.
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
        temporary.chmod(0o644)  # whatever the umask is: anyone who can write it decides whose bundles run
    with replacing(file) as temporary:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return PublicKey(public.public_bytes_raw(), public_file)


def load_public_key(file: Path) -> PublicKey:
    """Read a public key; raises ConfigError when the file is not an Ed25519 public key."""
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_key(file))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is not a public key in PEM; keygen writes one as KEY.pub") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{file} is a key of another kind; make an Ed25519 key with: cpep-edge keygen KEY")
    if _signs_all(key.public_bytes_raw()):
        raise ConfigError(f"{file} is a key for which any signature is right; make one with: cpep-edge keygen KEY")
    return PublicKey(key.public_bytes_raw(), file)


def load_signing_key(file: Path, ask: Callable[[str], str] | None = None) -> SigningKey:
    """Read a secret key, which only its owner may be able to read.

    ask: asks the user for the password of a key that is protected by one
    Raises ConfigError when the file is not an Ed25519 secret key, others can read it, or the password is wrong.
    """
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_key(file)
    password = None
    if b"ENCRYPTED" in content:
        if ask is None:
            raise ConfigError(f"{file} is protected by a password, and there is no terminal to ask for it on")
        password = ask(f"password of {file}").encode()
    try:
        key = load_pem_private_key(content, password)
    except (TypeError, ValueError) as error:
        if password is not None:
            raise ConfigError(f"that is not the password of {file}") from error
        raise ConfigError(f"{file} is no secret key in PEM; make one with: cpep-edge keygen KEY") from error
    except UnsupportedAlgorithm as error:
        raise ConfigError(f"{file} is no secret key in PEM; make one with: cpep-edge keygen KEY") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{file} is a key of another kind; make an Ed25519 key with: cpep-edge keygen KEY")
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{file} may be read or written by others, so it is not secret: run chmod 600 {file}")
    return SigningKey(key.private_bytes_raw(), file)


def check_version(key: Key, name: str, version: int, manifest_sha256: str, *, new_name: bool = False) -> None:
    """Raise ArtifactError when this machine has run a later version of the bundle, or another of the same version.

    A bundle of a name that never ran here could be an older bundle that its maker has since renamed. It is refused as
    one when its version is below the highest that ran here with the same key, unless new_name says that it is another
    model.
    """
    _check_version(_versions(read_memory(_SEEN_FILE)), key, name, version, manifest_sha256, new_name)


def _check_version(
    seen: Mapping[str, tuple[int, str]], key: Key, name: str, version: int, manifest_sha256: str, new_name: bool
) -> None:
    mine = {memory: of for memory, of in seen.items() if memory.startswith(f"{key.fingerprint} ")}
    if mine and _memory_of(key, name) not in mine and not new_name:
        highest = max(mine, key=lambda memory: mine[memory][0])
        if version < mine[highest][0]:
            raise ArtifactError(
                f"version {version} of {name}, which never ran here, is below version {mine[highest][0]} of "
                f"{highest.partition(' ')[2]} by the same maker: it may be an older bundle renamed; add --trust once "
                "if it is another model"
            )
    seen_version, seen_sha256 = mine.get(_memory_of(key, name), (0, ""))
    if version < seen_version:
        raise ArtifactError(
            f"version {version} of {name} is older than version {seen_version}, which ran here; {_cure(seen_version)}"
        )
    if version == seen_version and manifest_sha256 != seen_sha256:
        raise ArtifactError(f"another bundle ran here as version {version} of {name}; {_cure(version)}")


def _cure(version: int) -> str:
    if version + 1 >= MAX_VERSION:
        return "no version is higher, so export it under another name"
    return f"export it with --bundle-version {version + 1} or later"


def remember_version(key: Key, name: str, version: int, manifest_sha256: str, *, new_name: bool = False) -> None:
    """Refuse older versions of a bundle from now on. Raises ArtifactError as `check_version` does."""
    with memory(_SEEN_FILE) as known:
        _check_version(_versions(known), key, name, version, manifest_sha256, new_name)
        known[_memory_of(key, name)] = [version, manifest_sha256]


def _memory_of(key: Key, name: str) -> str:
    return f"{key.fingerprint} {name}"


def _versions(known: Mapping[str, object]) -> dict[str, tuple[int, str]]:
    versions = {}
    for name, of in known.items():
        match of:
            case [int(version), str(digest)]:
                versions[name] = (version, digest)
            case _:
                raise CpepError(f"{_SEEN_FILE}, the memory of versions, is damaged; remove it to start again")
    return versions


def read_key(file: Path) -> bytes:
    """The content of a key file; raises ConfigError when it cannot be read."""
    try:
        if not file.is_file():
            raise ConfigError(f"{file}: there is no such key file")
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the key {file}: {error.strerror}") from error


def _require_library() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise CpepError("signatures need the package cryptography: run pip install 'cpep-edge[trust]'")

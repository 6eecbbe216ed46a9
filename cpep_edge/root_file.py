"""The root file: which keys may sign bundles, so that a key can be replaced or taken back on devices that trust it.

It is the root role of The Update Framework with one role under it and a threshold of one (TUF specification, 2.1.1,
5.3). A root file names the keys that may sign root files (root keys) and those that may sign bundles, and is signed by
one of its root keys. A device that has a root file accepts a later one only if a root key of the old file and a root
key of the new one have signed it. A key that a later file no longer names is revoked. A device counts bundle versions
per line of root files, not per signing key, so that replacing a key does not let older bundles in again.

    {"root": {"line": FINGERPRINT, "version": N, "root_keys": [HEX, ...], "bundle_keys": [HEX, ...]},
     "signatures": {HEX OF THE KEY: HEX OF THE SIGNATURE, ...}}

The signed content is the object `root`, as JSON with sorted keys and without spaces.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from cpep_edge.errors import ConfigError
from cpep_edge.files import read_plain, write_file
from cpep_edge.manifest_part import Part, parse_json
from cpep_edge.outside import unreadable
from cpep_edge.trust import PublicKey, SigningKey

_MAX_BYTES = 1 << 16
_KeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Signed(Part):
    line: str = Field(pattern=r"^[0-9a-f]{16}$")  # fingerprint of version 1's first signer; later versions keep it
    version: int = Field(gt=0, lt=1 << 53)
    root_keys: tuple[_KeyHex, ...] = Field(min_length=1, max_length=100)
    bundle_keys: tuple[_KeyHex, ...] = Field(max_length=100)

    def content(self) -> bytes:
        """The bytes that are signed."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


class _RootFile(Part):
    root: _Signed
    signatures: dict[_KeyHex, Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]]


@dataclass(frozen=True, slots=True)
class Root:
    """A root file whose own signature was checked."""

    file: Path
    content: _RootFile

    @property
    def version(self) -> int:
        """The file's version, which rises with every change."""
        return self.content.root.version

    @property
    def fingerprint(self) -> str:
        """The fingerprint that all versions of this root file share."""
        return self.content.root.line

    @property
    def bundle_keys(self) -> tuple[PublicKey, ...]:
        """The keys that may sign bundles."""
        return self._keys(self.content.root.bundle_keys)

    @property
    def root_keys(self) -> tuple[PublicKey, ...]:
        """The keys that may sign root files."""
        return self._keys(self.content.root.root_keys)

    def signed(self, content: bytes, signature: bytes) -> bool:
        """Whether one of the keys that may sign bundles has signed this content."""
        return any(key.signed(content, signature) for key in self.bundle_keys)

    def is_signed_by_one_of(self, keys: Iterable[PublicKey]) -> bool:
        """Whether one of these keys has signed the root file itself."""
        signatures = self.content.signatures
        return any(
            key.signed(self.content.root.content(), bytes.fromhex(signatures[key.raw.hex()]))
            for key in keys
            if key.raw.hex() in signatures
        )

    def _keys(self, raw: Sequence[str]) -> tuple[PublicKey, ...]:
        return tuple(PublicKey(bytes.fromhex(key), self.file) for key in raw)


def load_root(file: Path) -> Root:
    """Read a root file; raises ConfigError when it is not a root file, or none of its root keys has signed it."""
    try:
        content = read_plain(file, _MAX_BYTES, follow=True)
        root = Root(file, _RootFile.model_validate(parse_json(content)))
    except OSError as error:
        raise ConfigError(f"cannot read the root file {file}: {unreadable(error)}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = f"{where}: {first['msg']}" if where else "it holds no object"
        raise ConfigError(f"{file} is not a root file: {said}") from error
    except JSONDecodeError as error:
        raise ConfigError(f"{file} is not a root file: it is not JSON, from line {error.lineno} on") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not a root file: {error}") from error
    if not root.is_signed_by_one_of(root.root_keys):
        raise ConfigError(f"{file}: none of its root keys has signed it, so it was changed since it was made")
    return root


def write_root(
    file: Path, signers: Sequence[SigningKey], *, root_keys: Sequence[PublicKey], bundle_keys: Sequence[PublicKey]
) -> Root:
    """Write the next version of a root file, or the first.

    signers: they must include one of `root_keys` and, when there is an earlier version, one of its root keys
    Raises ConfigError when they do not.
    """
    before = load_root(file) if file.exists() else None
    signed = _Signed(
        line=signers[0].public.fingerprint if before is None else before.fingerprint,
        version=1 if before is None else before.version + 1,
        root_keys=tuple(key.raw.hex() for key in root_keys),
        bundle_keys=tuple(key.raw.hex() for key in bundle_keys),
    )
    signatures = {signer.public.raw.hex(): signer.sign(signed.content()).hex() for signer in signers}
    root = Root(file, _RootFile(root=signed, signatures=signatures))
    _check_succession(before, root)
    _write(file, root)
    return root


def install_root(new: Path, place: Path) -> Root:
    """Put a root file on this device, in place of an earlier one if there is one.

    Raises ConfigError when it is not a later version of the earlier file, signed by a root key of each.
    """
    root = load_root(new)
    before = load_root(place) if place.exists() else None
    if before is None or before.content != root.content:
        _check_succession(before, root)
        _write(place, root)
    return root


def _check_succession(before: Root | None, root: Root) -> None:
    if not root.is_signed_by_one_of(root.root_keys):
        raise ConfigError(f"{root.file}: one of its root keys must sign it; give that secret key with --sign")
    if before is None:
        return
    if root.fingerprint != before.fingerprint:
        raise ConfigError(f"{root.file} does not follow {before.file}: it began with another root key")
    if root.version <= before.version:
        raise ConfigError(f"{root.file} is version {root.version}, and {before.file} is version {before.version}")
    if not root.is_signed_by_one_of(before.root_keys):
        raise ConfigError(f"{root.file} is signed by no root key of {before.file}, version {before.version}")


def _write(file: Path, root: Root) -> None:
    write_file(file, root.content.model_dump_json(indent=1) + "\n")

"""Find the key, or the root file, that bundles must be signed with on this machine."""

import os
from pathlib import Path

from cpep_edge.errors import ConfigError
from cpep_edge.outside import user_folder
from cpep_edge.root_file import load_root
from cpep_edge.trust import Key, load_public_key, read_key

ROOT_FILE = "cpep-edge/root.json"
_KEY_FILE = "cpep-edge/key.pem"


def configured_key(given: Path | None) -> Key | None:
    """The key, or the root file's keys, that bundles must be signed with on this machine; None when none is configured.

    given: from --key; None: the file that CPEP_EDGE_KEY names, else `cpep-edge/root.json` or `cpep-edge/key.pem` in the
        user's configuration, else in the system's
    Raises ConfigError when there is one that cannot be read: signatures are optional only when there is no key at all.
    """
    named = given or (Path(os.environ["CPEP_EDGE_KEY"]) if os.environ.get("CPEP_EDGE_KEY") else None)
    if named is not None:
        return load_trusted(named)
    folders = [folder for folder in (user_configuration(), Path("/etc")) if folder is not None]
    for file in (folder / name for folder in folders for name in (ROOT_FILE, _KEY_FILE)):
        if _is_there(file):
            return load_trusted(file)
    return None


def user_configuration() -> Path | None:
    """The folder of this user's configuration; None for a user without a home."""
    return user_folder("XDG_CONFIG_HOME", ".config")


def load_trusted(file: Path) -> Key:
    """Read a public key in PEM or a root file; raises ConfigError when the file is neither."""
    return load_root(file) if read_key(file).lstrip().startswith(b"{") else load_public_key(file)


def _is_there(file: Path) -> bool:
    """Whether there is a key file here. Raises ConfigError when a broken link or a closed folder may hide one."""
    try:
        for place in (file, file.parent, file.parent.parent):
            if place.is_symlink() and not place.exists():
                raise ConfigError(
                    f"{place} is a link that leads nowhere, and the key is behind it: repair or remove it"
                )
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"cannot see whether there is a key {file}: {error.strerror}") from error
    return True

"""A corpus packed into shards, read from any storage of fsspec: a disk, S3, Google Cloud, HTTP.

A shard is a plain tar file of sessions, and `shards.json` says where in it each session lies. When training needs a
recording, one request fetches just its bytes. Training reads each recording once per epoch, from start to end, so no
other form of streaming is needed. The folder with `metadata.csv` and `shards.json` is the corpus; the shards are beside
them, or at the URL that `shards.json` names.
"""

import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpep_edge.errors import ConfigError, DataError
from cpep_edge.files import require_plain

SHARDS_FILE = "shards.json"
SUFFIX = ".hdf5"


class Place(BaseModel):
    """The place of a session in the shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: str
    offset: int = Field(ge=0)
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ShardIndex(BaseModel):
    """`shards.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    url: str = ""  # fsspec URL of the folder of the shards; empty: beside this file
    sessions: dict[str, Place]  # by file name without ".hdf5"


@dataclass(frozen=True)
class Shards:
    """The sessions of a packed corpus."""

    index: ShardIndex
    url: str
    _opened: dict[int, tuple[Any, str]] = field(default_factory=dict, compare=False)  # by process: none survives a fork

    @classmethod
    def open(cls, folder: Path) -> "Shards":
        """Read the index in a corpus' folder; raises DataError when it is malformed."""
        file = folder / SHARDS_FILE
        try:
            require_plain(file)
            index = ShardIndex.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(f"{file} is malformed: {str(error).splitlines()[0]}") from error
        return cls(index, index.url or folder.resolve().as_uri())

    def place(self, name: str) -> Place:
        """Where a session lies; raises DataError when the index does not list it."""
        try:
            return self.index.sessions[name]
        except KeyError:
            raise DataError(f"{SHARDS_FILE} does not name {name}{SUFFIX}; pack the corpus again") from None

    def read(self, name: str) -> io.BytesIO:
        """The content of a session file.

        Raises DataError when it cannot be fetched or is not what was packed.
        """
        place = self.place(name)
        system, root = self._system()
        path = f"{root.rstrip('/')}/{place.shard}"
        try:
            content: bytes = system.cat_file(path, start=place.offset, end=place.offset + place.size_bytes)
        except Exception as error:  # every storage has its own exceptions
            raise DataError(f"{self.url}/{place.shard} cannot be read: {error or type(error).__name__}") from error
        if hashlib.sha256(content).hexdigest() != place.sha256:
            raise DataError(f"{self.url}/{place.shard}: {name}{SUFFIX} is not what was packed, its SHA-256 differs")
        return io.BytesIO(content)

    def _system(self) -> tuple[Any, str]:
        import fsspec

        if os.getpid() not in self._opened:
            try:
                self._opened[os.getpid()] = fsspec.core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"{self.url}: {error}") from error
        return self._opened[os.getpid()]

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "url": self.url, "_opened": {}}

"""Pack a corpus into shards (`cpep_train.shards`)."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

from cpep_edge.errors import ConfigError, DataError
from cpep_edge.files import write_file
from cpep_edge.folders import replacing_folder
from cpep_train.corpus import Corpus, write_metadata
from cpep_train.shards import SHARDS_FILE, SUFFIX, Place, ShardIndex

SHARD_BYTES = 256 << 20


def pack_corpus(
    data: Path,
    out: Path,
    *,
    url: str = "",
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Pack a corpus into the folder `out`, whole or not at all; returns how many shards it made.

    url: where the shards will be hosted; empty: they stay beside the index
    progress: called with (sessions done, sessions in all)
    Raises ConfigError when fsspec cannot read such a URL.
    """
    if url:
        _check_url(url)
    corpus = Corpus.open(data)
    sessions: dict[str, Place] = {}
    n_shards, used = 0, shard_bytes
    with replacing_folder(out) as folder:
        archive: tarfile.TarFile | None = None
        try:
            for done, row in enumerate(corpus.rows, start=1):
                file = corpus.file(row)
                if not file.is_file():
                    raise DataError(f"{file}: there is no such file")
                if used >= shard_bytes or archive is None:
                    if archive is not None:
                        archive.close()
                    name, used = f"shard-{n_shards:05d}.tar", 0
                    archive, n_shards = tarfile.open(folder / name, "w"), n_shards + 1
                content = file.read_bytes()
                member = tarfile.TarInfo(f"{row.filename}{SUFFIX}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                sha256 = hashlib.sha256(content).hexdigest()
                offset = archive.fileobj.tell() - -(-len(content) // 512) * 512
                sessions[row.filename] = Place(shard=name, offset=offset, size_bytes=len(content), sha256=sha256)
                used += len(content)
                if progress is not None:
                    progress(done, len(corpus.rows))
        finally:
            if archive is not None:
                archive.close()
        write_metadata(folder, corpus.rows)
        write_file(folder / SHARDS_FILE, ShardIndex(url=url, sessions=sessions).model_dump_json(indent=1) + "\n")
    return n_shards


def _check_url(url: str) -> None:
    import fsspec

    protocol, separator, place = url.rpartition("::")[2].partition("://")
    if not separator or not place.strip("/"):
        raise ConfigError(f"{url} is not a URL of a folder: give one such as s3://bucket/folder or https://host/folder")
    if protocol not in fsspec.available_protocols():
        raise ConfigError(
            f"{url}: {protocol} is not a storage that can be read; s3, gs, https and file are some that can"
        )

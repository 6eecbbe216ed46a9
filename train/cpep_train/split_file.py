"""The split files of emg2pose's code, which assign the recordings of a dataset folder to train, val and test.

`mini_split.yaml` lists file names under `train`, `val` and `test`; `full_split.yaml` refers to the split in
`metadata.csv`. Copied into the dataset folder, either can be given in place of the corpus folder. The
metadata of the mini dataset name all 25 253 recordings of the full one, so only those listed are opened.
"""

from pathlib import Path

import yaml  # type: ignore[import-untyped]

from cpep_edge.errors import DataError
from cpep_edge.files import read_plain
from cpep_edge.outside import unreadable

_MAX_BYTES = 1 << 28
_SPLITS = ("train", "val", "test")


def listed_splits(path: Path) -> dict[str, str] | None:
    """The split of each listed file; None when the file refers to the metadata.

    Raises DataError, naming file and key, when it is not a split file.
    """
    try:
        content = yaml.safe_load(read_plain(path, _MAX_BYTES, follow=True).decode())
    except RecursionError as error:
        raise DataError(f"{path} cannot be read as YAML: it is nested too deeply") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML: {unreadable(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: no split file, it has none of {', '.join(_SPLITS)}")
    if "metadata_file" in content:
        return None
    listed: dict[str, str] = {}
    for split in _SPLITS:
        names = content.get(split)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: key {split} is not a list of file names")
        for name in names:
            stem = name.removesuffix(".hdf5")
            if stem in listed:
                raise DataError(f"{path}: {stem} is in split {listed[stem]} and in split {split}")
            listed[stem] = split
    return listed

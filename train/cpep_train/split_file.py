"""The split files of emg2pose's code: which recordings of a dataset folder are for training, validation and test.

`mini_split.yaml` lists file names under `train`, `val` and `test`; `full_split.yaml` points to `metadata.csv` and means
the split that is written there. Copied into the dataset folder, either can be given where a corpus is asked for. The
metadata of the mini dataset name all 25 253 recordings of the full one, so only those listed are opened.
"""

from dataclasses import replace
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from cpep_edge.errors import DataError
from cpep_edge.files import read_plain
from cpep_edge.outside import unreadable
from cpep_train.corpus import METADATA_FILE, Corpus

_MAX_BYTES = 1 << 28
_SPLITS = ("train", "val", "test")


def open_split(path: Path) -> Corpus:
    """The recordings that a split file lists, of the folder that it lies in.

    A person or a gesture without a training recording in the list counts as held out, whatever the metadata say.
    Raises DataError, naming file and key, when it is no split file or lists what the metadata do not know.
    """
    corpus = Corpus.open(path.parent)
    listed = _listed(path)
    if listed is None:
        return corpus
    rows = {row.filename: row for row in corpus.rows}
    unknown = next((name for name in listed if name not in rows), None)
    if unknown is not None:
        raise DataError(f"{path}: {unknown} is listed, but {METADATA_FILE} does not name it")
    trained = [rows[name] for name, split in listed.items() if split == "train"]
    users, stages = {row.user for row in trained}, {row.stage for row in trained}
    chosen = []
    for name, split in listed.items():
        held_user, held_stage = rows[name].user not in users, rows[name].stage not in stages
        kind = "_".join(word for word, held in (("user", held_user), ("stage", held_stage)) if held)
        chosen.append(
            replace(rows[name], split=split, generalization=kind, held_out_user=held_user, held_out_stage=held_stage)
        )
    return replace(corpus, rows=tuple(chosen))


def _listed(path: Path) -> dict[str, str] | None:
    """Split of each file listed; None where the file leaves it to the metadata."""
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
            raise DataError(f"{path}: key {split} is no list of file names")
        for name in names:
            stem = name.removesuffix(".hdf5")
            if stem in listed:
                raise DataError(f"{path}: {stem} is in split {listed[stem]} and in split {split}")
            listed[stem] = split
    return listed

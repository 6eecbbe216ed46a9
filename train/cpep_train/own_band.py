"""Adapt a recipe to a corpus: take the channels, the sample rate and the kind of target from the data.

Such a recipe says `from_data = true` and is written for 1 kHz. Its lengths are whole multiples of the hop between
tokens. At another rate the hop becomes the nearest number of samples, and all other lengths stay the same multiples.
"""

from pathlib import Path
from typing import Any

from cpep_edge.errors import ConfigError
from cpep_train.corpus import Corpus

WRITTEN_FOR_HZ = 1000.0
_IN_HOPS = (
    *("windows.window_samples", "windows.stride_samples", "windows.jitter_samples"),
    *("emg.patch_samples", "emg.span_samples", "pose.patch_samples", "pose.decimation"),
)


def fitted_to(values: dict[str, Any], data: Path) -> dict[str, Any]:
    """The TOML values of a recipe, adapted to the band that made the first recording of a corpus.

    Raises DataError when there is no corpus or its first recording cannot be read.
    """
    corpus = Corpus.open(data)
    first = next((row for row in corpus.rows if row.split == "train"), corpus.rows[0])
    with corpus.session(first) as session:
        meta, has_pose = session.meta, bool(session.valid_poses()[1].any())
    fitted = {name: dict(table) if isinstance(table, dict) else table for name, table in values.items()}
    fitted["signal"] |= {"sample_rate_hz": meta.sample_rate, "n_channels": meta.num_channels}
    fitted["pose"] |= {"source": "recorded"} if has_pose else {}
    hop = values["emg"]["patch_samples"]
    new_hop = max(1, round(hop * meta.sample_rate / WRITTEN_FOR_HZ))
    for name in _IN_HOPS:
        table, _, key = name.partition(".")
        if values[table][key] % hop:
            raise ConfigError(f"recipe {values['name']}: {name} is not a whole number of hops, emg.patch_samples {hop}")
        fitted[table][key] = values[table][key] // hop * new_hop
    return fitted

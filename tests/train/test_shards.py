"""Training on a corpus in shards gives the same weights as on its files, wherever the shards are."""

import shutil
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from cpep_edge.errors import ConfigError, DataError
from cpep_train.batches import training_loader
from cpep_train.corpus import Corpus, corpus_info
from cpep_train.packing import pack_corpus
from cpep_train.protocols import evaluate_run
from cpep_train.shards import SHARDS_FILE, ShardIndex
from cpep_train.windows import SessionStore, WindowDataset, fit_statistics
from tests.processes import invoke
from tests.train.toy_corpus import train_on


@pytest.fixture
def packed(toy_corpus, tmp_path) -> Path:
    assert pack_corpus(toy_corpus.folder, tmp_path / "packed", shard_bytes=1 << 20) > 1
    return tmp_path / "packed"


def _moved(packed: Path, url: str) -> Path:
    """Move the shards to a URL, and let the index point to them."""
    system, root = fsspec.core.url_to_fs(url)
    for shard in packed.glob("*.tar"):
        system.pipe_file(f"{root}/{shard.name}", shard.read_bytes())
        shard.unlink()
    index = ShardIndex.model_validate_json((packed / SHARDS_FILE).read_bytes())
    (packed / SHARDS_FILE).write_text(index.model_copy(update={"url": url}).model_dump_json())
    return packed


def test_shards_are_tar_files_of_the_sessions(packed, toy_corpus, tmp_path):
    for shard in packed.glob("*.tar"):
        with tarfile.open(shard) as archive:
            archive.extractall(tmp_path / "unpacked", filter="data")
    for row in toy_corpus.rows:
        assert (tmp_path / "unpacked" / f"{row.filename}.hdf5").read_bytes() == toy_corpus.file(row).read_bytes()


@pytest.mark.parametrize("url", [pytest.param("", marks=pytest.mark.slow), "memory://bucket/toy"])
def test_a_run_on_shards_is_the_run_on_files(url, packed, toy_corpus, tiny_recipe, tmp_path):
    data = _moved(packed, url) if url else packed
    assert corpus_info(data).faults == ()
    one = train_on(tiny_recipe, toy_corpus, tmp_path / "files")
    other = train_on(tiny_recipe, Corpus.open(data), tmp_path / "shards")
    assert one.provenance.data_sha256 == other.provenance.data_sha256
    for name, value in one.emg.state_dict().items():
        assert torch.equal(value, other.emg.state_dict()[name])
    found, _ = evaluate_run(tmp_path / "shards", other, data, ("zero-shot",))
    assert found.readings


def test_reading_processes_stream_the_same_windows(packed, toy_corpus, tiny_recipe):
    corpus, statistics = Corpus.open(packed), fit_statistics(toy_corpus, tiny_recipe)

    def first(of: Corpus, n_workers: int) -> np.ndarray:
        store = SessionStore(of, tiny_recipe, statistics, cache_bytes=100_000)  # small, so the corpus is streamed
        windows = WindowDataset(store, of.numbers("train"), with_pose=True)
        return next(iter(training_loader(windows, 8, 0, n_workers=n_workers))).emg.numpy()

    np.testing.assert_array_equal(first(corpus, 2), first(toy_corpus, 0))


def test_a_shard_that_changed_or_is_gone_is_named(packed):
    corpus = Corpus.open(packed)
    shard = sorted(packed.glob("*.tar"))[0]
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00000.tar: .* is not what was packed"):
        corpus.session(corpus.rows[0])
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00000.tar cannot be read"):
        corpus.session(corpus.rows[0])
    (packed / SHARDS_FILE).write_text("{}")
    with pytest.raises(DataError, match=r"shards.json is malformed"):
        Corpus.open(packed)


def test_a_storage_that_is_not_installed_is_one_sentence(packed):
    index = ShardIndex.model_validate_json((packed / SHARDS_FILE).read_bytes())
    (packed / SHARDS_FILE).write_text(index.model_copy(update={"url": "abfs://x/y"}).model_dump_json())
    corpus = Corpus.open(packed)
    with pytest.raises(ConfigError, match="abfs://x/y: .*adlfs"):
        corpus.session(corpus.rows[0])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("notaurl", "notaurl is not a URL of a folder: give one such as s3://bucket/folder"),
        ("s3://", "s3:// is not a URL of a folder"),
        ("nope://host/folder", "nope is not a storage that can be read"),
    ],
)
def test_a_url_that_nothing_reads_is_refused_before_anything_is_packed(toy_corpus, tmp_path, url, said):
    with pytest.raises(ConfigError, match=said):
        pack_corpus(toy_corpus.folder, tmp_path / "out", url=url)
    assert list(tmp_path.iterdir()) == []


def test_the_command_packs_and_never_over_something(toy_corpus, tmp_path):
    words = ("data", "pack", toy_corpus.folder, tmp_path / "out", "--url", "s3://mine/toy")
    answer = invoke(*words)
    assert answer.exit_code == 0, answer.output
    assert "move shard-*.tar to s3://mine/toy" in answer.output.replace("\n", " ")
    assert isinstance(invoke(*words).exception, ConfigError)
    shutil.rmtree(tmp_path / "out")

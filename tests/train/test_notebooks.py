"""The notebooks and the README's examples run on the toy corpus."""

import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from cpep_edge.errors import DataError
from cpep_train.checkpoint import load_checkpoint
from cpep_train.embeddings import embed_corpus
from tests.train.toy_corpus import HELD_OUT_STAGE, write_recipe

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "train" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def surroundings(toy_corpus, tiny_recipe, tmp_path, monkeypatch) -> dict[str, str]:
    """Environment variables that give an example the toy corpus in place of the demo's."""
    (tmp_path / "mean.toml").write_text('[emg]\npooling = "mean"\n')
    tiny = write_recipe(tiny_recipe, tmp_path / "tiny.toml")
    told = {
        "CPEP_DATA": str(toy_corpus.folder),
        "CPEP_RECIPE": str(tiny),
        "CPEP_OTHER": f"{tiny}+{tmp_path / 'mean.toml'}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return told


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings from Jupyter itself
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_from_top_to_bottom(file, surroundings, tmp_path):
    notebook = nbformat.read(file, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # stored without outputs, to keep them small
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    told = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "held-out" in told
    assert "image/png" in told


@pytest.mark.executorch
@pytest.mark.slow
def test_the_readmes_example_of_python_runs(surroundings, toy_corpus, tmp_path, capsys):
    text = (ROOT / "docs" / "training.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for old, new in (
        ('Path("demo-out/simulated-people")', f"Path({surroundings['CPEP_DATA']!r})"),
        ('Path("runs/mine")', f"Path({str(tmp_path / 'mine')!r})"),
        ('Path("mine.cpep")', f"Path({str(tmp_path / 'mine.cpep')!r})"),
        ('load_recipe("demo"', f"load_recipe({surroundings['CPEP_RECIPE']!r}"),
    ):
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, "training.md", "exec"), {})
    assert "held-out" in capsys.readouterr().out
    assert (tmp_path / "mine.cpep" / "manifest.json").is_file()


def test_embeddings_are_of_unit_length_and_know_what_they_are_of(trained_run, toy_corpus):
    found = embed_corpus(load_checkpoint(trained_run), toy_corpus.folder, splits=("test", "val"))
    np.testing.assert_allclose(np.linalg.norm(found.emg, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.pose, axis=1), 1, atol=1e-5)
    assert set(found.user[found.gesture != HELD_OUT_STAGE]) == {"u3", "u4"}
    assert set(found.split) == {"test", "val"}
    own = (found.emg * found.pose).sum(axis=1)
    other = (found.emg * found.pose[np.random.default_rng(0).permutation(len(own))]).sum(axis=1)
    assert own.mean() > other.mean() + 0.2
    with pytest.raises(DataError, match="no window in the splits nothing"):
        embed_corpus(trained_run, toy_corpus.folder, splits=("nothing",))

"""Every command of the documentation is one that there is; those of training and data run, on the toy corpus."""

import re
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from scipy.io import savemat
from typer.testing import CliRunner

from cpep_edge.cli import app
from cpep_train.corpus import Corpus
from cpep_train.recipe import Recipe
from tests.train import test_import_3dc, test_import_csv, test_import_files, test_import_myo, test_import_ninapro
from tests.train.toy_corpus import write_recipe

STAGES = ("emg_mae", "pose_mae", "align")
SMALL = {"--users": "2", "--seconds": "1", "--free-seconds": "5", "--seeds": "0"}  # enough to see a command run
ROOT = Path(__file__).parents[2]
_LINE = re.compile(r"^    (?:[A-Z_]+=\S+ )?cpep-edge (.*)$", re.MULTILINE)
_INLINE = re.compile(r"`cpep-edge ([^`\n]+)`")


def _commands(file: Path) -> list[str]:
    """The commands that stand on lines of their own, without comments."""
    return [re.split(r"\s{2,}#|\s#\s", line)[0].strip() for line in _LINE.findall(file.read_text(encoding="utf-8"))]


PAGES = sorted(
    file
    for file in ROOT.glob("**/*.md")
    if ".venv" not in file.parts and (file.name == "README.md" or file.parent.name == "docs")
)
COMMANDS = [(str(file.relative_to(ROOT)), command) for file in PAGES for command in _commands(file)]


def test_there_are_commands_in_the_pages() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{r}: {c[:60]}" for r, c in COMMANDS])
def test_a_command_of_a_page_parses(page: str, command: str) -> None:
    context = click.Context(typer.main.get_command(app), info_name="cpep-edge")
    words = shlex.split(command.replace("...", ""))
    current: click.Command = context.command
    while isinstance(current, click.Group):
        name, following, words = current.resolve_command(context, words)
        assert following is not None
        context, current = click.Context(following, info_name=name, parent=context), following
    current.make_context(current.name, words)  # options, their values and what is required


@pytest.mark.parametrize("page", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_inside_sentences_are_there(page: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for text in _INLINE.findall(page.read_text(encoding="utf-8")):
        assert text.split()[0] in commands, text


@pytest.fixture
def workplace(
    tmp_path: Path, toy_corpus: Corpus, trained_run: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder in which the names of docs/training.md are files of the toy."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_corpus.folder, "CORPUS")
    shutil.copy(toy_corpus.file(toy_corpus.rows[0]), "SESSION.hdf5")
    stages = {name: getattr(tiny_recipe, name).model_copy(update={"epochs": 1}) for name in STAGES}
    write_recipe(tiny_recipe.model_copy(update=stages), tmp_path / "tiny.toml")
    test_import_3dc._write_set(tmp_path / "3dc", list(range(1, 9)), n_rows=300)
    (tmp_path / "ninapro").mkdir()
    savemat("ninapro/S1_E1_A1.mat", test_import_ninapro._variables("db5"))
    test_import_myo._write_wrist(tmp_path / "myo-wrist")
    (tmp_path / "MAP.toml").write_text(test_import_csv.MAP)
    test_import_csv._write_csv(tmp_path / "a.csv", ["Fist"] * 40)
    test_import_csv._write_csv(tmp_path / "b.csv", ["Rest"] * 60)
    test_import_files._write_edf(tmp_path / "A.edf")
    emg = test_import_files._wave(1000, 2)
    test_import_files._write_xdf(tmp_path / "B.xdf", 100 + np.arange(1000) / 200, emg, "microvolts")
    (tmp_path / "libemg").mkdir()
    np.savetxt("libemg/R_0_C_0.csv", emg, delimiter=",")
    np.savetxt("libemg/R_1_C_0.csv", emg + 1, delimiter=",")
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_page_on_training_runs(workplace: Path, trained_run: Path) -> None:
    commands = _commands(ROOT / "docs" / "training.md")
    assert {command.split()[0] for command in commands} >= {"train", "sweep", "recipes", "data", "eval", "robustness"}
    for number, command in enumerate(commands):
        words = shlex.split(command)
        for place, word in enumerate(words):
            if re.fullmatch(r"(cpep|demo)(\+[a-z-]+)*", word) and words[0] in ("train", "sweep"):
                words[place] = f"tiny.toml{word.removeprefix('cpep').removeprefix('demo')}"
            if words[place - 1] in SMALL:
                words[place] = SMALL[words[place - 1]]
            if word == "SRC":
                words[place] = words[place - 1]
            if word == "RUN" and words[0] in ("eval", "robustness"):
                words[place] = str(trained_run)
            elif word in ("OUT", "OUT.edf", "RUN", "SWEEP", "DIR"):
                words[place] = f"{number}-{word}"
        if words[:3] == ["data", "import", "myo-wrist"]:
            words[words.index("--skip-start-s") + 1] = "0.05"  # the toy's labels last a tenth of a second
        answer = CliRunner().invoke(app, words)
        assert answer.exit_code == 0, (command, answer.output, answer.exception)

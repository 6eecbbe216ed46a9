"""Every command in the documentation exists and runs, on the toy corpus or a simulated band."""

import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import pytest
import typer

from cpep_bridge.simulator import SimulatedBand
from cpep_edge.bundle import Bundle
from cpep_edge.cli import app
from cpep_edge.session import JOINT_NAMES, Session
from tests.processes import invoke
from tests.train import (
    test_import_3dc,
    test_import_csv,
    test_import_files,
    test_import_myo,
    test_import_ninapro,
    test_import_xdf,
)
from tests.train.toy_corpus import write_recipe

STAGES = ("emg_mae", "pose_mae", "align")
SMALL = {"--users": "2", "--seconds": "1", "--free-seconds": "5", "--seeds": "0"}  # enough for a command to run
SHORT = {"calibrate": ["--seconds", "3", "--rest-seconds", "1"], "live": ["--seconds", "1", "--web-port", "0"]}
ROOT = Path(__file__).parents[2]
_LINE = re.compile(r"^    (?:[A-Z_]+=\S+ )?cpep-edge (.*)$", re.MULTILINE)
_INLINE = re.compile(r"`cpep-edge ([^`\n]+)`")


def _commands(file: Path) -> list[str]:
    """The commands that have their own lines, without comments."""
    return [re.split(r"\s{2,}#|\s#\s", line)[0].strip() for line in _LINE.findall(file.read_text(encoding="utf-8"))]


PAGES = sorted(
    file
    for file in ROOT.glob("**/*.md")
    if ".venv" not in file.parts and (file.name == "README.md" or file.parent.name == "docs")
)
COMMANDS = [(str(file.relative_to(ROOT)), command) for file in PAGES for command in _commands(file)]


# The tests that run the commands which the tests below do not.
ELSEWHERE = {
    "teach": "cpep_edge/test_own_band_tutorial.py",
    "live my.cpep --web": "cpep_edge/test_web_acting.py",  # the device is chosen on the page
    "live my.cpep --port PTY --on-device --profile me.json": "firmware_bridge/test_recognising_band.py",
    "simulate SESSION.hdf5 --firmware --model my.cpep": "firmware_bridge/test_recognising_band.py",
    "bench": "../.ci/run",
    "compare": "../.ci/run",
}
RUN_HERE = ("README.md", "docs/chip.md", "docs/live.md", "docs/training.md")


def _is_elsewhere(command: str) -> bool:
    return command in ELSEWHERE or command.split()[0] in ELSEWHERE


def _options(command: str) -> set[tuple[str, str]]:
    """Each option of a command line, with the command that it belongs to."""
    words = shlex.split(command)
    name = " ".join(words[: 2 if words[0] in ("data", "recipes", "gestures") else 1])
    return {(name, ""), *((name, word) for word in words if word.startswith("--"))}


def test_there_are_commands_in_the_pages():
    assert len(COMMANDS) > 30


def test_no_command_and_no_option_of_a_page_is_run_by_nobody():
    run = set().union(*(_options(command) for page, command in COMMANDS if page in RUN_HERE))
    assert all((ROOT / "tests" / file).is_file() for file in ELSEWHERE.values())
    assert [command for _, command in COMMANDS if not _is_elsewhere(command) and not _options(command) <= run] == []


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{r}: {c[:60]}" for r, c in COMMANDS])
def test_a_command_of_a_page_parses(page, command):
    context = click.Context(typer.main.get_command(app), info_name="cpep-edge")
    words = shlex.split(command.replace("...", ""))
    current: click.Command = context.command
    while isinstance(current, click.Group):
        name, following, words = current.resolve_command(context, words)
        assert following is not None
        context, current = click.Context(following, info_name=name, parent=context), following
    current.make_context(current.name, words)  # checks options, their values, and required ones


@pytest.mark.parametrize("page", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_inside_sentences_are_there(page):
    commands = typer.main.get_command(app).commands
    for text in _INLINE.findall(page.read_text(encoding="utf-8")):
        assert text.split()[0] in commands, text


@pytest.fixture
def workplace(tmp_path, toy_corpus, trained_run, tiny_recipe, monkeypatch) -> Path:
    """A folder with toy files under the names of docs/training.md."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_corpus.folder, "CORPUS")
    shutil.copy(toy_corpus.file(toy_corpus.rows[0]), "SESSION.hdf5")
    stages = {name: getattr(tiny_recipe, name).model_copy(update={"epochs": 1}) for name in STAGES}
    write_recipe(tiny_recipe.model_copy(update=stages), tmp_path / "tiny.toml")
    test_import_3dc._write_set(tmp_path / "3dc", list(range(1, 9)), n_rows=300)
    test_import_ninapro._write_set(tmp_path / "ninapro", test_import_ninapro._variables("db5"))
    test_import_myo._write_wrist(tmp_path / "myo-wrist")
    (tmp_path / "MAP.toml").write_text(test_import_csv.MAP)
    test_import_csv._write_csv(tmp_path / "a.csv", ["Fist"] * 40)
    test_import_csv._write_csv(tmp_path / "b.csv", ["Rest"] * 60)
    test_import_files._write_edf(tmp_path / "A.edf")
    emg = test_import_files.wave(1000, 2)
    test_import_xdf._write_xdf(tmp_path / "B.xdf", 100 + np.arange(1000) / 200, emg, "microvolts")
    (tmp_path / "libemg").mkdir()
    np.savetxt("libemg/R_0_C_0.csv", emg, delimiter=",")
    np.savetxt("libemg/R_1_C_0.csv", emg + 1, delimiter=",")
    return tmp_path


def _run(words: list[str]) -> None:
    answer = invoke(*words)
    assert answer.exit_code == 0, (words, answer.output, answer.exception)


@pytest.mark.slow
def test_every_command_of_the_page_on_training_runs(workplace, trained_run):
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
            words[words.index("--skip-start-s") + 1] = "0.05"  # the toy's labels last 0.1 s
        _run(words)


@pytest.fixture
def beside_a_band(tiny_bundle, tiny_corpus, tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder with the files of docs/live.md; yields the band's port, which replaces /dev/ttyACM0."""
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    shutil.copytree(tiny_bundle, "my.cpep")
    Bundle(Path("my.cpep"), trust=True)
    hook = tiny_corpus / "user_c_PokePinchCloseFar_0.hdf5"
    shutil.copy(hook, "hook.hdf5")
    with Session(hook) as session:
        pose = session.joint_angles().mean(axis=0)
        Path("hook.csv").write_text(",".join(JOINT_NAMES) + "\n" + ",".join(f"{angle:.4f}" for angle in pose) + "\n")
        emg_uv, rate_hz = session.emg(), session.meta.sample_rate
    gesture = Bundle(Path("my.cpep")).manifest.gestures[0].name
    Path("map.toml").write_text(f'[gesture.{gesture}]\nkey = "space"\n')
    for key in ("root.pem", "new.pem"):
        _run(["keygen", key])
    band = tmp_path / "band"
    with SimulatedBand([emg_uv], rate_hz, link=band):
        _run(["calibrate", "my.cpep", "--port", str(band), *SHORT["calibrate"]])
        yield band


@pytest.mark.slow
@pytest.mark.executorch
@pytest.mark.parametrize("page", ["README.md", "docs/live.md"])
def test_every_command_of_the_pages_on_running_it_runs(page, beside_a_band, monkeypatch):
    for command in _commands(ROOT / page):
        words = [str(beside_a_band) if word == "/dev/ttyACM0" else word for word in shlex.split(command)]
        if _is_elsewhere(command):
            continue
        if words[0] == "export":  # exports run in the test below; here, sign as the page does
            words = ["sign", "my.cpep", "--key", "maker.pem"]
        if words[0] == "live" and Path("maker.pem").exists():
            monkeypatch.setenv("CPEP_EDGE_KEY", "maker.pem.pub")
        _run([*words, *SHORT.get(words[0], [])])


@pytest.mark.slow
@pytest.mark.executorch
def test_every_command_of_the_page_on_chips_runs(workplace, trained_run, native_build, monkeypatch):
    monkeypatch.setattr("cpep_export.native.build_for_target", lambda target, out: native_build)
    _run(["keygen", "maker.pem"])
    for words in map(shlex.split, _commands(ROOT / "docs" / "chip.md")):
        match words[0]:
            case "data":
                small = [SMALL.get(before, word) for before, word in pairwise(["", *words])]
                _run(small)
            case "train" if "--teacher" in words:
                distil = [f"--set=align.distillation.{key}" for key in ("temperature=0.1", "neighbour_weight=1.0")]
                _run(["train", "tiny.toml", "--teacher", str(trained_run), "--data", "CORPUS", *words[-2:], *distil])
            case "export":
                data = words.index("--data") + 1
                _run([*words[:data], "CORPUS", *words[data + 1 :], "--sign", "maker.pem", "--force"])
    assert Bundle(Path("micro.cpep")).manifest.signer is not None

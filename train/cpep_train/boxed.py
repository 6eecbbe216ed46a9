"""The encoder that ships with the project: trained on simulated people, to export a bundle without your own corpus.

Its checkpoint is in the recipes folder; `train/recipes/box/README.md` says how it was made. An export also needs
windows to calibrate with, poses for the index and people to measure on, and these are simulated again. Simulation is
reproducible bit for bit, so they are the people that the encoder was trained, validated and tested on, each in the
same split.
"""

from pathlib import Path

from cpep_train.simulation import synthesise_corpus

BOX = "box"
N_PEOPLE = 12  # of the box's people, for an export: three are held out, two are for validation


def box_folder() -> Path:
    """The folder of the checkpoint."""
    here = Path(__file__).parent
    folders = (here / "recipes", here.parent / "recipes")  # inside the wheel; in a checkout
    return next(folder for folder in folders if folder.is_dir()) / BOX


def write_box_corpus(out: Path) -> None:
    """Simulate the first of the people that the box was made from.

    Raises ConfigError without mujoco, CpepError when the disk refuses.
    """
    synthesise_corpus(
        out, n_users=1120, sessions_per_user=1, seconds=3.0, free_seconds=40.0, seed=22, only_first=N_PEOPLE
    )

"""The encoder in the box: trained on simulated people, for a first bundle without a corpus of one's own.

Its checkpoint lies among the recipes; `train/recipes/box/README.md` says how it was made. What else an export needs,
windows to calibrate with, poses for the index and people to measure on, it simulates anew: a recording of a simulated
person is the same bit for bit whenever it is made, so these are of the people that the box was trained, watched and
judged on, each still in their split.
"""

from pathlib import Path

from cpep_train.simulation import synthesise_corpus

BOX = "box"
N_PEOPLE = 12  # of the box's, for an export: three of them are held out, two were watched


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
        out, n_users=384, sessions_per_user=1, seconds=3.0, free_seconds=40.0, seed=22, only_first=N_PEOPLE
    )

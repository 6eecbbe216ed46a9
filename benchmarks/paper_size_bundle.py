"""Make a bundle of the paper's size with untrained weights: right for what it costs, never for what it recognises.

    python benchmarks/paper_size_bundle.py OUT.cpep --run RUN

Recipe `cpep`, simulated people, int8. Its name says that nobody trained it.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from cpep_edge.checkout import git_commit
from cpep_export.native import build_for_target, host_target
from cpep_export.package import export_bundle
from cpep_train.checkpoint import Checkpoint, Provenance, build_encoders, save_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.recipe import load_recipe
from cpep_train.simulation import synthesise_corpus
from cpep_train.windows import SessionStore, fit_statistics

USERS, SECONDS, SEED = 6, 6.0, 0


def main() -> None:
    """Make the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="Bundle folder to write.")
    parser.add_argument("--run", type=Path, required=True, help="Folder for the untrained weights, as of a training.")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "simulated-people"
        synthesise_corpus(corpus, n_users=USERS, sessions_per_user=1, seconds=SECONDS, seed=SEED)
        native = build_for_target(host_target(), Path(scratch) / "native")
        checkpoint = untrained(corpus)
        save_checkpoint(options.run, checkpoint)
        export_bundle(checkpoint, corpus, options.out, quant="int8", native=native, force=True)


def untrained(folder: Path) -> Checkpoint:
    """The paper's encoders as they are before the first step of training."""
    recipe, corpus = load_recipe("cpep"), Corpus.open(folder)
    recipe = recipe.model_copy(update={"name": "paper-size-untrained", "seed": SEED})
    statistics = fit_statistics(corpus, recipe)
    store = SessionStore(corpus, recipe, statistics)
    emg, pose = build_encoders(recipe)
    return Checkpoint(
        recipe=recipe,
        preprocessing=store.preprocessing,
        pose_mean_rad=statistics.pose_mean_rad,
        pose_std_rad=statistics.pose_std_rad,
        emg=emg.eval(),
        pose=pose.eval(),
        seen_stages=corpus.seen_stages,
        unseen_stages=corpus.unseen_stages,
        provenance=Provenance(
            data="simulated people",
            data_sha256="",
            git_commit=git_commit(),
            versions={},
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        metrics={},
    )


if __name__ == "__main__":
    main()

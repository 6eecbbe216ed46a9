"""Measure ways to choose, store and search poses on real embeddings: those of a trained run on its own corpus.

    python benchmarks/measure_index.py RUN --data CORPUS --out benchmarks/results/index-demo.md [--poses 10000,1000000]

Every row is compared with an exact float32 search of all pose windows of training people: recall of the ten nearest,
share of equal votes, balanced accuracy. Queries are EMG windows that training did not see. Only the EMG of training
windows is used to choose poses. Engines take turns query by query, so that other load affects all of them equally.

--poses: instead, measure engines on indices of so many poses, from as many simulated people as necessary, who make the
gestures of `cpep_train.stages`, which are also those of the corpus. Only their hands are simulated, no EMG. The last
two rows are the index that export makes of them, searched as in a bundle, with the penalty on trained gestures; their
votes are compared with those of all poses with the same penalty.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from cpep_bench.index_engines import ENGINES, GROWN, Build, Search
from cpep_bench.machine import this_machine
from cpep_edge.errors import ArtifactError
from cpep_edge.files import write_file
from cpep_edge.pose_index import PoseIndex, build_index
from cpep_edge.session import N_JOINTS
from cpep_edge.spread import evenly_spread
from cpep_edge.versions import git_commit, installed_versions
from cpep_export.prototypes import find_prototypes
from cpep_export.training_windows import ASKING_WINDOWS, POSES_PER_WINDOW, training_embeddings
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import Corpus
from cpep_train.evaluate import N_NEIGHBOURS as K
from cpep_train.evaluate import balanced_accuracy, embed_emg, embed_poses, evaluation_set, majority, torch_embedding
from cpep_train.hand_model import load_hand
from cpep_train.seen_penalty import choose_seen_penalty
from cpep_train.stages import STAGES, draw_style, move
from index_choices import CHOICES

N_QUERIES = 2_000
N_TIMED = 400
GROWN_QUERIES = 500  # queries of the larger indices of --poses
STAGE_S, HOP_S = 3.0, 0.25  # length of a simulated gesture, and the hop of its windows
POSES_AT_ONCE = 8_192
QUERIES_AT_ONCE = 64
COLUMNS = (
    "| engine | recall@10 | same vote as exact | B a vector | MB | p50 us | p99 us | build s |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --: |"
)
SIZES = (400, 800, 1_600, 3_200, 6_400)
PACKAGES = ("numpy", "hnswlib", "usearch", "faiss-cpu", "scikit-learn")

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Embeddings of a trained run."""

    poses: Vectors  # (R, D), of training people
    labels: Labels  # (R,)
    windows: Vectors  # (W, D), EMG of training windows
    queries: Vectors  # (Q, D), EMG that training did not see
    true: Labels  # (Q,)
    seen: NDArray[np.bool_]  # (K,), whether EMG of the gesture was trained on
    gesture_penalty: tuple[float, ...]  # (K,), as a bundle takes it off the cosines
    data: str
    seed: int


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="The corpus of the training.")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    parser.add_argument("--poses", default="", help="Sizes of larger indices, by commas.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.run)
    sizes = sorted(int(size) for size in options.poses.split(",") if size)
    inputs = _gather(checkpoint, options.data, max(sizes, default=0))
    body = _grown(inputs, checkpoint, sizes) if sizes else itertools.chain(_curve(inputs), _search(inputs))
    lines = [*_headline(inputs), *body, *_origin(inputs)]
    write_file(options.out, "\n".join(lines))


def _gather(checkpoint: Checkpoint, data: Path, n_poses: int) -> Inputs:
    corpus = Corpus.open(data)
    evaluation = evaluation_set(checkpoint, corpus)
    queries = embed_emg(torch_embedding(checkpoint.emg), evaluation.queries)
    asked = evaluation.queries.held_out_user if evaluation.queries.held_out_user.any() else np.ones(len(queries), bool)
    asked_places = np.flatnonzero(asked)
    chosen = asked_places[evenly_spread(len(asked_places), N_QUERIES)]
    poses = embed_poses(checkpoint.pose, evaluation.references)
    penalty = choose_seen_penalty(checkpoint, evaluation, queries, poses).penalty
    templates = "; poses from templates" if checkpoint.recipe.pose.source != "recorded" else ""
    return Inputs(
        poses=poses,
        labels=evaluation.references.gesture_index,
        windows=training_embeddings(evaluation, checkpoint, checkpoint.recipe.seed, n_poses),
        queries=queries[chosen],
        true=evaluation.queries.gesture_index[chosen],
        seen=evaluation.seen,
        gesture_penalty=tuple(penalty if seen else 0.0 for seen in evaluation.seen),
        data=f"{corpus.folder.resolve().name}{templates}",
        seed=checkpoint.recipe.seed,
    )


def _exact(queries: Vectors, vectors: Vectors) -> NDArray[np.intp]:
    """The places of the K nearest vectors, nearest first, (Q, K)."""
    found = []
    for at in range(0, len(queries), QUERIES_AT_ONCE):  # to limit memory
        away = -(queries[at : at + QUERIES_AT_ONCE] @ vectors.T)
        nearest = np.argpartition(away, min(K, len(vectors)) - 1, axis=1)[:, :K]
        order = np.argsort(np.take_along_axis(away, nearest, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(nearest, order, axis=1))
    return np.concatenate(found)


def _accuracy(inputs: Inputs, vectors: Vectors, labels: Labels, among: NDArray[np.bool_]) -> float | None:
    """Balanced accuracy on the gestures in `among`, with only those as possible answers; None without any."""
    asked, usable = among[inputs.true], among[labels]
    if not asked.any() or not usable.any():
        return None
    answered = majority(labels[usable][_exact(inputs.queries[asked], vectors[usable])])
    confusion = np.zeros((len(among), len(among)), np.int64)
    np.add.at(confusion, (inputs.true[asked], answered), 1)
    return float(balanced_accuracy(confusion))


def _quality(inputs: Inputs, vectors: Vectors, labels: Labels, size_bytes: int) -> str:
    """The size and accuracy of a choice of poses, with exact search, as cells of the table."""
    full = majority(inputs.labels[_exact(inputs.queries, inputs.poses)])
    votes = majority(labels[_exact(inputs.queries, vectors)])
    accuracy = [_accuracy(inputs, vectors, labels, kind) for kind in (inputs.seen, ~inputs.seen)]
    told = " | ".join("-" if value is None else f"{value:.3f}" for value in accuracy)
    return f"{len(vectors):,} | {size_bytes / 1e3:,.0f} | {np.mean(votes == full):.1%} | {told}"


def _curve(inputs: Inputs) -> Iterator[str]:
    """The table of bytes against votes and accuracy, for every way to choose poses."""
    yield "## Which poses to keep\n"
    yield (
        "Searched exactly, so that only the choice counts. Bytes are those of the index file without a graph. "
        "Condensing ends by itself.\n"
    )
    yield "| choice | numbers | prototypes | kB | votes kept | seen | unseen |"
    yield "| --- | --- | --: | --: | --: | --: | --: |"
    poses, labels = inputs.poses, inputs.labels
    yield f"| all poses | float32 | {_quality(inputs, poses, labels, poses.nbytes + 2 * len(poses))} |"
    yield f"| all poses | bytes | {_stored(inputs, poses, labels)} |"
    for name, choose in CHOICES.items():
        reached = 0
        for size in (size for size in SIZES if size < len(poses)):
            chosen, of_gesture = choose(poses, labels, inputs.windows, size, inputs.seed)
            if len(chosen) > reached:  # a way may stop at fewer poses than it may keep
                yield f"| {name} | bytes | {_stored(inputs, chosen, of_gesture)} |"
            reached = len(chosen)
    for width in (poses.shape[1] // 4, poses.shape[1] // 2):
        basis = np.linalg.svd(poses, full_matrices=False)[2][:width]
        flat = poses @ basis.T @ basis
        projected = _quality(inputs, flat, labels, len(poses) * (width + 2) + basis.nbytes)
        yield f"| all poses, PCA to {width} | float32 of PCA, bytes counted | {projected} |"
    kept = find_prototypes(poses, labels, inputs.windows, k=K)
    yield f"| **the default** | bytes | {_stored(inputs, kept.embedding, kept.gesture_index)} |"


def _stored(inputs: Inputs, vectors: Vectors, labels: Labels) -> str:
    """The quality of vectors after they were quantised as in an index file."""
    index = build_index(vectors, labels)
    size_bytes = len(index.to_bytes()) if index.stored.graph is None else len(vectors) * (vectors.shape[1] + 2)
    return _quality(inputs, index.vectors, index.gesture_index, size_bytes)


def _search(inputs: Inputs) -> Iterator[str]:
    """Engines on all poses and on the default choice."""
    kept = find_prototypes(inputs.poses, inputs.labels, inputs.windows, k=K)
    order = np.random.default_rng(inputs.seed).permutation(len(inputs.poses))
    for title, vectors, labels in (
        (f"all {len(order):,} poses, in shuffled order", inputs.poses[order], inputs.labels[order]),
        (f"the default's {len(kept.embedding):,} prototypes", kept.embedding, kept.gesture_index),
    ):
        yield f"\n## Engines on {title}\n"
        yield (
            "Against float32 searched exactly. Bytes on disk cost recall, because poses lie closer together than a "
            "step, and next to no votes, because those poses are of one gesture.\n"
        )
        yield COLUMNS
        yield from _engines(inputs, vectors, labels)


def _grown(inputs: Inputs, checkpoint: Checkpoint, sizes: list[int]) -> Iterator[str]:
    """Engines on growing numbers of poses, and the index that export would make of them."""
    few = replace(inputs, queries=inputs.queries[:: max(1, len(inputs.queries) // GROWN_QUERIES)])
    poses, labels = _many_poses(checkpoint, sizes[-1])
    order = np.random.default_rng(inputs.seed).permutation(len(poses))
    for size in sizes:
        vectors, of_gesture = poses[order[:size]], labels[order[:size]]
        yield f"\n## {size:,} poses of simulated hands\n"
        yield f"{len(few.queries)} queries. A megabyte is a million bytes.\n"
        yield COLUMNS
        yield from _engines(few, vectors, of_gesture, GROWN)
        yield from _exported(inputs, few.queries, vectors, of_gesture)


def _exported(inputs: Inputs, queries: Vectors, poses: Vectors, labels: Labels) -> Iterator[str]:
    """The rows of what export makes of poses, compared completely and searched in a graph."""
    penalty = inputs.gesture_penalty
    of_all = _votes(_with(queries, 1), _with(poses, -np.array(penalty, np.float32)[labels]), labels)
    start_s = time.perf_counter()
    asking = inputs.windows[: max(ASKING_WINDOWS, len(poses) // POSES_PER_WINDOW)]
    kept = find_prototypes(poses, labels, asking, k=K, gesture_penalty=penalty)
    chosen_s = time.perf_counter() - start_s
    built: dict[str, tuple[PoseIndex, float]] = {}
    for search in ("exact", "hnsw"):
        start_s = time.perf_counter()
        index = build_index(kept.embedding, kept.gesture_index, inputs.seed, penalty, search)
        built[search] = index, chosen_s + time.perf_counter() - start_s
    times_us = _timed({name: lambda query, of=of: of.nearest(query, K)[0] for name, (of, _) in built.items()}, queries)  # type: ignore[misc]
    for name, (index, build_s) in built.items():
        same = np.mean([index.vote(query, K).gesture_index for query in queries] == of_all)
        n_bytes, (p50, p99) = len(index.to_bytes()), np.percentile(times_us[name], [50, 99])
        yield (
            f"| **export's {index.n_prototypes:,} prototypes**, penalty {max(penalty):g}, {name} | | {same:.1%} | "
            f"{n_bytes / len(poses):.2f} | {n_bytes / 1e6:.1f} | {p50:.0f} | {p99:.0f} | {build_s:.1f} |"
        )


def _with(vectors: Vectors, column: NDArray[np.float32] | float) -> Vectors:
    """Vectors with one more number each, (n, D + 1)."""
    return np.column_stack([vectors, np.broadcast_to(np.float32(column), len(vectors))])


def _votes(queries: Vectors, vectors: Vectors, labels: Labels) -> Labels:
    return majority(labels[_exact(queries, vectors)])


def _many_poses(checkpoint: Checkpoint, n: int) -> tuple[Vectors, Labels]:
    """Embedded pose windows of simulated hands, (n, D), and their gestures, (n,), in the order of people."""
    recipe, hand = checkpoint.recipe, load_hand()
    rate_hz = recipe.signal.sample_rate_hz / recipe.pose.decimation
    length, hop = recipe.windows.window_samples // recipe.pose.decimation, round(HOP_S * rate_hz)
    gestures = (*checkpoint.seen_stages, *checkpoint.unseen_stages)
    made: list[NDArray[np.float32]] = []
    vectors: list[Vectors] = []
    labels: list[int] = []
    rng = np.random.default_rng(recipe.seed)
    while len(labels) < n:
        style = draw_style(rng)
        for stage in STAGES:
            angles_rad = move(stage, style, hand, round(STAGE_S * rate_hz), rate_hz, rng).poses_rad[:, :N_JOINTS]
            pose = ((angles_rad - checkpoint.pose_mean_rad) / checkpoint.pose_std_rad).astype(np.float32).T
            windows = [pose[:, at : at + length] for at in range(0, pose.shape[1] - length + 1, hop)]
            made += windows
            labels += [gestures.index(stage.name)] * len(windows)
        if len(made) >= POSES_AT_ONCE or len(labels) >= n:
            with torch.no_grad():
                vectors.append(checkpoint.pose(torch.from_numpy(np.stack(made))).numpy())
            made = []
    return np.concatenate(vectors)[:n], np.array(labels[:n], np.int64)


def _engines(inputs: Inputs, vectors: Vectors, labels: Labels, engines: dict[str, Build] = ENGINES) -> Iterator[str]:
    truth = _exact(inputs.queries, vectors)
    votes = majority(labels[truth])
    built: dict[str, tuple[Search, int, float]] = {}
    with TemporaryDirectory() as scratch:
        for name, build in engines.items():
            start_s = time.perf_counter()
            try:
                search, size_bytes = build(vectors, labels, Path(scratch) / "index")
            except ArtifactError as error:  # cpep-edge limits the size of an index
                yield f"| {name} | {error} | | | | | | |"
                continue
            built[name] = (search, size_bytes, time.perf_counter() - start_s)
    times_us = _timed({name: search for name, (search, _, _) in built.items()}, inputs.queries[:: _step(inputs)])
    for name, (search, size_bytes, build_s) in built.items():
        found = np.stack([search(query) for query in inputs.queries])
        hits = [len(set(row) & set(right)) for row, right in zip(found.tolist(), truth.tolist(), strict=True)]
        same = float(np.mean(majority(labels[found]) == votes))
        p50, p99 = np.percentile(times_us[name], [50, 99])
        yield (
            f"| {name} | {np.mean(hits) / K:.3f} | {same:.1%} | {size_bytes / len(vectors):.0f} | "
            f"{size_bytes / 1e6:.1f} | {p50:.0f} | {p99:.0f} | {build_s:.1f} |"
        )


def _timed(searches: dict[str, Search], queries: Vectors) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in searches}
    for query in queries:
        for name, search in searches.items():
            times[name].append(_microseconds(lambda search=search, query=query: search(query)))  # type: ignore[misc]
    return times


def _microseconds(run: Callable[[], object]) -> float:
    start_ns = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start_ns) / 1e3


def _step(inputs: Inputs) -> int:
    return max(1, len(inputs.queries) // N_TIMED)


def _headline(inputs: Inputs) -> Iterator[str]:
    yield "# The pose index on real embeddings\n"
    yield (
        f"Data: {inputs.data}. {len(inputs.poses):,} pose windows of training people, {inputs.poses.shape[1]} "
        f"numbers each; {len(inputs.windows):,} training windows of EMG choose; {len(inputs.queries):,} windows "
        f"that training did not see ask. Votes of the {K} nearest; accuracy is balanced, seen among seen and unseen "
        "among unseen gestures.\n"
    )


def _origin(inputs: Inputs) -> Iterator[str]:
    machine = this_machine()
    versions = ", ".join(f"{name} {value}" for name, value in installed_versions(PACKAGES).items())
    yield (
        f"\n`python benchmarks/measure_index.py`, commit `{git_commit()[:12] or 'unknown'}`, seed {inputs.seed}, one "
        f"thread. {machine.cpu}, {machine.n_cpus} shared cores, load {machine.load_1min:.1f}. {versions}.\n"
    )


if __name__ == "__main__":
    main()

"""The steps of `measure_real.py` on one set of real recordings: cut windows, train, export, and test every method.

Every method is tested on the same windows. They end every `Set.stride_s` of a recording, from its first complete window
on; the recordings that calibrate are left out. A bundle is tested as it runs live: each recording is streamed through
the bundle's own filter, front end, int8 encoder, index and head, after a calibration without labels.

Shapes: n windows, C channels, F numbers of a token, D of an embedding, K gestures.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from cpep_edge.bundle import Bundle
from cpep_edge.calibration import donning_of
from cpep_edge.donning import Donning, measure_donning, placements, unscaled, window_means
from cpep_edge.head import Head, fit_head
from cpep_edge.input_stream import InputStream
from cpep_edge.mpf import MpfSpec, permutation
from cpep_edge.personal import Reading, Repetition
from cpep_edge.preprocess import Preprocessor
from cpep_edge.recogniser import Recogniser
from cpep_edge.taught import fit_taught, write_taught
from cpep_export.head_choice import HeadChoice, Reads, fitted_heads
from cpep_export.package import export_bundle
from cpep_train.checkpoint import Checkpoint, load_checkpoint
from cpep_train.corpus import Corpus, write_metadata
from cpep_train.evaluate import Embed, evaluation_set, torch_embedding
from cpep_train.plain_head import common_placement
from cpep_train.realism import features as hudgins
from cpep_train.recipe import Recipe
from cpep_train.training import train

_FEW = 10  # people; with more, every sixth person validates

Values = NDArray[np.float32]
Labels = NDArray[np.int64]
Answers = dict[str, dict[str, float]]  # by method and person: balanced accuracy


@dataclass(frozen=True, slots=True)
class Take:
    """One recording of one gesture."""

    person: str
    donning: str  # recordings of one donning have the same name
    gesture: int
    repetition: int  # from 1, of this gesture in this donning
    emg_uv: Values  # (n_samples, C)
    pose_rad: Values  # (n_samples, 20), NaN where it is missing; (0, 20) for sets without poses


@dataclass(frozen=True)
class People:
    """Recordings of some people, with the features that the plain methods use."""

    takes: tuple[Take, ...]
    gestures: tuple[str, ...]
    recipe: Recipe
    stride_s: float
    _plain: dict[tuple[int, str], dict[str, Values]] = field(default_factory=dict, init=False)
    _calibrations: dict[str, tuple[Donning, dict[str, tuple[Values, Values]]]] = field(default_factory=dict, init=False)

    @property
    def names(self) -> list[str]:
        """The people, in order."""
        return sorted({take.person for take in self.takes})

    @property
    def donnings(self) -> list[str]:
        """The donnings, in order."""
        return sorted({take.donning for take in self.takes})

    def ends(self, take: Take) -> NDArray[np.intp]:
        """The ends of a recording's windows, in samples."""
        window = self.recipe.windows.window_samples
        return np.arange(window, len(take.emg_uv) + 1, round(self.stride_s * self.recipe.signal.sample_rate_hz))

    def plain(self, number: int, calibrated: str = "") -> dict[str, Values]:
        """The features of a recording's windows for plain methods, (n, ...), recentred on an unlabelled calibration.

        calibrated: the donning that was calibrated; "": the recording's own
        """
        key = number, calibrated or self.takes[number].donning
        if key not in self._plain:
            take, (donning, centres) = self.takes[number], self._calibration(key[1])
            recipe, front_end = self.recipe, self.front_end
            stream = InputStream(recipe.preprocessing(1.0), front_end, front_end.n_electrodes, donning)
            found = {"logcov": self._at_ends(take, stream(take.emg_uv))}
            for name, values in self._signal_features(take).items():
                mean, spread = centres[name]
                found[name] = ((values - mean) / spread).astype(np.float32)
            self._plain[key] = found
        return self._plain[key]

    def _calibration(self, name: str) -> tuple[Donning, dict[str, tuple[Values, Values]]]:
        if name not in self._calibrations:
            known = [take for take in self.takes if take.donning == name and take.repetition == 1]
            recordings, centres = [take.emg_uv for take in known], {}
            parts = [self._signal_features(take) for take in known]
            for key in ("hudgins", "levels"):
                values = np.concatenate([part[key] for part in parts])
                spread = values.std(axis=0) + 1e-6 if key == "hudgins" else np.ones(values.shape[1])
                centres[key] = values.mean(axis=0), spread.astype(np.float32)
            donning = measure_donning(recordings, self.recipe.preprocessing(1.0), self.front_end)
            self._calibrations[name] = donning, centres
        return self._calibrations[name]

    @property
    def front_end(self) -> MpfSpec:
        """The front end of the recipe."""
        spec = self.recipe.mpf_spec()
        if spec is None:
            raise ValueError("real arms are read by front end mpf")
        return spec

    def _signal_features(self, take: Take) -> dict[str, Values]:
        window = self.recipe.windows.window_samples
        filtered = Preprocessor(unscaled(self.recipe.preprocessing(1.0)), take.emg_uv.shape[1])(take.emg_uv)
        if not len(self.ends(take)):
            return {
                key: np.empty((0, n * take.emg_uv.shape[1]), np.float32) for key, n in (("hudgins", 4), ("levels", 2))
            }
        cut = np.lib.stride_tricks.sliding_window_view(filtered, window, axis=0)[self.ends(take) - window]
        cut = cut.transpose(0, 2, 1).astype(np.float64)  # (n, samples, C)
        levels = np.log(np.concatenate([cut.std(axis=1), np.diff(cut, axis=1).std(axis=1)], axis=1) + 0.1)
        return {"hudgins": hudgins(cut).astype(np.float32), "levels": levels.astype(np.float32)}

    def _at_ends(self, take: Take, tokens: Values) -> Values:
        """The mean token of each window, (n, F)."""
        spec, window = self.front_end, self.recipe.windows.window_samples
        means: Values = window_means(tokens, spec.n_tokens(window))[(self.ends(take) - window) // spec.hop_samples]
        return means

    def labels(self) -> list[Labels]:
        """The gesture of each window, by recording."""
        return [np.full(len(self.ends(take)), take.gesture, np.int64) for take in self.takes]


def takes_of(corpus: Corpus, recipe: Recipe, gestures: Sequence[str], prefix: str = "") -> tuple[Take, ...]:
    """All recordings of a corpus with at least one window; `prefix` makes the names of two folders' people differ."""
    by_user, takes = recipe.calibration.donning == "user", []
    counts: dict[tuple[str, str, str], int] = {}
    for row in corpus.rows:
        donning = row.user if by_user else row.session
        with corpus.session(row) as session:
            if session.n_samples < recipe.windows.window_samples:
                continue
            counts[row.user, donning, row.stage] = repetition = counts.get((row.user, donning, row.stage), 0) + 1
            pose_rad = np.empty((0, 20), np.float32)
            if recipe.pose.source == "recorded":
                poses, valid = session.valid_poses()
                pose_rad = np.where(valid[:, None], poses, np.nan).astype(np.float32)
            names = prefix + row.user, prefix + donning
            takes.append(Take(*names, gestures.index(row.stage), repetition, session.emg(), pose_rad))
    return tuple(takes)


def accuracy(people: People, asked: Sequence[int], answers: Sequence[Labels]) -> dict[str, float]:
    """Balanced accuracy of each person, the mean over their donnings; asked: the recording of each item of answers."""
    found: dict[str, list[float]] = {}
    for donning in people.donnings:
        mine = [place for place, number in enumerate(asked) if people.takes[number].donning == donning]
        if not mine:
            continue
        true = np.concatenate([np.full(len(answers[place]), people.takes[asked[place]].gesture) for place in mine])
        person = people.takes[asked[mine[0]]].person
        said = np.concatenate([answers[place] for place in mine])
        found.setdefault(person, []).append(float(balanced_accuracy_score(true, said)))
    return {person: float(np.mean(values)) for person, values in found.items()}


def discriminant(features: Values, labels: Labels, shrinkage: float | None) -> LinearDiscriminantAnalysis:
    """Fit LDA, with shrinkage or, as LibEMG does, without."""
    if shrinkage is None:
        return LinearDiscriminantAnalysis().fit(features, labels)
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features, labels)


PLAIN = {"Hudgins + LDA (LibEMG)": ("hudgins", None), "log levels + LDA": ("levels", 0.01),
         "log-covariances + LDA": ("logcov", 0.1)}  # fmt: skip


def plain_rows(people: People, trained: Sequence[int], asked: Sequence[int], calibrated: str = "") -> Answers:
    """Fit every plain method on some recordings and test it on others; trained, asked: numbers of recordings.

    calibrated: the only donning with a calibration; "": each donning is recentred on its own calibration
    """
    label, rows = people.labels(), {}
    y = np.concatenate([label[number] for number in trained])
    for name, (key, shrinkage) in PLAIN.items():
        x = np.concatenate([people.plain(number, calibrated)[key] for number in trained])
        model = discriminant(x, y, shrinkage)
        rows[name] = accuracy(people, asked, [model.predict(people.plain(number, calibrated)[key]) for number in asked])
    return rows


def placed_row(people: People, trained: Sequence[int], asked: Sequence[int]) -> Answers:
    """Log-covariances + LDA after every band was brought to a common placement, without labels of those tested on."""
    spec, calibration = people.front_end, people.recipe.calibration
    orders = placements(spec.n_electrodes, calibration.max_turn, calibration.mirrored)
    moves = [permutation(order, len(spec.bands)) for order in orders]
    x = np.concatenate([people.plain(number)["logcov"] for number in trained])
    label = people.labels()
    y = np.concatenate([label[number] for number in trained])
    names = people.donnings
    session = np.concatenate([np.full(len(label[n]), names.index(people.takes[n].donning)) for n in trained])
    _, session = np.unique(session, return_inverse=True)
    for number, move in enumerate(common_placement(x, y, session, moves)):
        x[session == number] = x[session == number][:, moves[move]]
    model, likely = discriminant(x, y, 0.1), fit_head(x, y)
    best = {}
    for donning in {people.takes[number].donning for number in asked}:
        known = [n for n, take in enumerate(people.takes) if take.donning == donning and take.repetition == 1]
        windows = np.concatenate([people.plain(number)["logcov"] for number in known])
        best[donning] = moves[int(np.argmax([likely.fit_of(windows[:, move]) for move in moves]))]
    answers = [model.predict(people.plain(n)["logcov"][:, best[people.takes[n].donning]]) for n in asked]
    return {"log-covariances + LDA, placed": accuracy(people, asked, answers)}


def fold_corpus(base: Corpus, folder: Path, left_out: Sequence[str], held_gestures: Sequence[str] = ()) -> Path:
    """Make the corpus of a fold, without the people left out.

    With few people the last repetition of each gesture is for validation, with many every sixth person.
    held_gestures: gestures that are only tested on; people who are left out are then kept for testing
    """
    folder.mkdir()
    last = {(row.user, row.stage): row for row in base.rows}
    trained = sorted({row.user for row in base.rows} - set(left_out))
    validating = set(trained[::6]) if len(trained) > _FEW else set()
    rows = []
    for row in base.rows:
        user, stage = row.user in left_out, row.stage in held_gestures
        if user and not held_gestures:
            continue
        validates = row.user in validating if validating else last[row.user, row.stage] == row
        split = "test" if user or stage else "val" if validates else "train"
        which = "_".join(name for name, held in (("user", user), ("stage", stage)) if held)
        rows.append(replace(row, split=split, held_out_user=user, held_out_stage=stage, generalization=which))
        os.link(base.file(row), folder / base.file(row).name)
    write_metadata(folder, rows)
    return folder


@dataclass(frozen=True)
class Trained:
    """A bundle, with its checkpoint and with heads of every kind fitted on the same people."""

    checkpoint: Checkpoint
    bundle: Path
    heads: dict[Reads, Head]


def trained_bundle(corpus: Path, recipe: Recipe, work: Path, head: HeadChoice) -> Trained:
    """Train on a fold and export, both into `work`; what is already there is not made again."""
    if not (work / "run" / "checkpoint.json").is_file():
        train(recipe, corpus, work / "run", skip_bad=True)
    checkpoint = load_checkpoint(work / "run")
    if not (work / "fold.cpep").is_dir():
        export_bundle(checkpoint, corpus, work / "fold.cpep", head=head, quant="int8", pose_encoder=False, force=True)
    opened = Corpus.open(corpus)
    heads = fitted_heads(checkpoint, evaluation_set(checkpoint, opened), recipe.seed)
    return Trained(checkpoint, work / "fold.cpep", heads)


@dataclass(frozen=True, slots=True)
class Streamed:
    """The output of a bundle for one recording's windows."""

    tokens: Values  # (n, F), the mean token of each window
    embedding: Values  # (n, D)
    in_float: Values  # (n, D), by the encoder before quantisation; (0,) without one
    by_poses: Labels  # (n,), by the pose index
    as_live: Labels  # (n,), by the bundle as it runs


def streamed(
    people: People,
    recogniser: Recogniser,
    donning: Donning | None,
    numbers: Sequence[int],
    embed: Embed | None = None,
) -> dict[int, Streamed]:
    """Stream recordings through a bundle as if live.

    donning: of a calibration; None: the wearing is one in which the bundle was taught
    embed: the encoder before quantisation
    """
    manifest, head = recogniser.manifest, recogniser.on_arm(donning or Donning())
    names = [people.gestures.index(gesture.name) for gesture in manifest.gestures]
    hop = 1 if manifest.front_end is None else manifest.front_end.hop_samples
    n_steps, found = manifest.input_shape[1], {}  # step 0 belongs to the first complete span
    for number in numbers:
        take = people.takes[number]
        steps = recogniser.stream(donning)(take.emg_uv)
        windows, rows = [], []
        for start in (people.ends(take) - manifest.window_samples) // hop:
            window = np.ascontiguousarray(steps[start : start + n_steps].T)
            embedding = recogniser.encoder.embed(window)
            vote = recogniser.vote(window, embedding, head)
            by_poses = vote if recogniser.index is None else recogniser.index.vote(embedding, manifest.decision.k)
            windows.append(window)
            rows.append((window.mean(axis=1), embedding, names[by_poses.gesture_index], names[vote.gesture_index]))
        tokens, embeddings, poses, live = zip(*rows, strict=True) if rows else ((), (), (), ())
        found[number] = Streamed(
            tokens=np.array(tokens, np.float32),
            embedding=np.array(embeddings, np.float32),
            in_float=np.empty(0, np.float32) if embed is None or not rows else embed(np.stack(windows)),
            by_poses=np.array(poses, np.int64),
            as_live=np.array(live, np.int64),
        )
    return found


def head_inputs(one: Streamed, reads: Reads) -> Values:
    """The input of a head, (n, d)."""
    parts = {"tokens": (one.tokens,), "embedding": (one.embedding,), "both": (one.tokens, one.embedding)}
    joined: Values = np.concatenate(parts[reads], axis=1)
    return joined


RUNS = "the bundle as it runs"
HEAD_ROWS: dict[Reads, str] = {
    "embedding": "encoder + head",
    "tokens": "front end + head",
    "both": "front end and encoder + head",
}


def streamed_arms(
    people: People, recogniser: Recogniser, asked: Sequence[int], trained: Trained
) -> dict[int, Streamed]:
    """Stream all recordings of the donnings tested on, each calibrated by its unlabelled first repetitions."""
    found: dict[int, Streamed] = {}
    embed = torch_embedding(trained.checkpoint.emg)
    for name in sorted({people.takes[number].donning for number in asked}):
        mine = [n for n, take in enumerate(people.takes) if take.donning == name]
        first = [people.takes[number].emg_uv for number in mine if people.takes[number].repetition == 1]
        found |= streamed(people, recogniser, donning_of(recogniser, first), mine, embed)
    return found


def head_answers(
    people: People, trained: Trained, found: dict[int, Streamed], asked: Sequence[int]
) -> dict[Reads, dict[int, Labels]]:
    """The answers of a head of each kind, adapted to the unlabelled first repetitions; by recording."""
    names = np.array([people.gestures.index(name) for name in trained.checkpoint.head_gestures])
    said: dict[Reads, dict[int, Labels]] = {reads: {} for reads in trained.heads}
    for donning in {people.takes[number].donning for number in asked}:
        mine = [number for number in found if people.takes[number].donning == donning]
        for reads, head in trained.heads.items():
            inputs = {number: head_inputs(found[number], reads) for number in mine}
            own = head.adapted(np.concatenate([inputs[n] for n in mine if people.takes[n].repetition == 1]))
            for number in mine:
                said[reads][number] = names[own.log_likelihood(own.project(inputs[number])).argmax(1)]
    return said


def left_out_rows(people: People, trained: Trained, asked: Sequence[int]) -> Answers:
    """The bundle's rows for people whom it was not trained on, calibrated by their unlabelled first repetition."""
    recogniser = Recogniser(Bundle.open(trained.bundle))
    found = streamed_arms(people, recogniser, asked, trained)
    index = recogniser.index_for("a look-up by pose")
    names = [people.gestures.index(gesture.name) for gesture in recogniser.manifest.gestures]
    in_float = [
        np.array([names[index.vote(one, recogniser.manifest.decision.k).gesture_index] for one in found[n].in_float])
        for n in asked
    ]
    said = head_answers(people, trained, found, asked)
    return {
        "encoder in float32, zero-shot": accuracy(people, asked, in_float),
        "encoder, zero-shot by pose templates": accuracy(people, asked, [found[n].by_poses for n in asked]),
        **{HEAD_ROWS[reads]: accuracy(people, asked, [answers[n] for n in asked]) for reads, answers in said.items()},
        RUNS: accuracy(people, asked, [found[n].as_live for n in asked]),
    }


def taught_answers(
    people: People,
    shown: Sequence[int],
    asked: Sequence[int],
    rest: str,
    path: Path,
    calibration: Sequence[NDArray[np.float32]] = (),
) -> dict[int, Labels]:
    """The answers of a bundle that one wearer taught with their own repetitions, streamed as if live.

    shown, asked: numbers of the recordings that teach and that are tested on
    calibration: unlabelled recordings of the wearing that is tested on; none: the bundle was taught in that wearing
    """
    recipe, takes = people.recipe, people.takes
    reading = Reading(recipe.preprocessing(1.0), people.front_end, recipe.windows.window_samples)
    wearings = list(dict.fromkeys(takes[number].donning for number in shown))
    most = {name: max(takes[n].repetition for n in shown if people.gestures[takes[n].gesture] == name) for name in
            {people.gestures[takes[n].gesture] for n in shown}}  # fmt: skip
    n_rounds = max(count for name, count in most.items() if name != rest)
    repetitions = []
    for number in shown:
        take, name = takes[number], people.gestures[takes[number].gesture]
        of_round = take.repetition if name != rest else -(-take.repetition * n_rounds // most[rest])  # rest is frequent
        repetitions.append(Repetition(name, of_round, take.emg_uv, wearings.index(take.donning)))
    write_taught(path, fit_taught(repetitions, rest, reading), repetitions, data="a real wearer's repetitions")
    recogniser = Recogniser(Bundle.open(path))
    donning = donning_of(recogniser, calibration) if calibration else None
    found = streamed(people, recogniser, donning, asked)
    return {number: found[number].as_live for number in asked}

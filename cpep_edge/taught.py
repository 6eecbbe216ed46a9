"""A taught bundle: from a wearer's repetitions to a folder that `live` runs.

By default it has neither encoder nor poses: its head reads the band's log-covariances. If it is based on a trained
bundle for the same band, it takes over that bundle's encoder and poses. The head then reads tokens, embedding or both,
whichever gives the best accuracy on repetitions that are left out. A gesture that is only in the pose index can win
when a window is unlike everything that was taught.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpep_edge.bundle import Bundle, next_version, write_bundle
from cpep_edge.calibration import donning_of, rest_level_of
from cpep_edge.donning import FLAT_SHARE, FLAT_UV, SETTLE_S, Donning
from cpep_edge.errors import ConfigError, DataError
from cpep_edge.golden import Golden
from cpep_edge.head import Head
from cpep_edge.input_stream import InputStream
from cpep_edge.left_out import Judgement, choose_decision, judge
from cpep_edge.manifest import (
    MANIFEST_FILE,
    DecisionSpec,
    FileEntry,
    Gesture,
    HeadSpec,
    Manifest,
    PlacementSpec,
    Provenance,
    WornSpec,
)
from cpep_edge.mpf import turned
from cpep_edge.names import UNKNOWN
from cpep_edge.personal import (
    FIT_HOP_S,
    MAX_TURN,
    Reading,
    Repetition,
    Windows,
    balanced,
    measure_wearings,
    turns_of,
    windows_of,
)
from cpep_edge.recogniser import MeanToken, Recogniser, answer, head_input
from cpep_edge.trust import SigningKey
from cpep_edge.versions import git_commit, installed_versions

HEAD_FILE, GOLDEN_FILE = "head.npz", "golden.npz"
HOP_MS = 25.0
TYPICAL_KEPT = 0.95  # share of correct windows above the typicality below which a gesture of the index alone may win
QUIET = 1.15  # an electrode that stays below this multiple of its level at rest in every gesture is quiet
_GOLDEN_LEAD_S = 0.5
_GOLDEN_TRIED = 5  # windows per gesture, of which the clearest becomes a golden input

Reads = Literal["tokens", "embedding", "both"]


@dataclass(frozen=True, slots=True)
class Base:
    """A trained bundle that a taught bundle is based on."""

    bundle: Bundle
    recogniser: Recogniser
    without: tuple[str, ...] = ()  # its gestures that were taught earlier; they are fitted again or left out


@dataclass(frozen=True, slots=True)
class Taught:
    """The result of fitting to a wearer's repetitions."""

    gestures: tuple[str, ...]  # in the head's order
    rest: str
    unit: Literal["uV", "count"]
    reading: Reading
    donning: Donning  # of the last wearing
    head: Head
    reads: Reads
    min_typicality: float
    decision: DecisionSpec
    judgement: Judgement | None  # None: too few repetitions to judge
    quiet: tuple[int, ...]  # electrodes, from 1, that record nothing of these gestures
    base: Base | None  # None: only the head votes
    passed_over: tuple[str, ...]


def fit_taught(
    repetitions: Sequence[Repetition],
    rest: str,
    reading: Reading,
    unit: Literal["uV", "count"] = "uV",
    base: Base | None = None,
) -> Taught:
    """Fit a head to repetitions, some of which should be of rest.

    base: a trained bundle for the same band; its embedding is tried too
    Raises DataError when there is too little to fit.
    """
    gestures = tuple(dict.fromkeys(one.gesture for one in repetitions))
    gestures = tuple(name for name in gestures if name == rest) + tuple(name for name in gestures if name != rest)
    wearings = sorted({one.wearing for one in repetitions})
    used = [replace(one, wearing=wearings.index(one.wearing)) for one in balanced(repetitions)]
    flat_uv = FLAT_UV if unit == "uV" else _flat_count(used)
    candidates = _candidates(used, gestures, reading, flat_uv, base)
    judged = [(one, judge(one.windows, gestures)) for one in candidates]
    best, found = max(judged, key=lambda pair: -1.0 if pair[1] is None else pair[1][0].accuracy)
    counts = np.bincount(best.windows.gesture, minlength=len(gestures))
    if len(gestures) < 2 or counts.min() < 2:
        raise DataError("too little was recorded to tell gestures apart: record each of two gestures for a second")
    head = best.windows.fit()
    decision = DecisionSpec(hop_ms=HOP_MS) if best.base is None else best.base.recogniser.manifest.decision
    resting = [one.samples for one in repetitions if one.gesture == rest]
    moving = [one.samples for one in repetitions if one.gesture != rest]
    decision = decision.model_copy(
        update={
            "rest_gesture": rest if resting else "",
            "rest_level": rest_level_of(reading.preprocessing, best.donnings[-1], resting, moving),
            "rejection": (),
        }
    )
    judgement, min_typicality = None, 0.0
    if found is not None:
        judgement, held = found
        decision, head, judgement = choose_decision(held, head, judgement, decision, 1 / FIT_HOP_S)
        right = held.answer == held.windows.gesture
        typical = held.typicality[np.arange(len(right)), held.answer][right]
        min_typicality = float(np.quantile(typical, 1 - TYPICAL_KEPT)) if len(typical) else 0.0
    return Taught(
        gestures=gestures,
        rest=rest,
        unit=unit,
        reading=best.reading,
        donning=best.donnings[-1],
        head=head,
        reads=best.reads,
        min_typicality=min_typicality,
        decision=decision,
        judgement=judgement,
        quiet=_quiet(best.reading, best.donnings[-1], resting, moving),
        base=best.base,
        passed_over=tuple(
            f"{one.name}: {other[0].accuracy:.3f} by repetitions left out, against {found[0].accuracy:.3f}"
            for one, other in judged
            if one is not best and other is not None and found is not None
        ),
    )


def write_taught(
    path: Path, taught: Taught, repetitions: Sequence[Repetition], data: str, key: SigningKey | None = None
) -> Manifest:
    """Write the bundle, whole or not at all, in place of an earlier one.

    repetitions: those that it was fitted to; golden inputs are cut from them
    data: where they come from, for the manifest's provenance
    """
    base, old = taught.base, None if taught.base is None else taught.base.recogniser.manifest
    gestures = _gestures(path, taught)
    names = [one.name for one in gestures]
    spec = HeadSpec(
        file=HEAD_FILE,
        reads=taught.reads,
        gestures=tuple(names.index(name) for name in taught.gestures),
        min_typicality=taught.min_typicality,
    )
    golden = _golden(taught, spec, len(names), repetitions)
    donning = taught.donning
    worn = WornSpec(
        order=donning.order,
        level_uv=() if donning.level_uv is None else tuple(donning.level_uv.tolist()),
        dead=donning.dead,
        centre=() if donning.centre is None else tuple(donning.centre.tolist()),
    )
    changed = {HEAD_FILE: taught.head.to_bytes(), GOLDEN_FILE: golden.to_bytes()}

    def fill(folder: Path) -> None:
        if base is not None:
            base.bundle.copy_files(folder, {})
            for name in {base.bundle.manifest.golden_file, *_head_file(base.bundle.manifest)}:
                (folder / name).unlink()
        for name, content in changed.items():
            (folder / name).write_bytes(content)

    def manifest(files: dict[str, FileEntry]) -> Manifest:
        fields = {
            "name": path.stem,
            "version": next_version(path),
            "files": files,
            "golden_file": GOLDEN_FILE,
            "unit": taught.unit,
            "calibration": tuple(name for name in taught.gestures if name not in (taught.rest, UNKNOWN)),
            "level_pattern": tuple(np.log(worn.level_uv).tolist()),
            "worn": worn,
            "head": spec,
            "gestures": gestures,
            "decision": taught.decision,
            "forced": (),
            "passed_over": taught.passed_over,
            "provenance": _provenance(data),
        }
        if old is not None:
            return Manifest.model_validate({**{name: getattr(old, name) for name in Manifest.model_fields}, **fields})
        return Manifest(
            target="any",
            n_channels=taught.reading.front_end.n_electrodes,
            window_samples=taught.reading.window_samples,
            preprocessing=taught.reading.preprocessing,
            front_end=taught.reading.front_end,
            placement=PlacementSpec(max_turn=MAX_TURN),
            **fields,  # type: ignore[arg-type]
        )

    return write_bundle(path, fill, manifest, key)


def _gestures(path: Path, taught: Taught) -> tuple[Gesture, ...]:
    """The gestures of the bundle: those of the base, in the order that its index has them, then the new ones."""
    base = taught.base
    there = [] if base is None else list(base.recogniser.manifest.gestures)
    kept = {one.name: one for one in there if base is not None and one.name not in base.without}
    old = [one.name for one in there]
    names = [name for name in old if name in kept or name in taught.gestures]
    names += [name for name in taught.gestures if name not in old]
    for number, one in enumerate(there):
        if one.n_prototypes and names[number : number + 1] != [one.name]:
            gone = next(name for name in old if name not in names)
            raise ConfigError(f"{path}: forget {gone} first: cpep-edge gestures remove {path} {gone}")
    before = Bundle(path).manifest.gestures if (path / MANIFEST_FILE).is_file() else ()
    called = {one.name: one.called for one in before}
    return tuple(
        kept[name]
        if name in kept and name not in taught.gestures
        else Gesture(
            name=name,
            n_prototypes=kept[name].n_prototypes if name in kept else 0,
            trained=True,
            origin="session",
            called=called.get(name),
        )
        for name in names
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One of the inputs that a head may read."""

    name: str
    reads: Reads
    windows: Windows
    reading: Reading
    donnings: list[Donning]
    base: Base | None


def _candidates(
    repetitions: Sequence[Repetition], gestures: Sequence[str], reading: Reading, flat_uv: float, base: Base | None
) -> list[_Candidate]:
    """The inputs that a head may read, in order of preference among equally accurate ones."""
    found = []
    if base is not None:
        manifest = base.recogniser.manifest
        wearings = range(1 + max(one.wearing for one in repetitions))
        donnings = [
            replace(
                donning_of(base.recogniser, [one.samples for one in repetitions if one.wearing == w]), head_means=None
            )
            for w in wearings
        ]
        all_reads: tuple[Reads, ...] = ("embedding",) if manifest.front_end is None else ("tokens", "embedding", "both")
        its_reading = (
            reading
            if manifest.front_end is None
            else Reading(manifest.preprocessing, manifest.front_end, manifest.window_samples)
        )
        its_reading = replace(its_reading, preprocessing=manifest.preprocessing)
        for reads in all_reads:
            windows = _base_windows(repetitions, base.recogniser, donnings, gestures, reads)
            found.append(_Candidate(f"{reads} of {manifest.name}", reads, windows, its_reading, donnings, base))
        if manifest.front_end is not None:
            return found
    donnings = measure_wearings(repetitions, reading, gestures, flat_uv)
    windows = windows_of(repetitions, reading, donnings, gestures)
    return [_Candidate("log-covariances alone", "tokens", windows, reading, donnings, None), *found]


def _base_windows(
    repetitions: Sequence[Repetition],
    recogniser: Recogniser,
    donnings: Sequence[Donning],
    gestures: Sequence[str],
    reads: Reads,
) -> Windows:
    manifest, n_steps = recogniser.manifest, recogniser.manifest.input_shape[1]
    rate_hz = manifest.preprocessing.sample_rate_hz
    a_step = 1 if manifest.front_end is None else manifest.front_end.hop_samples
    every, settle = max(1, round(FIT_HOP_S * rate_hz / a_step)), round(SETTLE_S * rate_hz / a_step)
    spec = HeadSpec(file=HEAD_FILE, reads=reads, gestures=(0, 1))
    x, label, place, of_round = [], [], [], []
    rounds = sorted({(one.wearing, one.number) for one in repetitions})
    for number, one in enumerate(repetitions):
        worn = donnings[one.wearing]
        steps = recogniser.stream(worn)(one.samples)
        ways = [steps]
        if manifest.front_end is not None:
            n_bands = len(manifest.front_end.bands)
            ways += [turned(steps, turn, n_bands, worn.dead) for turn in turns_of(manifest.front_end)]
        for at in range(settle, len(steps) - n_steps + 1, every):
            read = []
            for way in ways:
                window = np.ascontiguousarray(way[at : at + n_steps].T)
                embedding = np.empty(0, np.float32) if reads == "tokens" else recogniser.encoder.embed(window)
                read.append(head_input(spec, window, embedding))
            x.append(read)
            label.append(gestures.index(one.gesture))
            place.append(number)
            of_round.append(rounds.index((one.wearing, one.number)))
    if not x:
        raise DataError(f"the repetitions are shorter than a window of {manifest.name}")
    as_worn, *as_turned = np.array(x).transpose(1, 0, 2)
    return Windows(as_worn, np.array(label), np.array(place), np.array(of_round), tuple(as_turned))


def _golden(taught: Taught, spec: HeadSpec, n_gestures: int, repetitions: Sequence[Repetition]) -> Golden:
    """Golden inputs with their embeddings and gestures: the clearest window of each gesture's last repetition."""
    base, reading = taught.base, taught.reading
    manifest = None if base is None else base.recogniser.manifest
    encoder = MeanToken() if base is None else base.recogniser.encoder
    index = None if base is None else base.recogniser.index
    front_end = reading.front_end if manifest is None else manifest.front_end
    n_steps = reading.n_tokens if manifest is None else manifest.input_shape[1]
    n = reading.window_samples if manifest is None else manifest.window_samples
    n += round(_GOLDEN_LEAD_S * reading.preprocessing.sample_rate_hz)
    found: list[tuple[NDArray[np.float32], NDArray[np.float32], int]] = []
    for name in taught.gestures:
        last = [one.samples for one in repetitions if one.gesture == name and len(one.samples) >= n]
        tried = []
        for end in np.linspace(n, len(last[-1]), _GOLDEN_TRIED).astype(int) if last else ():
            stretch = last[-1][end - n : end]
            stretch = (stretch - stretch[0]).astype(np.float32)  # the filter would remove the offset anyway
            stream = InputStream(reading.preprocessing, front_end, stretch.shape[1], taught.donning)
            window = stream.last_window(stretch, n_steps)
            embedding = encoder.embed(window)
            vote = answer(window, embedding, index, taught.decision.k, spec, taught.head, n_gestures)
            tried.append((vote.share, stretch, embedding, vote.gesture_index))
        if tried:
            _, stretch, embedding, gesture = max(tried, key=lambda one: one[0])
            found.append((stretch, embedding, gesture))
    if not found:
        raise DataError("every repetition is shorter than a second: hold each gesture for longer")
    stretches, embeddings, answers = zip(*found, strict=True)
    return Golden(np.stack(stretches), np.stack(embeddings), np.array(answers, np.int32))


def _quiet(
    reading: Reading, donning: Donning, resting: Sequence[NDArray[np.float32]], moving: Sequence[NDArray[np.float32]]
) -> tuple[int, ...]:
    """Electrodes, from 1 in the band's order, that are dead or never rise above their level at rest."""
    order = donning.order or tuple(range(reading.front_end.n_electrodes))
    dead = {order[place] for place in donning.dead}
    if resting and moving:
        rest = np.median([_levels(reading, one) for one in resting], axis=0)
        most = np.max([_levels(reading, one) for one in moving], axis=0)
        dead |= set(np.flatnonzero(most < QUIET * rest).tolist())
    return tuple(sorted(electrode + 1 for electrode in dead))


def _levels(reading: Reading, samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """RMS of each channel of a filtered repetition, (C,)."""
    spec = replace(reading.preprocessing, scale_uv=1.0, clip=np.inf)
    filtered = InputStream(spec, None, samples.shape[1]).scaled(samples)
    settled = filtered[round(SETTLE_S * spec.sample_rate_hz) :].astype(np.float64)
    level: NDArray[np.float64] = np.sqrt(np.mean(settled**2, axis=0))
    return level


def _flat_count(repetitions: Sequence[Repetition]) -> float:
    """The level below which a channel of a band in counts is flat: a small share of the channels' usual level."""
    swing = np.median([one.samples.astype(np.float64).std(axis=0) for one in repetitions], axis=0)
    return FLAT_SHARE * float(np.median(swing))


def _head_file(manifest: Manifest) -> tuple[str, ...]:
    return () if manifest.head is None else (manifest.head.file,)


def _provenance(data: str) -> Provenance:
    return Provenance(
        recipe="teach",
        seed=0,
        data=data,
        git_commit=git_commit(),
        versions=installed_versions(("cpep-edge", "numpy", "scipy")),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )

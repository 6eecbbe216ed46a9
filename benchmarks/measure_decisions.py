"""Decisions judged as events on real EMG, and in daily life: right, wrong, missed, extra, how long after the muscle.

    python benchmarks/measure_decisions.py --data DATA --out benchmarks/results/decisions [--only wrist]

DATA: folder with `myo-wrist` and `3dc` in their published layouts. Each person teaches with three repetitions of each
gesture, cut at the onset of EMG, the rest between them and, except in 3DC, 18 s of other movements. The head and the
parameters of decisions are fitted as by `cpep-edge teach`.

- myo-wrist, same session: tested on the other three repetitions, and on the session's minute of small movements to be
  ignored, whose first 18 s were taught.
- myo-wrist, next donning: taught in the first session. The other sessions are calibrated without labels by the first
  repetition of each gesture and 4 s of rest, and tested on the other five.
- both again without other movements in the teaching.
- myo-wrist, person left out: taught by all other people; the first session is calibrated and tested as above.
- 3DC: taught by repetitions 1 to 3, tested on repetitions 5 to 8 joined with rest; the onset is where they are joined.
- simulated people (needs mujoco): five gestures, and five minutes of free movement each with a knock on the electrodes
  every ten seconds.

Onsets are found in the EMG (`cpep_bench.onset`). Ways to decide, each on the same signal:
- belief: `cpep_edge.decisions`, as a taught bundle decides.
- counting: the earlier method; four equal answers in a row, 50 ms apart, and a refractory time of 1.5 s.
- LibEMG: Hudgins' features of 250 ms every 50 ms, linear discriminant, rejection below a posterior of .9 and the
  majority of the last five, as LibEMG's classifier does (Eddy et al. 2023).

All choices were made on the first 16 people of myo-wrist by name; of the other eight only sums over people were seen
before. Intervals are 95 % over people, by bootstrap.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cpep_edge.calibration import ADAPTING_HOP_S
from cpep_edge.decisions import Decider
from cpep_edge.donning import Donning, Tokens, measure_donning, placements, window_means
from cpep_edge.events import Activation, Label, align, score_events
from cpep_edge.folders import write_reports
from cpep_edge.head import Head, calibrate_temperature, fit_head
from cpep_edge.input_stream import InputStream
from cpep_edge.json_text import to_json
from cpep_edge.lesson import Timing
from cpep_edge.live_loop import level
from cpep_edge.manifest import DecisionSpec
from cpep_edge.names import UNKNOWN
from cpep_edge.personal import MAX_TURN, Reading, Repetition, design_reading, windows_of
from cpep_edge.pose_index import Vote
from cpep_edge.taught import HOP_MS, fit_taught
from cpep_edge.versions import git_commit
from cpep_train.realism import features
from decision_recordings import (
    MYO_GESTURES,
    MYO_HZ,
    N_TAUGHT,
    REST,
    THREE_DC_HZ,
    Emg,
    Recording,
    Worn,
    calibration_of,
    knocked,
    others_of,
    read_3dc,
    read_myo,
    repetitions_of,
)
from decision_report import pictures, report

N_CHOSEN_ON = 16
GAP_S = 1.0  # from the end of the last taught prompt to the part that is tested
SPAN_S, HOP_S, STRIDE_S, POSTERIOR, MAJORITY = 0.25, 0.05, 0.05, 0.9, 5  # of LibEMG's way
COUNTED, COUNT_REFRACTORY_S = 4, 1.5  # of counting
EVIDENCE_MS = (50.0, 100.0, 200.0)  # points of belief's curve
N_DRAWS = 2_000
SIMULATED = ("PowerGrip", "OpenHand", "PinchGrip", "WristFlexion", "WristExtension")
SEED, FREE_S = 3, 300.0

Decides = Callable[["Played"], list[Activation]]


@dataclass(frozen=True, slots=True)
class Arm:
    """A head fitted or adapted to one arm."""

    reading: Reading
    donning: Donning
    head: Head
    gestures: tuple[str, ...]
    spec: DecisionSpec


@dataclass(frozen=True, slots=True)
class Played:
    """One recording as the input of the ways to decide."""

    person: str
    recording: Recording  # labels and clear: only of the part that is tested
    hours: float
    time_s: NDArray[np.float64]  # end of each window
    votes: list[Vote | None]  # None: at rest
    arm: Arm
    theirs: tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]  # times, posteriors (n, K), gestures


def taught_arm(repetitions: Sequence[Repetition], rate_hz: float) -> Arm:
    """Fit a wearer's head as `cpep-edge teach` does."""
    reading = design_reading(repetitions[0].samples.shape[1], rate_hz)
    taught = fit_taught(repetitions, REST, reading, unit="count")
    return Arm(taught.reading, taught.donning, taught.head, taught.gestures, taught.decision)


def calibrated(arm: Arm, movement: list[Emg]) -> Arm:
    """Adapt a head to an arm or donning by unlabelled movement, as `calibrate` does."""
    reading, head = arm.reading, arm.head
    other = arm.gestures.index(UNKNOWN) if UNKNOWN in arm.gestures else None
    known = head if other is None else head.without(other)

    def windows(tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        every = max(1, round(ADAPTING_HOP_S * reading.preprocessing.sample_rate_hz / reading.front_end.hop_samples))
        return np.concatenate([window_means(one, reading.n_tokens)[::every] for one in tokens])

    donning = measure_donning(
        movement,
        reading.preprocessing,
        reading.front_end,
        orders=placements(reading.front_end.n_electrodes, MAX_TURN, mirrored=False),
        likelihood=lambda tokens: known.fit_of(windows(tokens)),
    )
    stream = [InputStream(reading.preprocessing, reading.front_end, one.shape[1], donning)(one) for one in movement]
    return replace(arm, donning=donning, head=head.adapted(windows(stream), other))


def others_arms(people: dict[str, list[Worn]]) -> Iterator[tuple[str, Arm]]:
    """For each person, a head fitted to the first repetitions of all other people."""
    fitted: dict[str, list[tuple[NDArray[np.float32], NDArray[np.int64]]]] = {}
    gestures, reading = (REST, *MYO_GESTURES, UNKNOWN), design_reading(8, MYO_HZ)
    for person, wornings in people.items():
        for worn in wornings:
            donning = measure_donning(calibration_of(worn), reading.preprocessing, reading.front_end)
            found = windows_of(lesson_of(worn), reading, [donning], gestures)
            fitted.setdefault(person, []).append((found.x[::3], found.gesture[::3]))
    for person in people:
        others = [name for name in people if name != person]
        asked, used = others[::6], [name for name in others if name not in others[::6]]
        x, y = (np.concatenate([pair[n] for name in used for pair in fitted[name]]) for n in (0, 1))
        held_x, held_y = (np.concatenate([pair[n] for name in asked for pair in fitted[name]]) for n in (0, 1))
        head = fit_head(x, y)
        temperature = calibrate_temperature(head.log_likelihood(head.project(held_x)), held_y)
        spec = DecisionSpec(hop_ms=HOP_MS, evidence_ms=EVIDENCE_MS[1], rest_gesture=REST)
        yield person, Arm(reading, Donning(), replace(head, temperature=temperature), gestures, spec)


def lesson_of(worn: Worn) -> list[Repetition]:
    """The teaching repetitions of one donning."""
    ignored = next(one for one in worn if not one.prompts)
    return repetitions_of(worn, MYO_HZ) + others_of(ignored.emg, MYO_HZ)


def hudgins_of(emg: Emg, rate_hz: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The end of each window in seconds, (n,), and its Hudgins features, (n, F)."""
    n, step = round(SPAN_S * rate_hz), round(STRIDE_S * rate_hz)
    windows = np.lib.stride_tricks.sliding_window_view(emg.astype(np.float64), n, axis=0)[::step].swapaxes(1, 2)
    return (n + step * np.arange(len(windows))) / rate_hz, features(windows - windows.mean(axis=1, keepdims=True))


def features_of(repetitions: Sequence[Repetition], rate_hz: float) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Hudgins' features of taught repetitions and their gestures."""
    rows = [hudgins_of(one.samples, rate_hz)[1] for one in repetitions]
    return np.concatenate(rows), np.repeat([one.gesture for one in repetitions], [len(one) for one in rows])


def their_discriminant(
    taught: Sequence[tuple[NDArray[np.float64], NDArray[np.str_]]],
) -> LinearDiscriminantAnalysis:
    """A linear discriminant on Hudgins' features, as LibEMG's offline classifier."""
    x, names = (np.concatenate([pair[n] for pair in taught]) for n in (0, 1))
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3).fit(x, names)


def play(
    person: str,
    recording: Recording,
    arm: Arm,
    theirs: LinearDiscriminantAnalysis,
    rate_hz: float,
    n_before: int,
    others_before_s: float = 0.0,
) -> Played:
    """Run a recording after its first `n_before` repetitions as in `live`.

    others_before_s: for a recording that is all to be ignored, the length of its part that was taught
    """
    from_s = recording.prompts[n_before - 1][1] / rate_hz + GAP_S if n_before and recording.prompts else 0.0
    if not recording.prompts and others_before_s:
        from_s = others_before_s + GAP_S
    reading, hop = arm.reading, arm.reading.front_end.hop_samples
    stream = InputStream(reading.preprocessing, reading.front_end, recording.emg.shape[1], arm.donning)
    scaled = stream.scaled(recording.emg)
    means = window_means(stream.steps(scaled), reading.n_tokens)
    every = max(1, round(arm.spec.hop_ms * 1e-3 * rate_hz / hop))
    ends = reading.window_samples + hop * np.arange(len(means))
    kept = (ends / rate_hz >= from_s) & (ends // hop % every == 0)
    projected = arm.head.project(means[kept])
    logits = arm.head.log_likelihood(projected) / arm.head.temperature
    weight = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    shares = weight / weight.sum(axis=1, keepdims=True)
    typical, stretch = arm.head.typicality(projected), round(0.1 * rate_hz)
    votes: list[Vote | None] = []
    for n, end in enumerate(ends[kept]):
        best = int(np.argmax(shares[n]))
        quiet = arm.spec.rest_level and level(scaled[end - stretch : end].T) < arm.spec.rest_level
        vote = Vote(best, float(shares[n, best]), float(typical[n, best]), tuple(shares[n].tolist()))
        votes.append(None if quiet else vote)
    times, rows = hudgins_of(recording.emg, rate_hz)
    later = times >= from_s
    labels = recording.labels[n_before:] if recording.prompts else recording.labels
    return Played(
        person,
        replace(recording, labels=labels, clear=recording.clear[len(recording.clear) - len(labels) :]),
        (len(recording.emg) / rate_hz - from_s) / 3600,
        ends[kept] / rate_hz,
        votes,
        arm,
        (times[later], theirs.predict_proba(rows[later]), tuple(theirs.classes_)),
    )


def by_belief(evidence_ms: float | None = None, wake: str = "") -> Decides:
    """The way of `cpep_edge.decisions`."""

    def decide(played: Played) -> list[Activation]:
        spec = played.arm.spec.model_copy(update={"wake_gesture": wake})
        if evidence_ms is not None:
            spec = spec.model_copy(update={"evidence_ms": evidence_ms})
        decider, found = Decider(spec, played.arm.gestures), []
        for time_s, vote in zip(played.time_s, played.votes, strict=True):
            if decider.update(vote) and decider.is_active(decider.gesture):
                found.append(Activation(decider.gesture, float(time_s)))
        return found

    return decide


def by_counting(n_agreeing: int = COUNTED) -> Decides:
    """Decide after so many equal answers in a row, each with at least half of the votes, with a refractory time."""

    def decide(played: Played) -> list[Activation]:
        every = max(1, round(HOP_S * 1e3 / played.arm.spec.hop_ms))
        stands, candidate, agreeing, free_s = "", "", 0, 0.0
        found = []
        for time_s, vote in list(zip(played.time_s, played.votes, strict=True))[::every]:
            answer = REST if vote is None else played.arm.gestures[vote.gesture_index] if vote.share >= 0.5 else ""
            answer = "" if answer == UNKNOWN else answer
            agreeing = agreeing + 1 if answer == candidate else 1
            candidate = answer
            active = answer not in ("", REST)
            if answer == stands or agreeing < n_agreeing or (active and time_s < free_s):
                continue
            stands = answer
            if active:
                found.append(Activation(answer, float(time_s)))
                free_s = time_s + COUNT_REFRACTORY_S
        return found

    return decide


def by_libemg(posterior: float = POSTERIOR) -> Decides:
    """LibEMG's rejection by posterior, and majority vote over the last predictions, including rejected ones."""

    def decide(played: Played) -> list[Activation]:
        times, shares, names = played.theirs
        answers = np.where(shares.max(axis=1) >= posterior, shares.argmax(axis=1), len(names))
        stands, found = "", []
        for n, time_s in enumerate(times):
            counts = np.bincount(answers[max(0, n - MAJORITY + 1) : n + 1], minlength=len(names) + 1)
            gesture = (*names, "")[int(counts.argmax())]
            if gesture not in (stands, "", REST, UNKNOWN):
                found.append(Activation(gesture, float(time_s)))
            stands = gesture
        return found

    return decide


WAYS: dict[str, Decides] = {"belief": by_belief(), "counting": by_counting(), "LibEMG": by_libemg()}


def scored(played: Sequence[Played], decides: Decides) -> dict[str, object]:
    """All figures of one way on one protocol."""
    fell = [decides(one) for one in played]
    people = list(dict.fromkeys(one.person for one in played))
    events = [(one, acts) for one, acts in zip(played, fell, strict=True) if one.recording.labels]
    ignored = [(one, acts) for one, acts in zip(played, fell, strict=True) if not one.recording.labels]
    found: dict[str, object] = {"people": len(people)}
    if events:
        score = score_events(
            [(one.recording.labels, acts) for one, acts in events], sum(one.hours for one, _ in events)
        )
        right, delays = [], []
        for person in people:
            n, n_right = 0, 0
            for one, acts in events:
                if one.person != person:
                    continue
                clear = dict(zip(one.recording.labels, one.recording.clear, strict=True))
                pairs = [pair for pair in align(one.recording.labels, acts).pairs if pair[0].gesture == pair[1].gesture]
                n, n_right = n + len(one.recording.labels), n_right + len(pairs)
                delays += [(act.time_s - label.start_s) * 1e3 for label, act in pairs if clear[label]]
            right.append((n_right, n))
        found |= {
            "events": score.n_events,
            "right": score.n_right / score.n_events,
            "right, interval": interval(right),
            "wrong": score.n_confused / score.n_events,
            "missed": score.n_missed / score.n_events,
            "extra an hour": score.false_activations_per_hour,
            "p50 ms": float(np.percentile(delays, 50)) if delays else None,
            "p90 ms": float(np.percentile(delays, 90)) if delays else None,
            "delays ms": [round(delay) for delay in delays],
            "CLER": score.cler,
            "CLER within 250 ms": score.cler_published,
            "CLER of detected": score.cler_detected,
        }
    if ignored:
        each = [[(len(acts), one.hours) for one, acts in ignored if one.person == person] for person in people]
        sums = [(sum(n for n, _ in mine), sum(hours for _, hours in mine)) for mine in each]
        found["hours ignored"] = sum(hours for _, hours in sums)
        found["false an hour"] = sum(n for n, _ in sums) / sum(hours for _, hours in sums)
        found["false an hour, interval"] = interval(sums)
    return found


def interval(each: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """95 % bootstrap interval over people of the ratio of two sums."""
    values, rng = np.array(each, float), np.random.default_rng(0)
    sums = values[rng.integers(0, len(values), (N_DRAWS, len(values)))].sum(axis=1)
    low, high = np.percentile(sums[:, 0] / sums[:, 1], (2.5, 97.5))
    return float(low), float(high)


def wrist(people: dict[str, list[Worn]]) -> Iterator[tuple[str, list[Played]]]:
    """The protocols on myo-wrist in which people teach for themselves, with the recordings to test on."""
    others_s = N_TAUGHT * Timing().other_s
    for name, lesson in (("", lesson_of), (", other movements not taught", lambda one: repetitions_of(one, MYO_HZ))):
        same, following = [], []
        for person, donnings in people.items():
            for number, one in enumerate(donnings):
                taught = lesson(one)
                arm, theirs = taught_arm(taught, MYO_HZ), their_discriminant([features_of(taught, MYO_HZ)])
                same += [play(person, each, arm, theirs, MYO_HZ, N_TAUGHT, others_s) for each in one]
                if number:
                    continue
                for other in donnings[1:]:
                    there = calibrated(arm, calibration_of(other))
                    following += [play(person, each, there, theirs, MYO_HZ, 1) for each in other]
        yield f"same session{name}", same
        yield f"next donning, calibrated{name}", following


def left_out(people: dict[str, list[Worn]]) -> Iterator[tuple[str, list[Played]]]:
    """The protocol on myo-wrist with a person left out, in which the other people teach."""
    played = []
    rows = {person: [features_of(lesson_of(d)[::2], MYO_HZ) for d in mine] for person, mine in people.items()}
    for person, arm in others_arms(people):
        others = [pair for other, pairs in rows.items() if other != person for pair in pairs]
        theirs = their_discriminant(others)
        there = calibrated(arm, calibration_of(people[person][0]))
        played += [play(person, each, there, theirs, MYO_HZ, 1) for each in people[person][0]]
    yield "person left out, calibrated", played


def three_dc(folder: Path) -> Iterator[tuple[str, list[Played]]]:
    """The protocol on 3DC's joined recordings."""
    played = []
    for person, (taught, joined) in read_3dc(folder).items():
        arm, theirs = taught_arm(taught, THREE_DC_HZ), their_discriminant([features_of(taught, THREE_DC_HZ)])
        played.append(play(person, joined, arm, theirs, THREE_DC_HZ, 0))
    yield "3DC, same session", played


def simulated(n_people: int, free_s: float) -> Iterator[tuple[str, list[Played]]]:
    """The protocols on simulated people: they teach five gestures, make them when prompted, and then move freely."""
    from cpep_train.simulation import simulate_free, simulate_prompted
    from cpep_train.stages import STAGES, WRIST_AND_GRIPS
    from cpep_train.wearers import CPEP_BAND, stream

    stages = {stage.name: stage for stage in (*STAGES, *WRIST_AND_GRIPS)}
    asked = [stages[name] for name in SIMULATED]
    rate_hz, played = CPEP_BAND.sample_rate_hz, []
    for user in range(n_people):
        n_rounds = N_TAUGHT + 4
        made, labels = simulate_prompted(user, 0, asked * n_rounds, SEED)
        n_taught = N_TAUGHT * len(asked)
        taught, ended_s = [], 0.0
        for number, label in enumerate(labels[:n_taught]):
            first, last = (round(s * rate_hz) for s in (label.start_s + 0.3, label.end_s))
            taught.append(Repetition(label.gesture, 1 + number // len(asked), made.emg_uv[first:last]))
            resting = made.emg_uv[round((ended_s + 0.7) * rate_hz) : round((label.start_s - 0.2) * rate_hz)]
            if len(resting) > 0.5 * rate_hz:
                taught.append(Repetition(REST, 1 + number // len(asked), resting))
            ended_s = label.end_s
        free_uv = simulate_free(user, 0, N_TAUGHT * Timing().other_s + free_s, SEED).emg_uv
        taught += others_of(free_uv, rate_hz)
        free_uv = free_uv[sum(len(one.samples) for one in taught if one.gesture == UNKNOWN) :]
        arm, theirs = taught_arm(taught, rate_hz), their_discriminant([features_of(taught, rate_hz)])
        from_s = labels[n_taught - 1].end_s + GAP_S
        rest = made.emg_uv[round(from_s * rate_hz) :]
        later = tuple(Label(one.gesture, one.start_s - from_s, one.end_s - from_s) for one in labels[n_taught:])
        prompted_part = Recording("asked", rest, (), later, (True,) * len(later))
        free = Recording("", knocked(free_uv, rate_hz, stream(SEED, user, 7)))
        played += [play(str(user), one, arm, theirs, rate_hz, 0) for one in (prompted_part, free)]
    yield "simulated, same session; daily life", played


def measure(played: list[Played], chosen_on: set[str]) -> dict[str, object]:
    """All ways on a protocol; with `chosen_on`, separately for people on whom choices were made and for the others."""
    found: dict[str, object] = {"commit": git_commit()}
    for way, decides in WAYS.items():
        found[way] = scored([one for one in played if one.person not in chosen_on], decides)
        if chosen_on:
            found[f"{way}, people chosen on"] = scored([one for one in played if one.person in chosen_on], decides)
    ignored = [one for one in played if not one.recording.labels and one.person not in chosen_on]
    if ignored:
        found["belief, wake gesture"] = scored(
            ignored, lambda one: by_belief(wake=[name for name in one.arm.gestures if name != UNKNOWN][-1])(one)
        )
    others = [one for one in played if one.person not in chosen_on]
    found["curves"] = {
        "belief": [_point(others, by_belief(evidence_ms)) for evidence_ms in EVIDENCE_MS],
        "counting": [_point(others, by_counting(n)) for n in (2, 4, 8)],
        "LibEMG": [_point(others, by_libemg(p)) for p in (0.5, 0.9, 0.99)],
    }
    return found


def _point(played: list[Played], decides: Decides) -> dict[str, object]:
    score = scored(played, decides)
    return {name: score.get(name) for name in ("right", "missed", "extra an hour", "false an hour", "p50 ms")}


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("wrist", "left-out", "3dc", "simulated"))
    parser.add_argument("--people", type=int, help="so many of myo-wrist and of the simulated; all")
    options = parser.parse_args()
    earlier = options.out / "decisions.json"  # protocols not measured now are kept
    figures: dict[str, dict] = json.loads(earlier.read_text())["protocols"] if earlier.exists() else {}
    if options.only in (None, "wrist", "left-out"):
        people = read_myo(options.data / "myo-wrist")
        people = {name: people[name] for name in list(people)[: options.people]}
        chosen_on = set(list(people)[:N_CHOSEN_ON]) if len(people) > N_CHOSEN_ON else set()
        if options.only != "left-out":
            figures |= {protocol: measure(played, chosen_on) for protocol, played in wrist(people)}
        if options.only != "wrist":
            figures |= {protocol: measure(played, chosen_on) for protocol, played in left_out(people)}
    if options.only in (None, "3dc"):
        figures |= {protocol: measure(played, set()) for protocol, played in three_dc(options.data / "3dc")}
    if options.only in (None, "simulated"):
        figures |= {protocol: measure(played, set()) for protocol, played in simulated(options.people or 12, FREE_S)}
    reports = {
        "decisions.json": f"{to_json({'protocols': figures})}\n".encode(),
        "decisions.md": report(figures).encode(),
    }
    write_reports(options.out, {**reports, **pictures(figures)})


if __name__ == "__main__":
    main()

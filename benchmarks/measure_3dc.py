"""The whole loop on real EMG: import the 3DC armband set, train, export, replay what training never saw into `live`.

    python benchmarks/measure_3dc.py FOLDER_OF_3DC --out benchmarks/results/3dc

The first four repetitions of each person train, the last four are played through a simulated wristband, several times
faster than real time. The set has no poses, so pose templates (`cpep_train.pose_templates`) are used for alignment and
in the index. The people tested are those trained on. The peer is Hudgins' features with a linear discriminant, as in
LibEMG (`cpep_train.realism`).
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cpep_bench.machine import Machine, this_machine
from cpep_edge.cli.replay import Replay, calibrate, replay
from cpep_edge.files import write_file
from cpep_edge.json_text import to_json
from cpep_edge.manifest import Manifest
from cpep_edge.names import UNKNOWN
from cpep_edge.versions import git_commit
from cpep_export.native import build_for_target, host_target
from cpep_export.package import export_bundle
from cpep_train.checkpoint import load_checkpoint
from cpep_train.corpus import Corpus, Row
from cpep_train.donnings import Donnings
from cpep_train.evaluate import Score
from cpep_train.import_3dc import import_3dc
from cpep_train.protocols import evaluate
from cpep_train.realism import measure, real_trials
from cpep_train.recipe import load_recipe
from cpep_train.training import train

PARTICIPANTS = tuple(range(1, 9))
SPEED = 8.0  # of the replay: times faster than real time


@dataclass(frozen=True, slots=True)
class Loop:
    """The results of the loop."""

    scores: tuple[Score, ...]
    manifest: Manifest
    replays: dict[str, Replay]  # by person
    machine: Machine

    def recognised(self) -> tuple[int, int]:
        """The number of recordings recognised correctly, and the number played."""
        counts = [played.recognised(trained=True) for played in self.replays.values()]
        return sum(hits for hits, _ in counts), sum(n for _, n in counts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the loop and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of the 3DC armband set: Participant1, ...")
    parser.add_argument("--out", type=Path, required=True, help="results without their suffixes: .md and .json follow")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        loop = run_loop(options.source, Path(folder))
    lda = measure(real_trials(options.source)).same_person_250ms
    for suffix, text in ((".json", to_json(figures(loop, lda)) + "\n"), (".md", markdown(loop, lda))):
        write_file(options.out.with_suffix(suffix), text)
    hits, n = loop.recognised()
    print(f"{hits} of {n} recordings recognised: {options.out.with_suffix('.md')}")


def run_loop(
    source: Path, work: Path, participants: Sequence[int] = PARTICIPANTS, settings: Sequence[str] = ()
) -> Loop:
    """Import, train, evaluate, export and replay; all files are written to `work`.

    settings: changes of the recipe, such as "align.epochs=2"
    """
    import_3dc(source, work / "corpus", participants)
    train(load_recipe("3dc", list(settings)), work / "corpus", work / "run")
    checkpoint = load_checkpoint(work / "run")
    scores = evaluate(checkpoint, work / "corpus")
    native = build_for_target(host_target(), work / "native")
    manifest = export_bundle(checkpoint, work / "corpus", work / "3dc.cpep", native=native)
    corpus, replays = Corpus.open(work / "corpus"), {}
    donnings = Donnings(corpus, checkpoint.recipe, checkpoint.preprocessing)
    people: dict[str, list[Row]] = defaultdict(list)
    for row in corpus.rows:
        if row.split == "test":
            people[row.user].append(row)
    for person, rows in people.items():
        profile = work / f"{person}.json"
        calibrate(corpus, donnings.calibration_rows(rows[0]), work / "3dc.cpep", SPEED, profile)
        replays[person] = replay(corpus, rows, work / "3dc.cpep", SPEED, profile)
    return Loop(tuple(scores), manifest, replays, this_machine())


def figures(loop: Loop, lda: float) -> dict[str, Any]:
    """All figures for JSON, without the single decisions; lda: as for `markdown`."""
    replays = {
        person: {"summary": played.summary, "recordings": played.recordings} for person, played in loop.replays.items()
    }
    provenance = loop.manifest.provenance
    return {"scores": loop.scores, "lda": lda, "ladder": loop.manifest.ladder, "provenance": provenance,
            "machine": loop.machine, "replays": replays}  # fmt: skip


def markdown(loop: Loop, lda: float) -> str:
    """The tables as Markdown.

    lda: balanced accuracy of the peer
    """
    hits, n = loop.recognised()
    (score,) = (score for score in loop.scores if score.users == "known")
    summaries = [played.summary for played in loop.replays.values()]
    provenance, machine = loop.manifest.provenance, loop.machine
    n_frames, n_lost = (sum(getattr(s.link, name) for s in summaries) for name in ("frames", "lost_frames"))
    delays = sorted(summary.delay_p99_ms for summary in summaries if summary.delay_p99_ms is not None)
    rows = [
        ("zero-shot on pose templates, fp32", f"{score.balanced_accuracy:.3f} [{score.low:.3f}, {score.high:.3f}]"),
        *((f"{step.step}, same windows", f"{step.seen:.3f}, {step.vote_agreement:.1%} of votes kept")
          for step in loop.manifest.ladder[1:] if step.seen is not None),
        ("the peer: Hudgins' features and LDA as in LibEMG, same people and split", f"{lda:.3f}"),
        ("recordings recognised in the replay", f"{hits} of {n}"),
        ("frames in the replay", f"{n_frames}, {n_lost} lost"),
        ("delay p99, the worst person's", f"{delays[-1]:.1f} ms" if delays else "-"),
    ]  # fmt: skip
    return "\n".join(
        (
            "# The whole loop on real EMG: the 3DC armband set",
            "",
            "`python benchmarks/measure_3dc.py FOLDER_OF_3DC --out benchmarks/results/3dc`, commit "
            f"`{git_commit() or 'unknown'}`, {machine.n_cpus} CPUs, {machine.cpu}, recipe `{provenance.recipe}`, seed "
            f"{provenance.seed}. {len(loop.replays)} people, 11 gestures, chance {score.chance:.3f}, windows of "
            "250 ms. Repetitions 1-4 of each person train, 5-8 test; no pose was recorded, so the answers come from "
            "**pose templates**. The replay plays repetitions 5-8 back to back through a simulated wristband into "
            f"`cpep-edge live`, at {SPEED:g} times real time; a recording counts as recognised when the right gesture "
            "stood longest.",
            "",
            "| | figure |",
            "| --- | --- |",
            *(f"| {what} | {figure} |" for what, figure in rows),
            "",
            "## The replay, gesture by gesture",
            "",
            "| performed | recordings | recognised | taken for instead |",
            "| --- | --- | --- | --- |",
            *_by_gesture(loop),
            "",
        )
    )


def _by_gesture(loop: Loop) -> list[str]:
    played = [recording for one in loop.replays.values() for recording in one.recordings]
    lines = []
    for stage in sorted({recording.stage for recording in played}):
        answers = [recording.answered for recording in played if recording.stage == stage]
        wrong = {answer: answers.count(answer) for answer in answers if answer != stage}
        instead = ", ".join(f"{name if name != UNKNOWN else 'rejected'} {n}" for name, n in sorted(wrong.items()))
        lines.append(f"| {stage} | {len(answers)} | {answers.count(stage)} | {instead or '-'} |")
    return lines


if __name__ == "__main__":
    main()

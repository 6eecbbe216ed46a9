"""`cpep-edge data`: simulate, import and look at corpora."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cpep_edge.cli.output import print_json, print_table, progress, stderr, stdout
from cpep_edge.errors import CpepError


class Database(StrEnum):
    """The Ninapro databases that can be imported."""

    db1 = "db1"
    db2 = "db2"
    db5 = "db5"
    db8 = "db8"


app = typer.Typer(help="Simulate, import and look at recordings.", no_args_is_help=True)
imports = typer.Typer(help="Write recordings of other sets as sessions.", no_args_is_help=True)
app.add_typer(imports, name="import")

ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace an earlier output that was changed since; never what is not ours.")
]


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    users: Annotated[int, typer.Option(min=1, help="Simulated people; every fourth is held out.")] = 12,
    sessions_per_user: Annotated[int, typer.Option(min=1, help="Donnings of the band by each.")] = 2,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of each stage of a session.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same corpus, bit for bit.")] = 0,
    free_seconds: Annotated[
        float, typer.Option(min=0.0, help="Free movement in each session of people who are not held out; 0: none.")
    ] = 0.0,
    prompted: Annotated[
        int | None, typer.Option(min=1, help="Instead: sessions for eval --protocol live, each gesture so often.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Simulate people wearing the band: EMG and pose from an anatomical hand model, as emg2pose sessions."""
    from cpep_train.prompted import synthesise_prompted
    from cpep_train.simulation import synthesise_corpus

    if 0 < free_seconds < 1:
        raise typer.BadParameter(f"{free_seconds:g} is less than a second", param_hint="--free-seconds")
    with progress("simulating") as advance:
        if prompted is not None:
            counts = {"n_users": users, "sessions_per_user": sessions_per_user}
            synthesise_prompted(out, **counts, repetitions=prompted, seed=seed, force=force, progress=advance)
            stdout.print(out)
            return
        synthesise_corpus(
            out,
            n_users=users,
            sessions_per_user=sessions_per_user,
            seconds=seconds,
            seed=seed,
            force=force,
            free_seconds=free_seconds,
            progress=advance,
        )
    stdout.print(out)


@imports.command("3dc")
def import_3dc(
    source: Annotated[Path, typer.Argument(help="Folder of the 3DC armband set: Participant1, ...")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    participants: Annotated[str, typer.Option(help="Such as 1-8 or 1,3,5-7.")] = "1-8",
    force: ForceOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Import the 3DC armband set: real EMG, 10 channels at 1 kHz, eleven gestures, no pose."""
    from cpep_train import import_3dc as importer

    with progress("importing") as advance:
        summary = importer.import_3dc(source, out, _numbers(participants), advance, force=force)
    if as_json:
        print_json(summary)
        return
    stdout.print(f"{summary.n_files} recordings of {summary.n_participants} people, {summary.hours:.2f} h, in {out}")
    if summary.short_files:
        stdout.print(f"{len(summary.short_files)} are shorter than {importer.SHORT_S:g} s and were kept")
    for people in summary.identical_participants:
        stderr.print(f"warning: {' and '.join(people)} are the same recordings, byte for byte: one person, not several")


@imports.command("ninapro")
def import_ninapro(
    source: Annotated[
        Path, typer.Argument(help="Folder of .mat files: S1_E1_A1.mat, ...; folders in it are searched.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    database: Annotated[Database, typer.Option(help="Which Ninapro database it is.")],
    subjects: Annotated[str, typer.Option(help="Such as 1-8 or 1,3,5-7; all that are there without it.")] = "",
    force: ForceOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Import Ninapro 1, 2, 5 or 8: real EMG, with poses estimated from a data glove."""
    from cpep_train import import_ninapro as importer

    chosen = _numbers(subjects, "--subjects") if subjects else []
    with progress("importing") as advance:
        summary = importer.import_ninapro(source, out, database.value, chosen, advance, force=force)
    if as_json:
        print_json(summary)
        return
    pose = "poses estimated from the glove" if summary.with_pose else "no pose"
    stdout.print(
        f"{summary.n_recordings} recordings of {summary.n_subjects} people, {summary.hours:.2f} h, {pose}, in {out}"
    )


@imports.command("csv")
def import_csv(
    column_map: Annotated[Path, typer.Argument(help="TOML: rate, columns, files; see cpep_train.import_csv.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    force: ForceOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Import CSV files of any band by a column map."""
    from cpep_train import import_csv as importer

    summary = importer.import_csv(column_map, out, force=force)
    if as_json:
        print_json(summary)
        return
    pose = "with poses" if summary.with_pose else "no pose"
    stdout.print(
        f"{summary.n_recordings} recordings of {summary.n_files} files, {summary.hours:.2f} h, {pose}, in {out}"
    )


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Corpus folder or session file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read every sample of a corpus and say what is there, and what is broken."""
    from cpep_train.corpus import corpus_info

    with progress("reading") as advance:
        found = corpus_info(path, advance)
    if as_json:
        print_json(found)
    else:
        rows = [
            ("recordings", str(found.n_files)),
            ("users, of them held out", f"{found.n_users}, {found.n_held_out_users}"),
            ("sessions", str(found.n_sessions)),
            ("hours", f"{found.hours:.2f}"),
            ("splits", ", ".join(f"{split} {n}" for split, n in found.splits.items()) or "no metadata.csv"),
            ("channels", ", ".join(str(n) for n in found.n_channels)),
            ("sample rate", ", ".join(f"{rate:g} Hz" for rate in found.sample_rates_hz)),
            ("gaps", f"{found.n_gaps}, {found.gaps_s:.3f} s in all"),
            ("samples without pose", f"{found.failed_pose_share:.1%}"),
        ]
        print_table(str(path), ("", ""), rows)
        stages = [
            (name, f"{hours * 60:.1f}", "held out" if name in found.unseen_stages else "")
            for name, hours in found.stages.items()
        ]
        print_table("stages", ("", "minutes", ""), stages)
    if found.faults:
        raise CpepError("; ".join(found.faults))


def _numbers(text: str, option: str = "--participants") -> list[int]:
    """The numbers that "1,3,5-7" names."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            numbers.extend(range(int(first), int(last if dash else first) + 1))
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not like 1-8 or 1,3,5-7", param_hint=option) from error
    return numbers

"""`cpep-edge data`: simulate, import and look at corpora."""

from pathlib import Path
from typing import Annotated

import typer

from cpep_edge.cli.output import print_json, print_table, progress, stderr, stdout
from cpep_edge.errors import CpepError

app = typer.Typer(help="Simulate, import and look at recordings.", no_args_is_help=True)
imports = typer.Typer(help="Write recordings of other sets as sessions.", no_args_is_help=True)
app.add_typer(imports, name="import")


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    users: Annotated[int, typer.Option(min=1, help="Simulated people; every fourth is held out.")] = 12,
    sessions_per_user: Annotated[int, typer.Option(min=1, help="Donnings of the band by each.")] = 2,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of each stage of a session.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same corpus, bit for bit.")] = 0,
) -> None:
    """Simulate people wearing the band: EMG and pose from an anatomical hand model, as emg2pose sessions."""
    from cpep_train.simulation import synthesise_corpus

    with progress("simulating") as advance:
        synthesise_corpus(
            out, n_users=users, sessions_per_user=sessions_per_user, seconds=seconds, seed=seed, progress=advance
        )
    stdout.print(out)


@imports.command("3dc")
def import_3dc(
    source: Annotated[Path, typer.Argument(help="Folder of the 3DC armband set: Participant1, ...")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    participants: Annotated[str, typer.Option(help="Such as 1-8 or 1,3,5-7.")] = "1-8",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Import the 3DC armband set: real EMG, 10 channels at 1 kHz, eleven gestures, no pose."""
    from cpep_train import import_3dc as importer

    with progress("importing") as advance:
        summary = importer.import_3dc(source, out, _numbers(participants), advance)
    if as_json:
        print_json(summary)
        return
    stdout.print(f"{summary.n_files} recordings of {summary.n_participants} people, {summary.hours:.2f} h, in {out}")
    if summary.short_files:
        stdout.print(f"{len(summary.short_files)} are shorter than {importer.SHORT_S:g} s and were kept")
    for people in summary.identical_participants:
        stderr.print(f"warning: {' and '.join(people)} are the same recordings, byte for byte: one person, not several")


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


def _numbers(text: str) -> list[int]:
    """The numbers that "1,3,5-7" names."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            numbers.extend(range(int(first), int(last if dash else first) + 1))
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not like 1-8 or 1,3,5-7", param_hint="--participants") from error
    return numbers

"""`cpep-edge data`: simulate, import, inspect and export corpora."""

import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpep_edge.cli.output import print_json, print_table, progress, stderr, stdout
from cpep_edge.errors import ConfigError, CpepError

if TYPE_CHECKING:
    from cpep_train.importing import ImportSummary, Writing

Progress = Callable[[int, int], None]


class Database(StrEnum):
    """The Ninapro databases that can be imported."""

    db1 = "db1"
    db2 = "db2"
    db3 = "db3"
    db5 = "db5"
    db6 = "db6"
    db8 = "db8"


class Side(StrEnum):
    """Which wrist was recorded."""

    left = "left"
    right = "right"
    unknown = "unknown"


class Split(StrEnum):
    """The split that a recording belongs to."""

    train = "train"
    val = "val"
    test = "test"


class Form(StrEnum):
    """The formats that sessions can be exported to."""

    edf = "edf"
    csv = "csv"
    parquet = "parquet"


_MOST = 9_999  # largest number of a person, channel or repetition

app = typer.Typer(help="Simulate, import, inspect and export recordings.", no_args_is_help=True)
imports = typer.Typer(help="Import recordings of other data sets.", no_args_is_help=True)
app.add_typer(imports, name="import")

ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace an earlier output even if it was changed since; other files are never replaced."
    ),
]


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    users: Annotated[
        int,
        typer.Option(min=1, max=1_000_000, help="Number of simulated people; every fourth is held out for testing."),
    ] = 12,
    sessions_per_user: Annotated[
        int,
        typer.Option(
            min=1, max=1_000_000, help="Sessions (wearings) of each person; the band is put on again for each."
        ),
    ] = 2,
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Seconds of each gesture in a session.")] = 10.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed; the same seed gives the same corpus, bit for bit.")
    ] = 0,
    free_seconds: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=3600.0,
            help="Also simulate this many seconds of free movement of the training people; 0: none.",
        ),
    ] = 0.0,
    prompted: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="Simulate recordings for eval --protocol live instead, with this many repetitions of each gesture.",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Simulate people wearing the band: EMG and pose from an anatomical hand model, as emg2pose files."""
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


Source = Annotated[Path, typer.Argument(help="Folder of the data set as published; its subfolders are searched.")]
Out = Annotated[Path, typer.Argument(help="Folder to write.")]


def _how_to_write(
    hold_out_people: Annotated[
        str, typer.Option(help="People to hold out for testing, separated by commas: S1,S3.")
    ] = "",
    validation_people: Annotated[str, typer.Option(help="People for validation, separated by commas: S4.")] = "",
    hold_out_gestures: Annotated[str, typer.Option(help="Gestures to hold out for testing, separated by commas.")] = "",
    rename: Annotated[list[str] | None, typer.Option(help="Rename a gesture: OLD=NEW.")] = None,
    channels: Annotated[str, typer.Option(help="Channels to keep, such as 1-8 or 1,3,5-7; default: all.")] = "",
    skip_start_s: Annotated[
        float, typer.Option(min=0, help="Seconds to skip at the start of each recording, while people react.")
    ] = 0.0,
    resample_hz: Annotated[
        float | None, typer.Option(min=1, help="Resample to this rate in Hz.", show_default="as recorded")
    ] = None,
    choices: Annotated[
        Path | None, typer.Option("--choices", help="TOML file that gives these options as keys.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be imported; write nothing.")] = False,
    force: ForceOption = False,
) -> "Writing":
    """The options that every importer has; they override the file of choices."""
    from cpep_train.importing import Writing, choices_of, load_choices

    over: dict[str, object] = {
        "hold_out_people": _listed(hold_out_people),
        "validation_people": _listed(validation_people),
        "hold_out_gestures": _listed(hold_out_gestures),
        "channels": _numbers(channels, "--channels") if channels else [],
        "rename": dict(_renamed(text) for text in rename or ()),
        "skip_start_s": skip_start_s,
        "resample_hz": resample_hz,
    }
    base = {} if choices is None else load_choices(choices).model_dump()
    chosen = choices_of({**base, **{key: value for key, value in over.items() if value}}, "the options")
    return Writing(chosen, dry_run, force)


def _import_command(name: str) -> "Callable[[Callable[..., ImportSummary]], Callable[..., None]]":
    """Register a command under `data import`. Its options are its own parameters, then those of `_how_to_write`.

    The function is called with its own parameters, `advance` for progress, and the result of `_how_to_write`.
    """

    def registered(command: "Callable[..., ImportSummary]") -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[:-2]  # without `advance` and `writing`
        shared = list(inspect.signature(_how_to_write).parameters.values())
        as_json_help = "Print the summary as one JSON object."
        as_json = inspect.Parameter(
            "as_json",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=False,
            annotation=Annotated[bool, typer.Option("--json", help=as_json_help)],
        )

        def run(**given: Any) -> None:
            as_json = given.pop("as_json")
            writing = _how_to_write(**{one.name: given.pop(one.name) for one in shared})
            with progress("importing") as advance:
                summary = command(**given, advance=advance, writing=writing)
            _print_import(summary, given["out"], writing.dry_run, as_json)

        parameters = [*own, *shared, as_json]
        run.__doc__ = command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return imports.command(name)(run)

    return registered


@_import_command("3dc")
def import_3dc(
    source: Source,
    out: Out,
    participants: Annotated[str, typer.Option(help="Such as 1-8 or 1,3,5-7.")] = "1-8",
    *,
    advance: "Progress",
    writing: "Writing",
) -> "ImportSummary":
    """Import the 3DC armband set: real EMG, 10 channels at 1 kHz, eleven gestures, no pose."""
    from cpep_train.import_3dc import import_3dc as bring

    return bring(source, out, _numbers(participants), advance, writing=writing)


@_import_command("ninapro")
def import_ninapro(
    source: Source,
    out: Out,
    database: Annotated[Database, typer.Option(help="Which Ninapro database it is.")],
    subjects: Annotated[str, typer.Option(help="Such as 1-8 or 1,3,5-7; default: all.")] = "",
    undo_lag: Annotated[
        bool, typer.Option("--undo-lag", help="Move poses earlier by the time that the glove lags behind the EMG.")
    ] = False,
    *,
    advance: "Progress",
    writing: "Writing",
) -> "ImportSummary":
    """Import Ninapro 1, 2, 3, 5, 6 or 8: real EMG, with poses estimated from a data glove."""
    from cpep_train.import_ninapro import import_ninapro as bring

    people = _numbers(subjects, "--subjects") if subjects else []
    return bring(source, out, database.value, people, advance, undo_lag=undo_lag, writing=writing)


@_import_command("myo-wrist")
def import_myo_wrist(source: Source, out: Out, *, advance: "Progress", writing: "Writing") -> "ImportSummary":
    """Import the myo-readings-dataset: one Myo, eight classes, several wearings per person, no pose."""
    from cpep_train.import_myo import import_myo_wrist as bring

    return bring(source, out, advance, writing=writing)


@_import_command("myo-longterm")
def import_myo_longterm(source: Source, out: Out, *, advance: "Progress", writing: "Writing") -> "ImportSummary":
    """Import the Wearable Sensor Long-term sEMG Dataset: one Myo, 22 motions on many days, no pose."""
    from cpep_train.import_myo import import_myo_longterm as bring

    return bring(source, out, advance, writing=writing)


@_import_command("csv")
def import_csv(
    column_map: Annotated[
        Path, typer.Argument(help="TOML: rate, columns, files; see `train/cpep_train/import_csv.py`.")
    ],
    out: Out,
    *,
    advance: "Progress",
    writing: "Writing",
) -> "ImportSummary":
    """Import CSV files of any band by a column map."""
    from cpep_train.import_csv import import_csv as bring

    return bring(column_map, out, writing=writing)


@_import_command("files")
def import_files(
    sources: Annotated[list[Path], typer.Argument(help="Files: EDF, BDF, XDF, OpenSignals HDF5, OpenBCI, Delsys.")],
    out: Out,
    user: Annotated[str, typer.Option(help="Name of the person; default: the name of the file's folder.")] = "",
    session: Annotated[str, typer.Option(help="Name of the session; default: the file's name.")] = "",
    stage: Annotated[str, typer.Option(help="Gesture of the signal without annotation or marker.")] = "",
    side: Annotated[Side, typer.Option(help="Which wrist.")] = Side.unknown,
    split: Annotated[Split, typer.Option(help="Split of all other repetitions.")] = Split.train,
    test_repetitions: Annotated[
        str, typer.Option(help="Repetitions of each gesture for the test split, such as 3 or 5-6.")
    ] = "",
    val_repetitions: Annotated[
        str, typer.Option(help="Repetitions of each gesture for the val split, such as 2.")
    ] = "",
    *,
    advance: "Progress",
    writing: "Writing",
) -> "ImportSummary":
    """Import files of amplifier software (EDF, BDF, XDF, ...); the content of a file tells its format."""
    from cpep_train import import_files as importer

    about = importer.FileChoices(
        user=user,
        session=session,
        stage=stage,
        side=side.value,
        split=split.value,
        test_repetitions=tuple(_numbers(test_repetitions, "--test-repetitions") if test_repetitions else ()),
        val_repetitions=tuple(_numbers(val_repetitions, "--val-repetitions") if val_repetitions else ()),
    )
    return importer.import_files(sources, out, about, advance, writing=writing)


@_import_command("libemg")
def import_libemg(
    source: Source,
    out: Out,
    sample_rate_hz: Annotated[float, typer.Option(min=1, help="Samples per second, which the files do not contain.")],
    test_repetitions: Annotated[
        str, typer.Option(help="Repetitions for the test split, such as 4-5; default: the last.")
    ] = "",
    *,
    advance: "Progress",
    writing: "Writing",
) -> "ImportSummary":
    """Import a folder written by LibEMG: files R_<repetition>_C_<class>, no pose."""
    from cpep_train.import_files import import_libemg as bring

    tested = _numbers(test_repetitions, "--test-repetitions", least=0) if test_repetitions else []
    return bring(source, out, sample_rate_hz, tested, advance, writing=writing)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _renamed(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not OLD=NEW", param_hint="--rename")
    return old.strip(), new.strip()


def _print_import(summary: "ImportSummary", out: Path, dry_run: bool, as_json: bool) -> None:
    for note in summary.notes:
        stderr.print(f"note: {note}", soft_wrap=True)
    if as_json:
        print_json(summary)
        return
    pose = "with pose" if summary.with_pose else "no pose"
    what = (
        f"{summary.n_recordings} recordings of {summary.n_files} files, {len(summary.people)} people, "
        f"{len(summary.gestures)} gestures, {summary.hours:.2f} h, {pose}, "
        f"{', '.join(map(str, summary.n_channels))} channels at "
        f"{', '.join(f'{rate:g}' for rate in summary.sample_rates_hz)} Hz"
    )
    where = "nothing was written" if dry_run else f"in {out}"
    stdout.print(f"{what}; {where}", soft_wrap=True)
    splits = ", ".join(f"{split} {n}" for split, n in summary.splits.items())
    stdout.print(f"splits: {splits}; gestures: {', '.join(summary.gestures)}", soft_wrap=True)
    left_out = "; ".join(f"{n} left out ({reason})" for reason, n in summary.left_out.items()) or "none left out"
    stdout.print(f"{summary.n_samples_read} samples read, {summary.n_samples_kept} kept, {left_out}", soft_wrap=True)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Corpus folder or recording.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a corpus or a recording: what it contains, and what is broken."""
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
        print_table("good for", ("", "what is missing"), [(use.name, use.missing or "-") for use in found.uses])
    if found.faults:
        raise CpepError("; ".join(found.faults))


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="Recording, or corpus folder for all of its recordings.")],
    out: Annotated[Path, typer.Argument(help="File to write; for a corpus, the folder.")],
    form: Annotated[
        Form | None,
        typer.Option(
            "--format",
            help="Format; edf is EDF+ with EMG and label, 16 bits.",
            show_default="of a session the ending of the file's name, of a corpus edf",
        ),
    ] = None,
) -> None:
    """Write recordings for other software: EDF+, CSV or Parquet."""
    from cpep_train.corpus import Corpus
    from cpep_train.export_sessions import export_session

    if out.exists():
        raise ConfigError(f"{out} exists; choose another name, or move it away")
    if path.is_file():
        ending = out.suffix.lower().removeprefix(".")
        if ending not in tuple(Form):
            raise typer.BadParameter(f"{out} ends in none of .{', .'.join(Form)}", param_hint="OUT")
        if form not in (None, ending):
            raise typer.BadParameter(f"{form} is another format than the ending of {out} says", param_hint="--format")
        stdout.print(export_session(path, out, Form(ending).value))
        return
    corpus, form = Corpus.open(path), form or Form.edf
    with progress("exporting") as advance:
        for done, row in enumerate(corpus.rows, start=1):
            export_session(corpus.file(row), out / f"{row.filename}.{form.value}", form.value)
            advance(done, len(corpus.rows))
    stdout.print(f"{len(corpus.rows)} files in {out}")


@app.command()
def pack(
    data: Annotated[Path, typer.Argument(help="Corpus folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: metadata.csv, shards.json and the shards.")],
    url: Annotated[str, typer.Option(help="Where you will put the shards: s3://bucket/folder, gs://, https://.")] = "",
    shard_mb: Annotated[int, typer.Option(min=1, help="Approximate size of a shard in MB.")] = 256,
) -> None:
    """Pack a corpus into shards that training can stream from object storage."""
    from cpep_train.packing import pack_corpus

    if out.exists():
        raise ConfigError(f"{out} exists; choose another name, or move it away")
    with progress("packing") as advance:
        n = pack_corpus(data, out, url=url, shard_bytes=shard_mb << 20, progress=advance)
    stdout.print(f"{n} shards in {out}" + (f"; move shard-*.tar to {url}" if url else ""))


@app.command()
def view(
    session: Annotated[Path, typer.Argument(help="Recording.")],
    out: Annotated[Path | None, typer.Option(help="PNG to write; default: beside the recording.")] = None,
) -> None:
    """Draw a recording as a picture: signal, spectrum, label and pose."""
    from cpep_train.session_view import draw_session

    picture = out or session.with_suffix(".png")
    if picture.suffix.lower() != ".png":
        raise typer.BadParameter(f"{picture} does not end in .png, which the picture is", param_hint="--out")
    if picture.exists():
        raise ConfigError(f"{picture} exists; choose another name with --out, or move it away")
    stdout.print(draw_session(session, picture))


def _numbers(text: str, option: str = "--participants", least: int = 1) -> list[int]:
    """Parse a list of numbers such as "1,3,5-7"."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            more = range(int(first), int(last if dash else first) + 1)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not like 1-8 or 1,3,5-7", param_hint=option) from error
        if more[-1:] and more[-1] > _MOST:
            raise typer.BadParameter(f"{text!r}: numbers go up to {_MOST:,}", param_hint=option)
        if not more:
            raise typer.BadParameter(f"{part.strip()} in {text!r} runs backwards", param_hint=option)
        if more[0] < least:
            raise typer.BadParameter(f"{text!r}: numbers start at {least}", param_hint=option)
        twice = next((number for number in more if number in numbers), None)
        if twice is not None:
            raise typer.BadParameter(f"{text!r} names {twice} twice", param_hint=option)
        numbers.extend(more)
    return numbers

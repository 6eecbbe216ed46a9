"""`cpep-edge gestures`: list the gestures of a bundle, and add, rename or remove some without training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpep_edge.cli.output import print_json, print_table, stderr, stdout
from cpep_edge.cli.trust import KeyOption, SignOption, TrustOption, ask_password, tell_unsigned
from cpep_edge.names import UNKNOWN

if TYPE_CHECKING:
    from cpep_edge.enrolment import OpenBundle
    from cpep_edge.trust import SigningKey

app = typer.Typer(help="List, add and remove the gestures of a bundle.", no_args_is_help=True)

BundleArgument = Annotated[Path, typer.Argument(help="Bundle folder, NAME.cpep.")]


@app.command("list")
def list_gestures(
    bundle: BundleArgument,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List gestures: how many prototypes each has, and which other gesture is most similar."""
    from cpep_edge.bundle import Bundle
    from cpep_edge.enrolment import Confusion, confusions
    from cpep_edge.pose_index import load_index

    opened = Bundle.open(bundle, key)
    manifest = opened.manifest
    names = manifest.gesture_names
    if manifest.index is None:
        found = [Confusion(name, "", 0.0) for name in names]
    else:
        content = opened.read(manifest.index.file)
        index = load_index(content, manifest.index, n_gestures=len(names), d_embed=manifest.d_embed)
        found = confusions(index, names, manifest.decision.k)
    rows = list(zip(manifest.gestures, found, strict=True))
    if as_json:
        print_json(
            {
                "gestures": [
                    {**gesture.model_dump(), "nearest": other.nearest, "nearest_share": other.share}
                    for gesture, other in rows
                ]
            }
        )
        return
    header = ("gesture", "prototypes", "from", "EMG trained on", "nearest other", "of its neighbours")
    print_table(
        f"{len(names)} gestures",
        header,
        [
            (
                g.name if g.called is None else f"{g.name}, reads {g.called}",
                str(g.n_prototypes),
                "other movements" if g.name == UNKNOWN else g.origin,
                "yes" if g.trained else "no",
                c.nearest or "-",
                f"{c.share:.0%}",
            )
            for g, c in rows
        ],
    )


@app.command("add")
def add(
    bundle: BundleArgument,
    name: Annotated[str, typer.Argument(help="Name of the new gesture.")],
    from_pose: Annotated[
        Path | None,
        typer.Option(help="Joint angles in radians: CSV with one row, or several with a time_s column; or HDF5."),
    ] = None,
    from_session: Annotated[
        Path | None, typer.Option(help="A few seconds of EMG of the gesture, from cpep-edge record.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Calibration of that recording, from cpep-edge calibrate.")
    ] = None,
    key: KeyOption = None,
    trust: TrustOption = False,
    sign: SignOption = None,
) -> None:
    """Add a gesture from joint angles or from a few seconds of EMG; nothing is trained."""
    from cpep_edge.calibration import load_profile
    from cpep_edge.enrolment import add_from_session, add_gesture, prototypes_from_pose
    from cpep_edge.left_out import CAN_WIN
    from cpep_edge.outside import printable

    if (from_pose is None) == (from_session is None):
        raise typer.BadParameter("give one of --from-pose and --from-session")
    with _to_edit(bundle, key, trust, sign) as (opened, signing_key):
        opened.require_new(name)
        before = opened.bundle.manifest
        if from_pose is not None:
            manifest = add_gesture(opened, name, prototypes_from_pose(opened, from_pose), "pose file", signing_key)
        elif from_session is not None:
            if before.calibration and profile is None and before.worn is None:
                stderr.print("the bundle expects calibrated signal: give the --profile of this recording")
            donning = None if profile is None else load_profile(profile).donning(before)
            enrolled = add_from_session(opened, name, from_session, donning, signing_key)
            manifest = enrolled.manifest
            if enrolled.won < CAN_WIN:
                stderr.print(
                    f"{printable(name)} will hardly ever be decided: {1 - enrolled.won:.0%} of the recording's later "
                    f"half is taken for others, most for {printable(enrolled.taken_for)}: choose another movement",
                    soft_wrap=True,
                )
    tell_unsigned(before.signer, manifest.signer)
    n = manifest.gestures[-1].n_prototypes
    how = f"with {n} prototypes" if n else "in the head"
    stdout.print(f"{bundle}, version {manifest.version}: {name} {how}")


@app.command("rename")
def rename(
    bundle: BundleArgument,
    name: Annotated[str, typer.Argument(help="The gesture's label, as `list` shows it.")],
    called: Annotated[str, typer.Argument(help='New name to show; "" shows the label again.')],
    key: KeyOption = None,
    trust: TrustOption = False,
    sign: SignOption = None,
) -> None:
    """Change the name of a gesture on the screen and the page; sinks and files keep its label."""
    from cpep_edge.enrolment import rename_gesture
    from cpep_edge.outside import printable

    with _to_edit(bundle, key, trust, sign) as (opened, signing_key):
        manifest = rename_gesture(opened, name, called, signing_key)
    tell_unsigned(opened.bundle.manifest.signer, manifest.signer)
    stdout.print(f"{bundle}, version {manifest.version}: {name} is shown as {printable(manifest.shown(name))}")


@app.command("remove")
def remove(
    bundle: BundleArgument,
    name: Annotated[str, typer.Argument(help="Gesture to remove.")],
    key: KeyOption = None,
    trust: TrustOption = False,
    sign: SignOption = None,
) -> None:
    """Remove a gesture."""
    from cpep_edge.enrolment import remove_gesture

    with _to_edit(bundle, key, trust, sign) as (opened, signing_key):
        manifest = remove_gesture(opened, name, signing_key)
    tell_unsigned(opened.bundle.manifest.signer, manifest.signer)
    stdout.print(f"{bundle}, version {manifest.version}: {len(manifest.gestures)} gestures, without {name}")


@contextmanager
def _to_edit(
    bundle: Path, key: Path | None, trust: bool, sign: Path | None
) -> "Iterator[tuple[OpenBundle, SigningKey | None]]":
    """Yield the bundle, locked against other changes, and the key to sign it with again."""
    from cpep_edge.enrolment import OpenBundle
    from cpep_edge.trust import load_signing_key

    signing_key = None if sign is None else load_signing_key(sign, ask_password())
    with OpenBundle.to_edit(bundle, key, trust=trust) as opened:
        yield opened, signing_key

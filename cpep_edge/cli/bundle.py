"""`cpep-edge export`, `inspect` and `verify`: make a bundle, show its content, check it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cpep_edge.cli.output import print_json, print_table, progress, stderr, stdout
from cpep_edge.cli.trust import KeyOption, SignOption, TrustOption, ask_password
from cpep_edge.names import UNKNOWN

if TYPE_CHECKING:
    from cpep_edge.chip import CortexMSpec, EthosUSpec
    from cpep_edge.manifest import Manifest


Target = Literal["linux", "linux-aarch64", "cortex-m", "ethos-u55", "ethos-u85"]
Quantisation = Literal["auto", "int8", "int8-dynamic", "fp32"]
HeadChoice = Literal["auto", "index", "tokens", "embedding", "both"]
Search = Literal["auto", "hnsw", "exact"]


def export(
    run: Annotated[
        Path, typer.Argument(help="Folder of a finished training run; or `box`, the encoder that ships with cpep-edge.")
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to write, NAME.cpep.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Corpus for calibration windows, reference poses and evaluation; box needs none."),
    ] = None,
    target: Annotated[
        Target | None,
        typer.Option(
            help="Device to export for; linux is x86-64. Bundles for chips run here too.", show_default="this machine"
        ),
    ] = None,
    chip: Annotated[
        str | None, typer.Option(help="Chip by name, such as nrf54l15; fail if the bundle does not fit.")
    ] = None,
    chip_ram: Annotated[
        int | None, typer.Option(min=1, help="RAM of the chip in KiB; fail if the bundle needs more.")
    ] = None,
    chip_flash: Annotated[
        int | None, typer.Option(min=1, help="Flash of the chip in KiB; fail if the bundle needs more.")
    ] = None,
    quant: Annotated[
        Quantisation, typer.Option(help="Quantisation; auto: the smallest one that keeps the accuracy.")
    ] = "auto",
    head: Annotated[
        HeadChoice,
        typer.Option(
            help="What recognises trained gestures: the pose index, or a classifier on the front end's tokens, the "
            "encoder's embedding, or both. auto: the most accurate one on the validation recordings."
        ),
    ] = "auto",
    index: Annotated[
        Search, typer.Option(help="Search of the pose index; auto: the faster one for its size.")
    ] = "auto",
    pose_encoder: Annotated[
        bool, typer.Option(help="Include the pose encoder, so that gestures can be added from joint angles.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Export even if accuracy drops by more than the limit.")
    ] = False,
    bundle_version: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Version of the bundle; devices that check signatures refuse lower versions than they ran.",
            show_default="next",
        ),
    ] = None,
    sign: SignOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON object.")] = False,
) -> None:
    """Export a run as a bundle for a device: int8 encoder, pose index, test inputs, and a manifest with hashes."""
    chip_target = target if target == "cortex-m" or target == "ethos-u55" or target == "ethos-u85" else None
    if chip_target is None and (chip or chip_ram or chip_flash):
        raise typer.BadParameter("only cortex-m and ethos-u have a chip", param_hint="--chip, --chip-ram, --chip-flash")
    from cpep_edge.trust import load_signing_key
    from cpep_export.chips import find_chip
    from cpep_export.native import build_for_target, host_target
    from cpep_export.package import check_out, export_bundle
    from cpep_train.boxed import BOX, box_folder, write_box_corpus
    from cpep_train.checkpoint import load_checkpoint
    from cpep_train.leakage import load_splits

    limits = find_chip(chip, chip_ram, chip_flash)
    check_out(out)
    signing_key = None if sign is None else load_signing_key(sign, ask_password())
    boxed = run == Path(BOX) and data is None
    checkpoint = load_checkpoint(box_folder() if boxed else run)
    if data is None and not boxed:
        raise typer.BadParameter(f"the corpus of {run} is needed; only {BOX} does without", param_hint="--data")
    if checkpoint.splits is None and not boxed:
        load_splits(run)  # raises an error that says what is missing
    with TemporaryDirectory() as scratch, progress("exporting") as advance:
        if data is None:
            data = Path(scratch) / "simulated-people"
            write_box_corpus(data)
        linux = host_target() if chip_target else target or host_target()
        native = build_for_target(linux, Path(scratch) / "native")
        manifest = export_bundle(
            checkpoint,
            data,
            out,
            quant=quant,
            head=head,
            search=index,
            native=native,
            chip_target=chip_target,
            chip=limits,
            pose_encoder=pose_encoder,
            force=force,
            version=bundle_version,
            key=signing_key,
            progress=advance,
        )
    _print_manifest(manifest, as_json)
    if boxed:
        stderr.print(
            "This encoder was trained on simulated people only, and real arms differ from them. On a real arm, teach "
            "your own gestures: cpep-edge teach own.cpep --port PORT"
        )


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON object.")] = False,
) -> None:
    """Show what is inside a bundle: target, sizes, gestures, accuracy after each export step, signer."""
    from cpep_edge.bundle import Bundle

    _print_manifest(Bundle.open(bundle, key).manifest, as_json)


def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    key: KeyOption = None,
    trust: TrustOption = False,
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Check only hashes and, with a key, the signature; run nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Check a bundle: its hashes, its files, and the answers to its test inputs.

    With a key, the signature is checked before anything else. Test inputs run in a separate process, so that a crash
    only fails the check.
    """
    from cpep_edge.trusted_keys import configured_key
    from cpep_edge.verify import verify_bundle

    report = verify_bundle(bundle, configured_key(key), trust=trust, run=not hashes)
    if as_json:
        print_json(report)
    else:
        stdout.print(
            f"{bundle} is complete: {report.n_files} files match the manifest, "
            + (
                "no code of it was run; "
                if report.smallest_cosine is None
                else f"{report.n_golden} golden inputs give their gestures (smallest cosine "
                f"{report.smallest_cosine:.5f}); "
            )
            + (f"signed by key {report.signed_by}" if report.signed_by else "no key was given to check who made it")
        )


def _print_manifest(manifest: "Manifest", as_json: bool) -> None:
    if as_json:
        print_json(manifest)
        return
    pose = manifest.pose
    size_bytes = sum(entry.size_bytes for entry in manifest.files.values())
    signer = f"by key {manifest.signer}, see cpep-edge verify --key" if manifest.signer else "none"
    rows = [
        ("version", str(manifest.version)),
        ("signature", signer),
        ("target", manifest.target),
        *_encoder_rows(manifest),
        (
            "signal",
            f"{manifest.n_channels} channels at {manifest.preprocessing.sample_rate_hz:g} Hz, in {manifest.unit}",
        ),
        ("window", f"{manifest.window_samples} samples{_blocks(manifest)}"),
        *_answering_rows(manifest),
        ("learns gestures from poses", "no" if pose is None else f"of {len(pose.joints)} joint angles"),
        *((f"  {name}", f"{entry.size_bytes:,} bytes") for name, entry in manifest.files.items()),
        ("size", f"{size_bytes:,} bytes"),
        ("recipe", f"{manifest.provenance.recipe}, seed {manifest.provenance.seed}"),
        ("data", manifest.provenance.data),
        ("commit", manifest.provenance.git_commit or "unknown"),
        ("created", manifest.provenance.created_utc),
        *(("passed over", reason) for reason in manifest.passed_over),
        *(("forced, although", reason) for reason in manifest.forced),
    ]
    print_table(manifest.name, ("", ""), rows)
    if manifest.chip is not None:
        print_table("on the chip", ("", ""), _chip_rows(manifest.chip))
    header = ("", "prototypes", "from", "EMG trained on")
    gestures = [
        (
            g.name,
            str(g.n_prototypes),
            "other movements" if g.name == UNKNOWN else g.origin,
            "yes" if g.trained else "no",
        )
        for g in manifest.gestures
    ]
    print_table("gestures", header, gestures)
    if manifest.ladder:
        print_ladder(manifest)


def _encoder_rows(manifest: "Manifest") -> list[tuple[str, str]]:
    encoder = manifest.encoder
    if encoder is None:
        return [("encoder", "none: it was taught by its wearer, and runs anywhere")]
    return [
        ("encoder", f"{encoder.quantisation}, {encoder.n_parameters:,} parameters, {encoder.runtime}"),
        ("runs without torch on", manifest.native.architecture if manifest.native else "no machine"),
        ("delegates / operators outside", f"{encoder.n_delegates} / {encoder.n_operators_outside}"),
    ]


def _answering_rows(manifest: "Manifest") -> list[tuple[str, str]]:
    """Rows about the index and the head."""
    index, head, rows = manifest.index, manifest.head, []
    if index is not None:
        graph = index.graph
        searched = "compared completely" if graph is None else f"HNSW graph, m {graph.m}, ef {graph.ef}"
        searched += "" if index.search == "auto" else f", as --index {index.search} asked"
        rows.append(("index", f"{index.n_prototypes} prototypes of {manifest.d_embed} numbers, {searched}"))
        rows.append(("penalty on trained gestures", f"{index.seen_penalty:g} off their cosines"))
    if head is not None:
        what = f"of {len(head.gestures)} gestures, reads {head.reads}"
        rows.append(("head", what if head.answers else f"{what}; the index answers"))
    return rows


def _chip_rows(chip: "CortexMSpec | EthosUSpec") -> list[tuple[str, str]]:
    kept = f"{chip.votes_kept:.1%} of {chip.n_windows} windows"
    fidelity = [
        ("cosine to float32, smallest / mean", f"{chip.min_cosine:.4f} / {chip.mean_cosine:.4f}"),
        ("votes", kept),
    ]
    if chip.kind == "ethos-u":
        vela = chip.vela
        return [
            *fidelity,
            (f"{vela.accelerator}, {vela.how}", f"{vela.cycles:,} cycles, {vela.inference_ms:.2f} ms a window"),
            ("SRAM / flash, modelled (Vela)", f"{vela.sram_bytes:,} / {vela.flash_bytes:,} bytes"),
        ]
    runs = [
        (
            f"{run.processor} under QEMU",
            f"{run.instructions_a_window:,} instructions a window, "
            f"{run.ram_bytes:,} bytes of RAM, {run.code_bytes:,} of code",
        )
        for run in chip.runs
    ]
    return [*fidelity, ("weights / arena", f"{chip.weight_bytes:,} / {chip.arena_bytes:,} bytes"), *runs]


def print_ladder(manifest: "Manifest") -> None:
    """Print zero-shot balanced accuracy at each step from the trained module to the bundle, on the same windows."""
    rows = [step.cells() for step in manifest.ladder]
    header = ("step", "seen", "unseen", "seen among all", "unseen among all", "harmonic mean", "same vote")
    print_table("accuracy ladder, zero-shot balanced accuracy", header, rows)


def _blocks(manifest: "Manifest") -> str:
    stream = None if manifest.encoder is None else manifest.encoder.stream
    return "" if stream is None else f", streamed in blocks of {stream.block_samples}"

"""`cpep-edge keygen` and `sign`: who made a bundle; and the option by which other commands ask for it."""

from pathlib import Path
from typing import Annotated

import typer

from cpep_edge.cli.output import stderr, stdout

KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar="CPEP_EDGE_KEY",
        help="Public key that must have signed the bundle; without it cpep-edge/key.pem under ~/.config or /etc.",
    ),
]
SignOption = Annotated[Path | None, typer.Option("--sign", help="Secret key that signs the bundle.")]


def keygen(
    out: Annotated[Path, typer.Argument(help="File for the secret key; the public one goes beside it, as OUT.pub.")],
) -> None:
    """Make a pair of Ed25519 keys: the secret one signs bundles, the public one goes on the devices that check them."""
    from cpep_edge.trust import generate_keys

    public = generate_keys(out)
    stdout.print(f"{out} signs and stays secret; {public.file} goes on the devices. Fingerprint {public.fingerprint}.")


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    key: Annotated[Path, typer.Option("--key", help="Secret key, from cpep-edge keygen.")],
) -> None:
    """Sign a bundle that exists, after checking its hashes."""
    from cpep_edge.bundle import sign_bundle
    from cpep_edge.trust import load_signing_key

    manifest = sign_bundle(bundle, load_signing_key(key))
    stdout.print(f"{bundle}, version {manifest.version}, is signed by key {manifest.signer}")


def tell_unsigned(was: str | None, now: str | None) -> None:
    """Say it when a change has cost a bundle its signature."""
    if was is not None and now is None:
        stderr.print("the bundle was signed and no longer is: sign it with cpep-edge sign, or give --sign next time")

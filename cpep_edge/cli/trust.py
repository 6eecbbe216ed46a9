"""`cpep-edge keygen`, `sign`, `root` and `trust`: keys and signatures of bundles, and options for other commands."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cpep_edge.cli.output import stderr, stdout
from cpep_edge.errors import CpepError

_TRUST = "Trust"

KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        rich_help_panel=_TRUST,
        envvar="CPEP_EDGE_KEY",
        help="Accept only bundles signed by this public key or root file; default: cpep-edge/root.json or key.pem in "
        "~/.config or /etc, if there.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        rich_help_panel=_TRUST,
        help="Allow this bundle's code to run here from now on, although it is not signed by a trusted key.",
    ),
]
SignOption = Annotated[Path | None, typer.Option("--sign", help="Sign the bundle with this secret key.")]


def keygen(
    out: Annotated[Path, typer.Argument(help="File for the secret key; the public key is written to OUT.pub.")],
) -> None:
    """Make a pair of Ed25519 keys: a secret one to sign bundles, and a public one for devices to check them."""
    from cpep_edge.trust import generate_keys

    public = generate_keys(out)
    stdout.print(
        f"{out} is the secret key, to sign with; copy {public.file} to the devices. Fingerprint {public.fingerprint}."
    )


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    key: Annotated[Path, typer.Option("--key", help="Secret key, from cpep-edge keygen.")],
) -> None:
    """Sign an existing bundle after checking its hashes."""
    from cpep_edge.bundle import sign_bundle
    from cpep_edge.trust import load_signing_key

    manifest = sign_bundle(bundle, load_signing_key(key, ask_password()))
    stdout.print(f"{bundle}, version {manifest.version}, is signed by key {manifest.signer}")


def ask_password() -> Callable[[str], str] | None:
    """A function that asks for the password of a key with hidden input; None when stdin is not a terminal."""
    if not sys.stdin.isatty():
        return None
    return lambda what: str(typer.prompt(what, hide_input=True, err=True))


def root(
    out: Annotated[Path, typer.Argument(help="Root file to write; an existing one gets its next version.")],
    sign: Annotated[
        list[Path],
        typer.Option("--sign", help="Secret root key to sign with; if root keys change, give an old and a new one."),
    ],
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            "--allow", help="Public key that may sign bundles; keys left out are revoked. Default: unchanged."
        ),
    ] = None,
    root_key: Annotated[
        list[Path] | None,
        typer.Option("--root-key", help="Public key that may sign root files. Default: unchanged, or those of --sign."),
    ] = None,
) -> None:
    """Write a signed list of the keys that may sign bundles, so that keys can be replaced or revoked."""
    from cpep_edge.root_file import load_root, write_root
    from cpep_edge.trust import load_public_key, load_signing_key

    signers = [load_signing_key(file, ask_password()) for file in sign]
    before = load_root(out) if out.exists() else None
    known = [signer.public for signer in signers] if before is None else before.root_keys
    roots = known if root_key is None else [load_public_key(file) for file in root_key]
    allowed = (() if before is None else before.bundle_keys) if allow is None else list(map(load_public_key, allow))
    written = write_root(out, signers, root_keys=roots, bundle_keys=allowed)
    keys = ", ".join(key.fingerprint for key in written.bundle_keys) or "none"
    stdout.print(f"{out}, version {written.version}: bundles are signed by {keys}; on devices: cpep-edge trust {out}")


def trust(
    root_file: Annotated[Path, typer.Argument(help="Root file, from cpep-edge root.")],
) -> None:
    """Install a root file: from now on only bundles signed by its keys run here. Older versions are refused."""
    from cpep_edge.root_file import install_root
    from cpep_edge.trusted_keys import ROOT_FILE, user_configuration

    configuration = user_configuration()
    if configuration is None:
        raise CpepError("there is no place for the root file of a user without a home: set XDG_CONFIG_HOME to a folder")
    place = configuration / ROOT_FILE
    installed = install_root(root_file, place)
    stdout.print(f"{place}, version {installed.version}, lists the keys whose bundles run here")


def tell_unsigned(was: str | None, now: str | None) -> None:
    """Warn the user when a bundle has lost its signature by a change."""
    if was is not None and now is None:
        stderr.print("the bundle lost its signature: sign it again with cpep-edge sign, or add --sign next time")

"""Signatures and versions; the bundle here is small and made by hand, because nothing of it is run."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cpep_edge.bundle import DIGEST_FILE, MANIFEST_FILE, SIGNATURE_FILE, Bundle, sign_bundle
from cpep_edge.errors import ArtifactError, ConfigError, CpepError
from cpep_edge.trust import (
    PublicKey,
    SigningKey,
    configured_key,
    generate_keys,
    load_public_key,
    load_signing_key,
)

pytestmark = pytest.mark.executorch  # the bundle is that of the toy encoder


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine remembers and trusts stays in the test's folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    file = tmp_path_factory.mktemp("keys") / "maker.pem"
    generate_keys(file)
    return load_signing_key(file)


@pytest.fixture(scope="module")
def public(secret: SigningKey) -> PublicKey:
    return load_public_key(secret.file.with_name("maker.pem.pub"))


@pytest.fixture
def signed(tiny_bundle: Path, secret: SigningKey, tmp_path: Path) -> Path:
    path = tmp_path / "signed.cpep"
    shutil.copytree(tiny_bundle, path)
    sign_bundle(path, secret)
    return path


def as_version(bundle: Path, version: int, key: SigningKey) -> Path:
    """The same bundle under another version, signed."""
    path = bundle.with_name(f"version-{version}.cpep")
    shutil.copytree(bundle, path)
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    (path / SIGNATURE_FILE).unlink(missing_ok=True)
    reseal(path, {**manifest, "version": version, "signer": None})
    sign_bundle(path, key)
    return path


def reseal(bundle: Path, manifest: dict[str, object]) -> None:
    """Write a manifest with a digest that fits, as anyone can."""
    import hashlib

    content = json.dumps(manifest).encode()
    (bundle / MANIFEST_FILE).write_bytes(content)
    (bundle / DIGEST_FILE).write_text(f"{hashlib.sha256(content).hexdigest()}  {MANIFEST_FILE}\n")


def test_a_signed_bundle_is_accepted_with_its_makers_key(signed: Path, public: PublicKey) -> None:
    manifest = Bundle(signed, public).manifest

    assert manifest.signer == public.fingerprint


def test_openssl_agrees_with_the_signature(signed: Path, public: PublicKey) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files = ("-in", signed / MANIFEST_FILE, "-sigfile", signed / SIGNATURE_FILE)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public.file, "-rawin", *files]

    answer = subprocess.run(command, capture_output=True, text=True, check=False)

    assert answer.stdout.strip() == "Signature Verified Successfully", answer.stderr


def test_a_bundle_without_signature_is_refused_where_a_key_is_asked_for(tiny_bundle: Path, public: PublicKey) -> None:
    with pytest.raises(ArtifactError, match=r"is not signed, and .*maker\.pem\.pub must have signed it"):
        Bundle(tiny_bundle, public)


def test_a_bundle_signed_with_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    other = generate_keys(tmp_path / "other.pem")

    with pytest.raises(ArtifactError, match=r"the signature is not that of .*other\.pem\.pub"):
        Bundle(signed, other)


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_a_changed_signature_is_refused(signed: Path, public: PublicKey, at: int) -> None:
    signature = bytearray((signed / SIGNATURE_FILE).read_bytes())
    signature[at] ^= 1
    (signed / SIGNATURE_FILE).write_bytes(signature)

    with pytest.raises(ArtifactError, match="signature"):
        Bundle(signed, public)


def test_a_manifest_that_was_changed_and_sealed_again_is_refused(signed: Path, public: PublicKey) -> None:
    manifest = json.loads((signed / MANIFEST_FILE).read_text())
    manifest["gestures"][0]["name"] = "Rest"
    reseal(signed, manifest)

    assert Bundle(signed).manifest.gestures[0].name == "Rest"  # without a key, hashes are all there is
    with pytest.raises(ArtifactError, match="signature"):
        Bundle(signed, public)


def test_the_signature_is_checked_before_the_manifest_is_parsed(signed: Path, public: PublicKey) -> None:
    (signed / MANIFEST_FILE).write_bytes(b"no JSON at all")

    with pytest.raises(ArtifactError, match="the signature is not that of"):
        Bundle(signed, public)


def test_a_library_is_never_loaded_from_a_bundle_of_another_maker(signed: Path, tmp_path: Path) -> None:
    """Through the command line, in a process of its own, whose memory map would show the library."""
    import sys

    other = generate_keys(tmp_path / "other.pem")
    code = f"""
from pathlib import Path
from cpep_edge.trust import load_public_key
from cpep_edge.verify import verify_bundle
try:
    verify_bundle(Path({str(signed)!r}), load_public_key(Path({str(other.file)!r})))
except Exception as error:
    print(error)
print("libcpep_encoder" in Path("/proc/self/maps").read_text())
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    said, loaded = answer.stdout.splitlines()
    assert "the signature is not that of" in said
    assert loaded == "False"


def test_a_signature_that_a_manifest_speaks_of_and_that_is_gone_is_missed(signed: Path) -> None:
    (signed / SIGNATURE_FILE).unlink()

    with pytest.raises(ArtifactError, match=SIGNATURE_FILE):
        Bundle(signed).check_files()


def test_an_older_version_is_refused_after_a_newer_one_ran(
    tiny_bundle: Path, tmp_path: Path, secret: SigningKey, public: PublicKey
) -> None:
    bundle = tmp_path / "tiny.cpep"
    shutil.copytree(tiny_bundle, bundle)
    older, newer = as_version(bundle, 3, secret), as_version(bundle, 4, secret)
    Bundle(older, public).keep_older_out()
    Bundle(newer, public).keep_older_out()
    Bundle(newer, public)  # again is no offence

    with pytest.raises(ArtifactError, match="version 3 of tiny is older than version 4, which ran here"):
        Bundle(older, public)
    assert Bundle(older).manifest.version == 3  # without a key, nobody asks


def test_looking_at_a_bundle_keeps_no_older_one_out(
    tiny_bundle: Path, tmp_path: Path, secret: SigningKey, public: PublicKey
) -> None:
    bundle = tmp_path / "tiny.cpep"
    shutil.copytree(tiny_bundle, bundle)
    Bundle(as_version(bundle, 9, secret), public)

    Bundle(as_version(bundle, 8, secret), public)


def test_another_bundle_of_the_same_version_is_refused(signed: Path, secret: SigningKey, public: PublicKey) -> None:
    Bundle(signed, public).keep_older_out()
    manifest = json.loads((signed / MANIFEST_FILE).read_text())
    manifest["decision"]["debounce_hops"] += 1
    (signed / SIGNATURE_FILE).unlink()
    reseal(signed, {**manifest, "signer": None})
    sign_bundle(signed, secret)

    with pytest.raises(ArtifactError, match="another bundle ran here as version"):
        Bundle(signed, public)


def test_a_damaged_memory_of_versions_is_said(signed: Path, public: PublicKey, tmp_path: Path) -> None:
    file = tmp_path / "state" / "cpep-edge" / "seen-versions.json"
    file.parent.mkdir(parents=True)
    file.write_text("[1, 2")

    with pytest.raises(CpepError, match="is damaged; remove it to start anew"):
        Bundle(signed, public)


def test_a_new_secret_key_is_for_its_owner_alone_and_never_replaces_one(tmp_path: Path) -> None:
    file = tmp_path / "new.pem"
    generate_keys(file)

    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="exists"):
        generate_keys(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no public key"),
        (b"not a key", "no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
    ],
)
def test_a_file_that_is_no_key_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "key").write_bytes(content)

    with pytest.raises(ConfigError, match=said):
        load_public_key(tmp_path / "key")


def test_a_secret_key_is_no_public_one_and_the_reverse(secret: SigningKey, public: PublicKey) -> None:
    with pytest.raises(ConfigError, match="no public key"):
        load_public_key(secret.file)
    with pytest.raises(ConfigError, match="no secret key"):
        load_signing_key(public.file)


def test_a_key_of_another_kind_is_said(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    with pytest.raises(ConfigError, match="another kind"):
        load_public_key(tmp_path / "ec.pem")


def test_a_key_that_protects_itself_is_said(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    protected = BestAvailableEncryption(b"password")
    content = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protected)
    (tmp_path / "locked.pem").write_bytes(content)

    with pytest.raises(ConfigError, match="password"):
        load_signing_key(tmp_path / "locked.pem")


def test_a_key_file_that_was_asked_for_and_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such key file"):
        configured_key(tmp_path / "nowhere.pub")


def test_the_key_of_the_users_configuration_is_asked_for(public: PublicKey, tmp_path: Path) -> None:
    assert configured_key(None) is None
    file = tmp_path / "config" / "cpep-edge" / "key.pem"
    file.parent.mkdir(parents=True)
    shutil.copy(public.file, file)

    found = configured_key(None)

    assert found is not None
    assert (found.raw, found.file) == (public.raw, file)


def cpep_edge(*arguments: object) -> Result:
    from cpep_edge.cli import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_keys_are_made_and_a_bundle_is_signed_on_the_command_line(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, key = tmp_path / "tiny.cpep", tmp_path / "maker.pem"
    shutil.copytree(tiny_bundle, bundle)

    assert cpep_edge("keygen", key).exit_code == 0
    assert cpep_edge("sign", bundle, "--key", key).exit_code == 0
    answer = cpep_edge("verify", bundle, "--key", f"{key}.pub", "--json")

    assert json.loads(answer.stdout)["signed_by"] == load_signing_key(key).public.fingerprint


def test_the_environment_can_ask_for_a_key(
    tiny_bundle: Path, public: PublicKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPEP_EDGE_KEY", str(public.file))

    answer = cpep_edge("verify", tiny_bundle)

    assert isinstance(answer.exception, ArtifactError)
    assert "is not signed" in str(answer.exception)


def test_live_refuses_what_is_not_signed_before_it_opens_the_port(tiny_bundle: Path, public: PublicKey) -> None:
    answer = cpep_edge("live", tiny_bundle, "--port", "/dev/ttyNOWHERE", "--key", public.file)

    assert isinstance(answer.exception, ArtifactError)
    assert "is not signed" in str(answer.exception)


@pytest.mark.parametrize("where", [(), ("--on-device",)])
def test_live_keeps_older_versions_out_from_then_on(
    tiny_bundle: Path, tmp_path: Path, secret: SigningKey, public: PublicKey, where: tuple[str, ...]
) -> None:
    bundle = tmp_path / "tiny.cpep"
    shutil.copytree(tiny_bundle, bundle)
    older, newer = as_version(bundle, 5, secret), as_version(bundle, 6, secret)

    started = cpep_edge("live", newer, "--port", "/dev/ttyNOWHERE", "--key", public.file, *where)
    refused = cpep_edge("live", older, "--port", "/dev/ttyNOWHERE", "--key", public.file, *where)

    assert "/dev/ttyNOWHERE" in str(started.exception)  # the bundle was good, the port is not there
    assert "version 5 of tiny is older than version 6" in str(refused.exception)


def test_inspect_tells_versions_signatures_and_what_a_bundle_learns_from(signed: Path, public: PublicKey) -> None:
    page = cpep_edge("inspect", signed).stdout
    manifest = json.loads(cpep_edge("inspect", signed, "--json").stdout)

    assert public.fingerprint in page
    assert "compact index" in page
    assert manifest["signer"] == public.fingerprint
    assert [gesture["origin"] for gesture in manifest["gestures"]] == ["corpus"] * 6

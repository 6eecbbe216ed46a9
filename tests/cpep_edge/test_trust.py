"""Signatures and versions; the bundle here is small and made by hand, because nothing of it is run."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cpep_edge.bundle import DIGEST_FILE, SIGNATURE_FILE, Bundle, next_version, sign_bundle
from cpep_edge.cli import app
from cpep_edge.errors import ArtifactError, ConfigError, CpepError
from cpep_edge.manifest import MANIFEST_FILE
from cpep_edge.recogniser import Recogniser
from cpep_edge.root_file import install_root, load_root, write_root
from cpep_edge.trust import (
    MAX_VERSION,
    PublicKey,
    SigningKey,
    configured_key,
    generate_keys,
    load_public_key,
    load_signing_key,
)
from cpep_edge.verify import verify_bundle

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
    content = json.dumps(manifest).encode()
    (bundle / MANIFEST_FILE).write_bytes(content)
    (bundle / DIGEST_FILE).write_text(f"{hashlib.sha256(content).hexdigest()}  {MANIFEST_FILE}\n")


def test_a_signed_bundle_is_accepted_with_its_makers_key(signed: Path, public: PublicKey) -> None:
    manifest = Bundle(signed, public).manifest

    assert manifest.signer == public.fingerprint


def test_openssl_agrees_with_the_signature(signed: Path, public: PublicKey) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
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
    manifest["decision"]["release_ms"] += 1
    (signed / SIGNATURE_FILE).unlink()
    reseal(signed, {**manifest, "signer": None})
    sign_bundle(signed, secret)

    with pytest.raises(ArtifactError, match="another bundle ran here as version"):
        Bundle(signed, public)


def test_a_damaged_memory_of_versions_is_said(signed: Path, public: PublicKey, tmp_path: Path) -> None:
    file = tmp_path / "state" / "cpep-edge" / "seen-versions.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("[1, 2")

    with pytest.raises(CpepError, match="is damaged; remove it to start anew"):
        Bundle(signed, public)


def test_a_memory_of_versions_that_is_a_pipe_is_said_at_once(signed: Path, public: PublicKey, tmp_path: Path) -> None:
    file = tmp_path / "state" / "cpep-edge" / "seen-versions.json"
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(file)

    with pytest.raises(CpepError, match="cannot be read: it is no plain file"):
        Bundle(signed, public)


@pytest.mark.parametrize("sign_bit", [0, 1])
@pytest.mark.parametrize(
    "y",
    [
        "00" * 32,  # order 4
        "01" + "00" * 31,  # order 1
        "ec" + "ff" * 30 + "7f",  # order 2
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # order 8, as the next
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ed" + "ff" * 30 + "7f",  # 0 and 1 again, not reduced
        "ee" + "ff" * 30 + "7f",
    ],
)
def test_a_key_that_signs_anything_is_no_key(tmp_path: Path, y: str, sign_bit: int) -> None:
    raw = bytes.fromhex(y)[:-1] + bytes([bytes.fromhex(y)[-1] | sign_bit << 7])
    # with S = 0 and R of small order, R = S B - h A holds for an eighth of all contents at least
    assert not any(
        PublicKey(raw, tmp_path).signed(b"%d" % n, point + bytes(32))
        for n in range(16)
        for point in (raw, b"\1" + bytes(31))
    )
    pem = base64.b64encode(bytes.fromhex("302a300506032b6570032100") + raw).decode()
    (tmp_path / "weak.pub").write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n")
    with pytest.raises(ConfigError, match=r"weak\.pub is a key for which any signature is right"):
        load_public_key(tmp_path / "weak.pub")


def test_a_public_key_is_not_for_others_to_write_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public = generate_keys(tmp_path / "k")
    finally:
        os.umask(before)
    assert [public.file.stat().st_mode & 0o777, (tmp_path / "k").stat().st_mode & 0o777] == [0o644, 0o600]


def test_above_the_last_version_is_one_sentence(signed: Path, secret: SigningKey) -> None:
    last = as_version(signed, MAX_VERSION - 1, secret)
    with pytest.raises(ArtifactError, match="has the highest version that there is"):
        next_version(last)


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


@pytest.fixture
def locked_key(tmp_path: Path) -> Path:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    protected = BestAvailableEncryption(b"password")
    file = tmp_path / "locked.pem"
    file.touch(0o600)
    file.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protected))
    return file


def test_the_password_of_a_key_is_asked_for(locked_key: Path) -> None:
    asked = []

    def ask(what: str) -> str:
        asked.append(what)
        return "password"

    assert load_signing_key(locked_key, ask).sign(b"x")
    assert asked == [f"password of {locked_key}"]


def test_another_password_or_none_to_ask_for_is_said(locked_key: Path) -> None:
    with pytest.raises(ConfigError, match="that is not the password of"):
        load_signing_key(locked_key, lambda what: "guess")
    with pytest.raises(ConfigError, match="no terminal to ask for it on"):
        load_signing_key(locked_key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_secret_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    generate_keys(tmp_path / "new.pem")
    (tmp_path / "new.pem").chmod(mode)

    with pytest.raises(ConfigError, match="may be read or written by others, so it is no secret: run chmod 600"):
        load_signing_key(tmp_path / "new.pem")


@pytest.mark.parametrize("hidden", ["key.pem", "root.json", "folder", "config"])
def test_a_link_that_leads_nowhere_does_not_mean_that_no_key_is_asked_for(tmp_path: Path, hidden: str) -> None:
    config = tmp_path / "config"
    place = {"folder": config / "cpep-edge", "config": config}.get(hidden, config / "cpep-edge" / hidden)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(tmp_path / "gone")

    with pytest.raises(ConfigError, match="is a link that leads nowhere"):
        configured_key(None)


def test_a_link_in_a_circle_is_not_taken_for_no_key(tmp_path: Path) -> None:
    (tmp_path / "config" / "cpep-edge").mkdir(parents=True)
    (tmp_path / "config" / "cpep-edge" / "key.pem").symlink_to("key.pem")

    with pytest.raises(ConfigError):
        configured_key(None)


def test_a_key_in_a_folder_that_may_not_be_searched_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = Path.lstat

    def refuse(path: Path) -> object:
        if path.name == "key.pem":
            raise PermissionError(13, "Permission denied")
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", refuse)  # root, whom tests may run as, is refused nothing

    with pytest.raises(ConfigError, match="cannot see whether there is a key"):
        configured_key(None)


def test_the_key_named_in_the_environment_is_asked_for_everywhere(
    public: PublicKey, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    monkeypatch.setenv("CPEP_EDGE_KEY", str(public.file))

    with pytest.raises(ArtifactError, match="is not signed"):
        Bundle.open(tiny_bundle)


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
    assert "compact" in page  # "compact index", on two lines where the terminal is narrow
    assert manifest["signer"] == public.fingerprint
    assert [gesture["origin"] for gesture in manifest["gestures"]] == ["corpus"] * 6


def test_code_from_elsewhere_waits_for_trust_which_is_remembered(tiny_bundle: Path, tmp_path: Path) -> None:
    """This test's machine has not made the bundle: its memory is empty."""
    if Bundle(tiny_bundle).manifest.native is None:
        pytest.skip("the bundle carries no library")
    with pytest.raises(ArtifactError, match="carries code that was not made on this machine"):
        Recogniser(Bundle(tiny_bundle))
    with pytest.raises(ArtifactError, match="--trust once"):
        verify_bundle(tiny_bundle)

    assert verify_bundle(tiny_bundle, run=False).n_golden == 0  # hashes need no trust
    Bundle(tiny_bundle, trust=True)
    Recogniser(Bundle(tiny_bundle))

    other = tmp_path / "other.cpep"
    shutil.copytree(tiny_bundle, other)
    manifest = json.loads((other / MANIFEST_FILE).read_text())
    reseal(other, {**manifest, "version": 99})
    with pytest.raises(ArtifactError, match="carries code"):  # trust is in one bundle, not in its name or place
        Recogniser(Bundle(other))


def test_a_key_is_trust_enough(signed: Path, public: PublicKey) -> None:
    assert verify_bundle(signed, public).n_golden > 0


def test_what_is_made_here_may_run_here(tiny_bundle: Path, tmp_path: Path, secret: SigningKey) -> None:
    copy = tmp_path / "copy.cpep"
    shutil.copytree(tiny_bundle, copy)
    sign_bundle(copy, secret)

    Recogniser(Bundle(copy))


def test_nothing_of_an_untrusted_bundle_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    """A library that leaves a mark when it is loaded, under hashes that fit, as anyone can make them."""
    if shutil.which("cc") is None or Bundle(tiny_bundle).manifest.native is None:
        pytest.skip("no C compiler, or the bundle carries no library")
    evil, mark = tmp_path / "evil.cpep", tmp_path / "ran"
    shutil.copytree(tiny_bundle, evil)
    manifest = json.loads((evil / MANIFEST_FILE).read_text())
    library = manifest["native"]["libraries"][0]
    (tmp_path / "evil.c").write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void f(void) {{ fopen("{mark}", "w"); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", evil / library, tmp_path / "evil.c"], check=True)
    manifest["files"][library] = {
        "sha256": hashlib.sha256((evil / library).read_bytes()).hexdigest(),
        "size_bytes": (evil / library).stat().st_size,
    }
    reseal(evil, manifest)

    answers = [
        subprocess.run([sys.executable, "-m", "cpep_edge", *command], capture_output=True, text=True, check=False)
        for command in (
            ["verify", str(evil)],
            ["verify", str(evil), "--hashes"],
            ["inspect", str(evil)],
            ["gestures", "list", str(evil)],
            ["gestures", "remove", str(evil), "ShakaVulcanPeace"],
            ["doctor", "--bundle", str(evil), "--seconds", "1"],
            ["live", str(evil), "--port", "/dev/null"],
            ["replay", str(evil), str(evil)],
            ["bench", str(evil), "--out", str(tmp_path / "bench")],
        )
    ]

    assert not mark.exists()
    refused = [
        answer
        for answer in answers
        if "carries code that was not made on this machine" in " ".join((answer.stderr + answer.stdout).split())
    ]
    assert len(refused) == len(answers) - 3  # hashes, inspect and list run nothing
    trusted = subprocess.run([sys.executable, "-m", "cpep_edge", "verify", str(evil), "--trust"], check=False)
    assert trusted.returncode == 1
    assert mark.exists()  # the mark works


def test_every_command_that_opens_a_bundle_asks_for_the_key(
    tiny_bundle: Path, public: PublicKey, tmp_path: Path
) -> None:
    runner = CliRunner()
    for command in (
        ["verify", str(tiny_bundle)],
        ["inspect", str(tiny_bundle)],
        ["calibrate", str(tiny_bundle), "--port", "/dev/null", "--out", str(tmp_path / "profile.json")],
        ["gestures", "list", str(tiny_bundle)],
        ["gestures", "remove", str(tiny_bundle), "ShakaVulcanPeace"],
        ["live", str(tiny_bundle), "--port", "/dev/null"],
        ["replay", str(tiny_bundle), str(tiny_bundle)],
        ["bench", str(tiny_bundle), "--out", str(tmp_path / "bench")],
        ["eval", str(tiny_bundle), "--data", str(tmp_path), "--protocol", "live"],
    ):
        answer = runner.invoke(app, [*command, "--key", str(public.file)])
        assert "is not signed" in str(answer.exception), (command, answer.output)


def test_a_process_that_is_told_which_bundle_takes_no_other(signed: Path, secret: SigningKey) -> None:
    opened = Bundle(signed)
    other = as_version(signed, 7, secret)
    shutil.rmtree(signed)
    other.rename(signed)

    with pytest.raises(ArtifactError, match="was replaced by another bundle while it was in use"):
        Bundle(signed, manifest_sha256=opened.manifest_sha256)


def test_an_older_bundle_under_another_name_is_older(signed: Path, secret: SigningKey, public: PublicKey) -> None:
    """The maker once signed it under that name; who may choose what lies on the device can bring it back."""
    newest = as_version(signed, 5, secret)
    Bundle(newest, public).keep_older_out()
    renamed = as_version(signed, 3, secret)
    (renamed / SIGNATURE_FILE).unlink()
    reseal(renamed, {**json.loads((renamed / MANIFEST_FILE).read_text()), "name": "another", "signer": None})
    sign_bundle(renamed, secret)

    with pytest.raises(ArtifactError, match=r"version 3 of another, which never ran here, is below version 5 of .*"):
        Bundle(renamed, public)
    Bundle(renamed, public, trust=True).keep_older_out()
    Bundle(renamed, public)  # once said, it is another model


def test_versions_remembered_at_once_are_all_remembered(tmp_path: Path) -> None:
    count = 12
    code = (
        "import sys; from pathlib import Path; from cpep_edge.trust import PublicKey, remember_version; "
        "remember_version(PublicKey(bytes(32), Path('x')), sys.argv[1], 5, 'a' * 64)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, f"bundle-{number}"], env=environment) for number in range(count)
    ]

    assert [process.wait() for process in started] == [0] * count
    assert len(json.loads((tmp_path / "state" / "cpep-edge" / "seen-versions.json").read_text())) == count


@pytest.fixture
def root_keys(tmp_path: Path) -> list[SigningKey]:
    for name in ("root-a", "root-b", "maker-a", "maker-b"):
        generate_keys(tmp_path / name)
    return [load_signing_key(tmp_path / name) for name in ("root-a", "root-b", "maker-a", "maker-b")]


def test_a_key_is_replaced_by_a_new_root_file_and_the_old_one_no_longer_counts(
    tiny_bundle: Path, tmp_path: Path, root_keys: list[SigningKey]
) -> None:
    root, _, old, new = root_keys
    by_old = tmp_path / "by-old.cpep"
    shutil.copytree(tiny_bundle, by_old)
    sign_bundle(by_old, old)
    file, place = tmp_path / "root.json", tmp_path / "config" / "cpep-edge" / "root.json"
    write_root(file, [root], root_keys=[root.public], bundle_keys=[old.public])
    install_root(file, place)
    Bundle.open(by_old).keep_older_out()

    write_root(file, [root], root_keys=[root.public], bundle_keys=[new.public])
    install_root(file, place)

    with pytest.raises(ArtifactError, match="the signature is not that of"):
        Bundle.open(by_old)
    sign_bundle(by_old, new)
    with pytest.raises(ArtifactError, match="another bundle ran here as version"):  # a new key opens no way back
        Bundle.open(by_old)
    Bundle.open(as_version(by_old, 9, new))


def test_a_root_file_is_followed_only_by_a_later_one_that_a_root_key_of_both_has_signed(
    tmp_path: Path, root_keys: list[SigningKey]
) -> None:
    first, second, maker, _ = root_keys
    file, place = tmp_path / "root.json", tmp_path / "place" / "root.json"
    write_root(file, [first], root_keys=[first.public], bundle_keys=[maker.public])
    version_1 = file.read_bytes()
    install_root(file, place)

    with pytest.raises(ConfigError, match="one of its root keys must sign it"):
        write_root(file, [maker], root_keys=[first.public], bundle_keys=[maker.public])
    with pytest.raises(ConfigError, match="is signed by no root key of"):
        write_root(file, [second], root_keys=[second.public], bundle_keys=[maker.public])
    write_root(file, [first, second], root_keys=[second.public], bundle_keys=[maker.public])
    assert install_root(file, place).version == 2

    (tmp_path / "old.json").write_bytes(version_1)
    with pytest.raises(ConfigError, match="is version 1, and .* is version 2"):
        install_root(tmp_path / "old.json", place)
    write_root(tmp_path / "strange.json", [first], root_keys=[first.public], bundle_keys=[])
    with pytest.raises(ConfigError, match="is version 1"):
        install_root(tmp_path / "strange.json", place)
    assert load_root(place).version == 2


def test_a_changed_root_file_is_refused(tmp_path: Path, root_keys: list[SigningKey]) -> None:
    root, _, maker, other = root_keys
    file = tmp_path / "root.json"
    write_root(file, [root], root_keys=[root.public], bundle_keys=[maker.public])
    file.write_text(file.read_text().replace(maker.public.raw.hex(), other.public.raw.hex()))

    with pytest.raises(ConfigError, match="none of its root keys has signed it"):
        configured_key(file)


@pytest.mark.parametrize("text", ["{", "{}", '{"root": 1, "root": 2}', '{"root": NaN}', "{" * 100_000, '{"x": 1e999}'])
def test_what_is_no_root_file_is_said_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "root.json").write_text(text)

    with pytest.raises(ConfigError, match="is no root file"):
        configured_key(tmp_path / "root.json")


@pytest.mark.parametrize(
    ("text", "says"), [("[]", "it holds no object"), ("", "it is no JSON"), ("{,", "it is no JSON")]
)
def test_what_is_no_root_file_is_said_without_the_words_of_a_library(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "root.json").write_text(text)

    with pytest.raises(ConfigError, match=f"is no root file: {says}"):
        load_root(tmp_path / "root.json")


def test_a_pipe_for_a_root_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="cannot read the root file .*is no plain file"):
        load_root(tmp_path / "pipe")


def test_keys_are_replaced_and_revoked_on_the_command_line(tiny_bundle: Path, tmp_path: Path) -> None:
    def run(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    bundle = tmp_path / "b.cpep"
    shutil.copytree(tiny_bundle, bundle)
    for name in ("root", "lost", "kept"):
        assert run("keygen", tmp_path / name).exit_code == 0
    file = tmp_path / "root.json"
    made = run("root", file, "--sign", tmp_path / "root", "--allow", tmp_path / "lost.pub")
    assert made.exit_code == 0, made.output
    assert run("trust", file).exit_code == 0
    assert run("sign", bundle, "--key", tmp_path / "lost").exit_code == 0
    assert run("verify", bundle).exit_code == 0

    assert run("root", file, "--sign", tmp_path / "root", "--allow", tmp_path / "kept.pub").exit_code == 0
    assert run("verify", bundle).exit_code == 0  # this device has not heard of it yet
    assert run("trust", file).exit_code == 0

    assert "the signature is not that of" in str(run("verify", bundle).exception)

"""Signatures and versions. Where a bundle is not run, it is a small one made by hand."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cpep_edge.bundle import SIGNATURE_FILE, Bundle, next_version, sign_bundle
from cpep_edge.errors import ArtifactError, CpepError
from cpep_edge.manifest import MANIFEST_FILE
from cpep_edge.recogniser import Recogniser
from cpep_edge.trust import MAX_VERSION, generate_keys, load_signing_key
from cpep_edge.verify import verify_bundle
from tests.cpep_edge.sealing import as_version, reseal
from tests.processes import cpep_edge, invoke, python, start

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.executorch]  # the bundle is that of the toy encoder


@pytest.fixture
def signed(bundle, secret) -> Path:
    sign_bundle(bundle, secret)
    return bundle


def test_a_signed_bundle_is_accepted_with_its_makers_key(signed, public):
    manifest = Bundle(signed, public).manifest

    assert manifest.signer == public.fingerprint


def test_openssl_agrees_with_the_signature(signed, public):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    files = ("-in", signed / MANIFEST_FILE, "-sigfile", signed / SIGNATURE_FILE)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public.file, "-rawin", *files]

    answer = subprocess.run(command, capture_output=True, text=True, check=False)

    assert answer.stdout.strip() == "Signature Verified Successfully", answer.stderr


def test_a_bundle_without_signature_is_refused_where_a_key_is_asked_for(tiny_bundle, public):
    with pytest.raises(ArtifactError, match=r"is not signed, and .*maker\.pem\.pub must have signed it"):
        Bundle(tiny_bundle, public)


def test_a_bundle_signed_with_another_key_is_refused(signed, tmp_path):
    other = generate_keys(tmp_path / "other.pem")

    with pytest.raises(ArtifactError, match=r"the signature is not that of .*other\.pem\.pub"):
        Bundle(signed, other)


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_a_changed_signature_is_refused(signed, public, at):
    signature = bytearray((signed / SIGNATURE_FILE).read_bytes())
    signature[at] ^= 1
    (signed / SIGNATURE_FILE).write_bytes(signature)

    with pytest.raises(ArtifactError, match="signature"):
        Bundle(signed, public)


def test_a_manifest_that_was_changed_and_sealed_again_is_refused(signed, public):
    manifest = json.loads((signed / MANIFEST_FILE).read_text())
    manifest["gestures"][0]["name"] = "Rest"
    reseal(signed, manifest)

    assert Bundle(signed).manifest.gestures[0].name == "Rest"  # without a key, only hashes are checked
    with pytest.raises(ArtifactError, match="signature"):
        Bundle(signed, public)


def test_the_signature_is_checked_before_the_manifest_is_parsed(signed, public):
    (signed / MANIFEST_FILE).write_bytes(b"no JSON at all")

    with pytest.raises(ArtifactError, match="the signature is not that of"):
        Bundle(signed, public)


def test_a_library_is_never_loaded_from_a_bundle_of_another_maker(signed, tmp_path):
    """Tested in another process, whose memory map would show the library."""
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
    said, loaded = python("-c", code).stdout.splitlines()
    assert "the signature is not that of" in said
    assert loaded == "False"


def test_a_signature_that_a_manifest_speaks_of_and_that_is_gone_is_missed(signed):
    (signed / SIGNATURE_FILE).unlink()

    with pytest.raises(ArtifactError, match=SIGNATURE_FILE):
        Bundle(signed).check_files()


def test_an_older_version_is_refused_after_a_newer_one_ran(bundle, secret, public):
    older, newer = as_version(bundle, 3, secret), as_version(bundle, 4, secret)
    Bundle(older, public).keep_older_out()
    Bundle(newer, public).keep_older_out()
    Bundle(newer, public)  # the same version may run again

    with pytest.raises(ArtifactError, match="version 3 of tiny is older than version 4, which ran here"):
        Bundle(older, public)
    assert Bundle(older).manifest.version == 3  # without a key, versions are not checked


def test_looking_at_a_bundle_keeps_no_older_one_out(bundle, secret, public):
    Bundle(as_version(bundle, 9, secret), public)

    Bundle(as_version(bundle, 8, secret), public)


def test_another_bundle_of_the_same_version_is_refused(signed, secret, public):
    Bundle(signed, public).keep_older_out()
    manifest = json.loads((signed / MANIFEST_FILE).read_text())
    manifest["decision"]["release_ms"] += 1
    (signed / SIGNATURE_FILE).unlink()
    reseal(signed, {**manifest, "signer": None})
    sign_bundle(signed, secret)

    with pytest.raises(ArtifactError, match="another bundle ran here as version"):
        Bundle(signed, public)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda file: file.write_text("[1, 2"), "is damaged; remove it to start again"),
        (os.mkfifo, "cannot be read: it is not a plain file"),
    ],
)
def test_a_memory_of_versions_that_cannot_be_read_is_said(signed, public, tmp_path, make, said):
    file = tmp_path / "state" / "cpep-edge" / "seen-versions.json"
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    make(file)

    with pytest.raises(CpepError, match=said):
        Bundle(signed, public)


def test_above_the_last_version_is_one_sentence(signed, secret):
    last = as_version(signed, MAX_VERSION - 1, secret)
    with pytest.raises(ArtifactError, match="has the highest version that there is"):
        next_version(last)


def test_keys_are_made_and_a_bundle_is_signed_on_the_command_line(bundle, tmp_path):
    key = tmp_path / "maker.pem"

    assert invoke("keygen", key).exit_code == 0
    assert invoke("sign", bundle, "--key", key).exit_code == 0
    answer = invoke("verify", bundle, "--key", f"{key}.pub", "--json")

    assert json.loads(answer.stdout)["signed_by"] == load_signing_key(key).public.fingerprint


def test_the_environment_can_ask_for_a_key(tiny_bundle, public, monkeypatch):
    monkeypatch.setenv("CPEP_EDGE_KEY", str(public.file))

    answer = invoke("verify", tiny_bundle)

    assert isinstance(answer.exception, ArtifactError)
    assert "is not signed" in str(answer.exception)


@pytest.mark.parametrize("where", [(), ("--on-device",)])
def test_live_keeps_older_versions_out_from_then_on(bundle, secret, public, where):
    older, newer = as_version(bundle, 5, secret), as_version(bundle, 6, secret)

    started = invoke("live", newer, "--port", "/dev/ttyNOWHERE", "--key", public.file, *where)
    refused = invoke("live", older, "--port", "/dev/ttyNOWHERE", "--key", public.file, *where)

    assert "/dev/ttyNOWHERE" in str(started.exception)  # the bundle is accepted, but the port is missing
    assert "version 5 of tiny is older than version 6" in str(refused.exception)


def test_inspect_tells_versions_signatures_and_what_a_bundle_learns_from(signed, public):
    page = invoke("inspect", signed).stdout
    manifest = json.loads(invoke("inspect", signed, "--json").stdout)

    assert public.fingerprint in page
    assert "compact" in page  # "compact index", on two lines where the terminal is narrow
    assert manifest["signer"] == public.fingerprint
    assert [gesture["origin"] for gesture in manifest["gestures"]] == ["corpus"] * 6


def test_code_from_elsewhere_waits_for_trust_which_is_remembered(tiny_bundle, tmp_path):
    """In this test the machine has no record that it made the bundle."""
    if Bundle(tiny_bundle).manifest.native is None:
        pytest.skip("the bundle carries no library")
    with pytest.raises(ArtifactError, match="contains code that was not made on this machine"):
        Recogniser(Bundle(tiny_bundle))
    with pytest.raises(ArtifactError, match="--trust once"):
        verify_bundle(tiny_bundle)

    assert verify_bundle(tiny_bundle, run=False).n_golden == 0  # checking hashes needs no trust
    Bundle(tiny_bundle, trust=True)
    Recogniser(Bundle(tiny_bundle))

    other = tmp_path / "other.cpep"
    shutil.copytree(tiny_bundle, other)
    manifest = json.loads((other / MANIFEST_FILE).read_text())
    reseal(other, {**manifest, "version": 99})
    with pytest.raises(ArtifactError, match="contains code"):  # trust is in one content, not in a name or path
        Recogniser(Bundle(other))


def test_a_key_is_trust_enough(signed, public):
    assert verify_bundle(signed, public).n_golden > 0


def test_what_is_made_here_may_run_here(bundle, secret):
    sign_bundle(bundle, secret)

    Recogniser(Bundle(bundle))


def test_nothing_of_an_untrusted_bundle_runs(tiny_bundle, tmp_path):
    """The bundle has a library that leaves a mark when it is loaded, with matching hashes, as anyone can make it."""
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
        invoke(*command)
        for command in (
            ["verify", evil],
            ["verify", evil, "--hashes"],
            ["inspect", evil],
            ["gestures", "list", evil],
            ["gestures", "remove", evil, "ShakaVulcanPeace"],
            ["doctor", "--bundle", evil, "--seconds", "1"],
            ["live", evil, "--port", "/dev/null"],
            ["replay", evil, evil],
            ["bench", evil, "--out", tmp_path / "bench"],
        )
    ]

    assert not mark.exists()
    said = [" ".join(f"{answer.exception} {answer.output}".split()) for answer in answers]
    refused = [one for one in said if "contains code that was not made on this machine" in one]
    assert len(refused) == len(answers) - 3  # checking hashes, inspect and list run no code
    assert cpep_edge("verify", evil, "--trust").returncode == 1
    assert mark.exists()  # trusted, the library does run


def test_every_command_that_opens_a_bundle_asks_for_the_key_before_it_opens_a_port(tiny_bundle, public, tmp_path):
    for command in (
        ["verify", tiny_bundle],
        ["inspect", tiny_bundle],
        ["calibrate", tiny_bundle, "--port", "/dev/ttyNOWHERE", "--out", tmp_path / "profile.json"],
        ["gestures", "list", tiny_bundle],
        ["gestures", "remove", tiny_bundle, "ShakaVulcanPeace"],
        ["live", tiny_bundle, "--port", "/dev/ttyNOWHERE"],
        ["replay", tiny_bundle, tiny_bundle],
        ["bench", tiny_bundle, "--out", tmp_path / "bench"],
        ["eval", tiny_bundle, "--data", tmp_path, "--protocol", "live"],
    ):
        answer = invoke(*command, "--key", public.file)
        assert isinstance(answer.exception, ArtifactError)
        assert "is not signed" in str(answer.exception), (command, answer.output)


def test_a_process_that_is_told_which_bundle_takes_no_other(signed, secret):
    opened = Bundle(signed)
    other = as_version(signed, 7, secret)
    shutil.rmtree(signed)
    other.rename(signed)

    with pytest.raises(ArtifactError, match="was replaced by another bundle while it was in use"):
        Bundle(signed, manifest_sha256=opened.manifest_sha256)


def test_an_older_bundle_under_another_name_is_older(signed, secret, public):
    """An attacker with access to the device could bring back a bundle that the maker once signed under another name."""
    newest = as_version(signed, 5, secret)
    Bundle(newest, public).keep_older_out()
    renamed = as_version(signed, 3, secret)
    (renamed / SIGNATURE_FILE).unlink()
    reseal(renamed, {**json.loads((renamed / MANIFEST_FILE).read_text()), "name": "another", "signer": None})
    sign_bundle(renamed, secret)

    with pytest.raises(ArtifactError, match=r"version 3 of another, which never ran here, is below version 5 of .*"):
        Bundle(renamed, public)
    Bundle(renamed, public, trust=True).keep_older_out()
    Bundle(renamed, public)  # once trusted, it counts as another model


def test_versions_remembered_at_once_are_all_remembered(tmp_path):
    count = 12
    code = (
        "import sys; from pathlib import Path; from cpep_edge.trust import PublicKey, remember_version; "
        "remember_version(PublicKey(bytes(32), Path('x')), sys.argv[1], 5, 'a' * 64)"
    )
    started = [start("-c", code, f"bundle-{number}", stdout=None, stderr=None) for number in range(count)]

    assert [process.wait() for process in started] == [0] * count
    assert len(json.loads((tmp_path / "state" / "cpep-edge" / "seen-versions.json").read_text())) == count

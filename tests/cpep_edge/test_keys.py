"""Keys: which are accepted, where they are looked for, and who may read them."""

import base64
import os
import shutil
from pathlib import Path

import pytest

from cpep_edge.bundle import Bundle
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.trust import PublicKey, generate_keys, load_public_key, load_signing_key
from cpep_edge.trusted_keys import configured_key

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.executorch]  # the bundle is that of the toy encoder


@pytest.mark.parametrize("sign_bit", [0, 1])
@pytest.mark.parametrize(
    "y",
    [
        "00" * 32,  # order 4
        "01" + "00" * 31,  # order 1
        "ec" + "ff" * 30 + "7f",  # order 2
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # order 8, like the next
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ed" + "ff" * 30 + "7f",  # 0 and, next, 1, not reduced
        "ee" + "ff" * 30 + "7f",
    ],
)
def test_a_key_that_signs_anything_is_no_key(tmp_path, y, sign_bit):
    raw = bytes.fromhex(y)[:-1] + bytes([bytes.fromhex(y)[-1] | sign_bit << 7])
    # with S = 0 and R of small order, R = S B - h A holds for at least an eighth of all contents
    assert not any(
        PublicKey(raw, tmp_path).signed(b"%d" % n, point + bytes(32))
        for n in range(16)
        for point in (raw, b"\1" + bytes(31))
    )
    pem = base64.b64encode(bytes.fromhex("302a300506032b6570032100") + raw).decode()
    (tmp_path / "weak.pub").write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n")
    with pytest.raises(ConfigError, match=r"weak\.pub is a key for which any signature is right"):
        load_public_key(tmp_path / "weak.pub")


def test_a_secret_key_is_for_its_owner_alone_and_a_public_one_his_to_write_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        public = generate_keys(tmp_path / "k")
    finally:
        os.umask(before)
    assert [public.file.stat().st_mode & 0o777, (tmp_path / "k").stat().st_mode & 0o777] == [0o644, 0o600]


def test_a_new_secret_key_never_replaces_one(tmp_path):
    generate_keys(tmp_path / "new.pem")

    with pytest.raises(ConfigError, match="exists"):
        generate_keys(tmp_path / "new.pem")


@pytest.mark.parametrize("text", ["", "not a key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_is_no_key_is_said(tmp_path, text):
    (tmp_path / "key").write_text(text)

    with pytest.raises(ConfigError, match="not a public key"):
        load_public_key(tmp_path / "key")


def test_a_secret_key_is_no_public_one_and_the_reverse(secret, public):
    with pytest.raises(ConfigError, match="not a public key"):
        load_public_key(secret.file)
    with pytest.raises(ConfigError, match="no secret key"):
        load_signing_key(public.file)


def test_a_key_of_another_kind_is_said(tmp_path):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    with pytest.raises(ConfigError, match="another kind"):
        load_public_key(tmp_path / "ec.pem")


@pytest.fixture
def locked_key(tmp_path) -> Path:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    protected = BestAvailableEncryption(b"password")
    file = tmp_path / "locked.pem"
    file.touch(0o600)
    file.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protected))
    return file


def test_the_password_of_a_key_is_asked_for(locked_key):
    asked = []

    def ask(what: str) -> str:
        asked.append(what)
        return "password"

    assert load_signing_key(locked_key, ask).sign(b"x")
    assert asked == [f"password of {locked_key}"]


def test_another_password_or_none_to_ask_for_is_said(locked_key):
    with pytest.raises(ConfigError, match="that is not the password of"):
        load_signing_key(locked_key, lambda what: "guess")
    with pytest.raises(ConfigError, match="no terminal to ask for it on"):
        load_signing_key(locked_key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_secret_key_that_others_may_touch_is_refused(tmp_path, mode):
    generate_keys(tmp_path / "new.pem")
    (tmp_path / "new.pem").chmod(mode)

    with pytest.raises(ConfigError, match="may be read or written by others, so it is not secret: run chmod 600"):
        load_signing_key(tmp_path / "new.pem")


@pytest.mark.parametrize("hidden", ["key.pem", "root.json", "folder", "config"])
def test_a_link_that_leads_nowhere_does_not_mean_that_no_key_is_asked_for(tmp_path, hidden):
    config = tmp_path / "config"
    place = {"folder": config / "cpep-edge", "config": config}.get(hidden, config / "cpep-edge" / hidden)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(tmp_path / "gone")

    with pytest.raises(ConfigError, match="is a link that leads nowhere"):
        configured_key(None)


def test_a_link_in_a_circle_is_not_taken_for_no_key(tmp_path):
    (tmp_path / "config" / "cpep-edge").mkdir(parents=True)
    (tmp_path / "config" / "cpep-edge" / "key.pem").symlink_to("key.pem")

    with pytest.raises(ConfigError):
        configured_key(None)


def test_a_key_in_a_folder_that_may_not_be_searched_is_not_taken_for_none(tmp_path, monkeypatch):
    lstat = Path.lstat

    def refuse(path: Path) -> object:
        if path.name == "key.pem":
            raise PermissionError(13, "Permission denied")
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", refuse)  # because tests may run as root

    with pytest.raises(ConfigError, match="cannot see whether there is a key"):
        configured_key(None)


def test_the_key_named_in_the_environment_is_asked_for_everywhere(public, monkeypatch, tiny_bundle):
    monkeypatch.setenv("CPEP_EDGE_KEY", str(public.file))

    with pytest.raises(ArtifactError, match="is not signed"):
        Bundle.open(tiny_bundle)


def test_a_key_file_that_was_asked_for_and_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no such key file"):
        configured_key(tmp_path / "nowhere.pub")


def test_the_key_of_the_users_configuration_is_asked_for(public, tmp_path):
    assert configured_key(None) is None
    file = tmp_path / "config" / "cpep-edge" / "key.pem"
    file.parent.mkdir(parents=True)
    shutil.copy(public.file, file)

    found = configured_key(None)

    assert (found.raw, found.file) == (public.raw, file)

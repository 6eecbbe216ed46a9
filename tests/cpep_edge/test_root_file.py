"""The root file: which keys are valid, and how they are replaced."""

import os

import pytest

from cpep_edge.bundle import Bundle, sign_bundle
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.root_file import install_root, load_root, write_root
from cpep_edge.trust import SigningKey, generate_keys, load_signing_key
from cpep_edge.trusted_keys import configured_key
from tests.cpep_edge.sealing import as_version
from tests.processes import invoke

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.executorch]  # the bundle is that of the toy encoder


@pytest.fixture
def root_keys(tmp_path) -> list[SigningKey]:
    for name in ("root-a", "root-b", "maker-a", "maker-b"):
        generate_keys(tmp_path / name)
    return [load_signing_key(tmp_path / name) for name in ("root-a", "root-b", "maker-a", "maker-b")]


def test_a_key_is_replaced_by_a_new_root_file_and_the_old_one_no_longer_counts(bundle, tmp_path, root_keys):
    root, _, old, new = root_keys
    sign_bundle(bundle, old)
    file, place = tmp_path / "root.json", tmp_path / "config" / "cpep-edge" / "root.json"
    write_root(file, [root], root_keys=[root.public], bundle_keys=[old.public])
    install_root(file, place)
    Bundle.open(bundle).keep_older_out()

    write_root(file, [root], root_keys=[root.public], bundle_keys=[new.public])
    install_root(file, place)

    with pytest.raises(ArtifactError, match="the signature is not that of"):
        Bundle.open(bundle)
    sign_bundle(bundle, new)
    with pytest.raises(ArtifactError, match="another bundle ran here as version"):  # nor with a new key
        Bundle.open(bundle)
    Bundle.open(as_version(bundle, 9, new))


def test_a_root_file_is_followed_only_by_a_later_one_that_a_root_key_of_both_has_signed(tmp_path, root_keys):
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


def test_a_changed_root_file_is_refused(tmp_path, root_keys):
    root, _, maker, other = root_keys
    file = tmp_path / "root.json"
    write_root(file, [root], root_keys=[root.public], bundle_keys=[maker.public])
    file.write_text(file.read_text().replace(maker.public.raw.hex(), other.public.raw.hex()))

    with pytest.raises(ConfigError, match="none of its root keys has signed it"):
        configured_key(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("{,", "it is not JSON"),
        ("[]", "it holds no object"),
        ("{}", ""),
        ('{"root": 1, "root": 2}', ""),
        ('{"root": NaN}', ""),
        ('{"x": 1e999}', ""),
        ("{" * 100_000, ""),
    ],
)
def test_what_is_no_root_file_is_said_without_the_words_of_a_library(tmp_path, text, says):
    (tmp_path / "root.json").write_text(text)

    with pytest.raises(ConfigError, match=f"is not a root file: {says}"):
        load_root(tmp_path / "root.json")
    if text.startswith("{"):  # other texts may be public keys
        with pytest.raises(ConfigError, match="is not a root file"):
            configured_key(tmp_path / "root.json")


def test_a_pipe_for_a_root_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="cannot read the root file .*is not a plain file"):
        load_root(tmp_path / "pipe")


def test_keys_are_replaced_and_revoked_on_the_command_line(bundle, tmp_path):
    for name in ("root", "lost", "kept"):
        assert invoke("keygen", tmp_path / name).exit_code == 0
    file = tmp_path / "root.json"
    made = invoke("root", file, "--sign", tmp_path / "root", "--allow", tmp_path / "lost.pub")
    assert made.exit_code == 0, made.output
    assert invoke("trust", file).exit_code == 0
    assert invoke("sign", bundle, "--key", tmp_path / "lost").exit_code == 0
    assert invoke("verify", bundle).exit_code == 0

    assert invoke("root", file, "--sign", tmp_path / "root", "--allow", tmp_path / "kept.pub").exit_code == 0
    assert invoke("verify", bundle).exit_code == 0  # this device does not have the new root file yet
    assert invoke("trust", file).exit_code == 0

    assert "the signature is not that of" in str(invoke("verify", bundle).exception)

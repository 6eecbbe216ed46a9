"""A small fixed set of the damaged bundles that `python benchmarks/fuzz_bundle.py` makes by the thousand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fuzz_bundle
from bundle_spoiling import (
    DAMAGE,
    RESEAL,
    flipped,
    mutated_copy,
    mutators,
    reseal_golden,
    reseal_head,
    reseal_head_numbers,
    reseal_head_shapes,
    reseal_index,
    reseal_program,
    sealed_anew,
)
from cpep_edge.bundle import sign_bundle
from cpep_edge.manifest import MANIFEST_FILE
from cpep_edge.trust import PublicKey, generate_keys, load_signing_key
from fuzz_bundle import Verdict, failed_controls, indexes, main, try_bundle, try_index
from tests.cpep_edge.arm import Arm

pytestmark = pytest.mark.executorch

N_CASES = 4
N_PACKED = 12
Signed = tuple[Path, PublicKey]
HEAD = (reseal_head, reseal_head_numbers, reseal_head_shapes)


@pytest.fixture(scope="module")
def signed(tiny_bundle, tmp_path_factory) -> Signed:
    folder = tmp_path_factory.mktemp("signed")
    shutil.copytree(tiny_bundle, folder / "whole.cpep")
    return folder / "whole.cpep", sign(folder / "whole.cpep")


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Signed:
    """A bundle with a head but without encoder and index."""
    whole = tmp_path_factory.mktemp("taught") / "whole.cpep"
    Arm().teach(whole, ["Fist", "Open"])
    return whole, sign(whole)


def sign(whole: Path) -> PublicKey:
    key = whole.parent / "key.pem"
    public = generate_keys(key)
    sign_bundle(whole, load_signing_key(key))
    return public


def test_the_controls_hold(signed, tmp_path):
    assert failed_controls(signed[0], tmp_path, signed[1]) == []


@pytest.mark.parametrize(
    ("verifier", "said"),
    [
        (lambda folder, key: Verdict("refused"), "unchanged, with the key: refused, not accepted"),
        (lambda folder, key: Verdict("accepted"), "sealed_anew, with the key: accepted, not refused"),
        (
            lambda folder, key: Verdict("accepted" if key else "refused"),
            "sealed_anew, without a key: refused, not accepted",
        ),
    ],
)
def test_a_verifier_that_refuses_or_accepts_all_fails_a_control(signed, tmp_path, monkeypatch, verifier, said):
    monkeypatch.setattr(fuzz_bundle, "try_bundle", verifier)

    assert said in failed_controls(signed[0], tmp_path, signed[1])


def test_golden_inputs_that_were_packed_anew_get_past_their_checksums(signed, tmp_path):
    said = []
    for seed in range(N_PACKED):
        mutated_copy(signed[0], tmp_path / "case", reseal_golden, np.random.default_rng(seed))
        said.append(try_bundle(tmp_path / "case", None).said)

    assert not [sentence for sentence in said if "CRC" in sentence or "decompress" in sentence]
    assert [sentence for sentence in said if "gives another" in sentence]


def test_a_taught_bundle_is_spoilt_where_it_has_something(signed, taught, tmp_path):
    assert failed_controls(taught[0], tmp_path, taught[1]) == []
    assert set(mutators(signed[0])) == {*DAMAGE, *RESEAL} - set(HEAD)
    assert set(mutators(taught[0])) == {*DAMAGE, *RESEAL} - {reseal_index, reseal_program}


@pytest.mark.parametrize(
    ("mutate", "said"),
    [
        (reseal_head, {"cannot be read"}),
        (reseal_head_numbers, {"not a finite float32", "gives another", "not above zero"}),
        (reseal_head_shapes, {"not those of the shape", "do not fit together", "the manifest says", "unpack"}),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_spoilt_head_whose_hash_fits_is_refused_for_what_is_wrong_with_it(taught, tmp_path, mutate, said):
    verdicts = []
    for seed in range(40):
        mutated_copy(taught[0], tmp_path / "case", mutate, np.random.default_rng(seed))
        assert try_bundle(tmp_path / "case", taught[1]).outcome == "refused"
        verdicts.append(try_bundle(tmp_path / "case", None))

    assert not any(verdict.bad or "\n" in verdict.said for verdict in verdicts)
    assert {words for words in said if any(words in verdict.said for verdict in verdicts)} == said


def test_a_filter_that_runs_away_is_refused_in_a_sentence(taught, tmp_path):
    def unstable(folder: Path, rng: np.random.Generator) -> None:
        file = folder / MANIFEST_FILE
        manifest = json.loads(file.read_bytes())
        manifest["front_end"]["bands"][-1]["sos"][-1][5] = -1e6
        file.unlink()  # a hard link: writing to it would change the original
        file.write_text(json.dumps(manifest))
        sealed_anew(folder, rng)

    mutated_copy(taught[0], tmp_path / "case", unstable, np.random.default_rng(0))
    assert "golden input 0 gives no number" in try_bundle(tmp_path / "case", None).said


@pytest.mark.slow
def test_the_fuzzer_fails_where_nothing_is_checked(signed, tmp_path, monkeypatch):
    command = ["fuzz_bundle", str(signed[0]), "--runs", "40", "--out", str(tmp_path / "fuzz.md")]
    monkeypatch.setattr("sys.argv", command)
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))  # so that pytest restores what the fuzzer sets
    monkeypatch.setattr(fuzz_bundle, "verify_bundle", lambda folder, key, trust: None)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    text = (tmp_path / "fuzz.md").read_text()
    assert "flip_bits, key: accepted" in text
    assert "failed control: sealed_anew, with the key: accepted, not refused" in text


def test_the_bundle_itself_is_accepted(signed):
    assert try_bundle(*signed).outcome == "accepted"


@pytest.mark.parametrize("mutate", [*DAMAGE, *RESEAL], ids=lambda mutate: mutate.__name__)
def test_with_a_key_every_spoilt_bundle_is_refused_in_a_sentence(signed, taught, mutate, tmp_path):
    whole, key = taught if mutate in HEAD else signed
    for seed in range(N_CASES):
        mutated_copy(whole, tmp_path / "case", mutate, np.random.default_rng(seed))
        verdict = try_bundle(tmp_path / "case", key)

        assert verdict.outcome == "refused"
        assert "\n" not in verdict.said


@pytest.mark.parametrize("mutate", DAMAGE, ids=lambda mutate: mutate.__name__)
def test_without_a_key_every_damaged_bundle_is_refused(signed, mutate, tmp_path):
    """Except if only its signature is damaged, which is not read without a key."""
    for seed in range(N_CASES):
        mutated_copy(signed[0], tmp_path / "case", mutate, np.random.default_rng(100 + seed))
        spared = {file.name: file.read_bytes() for file in signed[0].iterdir() if file.name != "manifest.sig"}
        case = {name: tmp_path / "case" / name for name in spared}
        plain = all(file.is_file() and not file.is_symlink() for file in case.values())
        if not plain or {name: file.read_bytes() for name, file in case.items()} != spared:
            assert try_bundle(tmp_path / "case", None).outcome == "refused"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # an absurd filter overflows before it is refused
@pytest.mark.parametrize("mutate", RESEAL, ids=lambda mutate: mutate.__name__)
def test_a_resealed_bundle_ends_in_a_sentence_or_in_order(signed, taught, mutate, tmp_path):
    whole, _ = taught if mutate in HEAD else signed
    for seed in range(N_CASES):
        mutated_copy(whole, tmp_path / "case", mutate, np.random.default_rng(seed))

        assert not try_bundle(tmp_path / "case", None).bad


@pytest.mark.parametrize("kind", list(indexes()))
def test_a_spoilt_index_file_is_refused_or_searched_without_harm(kind):
    content, spec = indexes()[kind]
    assert try_index(content, spec).outcome == "accepted"
    outcomes = [try_index(flipped(content, np.random.default_rng(seed)), spec) for seed in range(60)]

    assert not any(verdict.bad for verdict in outcomes)
    assert any(verdict.outcome == "refused" for verdict in outcomes)

"""A small fixed set of the spoilt bundles that `python -m cpep_export.fuzz_bundle` makes by the thousand."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cpep_edge.bundle import sign_bundle
from cpep_edge.trust import PublicKey, generate_keys, load_signing_key
from cpep_export.fuzz_bundle import (
    DAMAGE,
    RESEAL,
    Mutate,
    flipped,
    indexes,
    mutated_copy,
    try_bundle,
    try_index,
)

pytestmark = pytest.mark.executorch

N_CASES = 6


@pytest.fixture(scope="module")
def signed(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PublicKey]:
    folder = tmp_path_factory.mktemp("signed")
    shutil.copytree(tiny_bundle, folder / "whole.cpep")
    public = generate_keys(folder / "key.pem")
    sign_bundle(folder / "whole.cpep", load_signing_key(folder / "key.pem"))
    return folder / "whole.cpep", public


def test_the_bundle_itself_is_accepted(signed: tuple[Path, PublicKey]) -> None:
    assert try_bundle(*signed).outcome == "accepted"


@pytest.mark.parametrize("mutate", [*DAMAGE, *RESEAL], ids=lambda mutate: mutate.__name__)
def test_with_a_key_every_spoilt_bundle_is_refused_in_a_sentence(
    signed: tuple[Path, PublicKey], mutate: Mutate, tmp_path: Path
) -> None:
    whole, key = signed
    for seed in range(N_CASES):
        mutated_copy(whole, tmp_path / "case", mutate, np.random.default_rng(seed))
        verdict = try_bundle(tmp_path / "case", key)

        assert verdict.outcome == "refused"
        assert "\n" not in verdict.said


@pytest.mark.parametrize("mutate", DAMAGE, ids=lambda mutate: mutate.__name__)
def test_without_a_key_every_damaged_bundle_is_refused(
    signed: tuple[Path, PublicKey], mutate: Mutate, tmp_path: Path
) -> None:
    """But for its signature, which nobody looks at."""
    for seed in range(N_CASES):
        mutated_copy(signed[0], tmp_path / "case", mutate, np.random.default_rng(100 + seed))
        spared = {file.name: file.read_bytes() for file in signed[0].iterdir() if file.name != "manifest.sig"}
        same = all(
            (tmp_path / "case" / name).is_file()
            and not (tmp_path / "case" / name).is_symlink()
            and (tmp_path / "case" / name).read_bytes() == content
            for name, content in spared.items()
        )
        if not same:
            assert try_bundle(tmp_path / "case", None).outcome == "refused"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a filter of absurd numbers overflows before it is refused
@pytest.mark.parametrize("mutate", RESEAL, ids=lambda mutate: mutate.__name__)
def test_a_resealed_bundle_ends_in_a_sentence_or_in_order(
    signed: tuple[Path, PublicKey], mutate: Mutate, tmp_path: Path
) -> None:
    for seed in range(N_CASES):
        mutated_copy(signed[0], tmp_path / "case", mutate, np.random.default_rng(seed))

        assert not try_bundle(tmp_path / "case", None).bad


@pytest.mark.parametrize("kind", list(indexes()))
def test_a_spoilt_index_file_is_refused_or_searched_without_harm(kind: str) -> None:
    content, spec = indexes()[kind]
    assert try_index(content, spec).outcome == "accepted"
    outcomes = [try_index(flipped(content, np.random.default_rng(seed)), spec) for seed in range(60)]

    assert not any(verdict.bad for verdict in outcomes)
    assert any(verdict.outcome == "refused" for verdict in outcomes)

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpep_edge.bundle import DIGEST_FILE, Bundle
from cpep_edge.errors import ArtifactError
from cpep_edge.manifest import MANIFEST_FILE
from cpep_edge.verify import verify_bundle
from tests.cpep_edge.sealing import reseal

pytestmark = pytest.mark.executorch

FILES = ("encoder.pte", "index.bin", "golden.npz", MANIFEST_FILE, DIGEST_FILE)


@pytest.fixture(scope="module")
def mended(tiny_bundle, tmp_path_factory) -> Iterator[Path]:
    """A copy of the bundle, which each test restores after changing it."""
    copy = tmp_path_factory.mktemp("mended") / "copy.cpep"
    shutil.copytree(tiny_bundle, copy)
    yield copy
    verify_bundle(copy)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_changed_byte_anywhere_is_refused(mended, name, place, flip):
    file = mended / name
    whole = file.read_bytes()
    at = int(place * len(whole))
    file.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    try:
        with pytest.raises(ArtifactError, match="copy.cpep"):
            verify_bundle(mended)
    finally:
        file.write_bytes(whole)


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [Path.unlink, cut_short])
def test_a_file_that_is_missing_or_cut_short_is_refused(bundle, name, harm):
    harm(bundle / name)

    with pytest.raises(ArtifactError, match=name):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_the_right_bytes_is_refused(bundle, name):
    elsewhere = bundle.parent / name
    (bundle / name).rename(elsewhere)
    (bundle / name).symlink_to(elsewhere)

    with pytest.raises(ArtifactError, match="not a plain file"):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", ["extra.bin", ".hidden", "manifest.json~"])
def test_a_file_that_is_not_listed_is_refused(bundle, name):
    (bundle / name).write_bytes(b"")

    with pytest.raises(ArtifactError, match="not listed"):
        verify_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no such bundle"):
        verify_bundle(tmp_path / "nothing.cpep")
    with pytest.raises(ArtifactError, match="not a bundle"):
        verify_bundle(tmp_path)


def test_an_edited_manifest_is_refused(bundle):
    file = bundle / MANIFEST_FILE
    file.write_text(file.read_text().replace("ShakaVulcanPeace", "Rest"))

    with pytest.raises(ArtifactError, match="changed after export"):
        verify_bundle(bundle)


def test_the_digest_of_the_manifest_is_as_sha256sum_writes_it(tiny_bundle):
    digest = hashlib.sha256((tiny_bundle / MANIFEST_FILE).read_bytes()).hexdigest()

    assert (tiny_bundle / DIGEST_FILE).read_text() == f"{digest}  manifest.json\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(schema_version=5), "its schema_version is 5 and this cpep-edge reads 4; update with"),
        (lambda m: m.update(schema_version=3), "from an older cpep-edge; export the bundle again"),
        (lambda m: m.update(schema_version="4"), "schema_version"),
        (lambda m: m.update(comment="hello"), "comment"),
        (lambda m: m["encoder"].update(file="other.pte"), "not listed under files"),
        (lambda m: m["gestures"][1].update(name=m["gestures"][0]["name"]), "same name"),
        (lambda m: m["gestures"][0].update(n_prototypes=1), "do not add up"),
        (lambda m: m["preprocessing"].update(scale_uv=0.0), "preprocessing"),
        (lambda m: m["files"]["index.bin"].update(sha256="0" * 64), "SHA-256"),
        (lambda m: m["files"]["index.bin"].update(size_bytes=1), "bytes"),
        (lambda m: m["encoder"].update(d_embed=31), "output"),
        (lambda m: m["preprocessing"]["sos"][0].pop(), "sos"),
        (lambda m: m["files"].update({"../golden.npz": m["files"]["golden.npz"]}), "files"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_under_any_digest(bundle, change, reason):
    edit(bundle, change)

    with pytest.raises(ArtifactError, match=reason):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["preprocessing"]["sos"][0].__setitem__(1, 0.9 * m["preprocessing"]["sos"][0][1]),
        lambda m: m["preprocessing"].update(scale_uv=3 * m["preprocessing"]["scale_uv"]),
        lambda m: m["preprocessing"].update(clip=0.5),
    ],
)
def test_a_changed_filter_is_found_by_the_golden_inputs(bundle, change):
    edit(bundle, change)

    with pytest.raises(ArtifactError, match="golden input"):
        verify_bundle(bundle)


def test_golden_answers_of_another_gesture_are_found(bundle):
    with np.load(bundle / "golden.npz") as arrays:
        golden = dict(arrays)
    golden["gesture_index"][0] += 1
    np.savez(bundle / "golden.npz", **golden)
    edit(bundle, lambda manifest: manifest["files"].update({"golden.npz": entry(bundle / "golden.npz")}))

    with pytest.raises(ArtifactError, match="golden input 0 gives another gesture"):
        verify_bundle(bundle)


def test_a_whole_bundle_is_read_without_its_manifest_changing(tiny_bundle):
    before = (tiny_bundle / MANIFEST_FILE).read_bytes()

    report = verify_bundle(tiny_bundle)

    assert report.size_bytes == sum((tiny_bundle / name).stat().st_size for name in Bundle(tiny_bundle).manifest.files)
    assert (tiny_bundle / MANIFEST_FILE).read_bytes() == before


def test_golden_inputs_that_unpack_without_end_are_refused(bundle):
    with zipfile.ZipFile(bundle / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("signal_uv.npy", bytes(1 << 27))
    edit(bundle, lambda manifest: manifest["files"].update({"golden.npz": entry(bundle / "golden.npz")}))

    with pytest.raises(ArtifactError, match="unpack to more"):
        verify_bundle(bundle)


def test_golden_inputs_packed_in_an_unknown_way_are_refused(bundle):
    content = (bundle / "golden.npz").read_bytes()
    with zipfile.ZipFile(bundle / "golden.npz") as archive:
        method = archive.infolist()[0].compress_type
    headers = {b"PK\x03\x04": 8, b"PK\x01\x02": 10}  # and the offset of the method, APPNOTE 4.3.7 and 4.3.12
    for signature, offset in headers.items():
        at = content.index(signature) + offset
        assert content[at : at + 2] == method.to_bytes(2, "little")
        content = content[:at] + (99).to_bytes(2, "little") + content[at + 2 :]
    (bundle / "golden.npz").write_bytes(content)
    edit(bundle, lambda manifest: manifest["files"].update({"golden.npz": entry(bundle / "golden.npz")}))

    with pytest.raises(ArtifactError, match="golden inputs cannot be read"):
        verify_bundle(bundle)


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest on purpose: with its digest, and trusted."""
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    change(manifest)
    reseal(bundle, manifest, trusted=True)


def entry(file: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size_bytes": file.stat().st_size}

"""Hostile numbers, arrays and programs: each gives a one-sentence error and costs little memory and time."""

import hashlib
import io
import json
import shutil
import struct
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpep_edge.bundle import Bundle
from cpep_edge.calibration import fit_to_wearer
from cpep_edge.decisions import Decider
from cpep_edge.errors import ArtifactError, ConfigError
from cpep_edge.files import read_arrays
from cpep_edge.golden import Golden, try_golden
from cpep_edge.hand import HandPoses
from cpep_edge.index_file import StoredIndex, coded, to_bytes
from cpep_edge.manifest import MANIFEST_FILE, GraphSpec, IndexSpec
from cpep_edge.manifest_part import parse_json
from cpep_edge.pose_index import load_index
from cpep_edge.preprocess import Preprocessor
from cpep_edge.verify import verify_bundle
from cpep_edge.vouched import remembers
from tests.cpep_edge.sealing import reseal
from tests.processes import cpep_edge

pytestmark = pytest.mark.executorch  # its bundles are those of the toy encoder

NUMBERS = (
    0, -1, 1, 2**31, 2**53, 10**30, -(10**30), 0.5, 1e-300, 1e8, 1e12, 1e308, -1e308, True, None, "1", [], {}, [0.0],
)  # fmt: skip


def numbers_in(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every number in a manifest."""
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in numbers_in(inner, (*way, name))]
    if isinstance(value, list):
        return [found for place, inner in enumerate(value) for found in numbers_in(inner, (*way, place))]
    return [way] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.slow
def test_no_number_in_a_manifest_ends_in_anything_but_a_sentence(bundle):
    """Each number in turn gets each hostile value. A manifest that is accepted must work in live processing."""
    manifest = json.loads((bundle / MANIFEST_FILE).read_bytes())
    signal_uv = np.random.default_rng(0).normal(0, 50, (500, manifest["n_channels"])).astype(np.float32)
    said: list[str] = []
    for way in numbers_in(manifest):
        *holders, last = way
        for hostile in NUMBERS:
            changed = json.loads(json.dumps(manifest))
            holder = changed
            for name in holders:
                holder = holder[name]
            holder[last] = hostile
            reseal(bundle, changed)
            try:
                opened = Bundle(bundle).manifest
            except ArtifactError as error:
                said.append(str(error))
                continue
            assert opened.n_channels * opened.window_samples <= 1 << 24
            assert opened.decision.hop_ms * opened.preprocessing.sample_rate_hz < 1e15
            if opened.n_channels == signal_uv.shape[1]:
                assert np.isfinite(Preprocessor(opened.preprocessing, signal_uv.shape[1])(signal_uv)).all()
            Decider(opened.decision, tuple(gesture.name for gesture in opened.gestures)).update(None)
            fit_to_wearer(opened, None, None)
    assert len(said) > 500
    assert not [sentence for sentence in said if "\n" in sentence]


def test_a_manifest_of_an_earlier_version_says_one_embedding_a_window_and_no_other_number(bundle):
    manifest = json.loads((bundle / MANIFEST_FILE).read_bytes())
    assert "n_queries" not in manifest["encoder"]
    manifest["encoder"]["n_queries"] = 1
    reseal(bundle, manifest)
    assert Bundle(bundle).manifest.encoder is not None
    manifest["encoder"]["n_queries"] = 16
    reseal(bundle, manifest)
    with pytest.raises(ArtifactError, match=r"encoder\.n_queries"):
        Bundle(bundle)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a": 1, "a": 2}', "'a' is in it twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "'b' is in it twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "1e999 is not a number that a float64 can hold"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 10_000, "digit"),
        (b"\xff\xfe", "codec"),
        (b"", "Expecting value"),
        (b"{", "Expecting"),
    ],
)
def test_json_that_readers_could_differ_about_is_refused(bundle, text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)
    reseal(bundle, text)
    with pytest.raises(ArtifactError, match="not valid"):
        Bundle(bundle)


@pytest.mark.parametrize(("depth", "where"), [(400, "list"), (900, "list"), (400, "dict"), (900, "dict")])
def test_nesting_that_json_still_reads_is_refused_too(bundle, depth, where):
    inner = "[" * depth + "]" * depth if where == "list" else '{"a":' * depth + "1" + "}" * depth
    reseal(bundle, f'{{"name": {inner}}}'.encode())

    with pytest.raises(ArtifactError, match="not valid"):
        Bundle(bundle)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def with_shape(array: np.ndarray, shape: str) -> bytes:
    """The file of an array whose header gives another shape."""
    content = npy(array)
    old = str(array.shape).encode()
    assert old in content
    return content.replace(old, shape.encode(), 1)


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


GOOD = {
    "signal_uv": np.zeros((2, 300, 4), np.float16),
    "embedding": np.ones((2, 24), np.float32),
    "gesture_index": np.zeros(2, np.int32),
}
HOSTILE_ARRAYS: dict[str, bytes] = {
    "0-d": npy(np.array(1.0, np.float32)),
    "empty": npy(np.zeros((0,), np.float32)),
    "empty 3-d": npy(np.zeros((0, 3, 4), np.float32)),
    "empty inside": npy(np.zeros((2, 0, 4), np.float16)),
    "objects": npy(np.array([{}, 1], object)),
    "text": npy(np.array(["a", "b"])),
    "complex": npy(np.ones(2, np.complex128)),
    "times": npy(np.zeros(2, "M8[s]")),
    "structured": npy(np.zeros(2, [("a", "f4")])),
    "bool": npy(np.zeros(2, bool)),
    "1e308": npy(np.full((2, 24), 1e308)),
    "NaN": npy(np.full((2, 24), np.nan, np.float32)),
    "infinity": npy(np.full((2, 300, 4), np.inf, np.float16)),
    "10^30 rows": with_shape(GOOD["embedding"], "(10**30,)".replace("10**30", str(10**30))),
    "2^40 rows": with_shape(GOOD["embedding"], f"({2**40}, 24)"),
    "negative": with_shape(GOOD["embedding"], "(-2, 24)"),
    "no shape": with_shape(GOOD["embedding"], "None   "),
    "header cut": npy(GOOD["embedding"])[:20],
    "data cut": npy(GOOD["embedding"])[:-4],
    "not npy": b"hello",
    "nothing": b"",
    "other version": b"\x93NUMPY\x09\x00" + npy(GOOD["embedding"])[8:],
    "long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b" " * 1000,
    "deep header": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
}


@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("kind", list(HOSTILE_ARRAYS))
def test_an_array_that_somebody_made_up_ends_in_a_sentence(name, kind):
    members = {**{name: npy(array) for name, array in GOOD.items()}, name: HOSTILE_ARRAYS[kind]}
    tracemalloc.start()
    with pytest.raises(ArtifactError) as refused:
        Golden.from_bytes(npz(**members))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert "\n" not in str(refused.value)
    assert peak_bytes < 1 << 22


@pytest.mark.parametrize("name", ["embedding", "joint_angles_rad", "rest_rad"])
@pytest.mark.parametrize("kind", list(HOSTILE_ARRAYS))
def test_poses_that_somebody_made_up_end_in_a_sentence(name, kind):
    good = {"embedding": np.ones((3, 8)), "joint_angles_rad": np.ones((3, 20)), "rest_rad": np.ones(20)}
    assert HandPoses.from_bytes(npz(**{key: npy(array) for key, array in good.items()}), 8)
    members = {**{key: npy(array) for key, array in good.items()}, name: HOSTILE_ARRAYS[kind]}

    with pytest.raises(ArtifactError):
        HandPoses.from_bytes(npz(**members), 8)


def test_arrays_are_read_as_numpy_reads_them():
    by_columns = np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3))
    content = io.BytesIO()
    np.savez_compressed(content, a=by_columns, b=np.arange(3))

    found = read_arrays(content.getvalue(), {"a": 2, "b": 1})

    assert np.array_equal(found["a"], by_columns)
    assert np.array_equal(found["b"], np.arange(3))


INDEX = struct.Struct("<8sIIIIII")


@pytest.mark.parametrize(
    ("n", "d", "m", "n_lists", "n_links"),
    [
        (16_000_000, 6, 0, 0, 0),
        (2**32 - 1, 1, 0, 0, 0),
        (1, 2**32 - 1, 0, 0, 0),
        (1_000_000, 64, 0, 0, 0),
        (200_000, 8, 127, 200_000, 50_000_000),
        (1000, 8, 32, 2**32 - 1, 0),
        (1000, 8, 2**32 - 1, 1000, 2**32 - 1),
    ],
)
def test_an_index_that_says_it_is_huge_costs_nothing(n, d, m, n_lists, n_links):
    """The file has the length that its header gives, filled with zeros. Earlier, 133 MiB of them took 4.5 GiB."""
    says = INDEX.pack(b"CPEPIDX\x02", n, d, m, 0, n_lists, n_links)
    width = 2 if n <= 1 << 16 else 4
    length = INDEX.size + 8 * d + 2 * n + n * d + (n + n_lists + n_links * width if m else 0)
    content = says + bytes(min(length, 1 << 27) - INDEX.size)
    graph = GraphSpec(m=2, ef_construction=1, ef=9) if m else None
    spec = IndexSpec(file="i", n_prototypes=min(n, 1 << 24), graph=graph)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="the pose index"):
        load_index(content, spec, n_gestures=1, d_embed=d)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 1 << 20


def test_what_is_written_can_be_read_or_is_refused_on_writing():
    vectors = coded(np.ones((1 << 12, (1 << 12) + 1), np.float32))

    with pytest.raises(ArtifactError, match="too large"):
        to_bytes(StoredIndex(vectors, np.zeros(1 << 12, np.uint16), None))


def test_a_graph_that_leads_nowhere_is_a_sentence_and_no_exception_of_hnswlib():
    n, d = 100, 8
    rng = np.random.default_rng(0)
    stored = coded(rng.uniform(-1, 1, (n, d)).astype(np.float32))
    parts = [
        *(array.tobytes() for array in (stored.low, stored.step, np.zeros(n, np.uint16), stored.codes)),
        bytes(n),  # levels
        bytes(n),  # number of links of each node: none
    ]
    content = INDEX.pack(b"CPEPIDX\x02", n, d, 4, 0, n, 0) + b"".join(parts)
    spec = IndexSpec(file="i", n_prototypes=n, graph=GraphSpec(m=4, ef_construction=1, ef=50))
    index = load_index(content, spec, n_gestures=1, d_embed=d)

    with pytest.raises(ArtifactError, match="its graph does not lead to 10 prototypes"):
        index.vote(np.full(d, d**-0.5, np.float32), 10)


def with_library(bundle: Path, source: str) -> None:
    """Replace the first library of a bundle, with matching hashes, and trust the bundle."""
    manifest = json.loads((bundle / MANIFEST_FILE).read_bytes())
    if manifest["native"] is None or shutil.which("cc") is None:
        pytest.skip("no C compiler, or the bundle carries no library")
    library = manifest["native"]["libraries"][0]
    (bundle.parent / "evil.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", bundle / library, bundle.parent / "evil.c"]
    subprocess.run(command, check=True)
    content = (bundle / library).read_bytes()
    manifest["files"][library] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    reseal(bundle, manifest, trusted=True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("*(volatile int *)0 = 1;", "its programs crash on their golden inputs (Segmentation fault)"),
        ("abort();", "its programs crash on their golden inputs (Aborted)"),
        ("_exit(0);", "its programs fail on their golden inputs"),
        ('puts("{}"); exit(0);', "its programs fail on their golden inputs"),
    ],
)
@pytest.mark.parametrize("command", ["verify", *(pytest.param(c, marks=pytest.mark.slow) for c in ("doctor", "live"))])
def test_a_program_that_kills_its_process_is_one_sentence(bundle, body, said, command):
    """In place of a damaged `.pte`. ExecuTorch refuses most of those, but a few in ten thousand kill the process."""
    headers = "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
    with_library(bundle, f"{headers}__attribute__((constructor)) void f(void) {{ {body} }}\n")
    words = {"verify": [str(bundle)], "doctor": ["--bundle", str(bundle)], "live": [str(bundle), "--port", "/dev/null"]}

    done = cpep_edge(command, *words[command])

    assert done.returncode == 1
    assert said in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr


def test_a_program_that_never_ends_is_stopped(bundle, monkeypatch):
    with_library(bundle, "__attribute__((constructor)) void f(void) { for (;;) ; }\n")
    monkeypatch.setattr("cpep_edge.trial.TIMEOUT_S", 2.0)

    with pytest.raises(ArtifactError, match="did not end within 2 s"):
        verify_bundle(bundle)


def test_golden_inputs_are_tried_once_and_what_failed_is_tried_again(bundle, monkeypatch, tmp_path):
    from cpep_edge import trial

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    opened, tried = Bundle(bundle, trust=True), []
    outcomes: list[Callable[[], float]] = [lambda: 1 / 0, lambda: 1.0]

    def count(bundle: Bundle) -> float:
        tried.append(bundle)
        return outcomes[len(tried) - 1]()

    monkeypatch.setattr(trial, "try_programs", count)
    with pytest.raises(ZeroDivisionError):
        trial.require_tried(opened)
    trial.require_tried(opened)
    trial.require_tried(opened)

    assert len(tried) == 2
    assert remembers("ran its golden inputs", opened.manifest_sha256)


def test_the_child_gives_the_answer_that_this_process_would(bundle):
    from cpep_edge.golden import check_golden
    from cpep_edge.recogniser import Recogniser

    opened = Bundle(bundle)
    assert try_golden(opened) == pytest.approx(check_golden(opened, Recogniser(opened)), abs=1e-6)


@pytest.mark.parametrize("text", ['{"level_uv": [1e999]}', '{"level_uv": [NaN]}', "[" * 10_000, "", "{}", "\x00"])
def test_a_profile_that_is_none_is_a_sentence_and_is_not_replaced(tmp_path, text):
    from cpep_edge.calibration import load_profile, require_profile_or_nothing

    (tmp_path / "profile.json").write_text(text)

    with pytest.raises(ArtifactError, match="is not a profile|of an older cpep-edge"):
        load_profile(tmp_path / "profile.json")
    with pytest.raises(ConfigError, match="exists and is not a profile"):
        require_profile_or_nothing(tmp_path / "profile.json")

"""Guide made-up bytes by the branches they reach, into every parser of what others hand us.

    python benchmarks/fuzz_parsers.py BUNDLE --runs 200000 --out benchmarks/results/parser-fuzz.md

Each parser runs in its own process under Atheris, libFuzzer for Python: it starts from seeds taken from a bundle, and
inputs that reach new code are kept and mutated further. A parser may refuse with ArtifactError or ValueError. Any other
exception, a crash, five seconds on one input, or two gigabytes, is a finding. The last target is a control: a parser
with a fault that needs three right bytes. A run that does not find it proves nothing and ends with status 1, as does
one with a finding. Atheris comes with `pip install 'cpep-edge[fuzz]'`.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cpep_bench.machine import this_machine
from cpep_edge.files import write_file
from cpep_edge.versions import git_commit

PLANTED = "planted fault"
TARGETS = ("manifest", "json", "index", "array", PLANTED)
_MOST_S, _MEMORY_MB = 5, 2048  # limits for one input; measuring coverage makes Python about ten times slower
_MOST_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """The result of fuzzing one parser."""

    target: str
    n_inputs: int
    n_edges: int  # branches reached
    finding: str  # the error message; empty: every input was read or properly refused


def fuzz(bundle: Path, target: str, runs: int, scratch: Path) -> Fuzzed:
    """Run one parser under Atheris."""
    seeds = scratch / "seeds"
    seeds.mkdir()
    for number, seed in enumerate(_seeds(bundle, target)):
        (seeds / str(number)).write_bytes(seed[:_MOST_BYTES])
    options = [f"-runs={runs}", "-seed=1", f"-max_len={_MOST_BYTES}", f"-timeout={_MOST_S}"]
    options += [f"-rss_limit_mb={_MEMORY_MB}", "-print_final_stats=1", f"-artifact_prefix={scratch}/"]
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), "--target", target, *options, str(seeds)],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    said = done.stdout + done.stderr
    counts = re.findall(r"stat::number_of_executed_units:\s+(\d+)", said) or re.findall(r"#(\d+)", said) or ["0"]
    edges = re.findall(r"cov: (\d+)", said) or ["0"]
    finding = ""
    if done.returncode:
        lines = [line.strip() for line in said.splitlines() if re.search(r"(Error|Exception|ERROR)\b", line)]
        finding = (lines or said.strip().splitlines() or ["it said nothing"])[0][:200]
    return Fuzzed(target, int(counts[-1]), int(edges[-1]), finding)


def _seeds(bundle: Path, target: str) -> Iterator[bytes]:
    """Real inputs of a parser."""
    from fuzz_bundle import indexes

    match target:
        case "manifest" | "json":
            yield (bundle / "manifest.json").read_bytes()
            yield b'{"a": [1, 2.5e3, null, "x"], "b": {"c": true}}'
        case "array":
            with zipfile.ZipFile(io.BytesIO((bundle / "golden.npz").read_bytes())) as archive:
                yield from (archive.read(name) for name in archive.namelist())
        case "index":
            yield from (content for name, (content, _) in indexes().items() if "compact" in name)
        case _:
            yield b"hello"


def _parser(target: str) -> Callable[[bytes], None]:
    """A function that parses bytes; ArtifactError and ValueError are caught, any other exception is a finding."""
    from cpep_edge import files, manifest
    from cpep_edge.errors import ArtifactError
    from cpep_edge.manifest_part import parse_json
    from fuzz_bundle import indexes, try_index

    specs = {name: spec for name, (_, spec) in indexes().items()}

    def planted(content: bytes) -> None:
        right = 0
        for byte, wanted in zip(content, b"CPE", strict=False):
            if byte != wanted:
                raise ValueError("not ours")
            right += 1
        if right == 3:
            raise KeyError("the planted fault")

    def index(content: bytes) -> None:
        kind = "index, compact" if content[16:20] == bytes(4) else "index, compact with graph"
        try_index(content, specs[kind])

    def packed(content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("fuzzed.npy", content)
        return file.getvalue()

    readers: dict[str, Callable[[bytes], object]] = {
        "manifest": lambda content: manifest.parse_manifest(Path("fuzzed"), content),
        "json": parse_json,
        "index": index,
        "array": lambda content: files.read_arrays(packed(content), {"fuzzed": 2}),
        PLANTED: planted,
    }
    read = readers[target]

    def parse(content: bytes) -> None:
        try:
            read(content)
        except (ArtifactError, ValueError):
            pass

    return parse


def _run_under_atheris(target: str, options: list[str]) -> None:
    import atheris

    parse = _parser(target)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *options], parse)
    atheris.Fuzz()


def main() -> None:
    """Fuzz every parser and write the table."""
    if sys.argv[1:2] == ["--target"]:
        _run_under_atheris(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=100_000, help="Inputs of each parser.")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    options = parser.parse_args()
    start_s, found = time.monotonic(), []
    for target in TARGETS:
        with TemporaryDirectory() as scratch:
            found.append(fuzz(options.bundle, target, options.runs, Path(scratch)))
            print(found[-1], file=sys.stderr)
    text = _report(found, time.monotonic() - start_s)
    write_file(options.out, text)
    print(text)
    *real, planted = found
    sys.exit(0 if planted.finding and not any(one.finding for one in real) else 1)


def _report(found: list[Fuzzed], wall_s: float) -> str:
    machine = this_machine()
    rows = [f"| {one.target} | {one.n_inputs:,} | {one.n_edges:,} | {one.finding or 'none'} |" for one in found]
    return "\n".join(
        [
            "# Parsers, guided by coverage\n",
            "| parser | inputs | branches reached | finding |",
            "| --- | --: | --: | --- |",
            *rows,
            "\nThe last row is the control: a parser with a fault behind three right bytes, which must be found.",
            f"\n`python benchmarks/fuzz_parsers.py`, commit `{git_commit()[:12] or 'unknown'}`, {wall_s / 60:.0f} "
            f"minutes on {machine.n_cpus} shared cores, {machine.cpu}.\n",
        ]
    )


if __name__ == "__main__":
    main()

"""Fuzz both sides of the link for as many executions as asked, and write what came of it as a table.

    python firmware_bridge/firmware/fuzz/run.py --work /tmp/fuzz

Needs clang with libFuzzer (`sudo apt install clang`) and a complete checkout. The harnesses run at the same time, each
on one core. An input that crashes one is kept in the folder `--work`, and the exit code is 1.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from cpep_bench.machine import this_machine
from cpep_bridge.decoder import FrameDecoder
from cpep_edge.versions import code_version

FIRMWARE = Path(__file__).resolve().parents[1]
RESULT = FIRMWARE.parent / "results" / "fuzz.md"
ROOT = FIRMWARE.parents[1]


@dataclass(frozen=True, slots=True)
class Leg:
    """One libFuzzer run."""

    name: str
    harness: str
    what: str
    max_input_bytes: int
    n_executions: int  # default of its option


LEGS = (
    Leg("decoder", "fuzz-decoder", "C: decoder, CRC, COBS, fields of every frame; inputs to 128 B", 128, 10_000_000),
    Leg("decoder-long", "fuzz-decoder", "C: the same, inputs to 1200 B", 1_200, 300_000),
    Leg("band", "fuzz-band", "C: the state machine behind its HAL, 96 events and bytes of commands", 96, 300_000),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one harness."""

    what: str
    n_executions: int
    cpu_s: float
    n_findings: int
    corpus: str


class Disagreement(Exception):  # noqa: N818 - the name says what happened
    """The Python and the C decoder gave different results for the same bytes."""


def fuzz_c(work: Path, n_executions: dict[str, int], random_seed: int) -> list[Outcome]:
    """Run the libFuzzer harnesses side by side until each has done its executions."""
    subprocess.run(["make", "-s", "-C", str(FIRMWARE), f"BUILD={work}", "fuzzers"], check=True)
    running = []
    for leg in LEGS:
        corpus, log = work / f"corpus-{leg.name}", work / f"{leg.name}.log"
        corpus.mkdir(exist_ok=True)
        words = [work / leg.harness, f"-runs={n_executions[leg.name]}", f"-max_len={leg.max_input_bytes}"]
        words.append(f"-seed={random_seed}")
        with log.open("w") as file:
            process = subprocess.Popen([*words, f"-artifact_prefix={work}/{leg.name}-", corpus], stderr=file)
        running.append((leg, process, log))
    outcomes = []
    for leg, process, log in running:
        _, _, used = os.wait4(process.pid, 0)
        outcomes.append(_outcome(leg, used.ru_utime + used.ru_stime, log.read_text(), work))
    return outcomes


def fuzz_python(n_examples: int, random_seed: int) -> Outcome:
    """Feed damaged streams to both decoders and compare their results."""
    sys.path.insert(0, str(ROOT))
    from tests.firmware_bridge.firmware_library import CFrameDecoder
    from tests.firmware_bridge.test_firmware_codec import pieces

    n_done, n_findings, started_s = 0, 0, time.process_time()

    @seed(random_seed)
    @given(st.lists(pieces, max_size=8))
    @settings(max_examples=n_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def compare(parts: list[bytes]) -> None:
        nonlocal n_done
        n_done += 1
        stream = b"\0" + b"".join(parts) + b"\0"
        ours, theirs = FrameDecoder(), CFrameDecoder()
        if theirs.feed(stream) != ours.feed(stream) or theirs.counts != asdict(ours.counts):
            raise Disagreement(stream.hex(" "))

    try:
        compare()
    except Disagreement as found:
        n_findings = 1
        print(f"the two decoders differ on {found}", file=sys.stderr)
    what = "Python: `FrameDecoder` against the C decoder on damaged streams (hypothesis)"
    return Outcome(what, n_done, time.process_time() - started_s, n_findings, "-")


def _outcome(leg: Leg, cpu_s: float, log: str, work: Path) -> Outcome:
    """The outcome by the log of a run; for an interrupted run, as far as it got."""
    n_executions = max((int(number) for number in re.findall(r"^#(\d+)\s", log, re.MULTILINE)), default=0)
    progress = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)/(\S+)", log)
    edges, n_inputs, size = progress[-1] if progress else ("0", "0", "0b")
    n_findings = sum(len(list(work.glob(f"{leg.name}-{kind}-*"))) for kind in ("crash", "leak", "oom", "timeout"))
    interrupted = "" if "Done " in log or n_findings else "; interrupted"
    corpus = f"{n_inputs} inputs, {size}; {edges} edges covered{interrupted}"
    return Outcome(leg.what, n_executions, cpu_s, n_findings, corpus)


def table(outcomes: list[Outcome], random_seed: int) -> str:
    """The result as Markdown."""
    machine = this_machine()
    clang = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    code = code_version("firmware_bridge/firmware")
    lines = [
        "# Fuzzing of the wristband link",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, code {code}, seed {random_seed}, corpora begun empty; {clang}; "
        f"{machine.n_cpus} cores shared with other work, {machine.cpu}.",
        "The C code runs with address and undefined-behaviour sanitizers. Written by `firmware/fuzz/run.py`.",
        "",
        "| what | executions | CPU time, s | findings | corpus |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in outcomes:
        lines.append(f"| {one.what} | {one.n_executions:,} | {one.cpu_s:,.0f} | {one.n_findings} | {one.corpus} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True, help="builds, corpora and crashes go here")
    for leg in LEGS:
        parser.add_argument(f"--{leg.name}", type=int, default=leg.n_executions, help="executions")
    parser.add_argument("--python", type=int, default=10_000, help="examples")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    outcomes = fuzz_c(chosen.work, {leg.name: getattr(chosen, leg.name.replace("-", "_")) for leg in LEGS}, chosen.seed)
    outcomes.append(fuzz_python(chosen.python, chosen.seed))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(table(outcomes, chosen.seed))
    return int(any(one.n_findings for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())

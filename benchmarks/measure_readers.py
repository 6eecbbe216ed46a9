"""What reading a device costs, as a Markdown table: our drivers beside bare pyserial and BrainFlow.

python benchmarks/measure_readers.py [--seconds 5] [--rounds 3] [--out FILE.md]
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from cpep_bench.link_readers import READERS, ROUNDS, SECONDS, measure_readers
from cpep_bench.machine import this_machine
from cpep_bench.markdown import table_block
from cpep_bench.report_text import links_tables
from cpep_edge.versions import code_version


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    table = readers_table(arguments.seconds, arguments.rounds)
    sys.stdout.write(table)
    if arguments.out:
        arguments.out.write_text(table)


def readers_table(seconds: float, rounds: int) -> str:
    """The table of all readers whose packages are installed, each measured `rounds` times."""
    machine, paths = this_machine(), ("firmware_bridge/cpep_bridge", "benchmarks/cpep_bench/link_readers.py")
    names = [name for name in READERS if name != "cyton-brainflow" or find_spec("brainflow") is not None]
    tables = links_tables(measure_readers(names, seconds, rounds)).values()
    lines = [
        f"# Reading a device: medians of {rounds} runs of {seconds:g} s, in turns",
        "",
        *(f"{table_block(table)}\n" for table in tables),
        f"Code {code_version(*paths)}, seed 0, Python {sys.version.split()[0]}; {machine.n_cpus} cores shared with "
        f"other work, {machine.cpu}, load {machine.load_1min:.1f}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""One table of what bundles for microcontrollers cost: read from their manifests, nothing is measured anew.

    python benchmarks/measure_chips.py BUNDLE... --out benchmarks/results/chips.md

Each figure names its source: instructions are counted by QEMU, cycles estimated by Vela, energies modelled. Accuracies
and shares of votes are those of the export, on its held-out windows; the data is named with them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from cpep_bench.machine import this_machine
from cpep_bench.modelled_energy import modelled_energy
from cpep_edge.bundle import Bundle
from cpep_edge.chip import CortexMSpec, EthosUSpec
from cpep_edge.files import write_file
from cpep_edge.manifest import LadderStep, Manifest
from cpep_edge.versions import git_commit

HEADER = (
    "encoder",
    "target",
    "executed here",
    "cosine, smallest / mean",
    "votes kept",
    "a window takes",
    "patches / blocks / search, k",
    "a sample",
    "code kB",
    "RAM kB",
    "weights kB",
    "modelled energy",
)
_QEMU = "QEMU: golden inputs, each bit of the host's"


def rows_of(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    """One row per processor."""
    chip, name = manifest.chip, f"{manifest.name}: {manifest.encoder.n_parameters / 1e6:.2f} M"
    if chip is None:
        return
    fidelity = (f"{chip.min_cosine:.4f} / {chip.mean_cosine:.4f}", f"{chip.votes_kept:.1%} of {chip.n_windows}")
    if isinstance(chip, EthosUSpec):
        vela = chip.vela
        takes = f"{vela.cycles / 1e6:.2f} M cycles, {vela.inference_ms:.2f} ms: {vela.how}"
        memory = ("-", f"{vela.sram_bytes / 1e3:.0f} (Vela)", f"{vela.flash_bytes / 1e3:.0f} (Vela)")
        yield name, vela.accelerator, "TOSA reference model, golden inputs", *fidelity, takes, "-", "-", *memory, "-"
        return
    energies = {
        energy.modelled_chip: f"{energy.modelled_chip} {energy.modelled_uj:.0f} uJ" for energy in modelled_energy(chip)
    }
    weights = f"{chip.weight_bytes / 1e3:.0f}"
    yield (
        name,
        "this machine",
        "host build",
        *fidelity,
        *("-",) * 4,
        f"{chip.arena_bytes / 1e3:.0f}",
        weights,
        energies["GAP9"],
    )
    for run in chip.runs:
        takes = f"{run.instructions_a_window / 1e6:.2f} M instructions (QEMU)"
        memory = (f"{run.code_bytes / 1e3:.0f}", f"{run.ram_bytes / 1e3:.0f}", weights)
        of_others = (energies[name] for name in ("Apollo3", "STM32U575") if run.processor == "cortex-m7")
        energy = ", ".join(of_others) or "-"
        blocks = run.instructions_a_window - run.patch_instructions - run.search_instructions
        yield (
            name,
            run.processor,
            _QEMU,
            *fidelity,
            takes,
            " / ".join(f"{n / 1e3:.0f}" for n in (run.patch_instructions, blocks, run.search_instructions)),
            f"{run.instructions_a_sample:,}",
            *memory,
            energy,
        )


def accuracy_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    """Rows of the first and the last step of the ladder."""
    first, last = manifest.ladder[0], manifest.ladder[-1]
    for step in (first, last):
        yield manifest.name, step.step, _share(step, "seen"), _share(step, "unseen"), f"{step.vote_agreement:.1%}"


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(paths: list[Path], command: str) -> str:
    """The whole page."""
    manifests = [Bundle(path).manifest for path in paths]
    machine, source = this_machine(), manifests[0].provenance
    exported_at = ", ".join(dict.fromkeys(manifest.provenance.git_commit[:7] for manifest in manifests))
    ladders = (
        row for manifest in manifests if isinstance(manifest.chip, CortexMSpec) for row in accuracy_rows(manifest)
    )
    return "\n".join(
        (
            "# Bundles for microcontrollers",
            "",
            table(HEADER, (row for manifest in manifests for row in rows_of(manifest))),
            "",
            "Zero-shot balanced accuracy on held-out people, from the trained module to the integers of the chip:",
            "",
            table(("encoder", "step", "seen", "unseen", "same vote"), ladders),
            "",
            f"Data: {source.data}; seed {source.seed}; exported at commit {exported_at}, this page made at "
            f"{git_commit()[:7]}; {machine.n_cpus} cores shared with other work, {machine.cpu}.",
            "Instructions are no cycles. Those of a window are from the filtered ring to the vote; its blocks are the "
            "transformer's. Those of a sample are the filter's, for all channels. Vela's cycles and all energies are "
            "modelled; `cpep_bench.modelled_energy` has the constants. No board was at hand.",
            "",
            f"    {command}",
            "",
        )
    )


def _share(step: LadderStep, kind: str) -> str:
    value = step.seen if kind == "seen" else step.unseen
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    names = " ".join(path.name for path in given.bundles)
    write_file(given.out, report(given.bundles, f"python benchmarks/measure_chips.py {names} --out {given.out}"))


if __name__ == "__main__":
    main()

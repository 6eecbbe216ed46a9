"""Energy of one window on published chips: modelled from counted work and cited constants, measured nowhere here.

    GAP9      multiply-adds / (6.3 a cycle x 370 MHz) x 57.18 mW: TinyMyo, 3.6 M parameters, took 0.785 s and 44.91 mJ
              there (arXiv 2512.15729); the rate a cycle is fitted to that run and gives its time within 5 %
    Apollo3   instructions x 6 uA/MHz x 3.3 V: the maker's figure for its Cortex-M4F running inference, as SparkFun's
              page of the Artemis module repeats it; one cycle an instruction, so a lower bound. Counted is the build
              for Cortex-M7, whose kernels (`smlad`) the M4 runs too

No figure in energy or power of a Cortex-M55 with an Ethos-U55 was found that says for which work; there is none here.
"""

from cpep_bench.energy import ModelledEnergy
from cpep_edge.chip import CortexMSpec, EthosUSpec

_GAP9_MACS_A_SECOND = 6.3 * 370e6
_GAP9_W = 57.18e-3
_APOLLO3_J_A_CYCLE = 6e-6 / 1e6 * 3.3


def modelled_energy(chip: CortexMSpec | EthosUSpec | None) -> tuple[ModelledEnergy, ...]:
    """Energy of a window on every chip whose work a bundle for Cortex-M counted; none for other bundles."""
    if not isinstance(chip, CortexMSpec):
        return ()
    gap9_uj = chip.multiply_adds / _GAP9_MACS_A_SECOND * _GAP9_W * 1e6
    energies = [ModelledEnergy("GAP9", gap9_uj, "6.3 multiply-adds a cycle, 370 MHz, 57.18 mW: arXiv 2512.15729")]
    for run in chip.runs:
        if run.processor == "cortex-m7":
            apollo3_uj = run.instructions_a_window * _APOLLO3_J_A_CYCLE * 1e6
            constants = "6 uA/MHz at 3.3 V, maker's figure; a cycle an instruction, so at least"
            energies.append(ModelledEnergy("Apollo3", apollo3_uj, constants))
    return tuple(energies)

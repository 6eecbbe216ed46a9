"""Energy of one window on published chips: modelled from counted work and cited constants, measured nowhere here.

    GAP9      multiply-adds / (6.3 a cycle x 370 MHz) x 57.18 mW: TinyMyo, 3.6 M parameters, took 0.785 s and 44.91 mJ
              there (arXiv 2512.15729); the rate a cycle is fitted to that run and gives its time within 5 %
    Apollo3   instructions x 6 uA/MHz x 3.3 V: the maker's figure for its Cortex-M4F running inference, as SparkFun's
              page of the Artemis module repeats it; one cycle an instruction, so a lower bound. Counted is the build
              for Cortex-M7, whose kernels (`smlad`) the M4 runs too

No figure in energy or power of a Cortex-M55 with an Ethos-U55 was found that says for which work; there is none here.
"""

from dataclasses import dataclass

from cpep_edge.chip import CortexMSpec

_GAP9_MACS_A_SECOND = 6.3 * 370e6
_GAP9_W = 57.18e-3
_APOLLO3_J_A_CYCLE = 6e-6 / 1e6 * 3.3


@dataclass(frozen=True, slots=True)
class ModelledEnergy:
    """Of one window, from samples in the ring to a vote. Never to be shown without the word `modelled`."""

    chip: str
    modelled_uj: float
    constants: str


def modelled_energy(spec: CortexMSpec) -> tuple[ModelledEnergy, ...]:
    """Energy on every chip whose work was counted; without a run for Cortex-M7 there is none for Apollo3."""
    gap9_uj = spec.multiply_adds / _GAP9_MACS_A_SECOND * _GAP9_W * 1e6
    energies = [ModelledEnergy("GAP9", gap9_uj, "6.3 multiply-adds a cycle, 370 MHz, 57.18 mW")]
    for run in spec.runs:
        if run.processor == "cortex-m7":
            apollo3_uj = run.instructions_a_window * _APOLLO3_J_A_CYCLE * 1e6
            energies.append(ModelledEnergy("Apollo3", apollo3_uj, "6 uA/MHz, 3.3 V, a cycle an instruction: at least"))
    return tuple(energies)

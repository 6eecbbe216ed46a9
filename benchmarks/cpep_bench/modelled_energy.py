"""Energy of one window on published chips: modelled from counted work and cited constants, measured nowhere here.

    GAP9      multiply-adds / (6.3 per cycle x 370 MHz) x 57.18 mW: TinyMyo, 3.6 M parameters, took 0.785 s and 44.91 mJ
              there (arXiv 2512.15729); the rate per cycle is fitted to that run and gives its time within 5 %
    Apollo3   instructions x 6 uA/MHz x 3.3 V: the maker's figure for its Cortex-M4F running inference, as given on
              SparkFun's page of the Artemis module; one cycle per instruction, so a lower bound. The instructions are
              counted in the build for Cortex-M7, whose kernels (`smlad`) the M4 runs too
    STM32U575 instructions x 25.17 mW / 160 MHz: measured during the anomaly detection of MLPerf Tiny v1.1 (closed,
              STMicroelectronics, NUCLEO-U575ZI-Q at 1.8 V), with its Cortex-M33 always busy; counted as for Apollo3,
              and a lower bound for the same reason

There is no model for a Cortex-M55 with an Ethos-U55. Two papers measured such chips, Alif's E7 (arXiv 2509.17533) and
Himax' WE2 (2503.22567), but with convolutional networks, whose energy per cycle does not apply to a transformer.
Neither MLPerf Tiny v1.1 nor the makers' pages give an energy together with its cycles or multiply-adds.
"""

from cpep_bench.energy import ModelledEnergy
from cpep_edge.chip import CortexMSpec, EthosUSpec

_GAP9_MACS_A_SECOND = 6.3 * 370e6
_GAP9_W = 57.18e-3
_APOLLO3_J_A_CYCLE = 6e-6 / 1e6 * 3.3
_STM32U575_J_A_CYCLE = 25.17e-3 / 160e6


def modelled_energy(chip: CortexMSpec | EthosUSpec | None) -> tuple[ModelledEnergy, ...]:
    """The modelled energy of a window, by chip, from the counts of a bundle for Cortex-M; empty for other bundles."""
    if not isinstance(chip, CortexMSpec):
        return ()
    gap9_uj = chip.multiply_adds / _GAP9_MACS_A_SECOND * _GAP9_W * 1e6
    energies = [ModelledEnergy("GAP9", gap9_uj, "6.3 multiply-adds a cycle, 370 MHz, 57.18 mW: arXiv 2512.15729")]
    for run in chip.runs:
        if run.processor == "cortex-m7":
            for name, j_a_cycle, constants in (
                ("Apollo3", _APOLLO3_J_A_CYCLE, "6 uA/MHz at 3.3 V, maker's figure"),
                ("STM32U575", _STM32U575_J_A_CYCLE, "25.17 mW at 160 MHz: MLPerf Tiny v1.1"),
            ):
                modelled_uj = run.instructions_a_window * j_a_cycle * 1e6
                energies.append(ModelledEnergy(name, modelled_uj, f"{constants}; a cycle an instruction, so at least"))
    return tuple(energies)

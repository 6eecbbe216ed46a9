"""The memory limits of microcontrollers, with a few chips that are used in wristbands."""

from dataclasses import dataclass, replace

from cpep_edge.errors import ConfigError

_KIB = 1024


@dataclass(frozen=True, slots=True)
class Chip:
    """The limits of a microcontroller."""

    ram_bytes: int | None = None  # None: unknown and not checked
    flash_bytes: int | None = None
    name: str = "the chip"
    has_floats: bool = True  # a floating-point unit

    def check(self, ram_bytes: int, flash_bytes: int) -> None:
        """Raise ConfigError, saying by how much, when a model needs more memory than the chip has."""
        for what, needed, has in (("RAM", ram_bytes, self.ram_bytes), ("flash", flash_bytes, self.flash_bytes)):
            if has is not None and needed > has:
                raise ConfigError(
                    f"the model needs {needed} bytes of {what}, {needed - has} more than {self.name} has; "
                    "lower width, n_layers or window_samples in the recipe"
                )

    def check_floats(self) -> None:
        """Raise ConfigError for a chip that cannot run a front end in single precision."""
        if not self.has_floats:
            raise ConfigError(
                f'{self.name} has no floating-point unit, which front_end "mpf" needs: choose another chip, or train '
                'with front_end = "rectified" under [emg] in the recipe'
            )


NO_LIMIT = Chip()

# Total RAM and non-volatile memory, KiB; the rest of the firmware's share is not subtracted. Sources: Alif's headers
# of E1C and E7 (alif_ensemble-cmsis-dfp); Zephyr's pages of Ambiq's evaluation boards and its device tree of nRF5340,
# the application core; Nordic's datasheet of nRF54L15; STMicroelectronics' entry for U575 in MLPerf Tiny v1.1;
# Raspberry Pi's datasheets of RP2040 and of the Pico, which has external flash.
_MEMORY_KIB = {
    "alif-e1c": (512, 1536),
    "alif-e7": (13824, 5632),
    "apollo3-blue": (384, 1024),
    "apollo4-plus": (2816, 2048),
    "nrf5340": (512, 1024),
    "nrf54l15": (256, 1524),
    "rp2040": (264, 2048),
    "stm32u575": (768, 2048),
}
_WITHOUT_FLOATS = ("rp2040",)  # Cortex-M0+


def find_chip(name: str | None, ram_kib: int | None = None, flash_kib: int | None = None) -> Chip:
    """A chip by its name, ignoring case; given memory sizes replace the published ones.

    Raises ConfigError that lists the known names for an unknown one.
    """
    chip = NO_LIMIT
    if name is not None:
        if name.lower() not in _MEMORY_KIB:
            raise ConfigError(
                f"no chip {name} is known, only {', '.join(_MEMORY_KIB)}; say what it has with --chip-ram, --chip-flash"
            )
        ram, flash = _MEMORY_KIB[name.lower()]
        chip = Chip(ram * _KIB, flash * _KIB, name, has_floats=name.lower() not in _WITHOUT_FLOATS)
    if ram_kib is not None:
        chip = replace(chip, ram_bytes=ram_kib * _KIB)
    return chip if flash_kib is None else replace(chip, flash_bytes=flash_kib * _KIB)
